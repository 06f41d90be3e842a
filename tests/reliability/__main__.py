"""The long form of the bench: `make chaos SEED=7 MINUTES=30 BENCHES="calls damage"`, or `ONLY="trainer_hung"`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from reliability.ledger import Ledger, quick_folder, tables

# Each is a module with `bench(ledger, *, folder, seed, until)`: it injects until that time.monotonic(), in that folder.
BENCHES = ("calls", "damage", "views", "processes", "takeover", "people", "slurm_sweeps", "held", "network")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benches one after the other, each for its share of the time; return 1 if something came of a fault."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("benches", nargs="*", default=BENCHES, help=f"of {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30.0, help="of all benches together")
    parser.add_argument("--only", nargs="+", default=[], help="faults of a sweep at Slurm, such as trainer_hung")
    parser.add_argument("--into", type=Path, default=Path("chaos.jsonl"), help="the ledger: a JSON line a fault")
    given = parser.parse_args(arguments)
    names = ("slurm_sweeps",) if given.only else given.benches or BENCHES
    os.environ["OMP_NUM_THREADS"] = "1"
    ledger = Ledger(given.into)
    end = time.monotonic() + 60 * given.minutes
    for place, name in enumerate(names):
        if name not in BENCHES:
            parser.error(f"there is no bench {name!r}, but {', '.join(BENCHES)}")
        until = time.monotonic() + (end - time.monotonic()) / (len(names) - place)
        with quick_folder() as folder:
            bench = importlib.import_module(f"reliability.{name}").bench
            bench(ledger, folder=folder, seed=given.seed, until=until, **({"only": given.only} if given.only else {}))
        print(f"{name}: {ledger.hits} hits so far, {len(ledger.bad)} bad", file=sys.stderr, flush=True)
    print(tables(ledger.made))
    for each in ledger.bad:
        print(f"{each.kind}, {each.fault}, {each.seed}: {each.note}")
    return 1 if ledger.bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
