"""The arrows of band/README.md hold in every module: which room may import which, and where heavy libraries may be."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "band"
# Each costs more than the login node's commands may take to start, or belongs to the compute node.
HEAVY = {
    "torch",
    "numpy",
    "h5py",
    "omegaconf",
    "submitit",
    "rich",
    "matplotlib",
    "scipy",
    "pynwb",
    "hdmf",
    "pandas",
    "xarray",
    "pyarrow",
    "tensorboard",
    "wandb",
    "mlflow",
}
TRAINING_ROOMS = {"model", "train", "after"}  # alone in touching torch
# Rooms and modules that import arrays at module level; all others name them inside the function that needs them.
ARRAY_ROOMS = {"data", "model", "train", "after"}
ARRAY_MODULES = ("band.sweep.report", "band.sweep.figure")  # names begin so
LIGHT_MODULES = {"band.data", "band.data.digest", "band.after", "band.after.run", "band.after.labelled"}
OPENERS = {"after", "sweep"}  # what `import band` offers, each imported when it is called


class Import(NamedTuple):
    """One imported module, and whether importing its importer is enough to import it."""

    target: str
    is_immediate: bool
    line: int


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """Return the room a dotted name lies in: "band.data.digest" lies in "data"."""
    return module.split(".")[1] if "." in module else ""


def has_arrays(module: str) -> bool:
    """Return whether a module may import heavy libraries at module level."""
    return module not in LIGHT_MODULES and (room_of(module) in ARRAY_ROOMS or module.startswith(ARRAY_MODULES))


def imports_of(source: str, *, importer: str = "band.somewhere.module") -> list[Import]:
    """Return every import of a module's source, those inside functions and under TYPE_CHECKING too."""
    found: list[Import] = []

    def visit(node: ast.AST, *, is_immediate: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, is_immediate, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer}, line {node.lineno}: write the full name of what is imported"
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names]
            found.extend(Import(name if name in MODULES else base, is_immediate, node.lineno) for name in names)
        delays = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        delays = delays or (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
        for child in ast.iter_child_nodes(node):
            visit(child, is_immediate=is_immediate and not delays)

    visit(ast.parse(source), is_immediate=True)
    return sorted(set(found))


def arrows() -> dict[str, set[str]]:
    """Return for each room what it may import, from the table in band/README.md; "data.digest" is a single module."""
    rows = re.findall(r"^\| `(\w+)(?:\.py|/)` \|.*\|([^|]*)\|$", (PACKAGE / "README.md").read_text(), re.MULTILINE)
    rooms = {room for room, _ in rows}
    allowed = {}
    for room, cell in rows:
        words = re.findall(r"[a-z_]+(?:\.[a-z_]+)?", cell)
        allowed[room] = rooms if "everything" in words else {w for w in words if w.split(".")[0] in rooms}
    return allowed


def breaches(module: str, imports: list[Import], *, allowed: dict[str, set[str]]) -> list[str]:
    """Return what a module imports against the arrows, in words."""
    room = room_of(module)
    wrong = []
    for target, is_immediate, line in imports:
        top, target_room = target.split(".")[0], room_of(target)
        is_own = target_room in ("", room) or target_room in allowed[room] or target[5:] in allowed[room]
        if top == "band" and not is_own:
            wrong.append(f"{module}:{line} imports {target}; {room} may import {', '.join(sorted(allowed[room]))}")
        elif top == "torch" and room not in TRAINING_ROOMS:
            wrong.append(f"{module}:{line} imports torch outside of {' and '.join(sorted(TRAINING_ROOMS))}")
        elif top in HEAVY and is_immediate and not has_arrays(module):
            wrong.append(f"{module}:{line} imports {top} when it is imported; do it in the function that needs it")
    return wrong


def reached(module: str, graph: dict[str, list[Import]]) -> set[str]:
    """Return all that importing `module` imports, through other modules of the package too."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += [entry.target for entry in graph.get(current, []) if entry.is_immediate]
            waiting += [current.rpartition(".")[0]] if current.startswith("band.") else []
    return seen


GRAPH = {name: imports_of(path.read_text(), importer=name) for name, path in MODULES.items()}


def test_every_room_stands_in_the_table_of_the_architecture() -> None:
    rooms = {room_of(module) for module in MODULES} - {""}
    assert rooms == set(arrows()), "band/README.md names other rooms than there are"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_and_heavy_ones_wait_until_they_are_needed(module: str) -> None:
    assert not breaches(module, GRAPH[module], allowed={"": OPENERS, **arrows()})


def test_importing_a_login_node_module_imports_nothing_heavy_through_others() -> None:
    login = [module for module in MODULES if not has_arrays(module)]
    heavy = {module: sorted(name for name in reached(module, GRAPH) if name.split(".")[0] in HEAVY) for module in login}
    assert not {module: names for module, names in heavy.items() if names}


@pytest.mark.parametrize(
    ("module", "source", "words"),
    [
        ("band.files", "from band.run_dir import SweepDir", "files may import errors"),
        ("band.sweep.grid", "def f():\n    from band import train", "imports band.train"),
        ("band.node.task", "from band.data.recording import Recording", "imports band.data.recording"),
        ("band.node.task", "def f():\n    import torch.nn", "imports torch outside"),
        ("band.sweep.grid", "try:\n    import numpy as np\nexcept ImportError:\n    pass", "imports numpy when"),
        ("band.data.digest", "class A:\n    import h5py", "imports h5py when"),
    ],
)
def test_an_import_against_the_arrows_is_seen(module: str, source: str, words: str) -> None:
    (found,) = breaches(module, imports_of(source), allowed=arrows())
    assert words in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("band.node.task", "from band.data.digest import file_digest"),
        ("band.node.task", "from band.data import digest"),
        ("band.sweep.grid", "def f():\n    import numpy"),
        (
            "band.cli.common",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rich.console import Console",
        ),
        ("band.train.loop", "import torch\nfrom band.model import forward"),
    ],
)
def test_an_import_along_the_arrows_is_let_through(module: str, source: str) -> None:
    assert not breaches(module, imports_of(source), allowed=arrows())
