"""The copy of the code that jobs run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from band.errors import SweepError
from band.run_dir import SweepDir, code_digest
from band.sweep.snapshot import PACKAGE, take_snapshot, versions


def package(folder: Path) -> Path:
    root = folder / "checkout" / "pack"
    (root / "room").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "room/part.py").write_text("VALUE = 1\n")
    (root / "room/template.sh").write_text("echo\n")
    (root / "__pycache__").mkdir()
    (root / "__pycache__/part.pyc").write_bytes(b"x")
    return root


def test_equal_code_is_copied_once_and_an_edit_makes_another_copy(tmp_path: Path) -> None:
    source, sweep = package(tmp_path), SweepDir(tmp_path / "demo")
    first = take_snapshot(sweep, package=source)
    copy = sweep.code / first / "pack"
    assert first == code_digest(source) == code_digest(copy)
    assert sorted(path.name for path in copy.rglob("*")) == ["__init__.py", "part.py", "room", "template.sh"]
    assert not (copy / "room/part.py").stat().st_mode & 0o222
    before = copy.stat().st_ino
    assert take_snapshot(sweep, package=source) == first and copy.stat().st_ino == before
    (source / "room/part.py").write_text("VALUE = 2\n")
    second = take_snapshot(sweep, package=source)
    assert second != first and (copy / "room/part.py").read_text() == "VALUE = 1\n"
    assert sorted(path.name for path in sweep.code.iterdir()) == sorted([first, second])


def test_a_copy_that_was_changed_is_refused(tmp_path: Path) -> None:
    source, sweep = package(tmp_path), SweepDir(tmp_path / "demo")
    digest = take_snapshot(sweep, package=source)
    path = sweep.code / digest / "pack/room/part.py"
    os.chmod(path, 0o644)
    path.write_text("VALUE = 3\n")
    with pytest.raises(SweepError, match="is not what was copied there"):
        take_snapshot(sweep, package=source)


def test_python_started_in_a_copy_imports_the_copy(tmp_path: Path) -> None:
    sweep = SweepDir(tmp_path / "demo")
    digest = take_snapshot(sweep)
    code = "import band; print(band.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=sweep.code / digest, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(sweep.code / digest / "band/__init__.py")
    assert digest == code_digest(PACKAGE)


def test_versions_are_told_without_importing_anything() -> None:
    code = (
        "import sys; from band.sweep.snapshot import versions; print(sorted(versions()));"
        "assert not {'torch', 'numpy', 'h5py', 'submitit'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" in done.stdout and versions()["python"] == ".".join(map(str, sys.version_info[:3]))
