"""What a compute node is like, looked at from inside a small job; `python -m band.node.probe FOLDER first|again`.

FOLDER lies on the shared home. `first` writes first.json there and leaves a mark on scratch. `again`, a later job on
the same node, looks for that mark, writes again.json, and then has itself requeued.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from band.errors import BandError
from band.files import (
    canonical_json,
    create_exclusive,
    read_json_object,
    refuses_to_replace,
    rename_exclusive,
    write_atomic,
)
from band.node.scratch import find_scratch
from band.run_dir import SweepDir
from band.slurm.command import run

SCRIPT = "probe.sh"  # in FOLDER: what was given to sbatch
FIRST, AGAIN = "first.json", "again.json"
HOME_UNWRITABLE = 75
TRAINER_S = 240.0  # importing torch from a slow home takes a minute
SLURM_S = 30.0
REQUEUE_S = 60.0  # how long to wait to be killed after a requeue that was granted
WORKER = ["-m", "band.train.worker"]
LOOK = """
import json
import band.train.task, torch
from band.train.provenance import versions
print(json.dumps({"versions": versions(), "cuda": torch.version.cuda, "gpus": torch.cuda.device_count()}))
"""


def first(folder: Path) -> dict[str, Any]:
    """Return all that can be seen of the node, and leave a mark on its scratch; "error" is "" where all is well."""
    facts: dict[str, Any] = {"t": time.time(), "host": socket.gethostname(), "home": look_at_home(folder)}
    facts["python"] = {"executable": sys.executable, "version": platform.python_version()}
    facts["submitit"] = installed("submitit")
    facts["cpus"] = len(os.sched_getaffinity(0))
    facts["cuda_visible_devices"] = os.environ.get("CUDA_VISIBLE_DEVICES")
    facts["slurm"] = {
        "sbatch": try_command("sbatch", "--test-only", str(folder / SCRIPT)),
        "squeue": try_command("squeue", "--noheader", f"--jobs={job_id()}"),
        "scontrol": try_command("scontrol", "show", "job", job_id()),
    }
    facts["scratch"] = look_at_scratch(folder)
    facts["trainer"] = look_at_trainer()
    facts["t_end"] = time.time()
    return facts


def again(folder: Path) -> dict[str, Any]:
    """Return whether the mark of the first job is still on scratch, and take it away."""
    mark = mark_on(Path(read_json_object(folder / FIRST)["scratch"]["path"]), folder=folder)
    facts = {"t": time.time(), "host": socket.gethostname(), "mark": mark.is_file(), "requeue": ""}
    mark.unlink(missing_ok=True)
    return facts


def look_at_home(folder: Path) -> dict[str, Any]:
    """Return whether the operations that band's promises rest on do what they say in `folder`."""
    error = words_of(lambda: try_exclusive(folder))
    refuses = False
    if not error:
        refuses = refuses_to_replace(folder)
    return {"error": error, "refuses_to_replace": refuses, "free_bytes": free_bytes(folder)}


def try_exclusive(folder: Path) -> None:
    """Create and rename in `folder` what exists and what does not.

    Raises:
        BandError: a name that was taken was taken again.
        OSError: the file system cannot do it at all.
    """
    path = folder / "exclusive"
    if not create_exclusive(path, b"first") or create_exclusive(path, b"second") or path.read_bytes() != b"first":
        raise BandError("two could create one file, each believing to be alone")
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "owner").write_text(name)
    target = folder / "published"
    done = [rename_exclusive(folder / name, target) for name in ("one", "two")]
    if done != [True, False] or (target / "owner").read_text() != "one":
        raise BandError("a folder was renamed over one that was not empty")


def look_at_scratch(folder: Path) -> dict[str, Any]:
    """Return where band would write on this node, and leave a mark there; "error" says why that is home."""
    found = find_scratch(SweepDir(folder))
    path = found.scratch.path
    if not found.why_home:
        write_atomic(mark_on(path, folder=folder), b"")
    return {
        "path": str(path),
        "error": found.why_home,
        "is_volatile": found.is_volatile,
        "free_bytes": free_bytes(path),
    }


def mark_on(scratch: Path, *, folder: Path) -> Path:
    """Return the file that the first job leaves for the second."""
    return scratch / f".{folder.name.lstrip('.')}"


def look_at_trainer() -> dict[str, Any]:
    """Return what the Python that trains says of itself: in the container, where BAND_TRAINER names one."""
    given = shlex.split(os.environ.get("BAND_TRAINER", "")) or [sys.executable, *WORKER]
    facts: dict[str, Any] = {"command": given, "error": ""}
    if given[-2:] != WORKER:
        return {**facts, "error": f"BAND_TRAINER does not end in {' '.join(WORKER)}"}
    try:
        done = subprocess.run(
            [*given[:-2], "-c", LOOK], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TRAINER_S
        )
        return {**facts, **json.loads(done.stdout.strip().rpartition("\n")[2])}
    except subprocess.TimeoutExpired:
        return {**facts, "error": f"importing torch took more than {TRAINER_S:g} s"}
    except OSError as error:
        return {**facts, "error": str(error)}
    except ValueError:
        return {**facts, "error": done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"}


def installed(package: str) -> str:
    """Return the version of an installed package, "" where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def free_bytes(folder: Path) -> int | None:
    """Return how many bytes the file system of `folder` has left for us, None where it does not say."""
    try:
        state = os.statvfs(folder)
    except OSError:
        return None
    return state.f_bavail * state.f_frsize


def words_of(deed: Callable[[], object]) -> str:
    """Return what went wrong in `deed`, "" where nothing did."""
    try:
        deed()
    except (BandError, OSError) as error:
        return str(error)
    return ""


def try_command(name: str, *arguments: str) -> str:
    """Return why a command of Slurm does not work here, "" where it does."""
    if shutil.which(name) is None:
        return f"{name} is not on the job's PATH"
    return words_of(lambda: run([name, *arguments], timeout_s=SLURM_S))


def job_id() -> str:
    """Return the job's own id."""
    return os.environ.get("SLURM_JOB_ID", "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at the node and write down what there is to see."""
    folder, which = list(sys.argv[1:] if arguments is None else arguments)
    home = Path(folder)
    try:
        if which == "first":
            write_atomic(home / FIRST, canonical_json(first(home)))
        else:
            _again(home)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return HOME_UNWRITABLE
    return 0


def _again(folder: Path) -> None:
    facts = again(folder)
    write_atomic(folder / AGAIN, canonical_json(facts))
    refusal = try_command("scontrol", "requeue", job_id())
    if not refusal:
        time.sleep(REQUEUE_S)
        refusal = f"it was granted, but nothing happened for {REQUEUE_S:g} s"
    write_atomic(folder / AGAIN, canonical_json({**facts, "requeue": refusal}))


if __name__ == "__main__":
    raise SystemExit(main())
