"""Recordings of one session each become one file, or nothing is written."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from recording_files import small_arrays, write

from band.cli.data import main
from band.data.digest import dataset_digest, dataset_shapes
from band.data.recording import open_recording, open_sessions
from band.errors import DataError


def two(folder: Path, **changes) -> list[str]:
    """Write two recordings, the second with other neurons and trials; None as a change drops an array."""
    first = small_arrays()
    second = {name: values[::2] for name, values in small_arrays(seed=1).items()}
    for name in list(second):
        if name.endswith(("encod_data", "recon_data")):
            second[name] = second[name][:, :, :-2]
    second = {**second, **{k: v for k, v in changes.items() if v is not None}}
    second = {k: v for k, v in second.items() if k not in changes or changes[k] is not None}
    return [str(write(folder / "mon.h5", first, bin_ms=10.0)), str(write(folder / "tue.h5", second, bin_ms=10.0))]


def test_each_session_keeps_what_its_file_had(tmp_path):
    files = two(tmp_path)
    assert main(["join", *files, "--out", str(tmp_path / "week.h5")]) == 0
    sessions = open_sessions(tmp_path / "week.h5")
    assert [session.session for session in sessions] == ["mon", "tue"]
    for session, file in zip(sessions, files, strict=True):
        single = open_recording(file)
        assert session.bin_ms == single.bin_ms == 10.0
        assert session.arrays.keys() == single.arrays.keys()
        for key, values in single.arrays.items():
            np.testing.assert_array_equal(session.arrays[key], values)


def test_shapes_of_several_sessions_add_up(tmp_path):
    main(["join", *two(tmp_path), "--out", str(tmp_path / "week.h5")])
    shapes = dataset_shapes(tmp_path / "week.h5")
    one, other = (dataset_shapes(tmp_path / name)["train"]["encod_data"] for name in ("mon.h5", "tue.h5"))
    assert shapes["train"]["encod_data"] == [one[0] + other[0], one[1], max(one[2], other[2])]
    assert shapes["sessions"] == {"mon": one, "tue": other}
    assert dataset_digest(tmp_path / "week.h5") != dataset_digest(tmp_path / "mon.h5")


def test_a_session_without_behaviour_has_nan_which_is_masked(tmp_path):
    files = two(tmp_path, **{f"{split}_behavior": None for split in ("train", "valid", "test")})
    assert main(["join", *files, "--out", str(tmp_path / "week.h5")]) == 0
    mon, tue = open_sessions(tmp_path / "week.h5")
    assert np.isnan(tue.arrays["behavior"]).all() and not np.isnan(mon.arrays["behavior"]).any()


def test_what_does_not_go_together_is_refused_and_nothing_is_written(tmp_path, capsys):
    longer = {f"{s}_{k}": np.zeros((4, 99, 3), np.float32) + 1 for s in ("train", "valid", "test")
              for k in ("encod_data", "recon_data", "behavior", "ext_input", "truth")}  # fmt: skip
    rest = {f"{s}_{k}": np.arange(4) for s in ("train", "valid", "test") for k in ("cond", "inds")}
    files = two(tmp_path, **longer, **rest)
    out = tmp_path / "week.h5"
    assert main(["join", *files, "--out", str(out)]) == 1
    assert "must have the same bins in every session" in capsys.readouterr().err
    assert main(["join", files[0], files[0], "--out", str(out)]) == 1
    assert "names of their own" in capsys.readouterr().err
    assert main(["join", files[0], str(tmp_path / "none.h5"), "--out", str(out)]) == 1
    assert "no such file" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mon.h5", "tue.h5"]


def test_a_file_that_is_there_stays_unless_it_may_go(tmp_path, capsys):
    files, out = two(tmp_path), tmp_path / "week.h5"
    out.write_text("mine")
    assert main(["join", *files, "--out", str(out)]) == 1 and out.read_text() == "mine"
    assert main(["join", *files, "--out", str(out), "--force", "--json"]) == 0
    assert h5py.is_hdf5(out) and '"neurons"' in capsys.readouterr().out


def test_one_session_is_asked_for_where_a_file_has_several(tmp_path):
    main(["join", *two(tmp_path), "--out", str(tmp_path / "week.h5")])
    with pytest.raises(DataError, match=r"must hold one recording session, found 2 \(mon, tue\)"):
        open_recording(tmp_path / "week.h5")
