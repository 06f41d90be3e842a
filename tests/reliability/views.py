"""Rivals whose clocks are an hour off and who see names late, as on NFS: one holds a task, one publishes a run."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reliability.ledger import Injection, Ledger
from reliability.shim import Shim, run_under

KIND = "storage"
TIMEOUT_S = 120.0
HOUR_S = 3600.0
RIVALS = 4
STALE_S = 0.1


def together(works: Sequence[Callable[[], Any]], *, shim: Shim, root: Path, seed: int) -> list[dict[str, Any]]:
    """Do works at once, each in a process with a view of its own; return what each came to, and what was hidden."""
    start, started = os.pipe()
    looked, has_looked = os.pipe()
    children = []
    for place, work in enumerate(works):
        ear, mouth = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(started)
            draws = random.Random(f"{seed} {place}")
            shim.arm(root, at=-1, fault=None)
            shim.look(skew_s=draws.choice((-HOUR_S, 0.0, HOUR_S)), stale_s=draws.uniform(0.0, STALE_S))
            answer: dict[str, Any] = {"value": None, "error": ""}
            try:
                for path in (root, *root.rglob("*")):  # what it will be slow to see a change of
                    path.is_dir() and os.listdir(path)
                os.close(has_looked)
                os.read(start, 1)
                answer["value"] = work()
            except BaseException as error:
                answer["error"] = type(error).__name__
            answer["hidden"] = shim.struck
            shim.look(skew_s=0.0, stale_s=0.0)
            os.write(mouth, json.dumps(answer).encode())
            os._exit(0)
        os.close(mouth)
        children.append((pid, ear))
    os.close(has_looked)
    os.read(looked, 1)  # its end: none has that open any more
    for end in (looked, start, started):
        os.close(end)
    answers = []
    for pid, ear in children:
        said = b""
        while chunk := os.read(ear, 65536):
            said += chunk
        os.close(ear)
        _, status = os.waitpid(pid, 0)
        silent = {"value": None, "error": f"no word, and exit code {os.waitstatus_to_exitcode(status)}", "hidden": 0}
        answers.append(json.loads(said) if said else silent)
    return answers


def claims(folder: Path, *, shim: Shim, seed: int) -> dict[str, Any]:
    """Have rivals take and give back one task again and again; none may be inside while another is."""
    from band.attempts import take
    from band.errors import ClaimError
    from reliability.operations import attempt_of

    task, inside = folder / "task", folder / "inside"
    task.mkdir()
    time.sleep(STALE_S)

    def work(pid: int) -> int:
        done, end = 0, time.monotonic() + 0.5
        while time.monotonic() < end:
            try:
                claim = take(task, attempt=attempt_of(pid))
            except ClaimError:
                continue
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if another is inside
            os.unlink(inside)
            claim.release()
            done += 1
        return done

    answers = together([lambda n=n: work(n) for n in range(RIVALS)], shim=shim, root=task, seed=seed)
    bad = [answer["error"] for answer in answers if answer["error"]]
    doubles = bad.count("FileExistsError")
    others = [error for error in bad if error != "FileExistsError"]
    done = sum(answer["value"] or 0 for answer in answers)
    note = f"{bad}" if bad else "" if done else "nobody ever held it"
    return {
        "hit": any(answer["hidden"] for answer in answers),
        "duplicated": doubles,
        "wrong": len(others) + (not done),
        "note": note,
    }


def publications(folder: Path, *, shim: Shim, seed: int) -> dict[str, Any]:
    """Have rivals publish one run, two of them with another content: one is published whole, no content is lost."""
    from sealed_runs import write_run

    from band.node.publish import publish
    from band.run_dir import SweepDir, verify

    sweep = SweepDir(folder / "home" / "sweeps" / "demo")
    sweep.runs.mkdir(parents=True)
    contents = set()
    for number in range(RIVALS):
        place = folder / "scratch" / str(number) / "run-1"
        place.parent.mkdir(parents=True)
        write_run(place, 1, base={}, sizes={"metrics.csv": 500}, salt=str(number % 2))
        contents.add(verify(place)["digest"])
    time.sleep(STALE_S)

    def work(number: int) -> str:
        place = folder / "scratch" / str(number) / "run-1"
        return publish(place, sweep=sweep, run_id="run-1", attempt=f"a{number}")[0]

    answers = together([lambda n=n: work(n) for n in range(RIVALS)], shim=shim, root=folder / "home", seed=seed)
    said = [answer["value"] or answer["error"] for answer in answers]
    kept = {verify(sweep.run("run-1"))["digest"]}
    superseded = list(sweep.superseded.glob("*")) if sweep.superseded.exists() else []
    kept |= {verify(path)["digest"] for path in superseded}
    on_the_way = [path.name for path in sweep.incoming.iterdir()]
    wrong = [word for word in said if word not in ("published", "superseded")] + on_the_way
    runs = len(list(sweep.runs.glob("[!.]*")))
    return {
        "hit": "superseded" in said,  # two have met
        "lost": len(contents - kept),
        "duplicated": runs - 1,
        "wrong": len(wrong),
        "note": f"{said} {on_the_way}" if wrong else "",
    }


RACES = {
    "names seen late, clocks an hour off: rivals for a task": claims,
    "clocks an hour off: rivals publishing a run": publications,
}


def bench(ledger: Ledger, *, folder: Path, seed: int, until: float, most: int = 10**6) -> None:
    """Have races until the time is over."""
    seconds = max(1.0, until - time.monotonic())
    with ledger.extended():
        run_under("reliability.views", folder, ledger.path, seed, seconds, most, timeout_s=seconds + TIMEOUT_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Have races, under the shim."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name, kind in (("folder", Path), ("ledger", Path), ("seed", int), ("seconds", float), ("most", int)):
        parser.add_argument(name, type=kind)
    given = parser.parse_args(arguments)
    shim, ledger, end = Shim(), Ledger(given.ledger), time.monotonic() + given.seconds
    for number in range(given.most):
        for name, race in RACES.items():
            if time.monotonic() > end:
                return 0
            place = given.folder / "race"
            place.mkdir()
            found = race(place, shim=shim, seed=1000 * given.seed + number)
            ledger.add(Injection(kind=KIND, fault=name, seed=f"{given.seed}.{number}", **found))
            shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
