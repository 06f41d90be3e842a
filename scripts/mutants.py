"""Changes a module in one small place at a time, as cosmic-ray would, and says which changes no test notices.

    pip install cosmic-ray
    python scripts/mutants.py band/files.py tests/test_files.py --minutes 5 --seed 1

Mutants are drawn by seed; each is written over the module, in this very working tree, and the original put back. The
tests run in a fork that has pytest and its like imported already, for that takes longer than most tests.
"""

from __future__ import annotations

import argparse
import ast
import collections
import difflib
import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

LEFT_OUT = (
    *("core/VariableInserter", "core/VariableReplacer"),  # they need arguments
    *("core/ReplaceBinaryOperator_BitOr_Add", "core/ReplaceBinaryOperator_BitOr_BitXor"),  # the same for flags
)
PRELOADED = ("hypothesis", "hypothesis.strategies", "numpy", "h5py", "yaml", "omegaconf", "rich.console", "rich.table")


def drawn(source: str, seed: int) -> Iterator[tuple[str, str]]:
    """Yield a name and the whole text of one mutant after the other, without those that change annotations alone."""
    places = []
    nodes = list(ast_nodes(get_ast(source)))
    for name in sorted(operator_names()):
        if name.startswith("core/") and name not in LEFT_OUT:
            operator = get_operator(name)()
            number = sum(len(list(operator.mutation_positions(node))) for node in nodes)
            places += [(name, place) for place in range(number)]
    random.Random(seed).shuffle(places)
    seen = {None, code_of(source)}
    for name, place in places:
        text = mutate_code(source, get_operator(name)(), place)
        code = code_of(text) if text is not None else None
        if code not in seen:
            seen.add(code)
            yield f"{name} {place}", text


def code_of(text: str) -> str | None:
    """Return what is run of a source, without annotations and docstrings; None if it cannot be parsed."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)
    return ast.dump(tree)


def passes(tests: list[str], *, seconds: float) -> str:
    """Return "survived", "killed" or "timeout" of the module as it stands now."""
    child = os.fork()
    if not child:
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for end in (0, 1, 2):
            os.dup2(quiet, end)
        os._exit(int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--hypothesis-seed=0", *tests])) and 1)
    end = time.monotonic() + seconds
    status = 0
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.02)
    else:
        done = 0
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not done:
        os.waitpid(child, 0)
        return "timeout"
    return "killed" if status else "survived"


def main() -> int:
    """Run for the minutes given, print each survivor as a change, and at the end a line of figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS")
    wanted = parser.parse_args()
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # two mutants of one second and one size would share their bytecode
    sys.dont_write_bytecode = True
    for name in PRELOADED:
        importlib.import_module(name)

    source = wanted.module.read_text()
    if passes(wanted.tests, seconds=wanted.timeout) != "survived":
        print("the tests do not pass on the module as it is")
        return 1
    end = time.monotonic() + wanted.minutes * 60
    outcomes: collections.Counter[str] = collections.Counter()
    try:
        for name, text in drawn(source, wanted.seed):
            if time.monotonic() > end:
                break
            wanted.module.write_text(text)
            outcome = passes(wanted.tests, seconds=wanted.timeout)
            outcomes[outcome] += 1
            if outcome == "survived":
                change = difflib.unified_diff(source.splitlines(), text.splitlines(), name, name, lineterm="", n=0)
                print("\n".join(line for line in change if not line.startswith(("---", "+++"))), flush=True)
    finally:
        wanted.module.write_text(source)
    print(json.dumps({"module": str(wanted.module), "seed": wanted.seed, "tried": outcomes.total(), **outcomes}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
