"""`make fuzz`: every target in turn, again and again, each in a process of its own, until the time is over.

Counts are added to those of earlier calls in build/fuzz/results.json; inputs that led somewhere new are kept beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fuzz.targets import TARGETS
from fuzz.worker import TIMEOUT_S, UNITS

HYPOTHESIS_SHARE = 4  # of the turns of a target, one in so many is hypothesis's


def main() -> int:
    """Fuzz; 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=int, default=300, help="in all")
    parser.add_argument("--turn", type=int, default=0, help="seconds of one process; default: so that each has a turn")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="where counts and inputs are kept")
    args = parser.parse_args()
    names = args.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no target {unknown[0]!r}; choose from {', '.join(TARGETS)}")
    path = args.folder / "results.json"
    args.folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    turn = args.turn or max(2, min(60, args.seconds // len(names)))
    end, number = time.monotonic() + args.seconds, sum(entry["turns"] for entry in results.values())
    before, has_atheris = len(found(args.folder)), importlib.util.find_spec("atheris") is not None
    while time.monotonic() < end:
        number += 1
        name = names[number % len(names)]
        entry = results.setdefault(name, {"turns": 0, "inputs": 0, "seconds": 0.0, "coverage": 0, "crashes": []})
        is_hypothesis = not has_atheris or entry["turns"] % HYPOTHESIS_SHARE == HYPOTHESIS_SHARE - 1
        engine = "hypothesis" if is_hypothesis else "atheris"
        take_turn(entry, name, engine=engine, seconds=turn, folder=args.folder, seed=number)
        path.write_text(json.dumps(results, indent=1))
    print(table(results))
    new = found(args.folder)[before:]
    for words in found(args.folder):
        print(f"found: {words['target']}: {words['where']}: {words['message']}")
    return 1 if new or any(results[name]["crashes"] for name in names if name in results) else 0


def take_turn(entry: dict[str, Any], name: str, *, engine: str, seconds: int, folder: Path, seed: int) -> None:
    """Run one process and add what it did to a target's entry."""
    words = ["--engine", engine, "--seconds", str(seconds), "--folder", str(folder), "--seed", str(seed)]
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    worker = subprocess.Popen(
        [sys.executable, "-m", "fuzz.worker", name, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        _, errors = worker.communicate(timeout=seconds + 20 * TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(worker.pid, signal.SIGKILL)  # what it has started as well
        _, errors = worker.communicate()
    said = errors.decode("utf-8", "replace")
    counts = re.findall(rf"{UNITS}\s*(\d+)", said) or re.findall(r"^#(\d+)", said, re.MULTILINE)
    covered = [int(number) for number in re.findall(r"cov: (\d+)", said)]
    entry["turns"] += 1
    entry["inputs"] += int(counts[-1]) if counts else 0
    entry["seconds"] += round(time.monotonic() - began, 1)
    entry["coverage"] = max([entry["coverage"], *covered])
    if worker.returncode:
        entry["crashes"].append({"code": worker.returncode, "engine": engine, "said": said[-1500:]})


def found(folder: Path) -> list[dict[str, Any]]:
    """Return what targets did not survive, oldest first."""
    paths = sorted((folder / "findings").glob("*.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text()) for path in paths]


def table(results: dict[str, Any]) -> str:
    """Return counts as lines of Markdown."""
    lines = ["| target | inputs | a second | branches of band reached | ended the process |", "|---|---|---|---|---|"]
    for name, entry in results.items():
        pace = entry["inputs"] / max(entry["seconds"], 1)
        lines.append(f"| {name} | {entry['inputs']:,} | {pace:.0f} | {entry['coverage']} | {len(entry['crashes'])} |")
    total = sum(entry["inputs"] for entry in results.values())
    return "\n".join([*lines, f"| all | {total:,} | | | |"])


if __name__ == "__main__":
    raise SystemExit(main())
