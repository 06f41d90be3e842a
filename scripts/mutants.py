"""Changes a module in one small place at a time, as cosmic-ray would, and says which changes no test notices.

    pip install cosmic-ray
    python scripts/mutants.py band/files.py tests/test_files.py tests/test_attempts.py --number 150 --seed 1
    python scripts/mutants.py band/files.py tests/test_files.py --again          # what survived, with tests added since
    python scripts/mutants.py band/files.py tests/test_files.py --number 0 --since v1.0     # lines that changed since

It works in a copy of the tree, under the temporary folder. First the tests run once on a module that notes which of
its statements a test comes to, in whatever process. Then mutants are drawn by seed, and each is met by the tests that
come to the changed statement, those first that have found most so far, then the quickest; the first that fails ends
it. Tests run in a fork that has pytest and its like imported already. Outcomes are added to
build/mutants/MODULE.jsonl, and not tried twice.
"""

from __future__ import annotations

import argparse
import ast
import collections
import ctypes
import dataclasses
import difflib
import hashlib
import importlib
import json
import mmap
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

LEFT_OUT = (
    *("core/VariableInserter", "core/VariableReplacer"),  # they need arguments
    # of flags and sets, and no mistake that anybody makes; "and" in place of "or" stays
    *(f"core/ReplaceBinaryOperator_BitOr_{name}" for name in ("Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow")),
    *(f"core/ReplaceBinaryOperator_BitOr_{name}" for name in ("BitXor", "LShift", "RShift")),
    # mostly of paths, where all of them are the same: an error of types; "//" stays
    *(f"core/ReplaceBinaryOperator_Div_{name}" for name in ("Add", "Sub", "Mul", "Mod", "Pow", "LShift", "RShift")),
    *(f"core/ReplaceBinaryOperator_Div_{name}" for name in ("BitAnd", "BitOr", "BitXor")),
)
PRELOADED = (
    *("asyncio", "anyio", "numpy", "h5py", "yaml", "omegaconf", "rich.console", "rich.table", "submitit"),
    *("hypothesis", "hypothesis.strategies", "_hypothesis_pytestplugin"),
    *("anyio.pytest_plugin", "anyio._backends._asyncio"),
)
NOT_COPIED = (".git", ".venv", "build", "site", "datasets", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info")
TREE = Path(__file__).resolve().parents[1]
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Mutant:
    """One change of a module."""

    operator: str
    text: str  # of the whole module
    change: str  # lines that went, and came
    line: int  # of the first that went


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every mutant but those of annotations, docstrings, and how arguments may be passed."""
    nodes = list(ast_nodes(get_ast(source)))
    seen = {None, code_of(source)}
    for name in sorted(operator_names()):
        if name.startswith("core/") and name not in LEFT_OUT:
            operator = get_operator(name)()
            for place in range(sum(len(list(operator.mutation_positions(node))) for node in nodes)):
                text = mutate_code(source, get_operator(name)(), place)
                code = code_of(text) if text is not None else None
                if code not in seen:
                    seen.add(code)
                    yield Mutant(name.partition("/")[2], text, *change_of(source, text))


def code_of(text: str) -> str | None:
    """Return what is run of a source, without annotations and kinds of arguments; None if it cannot be parsed."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.arguments):
            node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
            node.defaults += [value for value in node.kw_defaults if value is not None]
            node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)
    return ast.dump(tree)


def change_of(source: str, text: str) -> tuple[str, int]:
    """Return the lines that differ, and the number of the first of them in `source`."""
    old, new = source.splitlines(), text.splitlines()
    lines = [line for line in difflib.unified_diff(old, new, lineterm="", n=0) if not line.startswith(("---", "+++"))]
    line = int(lines[0].split()[1].lstrip("-").partition(",")[0])
    return "\n".join(line for line in lines if not line.startswith("@@")), line


def statements(source: str) -> dict[int, int]:
    """Return {line: line of the statement that must be come to for a change there to be met}; 0: of any at all."""
    found = dict.fromkeys(range(1, len(source.splitlines()) + 2), 0)

    def visit(node: ast.AST, *, inside: bool) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found.update(dict.fromkeys(range(first, node.body[0].lineno), node.body[0].lineno))
            inside = True
        elif isinstance(node, ast.stmt) and inside:
            found.update(dict.fromkeys(range(node.lineno, (node.end_lineno or node.lineno) + 1), node.lineno))
        for child in ast.iter_child_nodes(node):
            visit(child, inside=inside)

    visit(ast.parse(source), inside=False)
    return found


def noting(source: str, *, notes: Path) -> str:
    """Return the source with a note before each statement of a function, in a file that all processes share."""

    class Noting(ast.NodeTransformer):
        def generic_visit(self, node: ast.AST) -> ast.AST:
            super().generic_visit(node)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.note(node)
            return node

        def note(self, node: ast.AST) -> None:
            for name in ("body", "orelse", "finalbody", "handlers", "cases"):
                block = getattr(node, name, None)
                if isinstance(block, list):
                    for part in block:
                        if not isinstance(part, ast.FunctionDef | ast.ClassDef):
                            self.note(part)
                    if name in ("body", "orelse", "finalbody"):
                        noted = [(ast.parse(f"notes_of_lines[{part.lineno}] = 1").body[0], part) for part in block]
                        setattr(node, name, [one for pair in noted for one in pair])

    tree = ast.fix_missing_locations(Noting().visit(ast.parse(source)))
    futures = [
        n for n, node in enumerate(tree.body) if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    start = 1 + max(futures, default=-1)
    opened = f"""
import mmap as mmap_of_lines
with open({str(notes)!r}, "r+b") as file_of_lines:
    notes_of_lines = mmap_of_lines.mmap(file_of_lines.fileno(), 0)
"""
    tree.body[start:start] = ast.parse(opened).body
    return ast.unparse(ast.fix_missing_locations(tree))


class Chosen:
    """Has pytest run the chosen tests alone, in their order, none for much longer than it takes; notes what failed."""

    def __init__(self, order: Sequence[str] | None, *, limits: Mapping[str, float], told: Path) -> None:
        self.rank = None if order is None else {name: number for number, name in enumerate(order)}
        self.limits, self.told = limits, told

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave the chosen ones."""
        if self.rank is not None:
            items[:] = sorted(
                (item for item in items if item.nodeid in self.rank), key=lambda item: self.rank[item.nodeid]
            )

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Die of SIGALRM where a test hangs."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        self.told.write_text(nodeid)
        signal.setitimer(signal.ITIMER_REAL, 5 + 5 * self.limits.get(nodeid, 5.0))


class Noted:
    """Notes for each test what it takes and which statements it comes to."""

    def __init__(self, notes: mmap.mmap) -> None:
        self.notes = notes
        self.reached: dict[str, tuple[float, list[int]]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """Look at the notes before and after."""
        self.notes[:] = bytes(len(self.notes))
        start = time.monotonic()
        result = yield
        lines = [line for line, value in enumerate(self.notes[:]) if value]
        self.reached[item.nodeid] = (time.monotonic() - start, lines)
        return result


@dataclass
class Bench:
    """A copy of the tree in which a module is changed and its tests run."""

    place: Path
    module: str
    tests: list[str]
    source: str
    slowest_s: float
    reached: dict[str, tuple[float, list[int]]] = field(default_factory=dict)
    found: collections.Counter[str] = field(default_factory=collections.Counter)
    second: int = 1_000_000_000

    def write(self, text: str) -> None:
        """Put a text in the module's place, of another second than any before: bytecode is told apart by that."""
        path = self.place / "tree" / self.module
        path.write_text(text)
        self.second += 1
        os.utime(path, (self.second, self.second))

    def look(self) -> None:
        """Find out what each test takes and comes to."""
        notes, told = self.place / "notes", self.place / "reached.json"
        notes.write_bytes(bytes(len(self.source.splitlines()) + 2))
        self.write(noting(self.source, notes=notes))
        with notes.open("r+b") as file:
            noted = Noted(mmap.mmap(file.fileno(), 0))

        def run() -> int:
            code = self.pytest([noted], tests=self.tests)
            told.write_text(json.dumps(noted.reached))
            return code

        outcome, output = self.in_a_fork(run, seconds=1200.0)
        if outcome != "survived":
            raise SystemExit(f"the tests do not pass on the module as it is: {output}")
        self.reached = json.loads(told.read_text())
        self.write(self.source)

    def meet(self, mutant: Mutant) -> tuple[str, str]:
        """Return "survived", "killed", "timeout" or "not reached", and which test found it."""
        line = statements(self.source)[mutant.line]
        order = [
            name
            for name, (seconds, lines) in self.reached.items()
            if seconds <= self.slowest_s and (not line or line in lines)
        ]
        if not order:
            return "not reached", ""
        order.sort(key=lambda name: (-self.found[name], self.reached[name][0]))
        told = self.place / "told"
        told.write_text("")
        limits = {name: self.reached[name][0] for name in order}
        tests = sorted({name.partition("::")[0] for name in order})
        self.write(mutant.text)
        chosen = Chosen(order, limits=limits, told=told)
        outcome, _ = self.in_a_fork(lambda: self.pytest([chosen], tests=tests), seconds=20 + 3 * sum(limits.values()))
        found = told.read_text() if outcome != "survived" else ""
        self.found[found] += bool(found)
        return outcome, found

    def pytest(self, plugins: list[object], *, tests: list[str]) -> int:
        """Run tests in this process; return pytest's exit code."""
        base = self.place / "base"
        options = ["-q", "-x", "-p", "no:cacheprovider", "--hypothesis-seed=0", f"--basetemp={base}"]
        return int(pytest.main([*options, *tests], plugins=plugins))

    def in_a_fork(self, act: Any, *, seconds: float) -> tuple[str, str]:
        """Return "survived", "killed" or "timeout", and the end of what was printed; end all that was started."""
        printed = self.place / "printed"
        child = os.fork()
        if not child:
            os.setsid()
            os.chdir(self.place / "tree")
            out = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for end, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, out)):
                os.dup2(file, end)
            os._exit(act())
        end = time.monotonic() + seconds
        done = status = 0
        while not done and time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0 if done else 0.01)
        while left := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            for pid in map(int, left):  # what it started and left is a child of ours now
                os.kill(pid, signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        text = printed.read_text(errors="replace")[-2000:]
        if not done or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM):
            return "timeout", text
        return ("killed" if status else "survived"), text


def occasions(source: str, *, seed: int, cache: Path) -> list[tuple[str, Mutant]]:
    """Return every mutant under a name that a change elsewhere in the module leaves, in an order drawn by seed."""
    kept = cache / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.json"
    if not kept.exists():  # making them takes a minute
        kept.write_text(json.dumps([dataclasses.astuple(mutant) for mutant in mutants(source)]))
    times: collections.Counter[tuple[str, str]] = collections.Counter()
    named = []
    for mutant in (Mutant(*values) for values in json.loads(kept.read_text())):
        times[mutant.operator, mutant.change] += 1
        named.append((f"{mutant.operator} {times[mutant.operator, mutant.change]}\n{mutant.change}", mutant))
    random.Random(seed).shuffle(named)
    return named


def changed_lines(module: str, *, since: str) -> set[int]:
    """Return the numbers of the lines that a module did not have at a revision."""
    command = ["git", "diff", "--unified=0", since, "--", module]
    text = subprocess.run(command, cwd=TREE, check=True, capture_output=True, text=True).stdout
    found: set[int] = set()
    for first, count in re.findall(r"^@@ \S+ \+(\d+)(?:,(\d+))? @@", text, re.MULTILINE):
        found.update(range(int(first), int(first) + int(count or 1)))
    return found


def main() -> int:
    """Try mutants, print each that is not killed as a change, and at the end a line of figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("module")
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--number", type=int, default=150, help="how many to draw; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--slowest", type=float, default=3.0, metavar="SECONDS", help="no test that takes longer")
    parser.add_argument("--again", action="store_true", help="only those that were not killed before")
    parser.add_argument("--since", metavar="REVISION", help="only lines of which git says that they changed since")
    parser.add_argument("--count", action="store_true", help="only say how many there are")
    wanted = parser.parse_args()
    source = (TREE / wanted.module).read_text()
    record = TREE / "build/mutants" / f"{wanted.module.replace('/', '.').removesuffix('.py')}.jsonl"
    record.parent.mkdir(parents=True, exist_ok=True)
    named = occasions(source, seed=wanted.seed, cache=record.parent)
    if wanted.since:
        lines = changed_lines(wanted.module, since=wanted.since)
        named = [(name, mutant) for name, mutant in named if mutant.line in lines]
    if wanted.count:
        print(f"{wanted.module}: {len(named)}")
        return 0
    before = {entry["name"]: entry["outcome"] for entry in map(json.loads, record.open())} if record.exists() else {}
    named = named[: wanted.number or None]
    if wanted.again:
        named = [(name, mutant) for name, mutant in named if before.get(name) in ("survived", "not reached")]
    else:
        named = [(name, mutant) for name, mutant in named if name not in before]

    for name in PRELOADED:
        importlib.import_module(name)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as place:
        shutil.copytree(TREE, Path(place, "tree"), symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
        os.environ["PYTHONPATH"] = sys.path[0] = str(Path(place, "tree"))
        bench = Bench(Path(place), wanted.module, wanted.tests, source, wanted.slowest)
        bench.look()
        return work(bench, named, record=record, seconds=wanted.minutes * 60)


def work(bench: Bench, named: Sequence[tuple[str, Mutant]], *, record: Path, seconds: float) -> int:
    """Meet one mutant after the other until time is up."""
    end = time.monotonic() + seconds
    outcomes: collections.Counter[str] = collections.Counter()
    for name, mutant in named:
        if time.monotonic() > end:
            break
        start = time.monotonic()
        outcome, found = bench.meet(mutant)
        outcomes[outcome] += 1
        entry = {"name": name, "outcome": outcome, "found": found, "seconds": round(time.monotonic() - start, 2)}
        with record.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        if outcome in ("survived", "not reached"):
            print(f"{outcome}, line {mutant.line}: {mutant.operator}\n{mutant.change}", flush=True)
    print(json.dumps({"module": bench.module, "wanted": len(named), "tried": outcomes.total(), **outcomes}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
