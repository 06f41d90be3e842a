"""Room at home, against the disk's own figures and what `quota` prints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from band.sweep.space import space

# As `quota -w -p` of Linux DiskQuota 4 prints it.
HEAD = """Disk quotas for user ada (uid 1000):
     Filesystem   space   quota   limit   grace   files   quota   limit   grace
"""


@pytest.fixture
def quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command that prints what is written to the file returned, and ends with 1."""
    words = tmp_path / "words"
    words.write_text("")
    command = tmp_path / "bin/quota"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncat {words}\nexit 1\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    return words


def test_without_a_quota_it_is_what_the_disk_has_free_for_a_user(tmp_path: Path, quota: Path) -> None:
    found = space(tmp_path / "not/there/yet")
    disk = os.statvfs(tmp_path)
    assert found.limit == "free" and abs(found.num_bytes - disk.f_bavail * disk.f_frsize) < 100 * 2**20
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:3] == ["-w", "-p", "-f"] and os.path.ismount(asked[3])


@pytest.mark.parametrize(
    ("line", "left_kib"),
    [
        ("     /dev/vda   15000   20000   30000       0     1       0       0       0\n", 5000),
        ("     nas:/home   15000       0   30000       0     1       0       0       0\n", 15000),
        ("     /dev/vda   25000*  20000   30000  604800     1       0       0       0\n", 0),
    ],
)
def test_what_a_quota_leaves_is_counted_to_its_soft_limit(
    tmp_path: Path, quota: Path, line: str, left_kib: int
) -> None:
    quota.write_text(HEAD + line)
    assert space(tmp_path) == (left_kib * 1024, "left of your quota")


def test_a_quota_without_limits_is_none(tmp_path: Path, quota: Path) -> None:
    quota.write_text(HEAD + "     /dev/vda   15000       0       0       0     1       0       0       0\n")
    assert space(tmp_path).limit == "free"


def test_a_machine_without_the_command_has_no_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert space(tmp_path).limit == "free"
