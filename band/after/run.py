"""A finished run in Python: `band.load_run(path).factors["test"]`; arrays are read when they are asked for."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from band.config import RunConfig, run_config_from_dict
from band.errors import DataError, did_you_mean, needed
from band.run_dir import absent_files, read_result

if TYPE_CHECKING:
    import h5py
    import numpy as np
    import pandas as pd
    import xarray as xr

SPLITS = ("train", "valid", "test")
OUTPUTS = "outputs.h5"
ALIASES = {"rates": "output_params", "controls": "gen_inputs", "decoded": "output_behavior_params"}


class BySplit(Mapping[str, "np.ndarray"]):
    """One array by split, `factors["test"]` or `factors.test`, first axis the trial; read when asked for."""

    def __init__(self, run: Run, name: str, splits: tuple[str, ...]) -> None:
        self._run, self._name, self._splits = run, name, splits

    def __getitem__(self, split: str) -> np.ndarray:
        if split not in self._splits:
            raise KeyError(f"{split!r}; {self._name} has {', '.join(self._splits)}")
        return self._run.read(f"{split}_{self._name}")

    def __getattr__(self, split: str) -> np.ndarray:
        if split in SPLITS:
            return self[split]
        raise AttributeError(split)

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    def __repr__(self) -> str:
        return f"<{self._name} by split: {', '.join(self._splits)}>"


class Run:
    """A run folder. Every array of its outputs is an attribute, under its own name or one of `ALIASES`.

    Of a run with several recording sessions `sessions` has one such object a session, and arrays are read from these.
    """

    def __init__(self, folder: str | Path, *, session: str = "") -> None:
        """Read `result.json`.

        Raises:
            PublishError: the folder is no finished run.
        """
        self.folder = Path(folder)
        self.session = session
        self.result: dict[str, Any] = read_result(self.folder)

    @property
    def id(self) -> str:
        """Its name in the sweep."""
        return str(self.result["run_id"])

    @cached_property
    def config(self) -> RunConfig:
        """The configuration it was trained with."""
        return run_config_from_dict(self.result["config"])

    @property
    def scores(self) -> dict[str, dict[str, float | None]]:
        """Scores by split and name, see `band.train.scores`."""
        found: dict[str, dict[str, float | None]] = self.result["scores"]
        return found

    @cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """An array over epochs for each column of `metrics.csv`, NaN where a cell is empty."""
        return _columns(self.folder / "metrics.csv")

    @cached_property
    def lineage(self) -> dict[str, np.ndarray]:
        """An array over generations and members for each column of `lineage.csv`, NaN where a cell is empty.

        Raises:
            DataError: the run was no search.
        """
        if "pbt" not in self.result["training"]:
            raise DataError(f"{self.folder}: this run was no search, so it has no lineage")
        return _columns(self.folder / "lineage.csv")

    @cached_property
    def sessions(self) -> dict[str, Run]:
        """The same run read for each of its recording sessions; empty where it has one without a name."""
        names = {name.rpartition("/")[0] for name in self._shapes() if "/" in name}
        return {name: Run(self.folder, session=name) for name in sorted(names)}

    @cached_property
    def arrays(self) -> dict[str, BySplit]:
        """Every array of the outputs by name, without its split."""
        found: dict[str, list[str]] = {}
        for name in self._own_shapes():
            split, _, key = name.partition("_")
            if split in SPLITS and key:
                found.setdefault(key, []).append(split)
        return {
            key: BySplit(self, key, tuple(s for s in SPLITS if s in splits)) for key, splits in sorted(found.items())
        }

    @property
    def bin_ms(self) -> float | None:
        """Width of a time bin in milliseconds; None where the recording does not say."""
        with self._file() as file:
            return float(file.attrs["bin_ms"]) if "bin_ms" in file.attrs else None

    def __getattr__(self, name: str) -> BySplit:
        if name.startswith("_") or name in ("config", "metrics", "lineage", "sessions", "arrays"):
            raise AttributeError(name)
        key = ALIASES.get(name, name)
        if key in self.arrays:
            return self.arrays[key]
        if not self.session and self.sessions and not self.arrays:
            raise AttributeError(
                f"{name}: the run has several sessions; use run.sessions[{next(iter(self.sessions))!r}]"
            )
        raise AttributeError(f"the outputs have no {name!r}; {did_you_mean(name, self.arrays)}")

    def __repr__(self) -> str:
        return f"<band run {self.id}{' session ' * bool(self.session)}{self.session}>"

    def read(self, name: str) -> np.ndarray:
        """Return one array of the outputs, such as "test_factors".

        Raises:
            DataError: there is no such array, or no outputs.
        """
        with self._file() as file:
            full = f"{self.session}/{name}" if self.session else name
            if full not in file:
                raise DataError(f"{self.folder / OUTPUTS}: has no {full}")
            values: np.ndarray = file[full][()]
            return values

    def to_xarray(self) -> xr.Dataset:
        """Return all trials of all splits as labelled arrays (the extra `xarray`), see `band.after.labelled`."""
        from band.after.labelled import to_xarray

        return to_xarray(self)

    def to_pandas(self) -> pd.DataFrame:
        """Return the scores as a table (the extra `pandas`): a row a score, a column a split."""
        pandas = needed("pandas")
        table: pd.DataFrame = pandas.DataFrame(self.scores, dtype=float)
        return table.rename_axis("score")

    def _file(self) -> h5py.File:
        import h5py

        path = self.folder / OUTPUTS
        if not path.is_file():
            if OUTPUTS in absent_files(self.folder):
                raise DataError(f"{path} was left where this run is from; band-sync pull NAME --what outputs brings it")
            raise DataError(
                f"{path}: this run kept no arrays (output.level {self.config.output.level}); "
                f"band-train infer {self.folder} {self.result['dataset']['path']} --into FILE.h5 computes them"
            )
        return h5py.File(path, "r")

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}

        def visit(name: str, item: Any) -> None:
            if hasattr(item, "shape"):
                found[name] = item.shape

        with self._file() as file:
            file.visititems(visit)
        return found

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        start = f"{self.session}/" if self.session else ""
        return {
            n[len(start) :]: s for n, s in self._shapes().items() if n.startswith(start) and "/" not in n[len(start) :]
        }


def _columns(path: Path) -> dict[str, np.ndarray]:
    import numpy as np

    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0]) if rows else []
    return {name: np.array([float(row[name]) if row[name] else np.nan for row in rows]) for name in names}
