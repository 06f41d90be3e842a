"""What is loaded, run or written to is seen to be the user's own, and open to nobody else."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from local_sweep import make_sweep

from band import owners
from band.errors import StageError
from band.model import kernels
from band.node import call, scratch
from band.run_dir import SweepDir
from band.sync import connection, remote

OTHER = 12345


def claim_by_other(monkeypatch: pytest.MonkeyPatch, *paths: Path, owner: int = OTHER) -> None:
    """Have the system say that paths belong to somebody else, whoever runs the tests."""
    others = {str(path) for path in paths}
    real = os.lstat

    def lstat(path: object, **options: object) -> os.stat_result:
        found = list(real(path, **options))  # type: ignore[call-overload]
        if os.fspath(path) in others:  # type: ignore[call-overload]
            found[4] = owner
        return os.stat_result(found)

    monkeypatch.setattr(os, "lstat", lstat)
    monkeypatch.setattr(Path, "lstat", lambda self: lstat(self))
    monkeypatch.setattr(Path, "stat", lambda self, **_: lstat(self) if str(self) in others else os.stat(self))


def test_a_call_is_run_from_a_folder_of_ours_alone(tmp_path: Path) -> None:
    folder = tmp_path / "submitit"
    owners.make_private(folder)
    (folder / "1_submitted.pkl").write_bytes(b"")
    os.close(call.open_calls(folder, name="1_submitted.pkl"))
    folder.chmod(0o775)
    with pytest.raises(StageError, match="open to you alone"):
        call.open_calls(folder, name="1_submitted.pkl")
    folder.chmod(0o700)
    (folder / "2_submitted.pkl").symlink_to(folder / "1_submitted.pkl")
    with pytest.raises(StageError, match="not a link"):
        call.open_calls(folder, name="2_submitted.pkl")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(OSError):
        call.open_calls(tmp_path / "link", name="1_submitted.pkl")


def test_a_planted_call_is_not_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "submitit"
    folder.mkdir(mode=0o700)
    folder.chmod(0o777)
    (folder / "7_submitted.pkl").write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % os.fsencode(tmp_path / "pwned"))
    job = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    words = [sys.executable, "-m", "band.node.call", str(folder)]
    done = subprocess.run(words, env={**os.environ, **job}, capture_output=True, text=True)
    assert done.returncode == 1 and "open to you alone" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "pwned").exists()


def test_folders_of_calls_are_made_for_their_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        owners.make_private(tmp_path / "a/submitit")
        (tmp_path / "wide").mkdir(mode=0o777)
        owners.make_private(tmp_path / "wide")
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a/submitit", "wide")} == {0o700}


def test_somebody_elses_folder_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kernels"
    folder.mkdir(mode=0o700)
    claim_by_other(monkeypatch, folder)
    with pytest.raises(PermissionError, match=f"user {OTHER}"):
        owners.make_private(folder)
    assert not connection._is_private(folder)


@pytest.mark.parametrize("how", ["library", "folder", "owner", "link"])
def test_a_library_that_others_could_have_written_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder = tmp_path / "kernels"
    folder.mkdir(mode=0o700)
    library = folder / "scan-x.so"
    library.write_bytes(b"planted")
    monkeypatch.setenv("BAND_KERNELS_FOLDER", str(folder))
    monkeypatch.setattr(kernels, "_fingerprint", lambda: "x")
    copying = 'import sys; open(sys.argv[sys.argv.index("-o") + 1], "wb").write(b"built")'
    monkeypatch.setattr(kernels, "command", lambda: [sys.executable, "-c", copying])
    assert kernels.build().read_bytes() == b"planted"  # ours alone: taken
    if how == "library":
        library.chmod(0o666)
    elif how == "folder":
        folder.chmod(0o777)
    elif how == "owner":
        claim_by_other(monkeypatch, library)
    else:
        library.rename(tmp_path / "elsewhere.so")
        library.symlink_to(tmp_path / "elsewhere.so")
    assert kernels.build().read_bytes() == b"built"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_scratch_is_not_made_where_others_could_put_their_own_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = SweepDir(tmp_path / "home/sweeps/s")
    sweep.path.mkdir(parents=True)
    root = tmp_path / "scratch"
    (root / "me").mkdir(parents=True)
    monkeypatch.setattr(scratch, "ROOTS", (str(root),))
    monkeypatch.setattr(scratch, "reserve", lambda folder, *, size_bytes: None)
    monkeypatch.setattr(scratch, "mount_of", lambda path: scratch.Mount(kind="ext4", root="/"))
    environment = {"USER": "me"}
    assert scratch.find_scratch(sweep, environment=environment).scratch.path == root / "me/band"
    (root / "me").chmod(0o777)
    assert "writable by all" in _reason(root / "me")
    (root / "me").chmod(0o1777)
    assert not _reason(root / "me")
    (root / "me").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: OTHER + 1)
        claim_by_other(patch, root / "me", owner=0)
        assert not _reason(root / "me")
    claim_by_other(monkeypatch, root / "me")
    assert "belong to you or root" in _reason(root / "me")
    assert scratch.find_scratch(sweep, environment=environment).scratch.path != root / "me/band"


def _reason(folder: Path) -> str:
    try:
        scratch._check_place(folder)
    except StageError as error:
        return str(error)
    return ""


def test_an_interpreter_that_somebody_put_above_the_sweep_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tmp_path / "a/b/sweep"
    for place in (tmp_path / "a", tmp_path / "a/b"):
        (place / ".venv/bin").mkdir(parents=True)
        (place / ".venv/bin/python").symlink_to(sys.executable)
    near, far = tmp_path / "a/b/.venv/bin/python", tmp_path / "a/.venv/bin/python"
    assert remote.pythons_for(str(sweep))[:2] == [str(near), str(far)]
    (tmp_path / "a/b/.venv/bin").chmod(0o777)
    assert str(near) not in remote.pythons_for(str(sweep))
    claim_by_other(monkeypatch, far)
    assert remote.pythons_for(str(sweep))[-1:] == ["python3"] and str(far) not in remote.pythons_for(str(sweep))


def test_nothing_in_the_current_folder_is_imported(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"run-0": {"seed": 0}})
    here = tmp_path / "a project from elsewhere"
    here.mkdir()
    for name in ("submitit", "numpy", "json", "band", "sitecustomize", "random"):
        (here / f"{name}.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'a').write({name!r})\n")
    program = "import sys; sys.path.remove(''); from band.cli.sweep import main; sys.exit(main())"  # as the script does
    words = [sys.executable, "-c", program, "submit", str(sweep.sweep.path), "--jobs", "1"]
    done = subprocess.run(words, cwd=here, env=dict(sweep.environment), capture_output=True, text=True)
    if sys.version_info >= (3, 11):
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "pwned").exists()
        assert sweep.published() == ["run-0"]
    else:  # has no such option, which the page says
        assert "Python 3.10" in (Path(__file__).parents[2] / "docs/security.md").read_text()
