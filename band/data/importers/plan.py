"""The way in: which files make which recording, by which importer, under which name."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from glob import glob
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from band.data.checks import MAY_MISS, SUPPORTS
from band.data.hdf5 import split_of
from band.data.importers.imported import Imported, is_hdf5, text_attributes, write_imported
from band.data.importers.lfads import is_lfads, read_lfads, stem_of
from band.data.importers.loose import Loose, Naming, named, session_of, trials_of
from band.data.importers.matlab import read_matlab
from band.data.importers.numpy_files import read_numpy
from band.data.importers.nwb import nwb_stem_of, read_nwb, with_test_file
from band.data.importers.session import Cut, bin_session
from band.errors import ConfigError, DataError

FORMATS = ("lfads", "nwb", "matlab", "numpy")
STEMS: dict[str, Callable[[Path], str]] = {"lfads": stem_of, "nwb": nwb_stem_of}  # equal stems make one recording
ENDINGS = {".nwb": "nwb", ".mat": "matlab", ".npz": "numpy", ".npy": "numpy"}


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked of an import; each importer takes what concerns it."""

    format: str = "auto"  # auto: by the file's ending and content
    bin_ms: float | None = None  # width of a bin; spike times need it, counts may say it themselves
    cut: Cut = field(default_factory=Cut)  # how spike times become trials; its bin_ms is `bin_ms`
    naming: Naming = field(default_factory=Naming)  # what the arrays of MATLAB and NumPy files are
    attributes: Mapping[str, str] = field(default_factory=dict)  # written beside, such as whom to attribute it to
    likelihood: str | None = "poisson"  # whose support the counts must lie in

    def __post_init__(self) -> None:
        if self.format not in ("auto", *FORMATS):
            raise ConfigError(f"--format must be one of auto, {', '.join(FORMATS)}, got {self.format}")
        if self.likelihood is not None and self.likelihood not in SUPPORTS:
            raise ConfigError(f"--likelihood must be none or one of {', '.join(SUPPORTS)}, got {self.likelihood}")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A recording to be, and the files it is read from: several where they are its folds."""

    name: str
    format: str
    sources: tuple[Path, ...]


def plan_import(sources: Sequence[str | Path], *, format: str = "auto") -> list[Planned]:
    """Return which files make which recording, each under a name of its own.

    Args:
        sources: files, or patterns of names such as "sessions/*.h5". Files NAME_cv0.h5, NAME_cv1.h5 … of one folder
            are folds of one recording; NLB's NAME_desc-train….nwb and NAME_desc-test….nwb are one recording.
        format: of all of them; "auto": told for each.

    Raises:
        DataError: no file is there, or its format cannot be told.
    """
    grouped: dict[tuple[Path, str, str], list[Path]] = {}
    for path in _files(sources):
        kind = _format_of(path) if format == "auto" else format
        stem = STEMS[kind](path) if kind in STEMS else path.stem
        grouped.setdefault((path.parent, stem, kind), []).append(path)
    names = _names([(folder, stem) for folder, stem, _ in grouped])
    return [
        Planned(name=name, format=kind, sources=tuple(sorted(paths)))
        for name, ((_, _, kind), paths) in zip(names, grouped.items(), strict=True)
    ]


def read_planned(planned: Planned, wishes: Wishes) -> Imported:
    """Return one recording, read and binned, but not written.

    Raises:
        ConfigError: a package is missing, or spike times come without a bin width.
        DataError: a file breaks a rule.
    """
    if planned.format == "lfads":
        imported = read_lfads(planned.sources, name=planned.name, bin_ms=wishes.bin_ms)
    else:
        imported = _read_one(planned, wishes)
    arrays, left_out = _storable(imported.arrays)
    return dataclasses.replace(
        imported,
        arrays=arrays,
        attributes={**imported.attributes, **wishes.attributes},
        notes=(
            *imported.notes,
            *(f"{name} left out: neither numbers nor text" for name in left_out),
            *_missing(arrays),
        ),
    )


def import_files(
    sources: Sequence[str | Path],
    out: Path,
    *,
    wishes: Wishes | None = None,
    replace: bool = False,
    is_rehearsal: bool = False,
    on_step: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Iterator[tuple[Path, Imported, int]]:
    """Import recordings one after the other, and yield for each the file, what it holds, and its size in bytes.

    Args:
        sources: as for `plan_import`.
        out: a file ending in .h5 for one recording, else a folder that gets NAME.h5 for each.
        wishes: what is asked; None: the defaults.
        replace: whether files that are there give way.
        is_rehearsal: do everything but leave nothing behind: files are written to a temporary folder that goes again.
        on_step: called with what is being done, its number from 0, and how many there are.

    Raises:
        ConfigError: see `read_planned`.
        DataError: a file breaks a rule, or one to be written is there already: nothing is written of that recording.
    """
    wishes = wishes or Wishes()
    planned = plan_import(sources, format=wishes.format)
    targets = target_paths(planned, out, replace=replace)
    for number, (one, target) in enumerate(zip(planned, targets, strict=True)):
        on_step(", ".join(path.name for path in one.sources), number, len(planned))
        imported = read_planned(one, wishes)
        with TemporaryDirectory(prefix="band-", dir=os.environ.get("BAND_SCRATCH")) as folder:
            written = Path(folder) / target.name if is_rehearsal else target
            write_imported(written, imported, replace=replace, likelihood=wishes.likelihood)
            size_bytes = written.stat().st_size
        yield target, imported, size_bytes


def target_paths(planned: Sequence[Planned], out: Path, *, replace: bool = False) -> list[Path]:
    """Return the file that each recording is to be written to.

    Raises:
        DataError: `out` is one file for several recordings, is a source, or is there and must not be replaced.
    """
    is_file = out.suffix in (".h5", ".hdf5")
    if is_file and len(planned) > 1:
        names = ", ".join(one.name for one in planned[:5])
        raise DataError(f"{out}: one file cannot hold {len(planned)} recordings ({names}); give a folder to --out")
    targets = [out] if is_file else [out / f"{one.name}.h5" for one in planned]
    sources = {path.resolve() for one in planned for path in one.sources}
    for target in targets:
        if target.resolve() in sources:
            raise DataError(f"{target}: is one of the files to be imported; give another place to --out")
        if target.exists() and not replace:
            raise DataError(f"{target}: is there already; give another place to --out, or --force to replace it")
    return targets


def _files(sources: Sequence[str | Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for source in sources:
        matching = [Path(source)] if Path(source).exists() else [Path(name) for name in sorted(glob(str(source)))]
        if not matching:
            raise DataError(
                f"{source}: no such file; check the path, and quote a pattern so that the shell leaves it alone"
            )
        for path in matching:
            if path.is_dir():
                raise DataError(f"{path}: must be a file, found a folder; name its files, as in {path}/*.h5")
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _format_of(path: Path) -> str:
    if path.suffix.lower() in ENDINGS:
        return ENDINGS[path.suffix.lower()]
    if is_hdf5(path) and is_lfads(path):
        return "lfads"
    raise DataError(
        f"{path}: its format cannot be told; it is HDF5 without train_encod_data, or ends in none of "
        f"{', '.join(ENDINGS)}; name it with --format"
    )


def _names(places: Sequence[tuple[Path, str]]) -> list[str]:
    """Return a name for each recording: its stem, and as many of its folders before it as tell it from the others."""
    parts = [(*folder.resolve().parts[1:], stem) for folder, stem in places]
    length = [1] * len(parts)
    while True:
        names = ["-".join(part[-n:]) for part, n in zip(parts, length, strict=True)]
        twice = [names.count(name) > 1 and n < len(part) for name, part, n in zip(names, parts, length, strict=True)]
        if not any(twice):
            break
        length = [n + again for n, again in zip(length, twice, strict=True)]
    return [name if names.count(name) == 1 else f"{name}-{names[:at].count(name)}" for at, name in enumerate(names)]


def _read_one(planned: Planned, wishes: Wishes) -> Imported:
    path = planned.sources[0]
    if planned.format == "nwb":
        return _read_nwb(planned, wishes)
    found = named(path, _loose(path, planned.format), wishes.naming)
    if "spike_times" not in found:
        arrays, notes = trials_of(path, found, wishes.naming)
        return _imported(planned, wishes, arrays, notes, options=asdict(wishes.naming))
    signals = (*wishes.cut.behavior, *wishes.cut.ext_input)
    session = session_of(path, found, wishes.naming, signals=signals)
    cut = _cut(path, wishes)
    arrays, notes = bin_session(session, cut)
    return _imported(planned, wishes, arrays, notes, options={**asdict(wishes.naming), **asdict(cut)})


def _read_nwb(planned: Planned, wishes: Wishes) -> Imported:
    """Return the recording of one file, or of NLB's two, of which the second holds the test trials."""
    path, *tests = sorted(planned.sources, key=lambda path: "desc-test" in path.stem)
    cut = _cut(path, wishes)
    session, attributes = read_nwb(path, signals=(*cut.behavior, *cut.ext_input))
    arrays, notes = bin_session(session, cut)
    for test in tests:
        bare = dataclasses.replace(cut, behavior=(), cond=(), keep=())
        session, _ = read_nwb(test, signals=cut.ext_input)
        tested, more = bin_session(session, bare)
        arrays = with_test_file(arrays, tested, path=test)
        notes += (*more, f"{test.name} is the test split: held-out neurons and behaviour are missing there")
    return _imported(planned, wishes, arrays, notes, attributes=text_attributes(attributes), options=asdict(cut))


def _cut(path: Path, wishes: Wishes) -> Cut:
    if wishes.bin_ms is None:
        raise ConfigError(f"{path}: spike times need the width of a bin; give --bin-ms")
    return dataclasses.replace(wishes.cut, bin_ms=wishes.bin_ms)


def _loose(path: Path, format: str) -> Loose:
    return read_matlab(path) if format == "matlab" else read_numpy(path)


def _imported(
    planned: Planned,
    wishes: Wishes,
    arrays: Mapping[str, np.ndarray],
    notes: tuple[str, ...],
    *,
    options: Mapping[str, Any],
    attributes: Mapping[str, Any] | None = None,
) -> Imported:
    if "encod_data" not in arrays and "train_encod_data" not in arrays:
        raise DataError(f"{planned.sources[0]}: trials must hold some to train on, found those of other splits alone")
    return Imported(
        name=planned.name,
        sources=planned.sources,
        format=planned.format,
        arrays=arrays,
        bin_ms=wishes.bin_ms,
        notes=notes,
        attributes=dict(attributes or {}),
        options=options,
    )


def _missing(arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yield a sentence on each array whose NaN the file will declare to be missing samples."""
    for name, values in sorted(arrays.items()):
        key = (split_of(name) or ("", name))[1]
        count = int(np.isnan(values).sum()) if key in MAY_MISS and values.dtype.kind == "f" else 0
        if count:
            yield f"{name}: {count:,} of {values.size:,} samples are NaN, and taken as missing"


def _storable(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays that a file of ours can hold, under names without groups, and the names of the others."""
    kept = {}
    for name, values in arrays.items():
        if values.dtype.kind == "S":
            values = np.char.decode(values, errors="replace")
        if values.dtype.kind in "biufU":
            kept[name.replace("/", ".")] = values
    return kept, [name for name in arrays if name.replace("/", ".") not in kept]
