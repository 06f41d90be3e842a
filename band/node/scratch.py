"""Finds the node's scratch and makes sure that it is ours, local, and takes what we write."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from band import owners
from band.errors import StageError
from band.files import write_atomic
from band.run_dir import ScratchDir, SweepDir, user_name

PROBE_BYTES = 64 * 1024
WORK_BYTES = 16 * 2**20  # room for checkpoints and finished runs, at least
# Where sites have disks of a node that outlive jobs; a folder of the user's own in them.
ROOTS = ("/disk/scratch", "/scratch", "/local/scratch", "/localscratch", "/local_scratch", "/scratch_local", "/local")
MOUNTS = Path("/proc/self/mountinfo")
NETWORK_TYPES = re.compile(
    "afs|beegfs(_nodev)?|ceph|cifs|fhgfs|fuse.(ceph|glusterfs|sshfs)|gfs2|glusterfs|gpfs|lustre|ncpfs|nfs4?|ocfs2|"
    "orangefs|panfs|pvfs2|smb3|smbfs|wekafs"
)


@dataclass(frozen=True, kw_only=True)
class Mount:
    """What a path lies on."""

    kind: str  # type of the file system
    root: str  # the folder of that file system that is seen at the mount point


@dataclass(frozen=True, kw_only=True)
class Found:
    """Where to write on this node."""

    scratch: ScratchDir
    why_home: str = ""  # why that is the shared home; "" where it is scratch
    is_volatile: bool = False  # whether it goes with the job


def find_scratch(sweep: SweepDir, *, environment: Mapping[str, str] = os.environ) -> Found:
    """Return the first place that can be used, and the shared home where none can.

    $BAND_SCRATCH alone if it is set; else scratch that outlives the job, scratch of the job, /tmp.

    Raises:
        OSError: home cannot be written either.
    """
    reasons = []
    for scratch, of_job in candidates(environment):
        mount = mount_of(scratch.path)
        if NETWORK_TYPES.fullmatch(mount.kind):
            reasons.append(f"scratch {scratch.path} is no disk of this node but on a network ({mount.kind})")
            continue
        try:
            if not environment.get("BAND_SCRATCH"):  # a place that the user names is the user's to judge
                scratch.path.parent.mkdir(parents=True, exist_ok=True)
                _check_place(scratch.path.parent)
            prepare(scratch)
            # A /tmp of the job's own is a folder of that name elsewhere, which only the mount tells.
            root = f"/{Path(mount.root).name}"
            return Found(scratch=scratch, is_volatile=of_job or _names_job(root, environment))
        except (OSError, StageError) as error:
            reasons.append(f"scratch {scratch.path} cannot be used: {error}")
    home = home_scratch(sweep)
    prepare(home)
    return Found(scratch=home, why_home="; ".join(reasons))


def candidates(environment: Mapping[str, str]) -> Iterator[tuple[ScratchDir, bool]]:
    """Yield the places to try, and whether each is made for the job and goes with it."""
    if environment.get("BAND_SCRATCH"):
        given = ScratchDir.from_environment(environment)
        yield given, _names_job(str(given.path), environment)
        return
    user = user_name(environment)
    for root in map(Path, ROOTS):
        if os.access(root / user, os.W_OK) or (root.is_dir() and os.access(root, os.W_OK)):
            yield ScratchDir(root / user / "band"), False
    for name in ("SLURM_TMPDIR", "TMPDIR"):
        path = environment.get(name, "")
        if path and (name == "SLURM_TMPDIR" or _names_job(path, environment)):
            yield ScratchDir(Path(path).absolute() / "band"), True
    yield ScratchDir.from_environment(environment), False


def _names_job(path: str, environment: Mapping[str, str]) -> bool:
    """Return whether a part of a path is, or ends in, the job's id: "/tmp/123", "/local/slurm.123", "/x/job123/y"."""
    ids = {environment.get(name) for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID")}
    found = re.findall(r"(?:/|[^/0-9A-Za-z]|job)([0-9]+)(?=/|$)", path)
    return not ids.isdisjoint(found)


def mount_of(path: Path) -> Mount:
    """Return the mount that a path lies on; of an unknown type where the system does not say."""
    real = Path(os.path.realpath(path))
    found, depth = Mount(kind="", root=""), -1
    with contextlib.suppress(OSError):
        for line in os.fsdecode(MOUNTS.read_bytes()).split("\n"):  # the kernel writes names as they are, text or not
            before, _, after = line.partition(" - ")
            words = [re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word) for word in before.split(" ")]
            if len(words) < 5 or not after:
                continue
            point = Path(words[4])
            # Of several on one point the last hides the others.
            if (point == real or point in real.parents) and len(point.parts) >= depth:
                found, depth = Mount(kind=after.split()[0], root=words[3]), len(point.parts)
    return found


def home_scratch(sweep: SweepDir) -> ScratchDir:
    """Return the folder in the sweep that takes the place of a scratch that cannot be used."""
    return ScratchDir(sweep.path / ".scratch")


def is_required(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a task shall fail rather than read its recording from the shared home."""
    return environment.get("BAND_SCRATCH_REQUIRED", "") not in ("", "0")


def prepare(scratch: ScratchDir) -> None:
    """Make the folder where it is missing, and probe it by writing.

    Raises:
        StageError: it is a link, or others own it or may write in it.
        OSError: it cannot be made or written, or is full.
    """
    scratch.path.parent.mkdir(parents=True, exist_ok=True)
    try:
        scratch.path.mkdir(mode=0o700)
    except FileExistsError:
        _check_owner(scratch.path)
    scratch.data.mkdir(exist_ok=True)
    probe = scratch.path / f".probe.{os.getpid()}"
    try:
        write_atomic(probe, bytes(PROBE_BYTES))
    finally:
        probe.unlink(missing_ok=True)
    reserve(scratch.path, size_bytes=WORK_BYTES)


def reserve(folder: Path, *, size_bytes: int) -> None:
    """Make sure that a disk has room, by taking it and giving it back: quotas count too, and it takes no time.

    Raises:
        OSError: there is no such room, or the folder cannot be written.
    """
    path = folder / f".reserve.{os.getpid()}"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(file, 0, size_bytes)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(error.errno, f"{os.strerror(error.errno)} for {size_bytes} bytes", str(folder)) from None
    finally:
        os.close(file)
        path.unlink(missing_ok=True)


def _check_owner(path: Path) -> None:
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise StageError(f"{path} must be a folder, not a link or file; remove it or set BAND_SCRATCH")
    if why := owners.problem(path):
        raise StageError(f"{path} {why}; chmod go-w it if it is yours, or set BAND_SCRATCH")


def _check_place(folder: Path) -> None:
    """Refuse a folder in which somebody else could put another in the place of ours: /tmp has a bit against that.

    Raises:
        StageError: it is such a folder.
    """
    status = folder.stat()
    is_safe = status.st_mode & stat.S_ISVTX or not status.st_mode & stat.S_IWOTH
    if status.st_uid not in (0, os.getuid()) or not is_safe:
        raise StageError(f"{folder} must belong to you or root, and not be writable by all; set BAND_SCRATCH")
