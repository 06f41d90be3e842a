"""What came of each fault that was injected: a JSON line each, and the tables that docs/reliability.md shows."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HEAD = ("fault", "tried", "hit", "lost", "duplicated", "wrong")


@dataclass(frozen=True, kw_only=True)
class Injection:
    """One fault, and what was found on disk after the work had been done again."""

    kind: str  # the table it stands in: "system calls", "damage", "storage", "people", "processes", "slurm", "network"
    fault: str  # its row there
    seed: str  # what brings it about again: a seed, or the operation and the number of the call
    hit: bool  # whether it is shown to have struck; only then it counts
    lost: int = 0  # results, or work before the last checkpoint, that were there and are not any more
    duplicated: int = 0  # results published, or tasks held, twice
    wrong: int = 0  # anything else that is not as undisturbed: other bytes, leftovers, a traceback, a state that lies
    note: str = ""  # what was wrong

    @property
    def is_good(self) -> bool:
        """Whether nothing came of it."""
        return not (self.lost or self.duplicated or self.wrong)


class Ledger:
    """Injections in the order they were made, in a file that outlives a killed bench."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made: list[Injection] = []

    def add(self, injection: Injection) -> Injection:
        """Write one down at once, so that it is known even if the next one ends everything."""
        self.made.append(injection)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(injection)) + "\n")
        return injection

    @contextmanager
    def extended(self) -> Iterator[None]:
        """Take up what another process adds to the file in the block."""
        known = len(list(read([self.path]))) if self.path.exists() else 0
        try:
            yield
        finally:
            self.made += list(read([self.path]))[known:] if self.path.exists() else []

    @property
    def hits(self) -> int:
        """How many have struck."""
        return sum(injection.hit for injection in self.made)

    @property
    def bad(self) -> list[Injection]:
        """Those of which something came."""
        return [injection for injection in self.made if not injection.is_good]


@contextmanager
def quick_folder() -> Iterator[Path]:
    """Yield a folder where flushing takes no time, if there is one."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="chaos-", dir=memory) as folder:
        yield Path(folder)


def read(paths: Iterable[Path]) -> Iterator[Injection]:
    """Yield the injections in files that ledgers have written."""
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            yield Injection(**json.loads(line))


def rows(injections: Iterable[Injection]) -> dict[str, dict[str, list[int]]]:
    """Return {kind: {fault: tried, hit, lost, duplicated, wrong}}, in the order in which they first come."""
    kinds: dict[str, dict[str, list[int]]] = {}
    for each in injections:
        row = kinds.setdefault(each.kind, {}).setdefault(each.fault, [0] * 5)
        for place, number in enumerate((1, each.hit, each.lost, each.duplicated, each.wrong)):
            row[place] += int(number)
    return kinds


def tables(injections: Iterable[Injection]) -> str:
    """Return a table of Markdown for each kind, a line a fault, sums last."""
    parts = []
    for kind, faults in rows(injections).items():
        sums = [sum(column) for column in zip(*faults.values(), strict=True)]
        lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
        lines += [f"| {fault} | {' | '.join(map(str, row))} |" for fault, row in [*faults.items(), ("together", sums)]]
        parts.append(f"### {kind.capitalize()}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of ledgers, and each injection of which something came."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("ledgers", nargs="+", type=Path)
    found = list(read(parser.parse_args(arguments).ledgers))
    print(tables(found))
    bad = [each for each in found if not each.is_good]
    for each in bad:
        print(f"{each.kind}, {each.fault}, {each.seed}: {each.note}")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
