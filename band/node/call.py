"""The way into a job: `python -m band.node.call FOLDER` runs the call that submitit has pickled there, if it is ours.

A pickle is a program. So it is read from a folder that is open to its owner alone, and that is held while submitit
reads it: what is put in the place of that folder meanwhile is not looked at.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from band import owners
from band.errors import StageError

WAIT_S = 60.0  # for a call on a home that shows new files late


def open_calls(folder: Path, *, name: str) -> int:
    """Return a descriptor of the folder of calls, once it and the call of that name are seen to be ours alone.

    Raises:
        StageError: they are somebody else's, or others could have written them.
        OSError: they are not there.
    """
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        why = owners.why_not(os.fstat(file), forbidden=owners.OPEN_TO_OTHERS)
        why = why or owners.why_not(os.stat(name, dir_fd=file, follow_symlinks=False), forbidden=0)
        if why:
            raise StageError(f"{folder}, or {name} in it, {why}: no call from there is run; submit again")
    except BaseException:
        os.close(file)
        raise
    return file


def main() -> None:
    """Check, and hand over to submitit."""
    from submitit.core.job_environment import JobEnvironment
    from submitit.core.submission import submitit_main

    folder = Path(sys.argv[1])
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        os.environ.pop(
            "PYTHONSAFEPATH", None
        )  # set for the queue and its children; a trainer may be a script of several
    os.environ["SUBMITIT_FOLDER"] = str(folder)
    call = JobEnvironment().paths.submitted_pickle
    deadline = time.monotonic() + WAIT_S
    while not call.exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    try:
        file = open_calls(call.parent, name=call.name)
    except (StageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    sys.argv[1] = f"/proc/self/fd/{file}"
    submitit_main()


if __name__ == "__main__":
    main()
