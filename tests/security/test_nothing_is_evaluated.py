"""Nothing of a file is run: no shell, no pickle, no evaluation, no YAML that constructs, anywhere in the package."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "band"
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle"}
EVALUATING = {"eval", "exec", "compile", "__import__"}
SHELLS = {("os", "system"), ("os", "popen"), ("subprocess", "getoutput"), ("subprocess", "getstatusoutput")}


@functools.cache
def trees() -> dict[str, ast.Module]:
    """Return the package's modules, parsed, by their paths."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {path.relative_to(PACKAGE.parent).as_posix(): ast.parse(path.read_text()) for path in paths}


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    """Yield every call of the package with its place and the dotted name of what is called."""
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield f"{name}:{node.lineno}", node, ast.unparse(node.func)


def imported() -> Iterator[tuple[str, str]]:
    for path, tree in trees().items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from ((path, name.split(".")[0]) for name in names)


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((word.value for word in call.keywords if word.arg == name), None)


def wrong_with(place: str, call: ast.Call, name: str) -> str:
    """Return what a call must not be, "" where it may."""
    parts = tuple(name.split("."))
    if name in EVALUATING:
        return "evaluates"
    if parts in SHELLS or ((shell := keyword(call, "shell")) is not None and ast.unparse(shell) != "False"):
        return "starts a shell"
    if parts[-2:] in (("yaml", "load"), ("yaml", "load_all"), ("yaml", "unsafe_load"), ("yaml", "full_load")):
        return "constructs what YAML names"
    weights = keyword(call, "weights_only")
    if parts[-2:] == ("torch", "load") and (weights is None or ast.unparse(weights) != "True"):
        return "unpickles"
    allow = keyword(call, "allow_pickle")
    if allow is not None and ast.unparse(allow) != "False":
        return "unpickles"
    if parts[0] == "subprocess" and call.args and isinstance(call.args[0], (ast.Constant, ast.JoinedStr)):
        return "starts a program by a text"
    return ""


def test_no_call_of_the_package_evaluates_or_unpickles_or_starts_a_shell() -> None:
    found = [f"{place} {why}" for place, call, name in calls() if (why := wrong_with(place, call, name))]
    assert not found


BAD = """
eval(x)
os.system(x)
run(x, shell=True)
yaml.load(x)
torch.load(x)
torch.load(x, weights_only=False)
np.load(x, allow_pickle=True)
subprocess.run(f"ls {x}")
"""


@pytest.mark.parametrize("source", BAD.split("\n")[1:-1])
def test_such_a_call_would_be_found(source: str) -> None:
    call = ast.parse(source).body[0].value  # type: ignore[attr-defined]
    assert wrong_with("x", call, ast.unparse(call.func))


def test_nothing_of_the_package_imports_what_unpickles() -> None:
    assert not [(path, name) for path, name in imported() if name in PICKLES]


def test_commands_print_by_say_alone() -> None:
    own = ("common.py", "steps.py", "completion.py")  # what `say` is made of, a line written over, and scripts of ours
    found = [place for place, _, name in calls() if name == "print" and place.startswith("band/cli/")]
    assert not [place for place in found if not place.split(":")[0].endswith(own)]
