"""The real trainer with a pause after each step, so that a tiny run lasts long enough to be interrupted.

$PACED_STEP_S is the pause; if $PACED_WHILE names a file, the trainer pauses only as long as that is there.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from band.train import session, worker

PAUSE_S = float(os.environ["PACED_STEP_S"])
WHILE = os.environ.get("PACED_WHILE")
after_step = session.Session._after_step


def after_step_and_pause(self: Any, population: Any) -> bool:
    if WHILE is None or os.path.exists(WHILE):
        time.sleep(PAUSE_S)
    return after_step(self, population)


if __name__ == "__main__":
    session.Session._after_step = after_step_and_pause  # type: ignore[method-assign]
    code = worker.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
