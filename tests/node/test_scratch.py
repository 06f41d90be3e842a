"""Which place on a node is taken for scratch, and what is found out about it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stepping import failing, hooked

from band.node import scratch as places
from band.node.scratch import candidates, find_scratch, is_required, mount_of, prepare, reserve
from band.run_dir import ScratchDir, SweepDir

MOUNTS = """\
rubbish - ext4
rubbish of four words - ext4
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / {place}/nfs rw - nfs4 server:/export rw
24 22 0:22 / {place}/with\\040blank rw - lustre mds:/fs rw
25 22 0:23 / {place}/hidden rw - nfs4 server:/export rw
26 25 0:24 / {place}/hidden rw - tmpfs tmpfs rw
27 22 254:0 /containers/77/.77 {place}/own rw - ext4 /dev/vda rw
28 22 0:25 / {place}/nfs/a rw no type
29 22 0:26 / {place}/nfs rw -
"""
JOB = {"USER": "ada", "SLURM_JOB_ID": "78", "SLURM_ARRAY_JOB_ID": "77"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a site's disks are, with nothing anywhere else."""
    (tmp_path / "mounts").write_text(MOUNTS.format(place=tmp_path))
    monkeypatch.setattr(places, "MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(places, "ROOTS", (str(tmp_path / "first"), str(tmp_path / "second")))
    return tmp_path


def tried(environment: dict[str, str]) -> list[tuple[str, bool]]:
    return [(str(scratch.path), of_job) for scratch, of_job in candidates(environment)]


def test_what_outlives_the_job_comes_before_what_is_made_for_it_and_tmp_last(place: Path) -> None:
    (place / "first").write_text("no folder")
    (place / "second").mkdir()
    environment = {**JOB, "TMPDIR": "/local/slurm.78", "SLURM_TMPDIR": "/ssd/x"}
    of_the_job = [("/ssd/x/band", True), ("/local/slurm.78/band", True)]
    assert tried(environment) == [(f"{place}/second/ada/band", False), *of_the_job, ("/tmp/band-ada", False)]
    assert tried({**environment, "BAND_SCRATCH": "/given"}) == [("/given", False)]
    assert tried({**environment, "BAND_SCRATCH": "/given/77/band"}) == [("/given/77/band", True)]


@pytest.mark.parametrize(
    ("path", "is_jobs"),
    [
        ("/tmp", False), ("/tmp/77", True), ("/local/job78/tmp", True), ("/x/ada_78", True), ("/x/177", False),
        ("/nodes/c77", False), ("/x/78a", False), ("/x/77.tmp", False), ("/slurm.78/tmp", True),
    ],
)  # fmt: skip
def test_a_tmpdir_counts_as_the_jobs_if_it_has_the_jobs_id(place: Path, path: str, is_jobs: bool) -> None:
    assert ((f"{path}/band", True) in tried({**JOB, "TMPDIR": path})) is is_jobs
    assert (f"{path}/band", True) not in tried({"USER": "ada", "TMPDIR": path})


def test_the_last_mount_on_the_longest_path_tells_the_file_system(place: Path) -> None:
    assert mount_of(place / "else").kind == "ext4"
    assert mount_of(place / "nfs" / "a").kind == "nfs4" and mount_of(place / "nfsx").kind == "ext4"
    assert mount_of(place / "with blank").kind == "lustre"
    assert mount_of(place / "hidden" / "b").kind == "tmpfs"
    (place / "link").symlink_to(place / "nfs")
    assert mount_of(place / "link" / "new").kind == "nfs4"


def test_a_mount_whose_name_is_no_text_is_told_from_others(place: Path) -> None:
    line = b"30 22 0:27 / %s/caf\xe9\x85 rw - nfs4 server:/export rw\n" % os.fsencode(place)
    places.MOUNTS.write_bytes(line + places.MOUNTS.read_bytes())
    assert (
        mount_of(place / os.fsdecode(b"caf\xe9\x85") / "a").kind == "nfs4" and mount_of(place / "else").kind == "ext4"
    )


def test_a_scratch_on_the_network_is_passed_over_unwritten_for_home_and_said(place: Path) -> None:
    found = find_scratch(SweepDir(place / "home"), environment={"BAND_SCRATCH": f"{place}/nfs/band"})
    assert found.scratch.path == place / "home/.scratch" and not found.is_volatile
    assert found.why_home == f"scratch {place}/nfs/band is no disk of this node but on a network (nfs4)"
    assert not (place / "nfs").exists()


def test_a_disk_on_the_network_makes_way_for_the_next(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "ROOTS", (f"{place}/nfs", str(place / "second")))
    for folder in ("nfs/ada", "second"):
        (place / folder).mkdir(parents=True)
    found = find_scratch(SweepDir(place / "home"), environment=JOB)
    assert (found.scratch.path, found.why_home) == (place / "second/ada/band", "")
    assert (place / "second/ada/band").stat().st_mode & 0o777 == 0o700


def test_a_tmpdir_of_the_job_is_used_though_nobody_has_made_it_and_goes_with_it(place: Path) -> None:
    found = find_scratch(SweepDir(place / "home"), environment={**JOB, "TMPDIR": f"{place}/78/tmp"})
    assert (found.scratch.path, found.why_home, found.is_volatile) == (place / "78/tmp/band", "", True)


@pytest.mark.parametrize(("value", "required"), [(None, False), ("", False), ("0", False), ("1", True), ("yes", True)])
def test_scratch_is_required_where_the_environment_says_so(value: str | None, required: bool) -> None:
    assert is_required({} if value is None else {"BAND_SCRATCH_REQUIRED": value}) is required


def test_where_the_system_does_not_tell_of_mounts_their_kind_is_unknown(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MOUNTS", place / "nowhere")
    assert mount_of(place) == places.Mount(kind="", root="")


def test_a_scratch_is_probed_by_more_than_a_disk_keeps_beside_the_name_of_a_file(tmp_path: Path) -> None:
    written: list[int] = []

    def note(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        result = call()
        written.extend([result] if name == "write" else [])
        return result

    with hooked(note):
        prepare(ScratchDir(tmp_path / "scratch"))
    assert sum(written) == 64 * 1024


def test_a_scratch_that_is_full_is_called_full(tmp_path: Path) -> None:
    scratch = ScratchDir(tmp_path / "scratch")
    prepare(scratch)

    def full(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        return failing(errno.ENOSPC)(name, call, args) if name == "write" else call()

    with hooked(full), pytest.raises(OSError, match="No space left"):
        prepare(scratch)
    assert [path.name for path in scratch.path.iterdir()] == ["data"]


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EOPNOTSUPP])
def test_a_disk_that_cannot_take_room_beforehand_is_no_full_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fallocate(file: int, offset: int, length: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    if number == errno.EOPNOTSUPP:
        reserve(tmp_path, size_bytes=5000)
    else:
        with pytest.raises(OSError, match="for 5000 bytes") as caught:
            reserve(tmp_path, size_bytes=5000)
        assert caught.value.errno == number and caught.value.filename == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_used_makes_way_for_the_next(place: Path) -> None:
    (place / "first/ada").mkdir(parents=True)
    (place / "first/ada/band").write_text("no folder")
    (place / "second").mkdir()
    found = find_scratch(SweepDir(place / "home"), environment=JOB)
    assert (found.scratch.path, found.why_home, found.is_volatile) == (place / "second/ada/band", "", False)


def test_a_tmp_of_the_jobs_own_is_known_by_its_mount(place: Path) -> None:
    environment = {**JOB, "BAND_SCRATCH": f"{place}/own/band"}
    assert find_scratch(SweepDir(place / "home"), environment=environment).is_volatile
    assert not find_scratch(
        SweepDir(place / "home"), environment={**environment, **dict.fromkeys(JOB, "9")}
    ).is_volatile


def test_room_is_probed_by_taking_it_and_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def fallocate(file: int, offset: int, length: int) -> None:
        assert offset == 0 and os.fstat(file).st_mode & 0o777 == 0o600
        asked.append(length)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    with pytest.raises(OSError, match="No space left on device for 5000 bytes"):
        reserve(tmp_path, size_bytes=5000)
    with pytest.raises(OSError, match="No space left"):
        prepare(ScratchDir(tmp_path / "scratch"))
    assert asked == [5000, 16 * 2**20]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "scratch"]
    monkeypatch.undo()
    for size in (5000, 0):
        reserve(tmp_path, size_bytes=size)


def test_room_is_not_taken_through_a_link(tmp_path: Path) -> None:
    other = tmp_path / "theirs"
    other.write_text("theirs")
    (tmp_path / f".reserve.{os.getpid()}").symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"):
        reserve(tmp_path, size_bytes=5000)
    assert other.read_text() == "theirs"


def test_a_task_of_the_same_number_on_another_node_may_clear_the_room_away_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.posix_fallocate

    def fallocate(file: int, offset: int, length: int) -> None:
        real(file, offset, length)
        (tmp_path / f".reserve.{os.getpid()}").unlink()

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    reserve(tmp_path, size_bytes=5000)
