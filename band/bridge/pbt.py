"""The search space of a `run_pbt.py` of lfads-torch or BAND-torch, read from its text: the file is never run.

A search space becomes `NAME.pbt.yaml`, a sweep file with a section `pbt`.
"""

from __future__ import annotations

import ast
import math
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from band.bridge.fates import Fate, kept, unsupported
from band.bridge.keys import MONITORS, SAME
from band.config import SEARCHABLE, section_from_dict
from band.errors import ConfigError, ForeignError
from band.search import SearchParam, space_text

DRAWS = {"uniform": "uniform", "loguniform": "loguniform", "randint": "uniform", "qrandint": "uniform"}
FAR = 1000  # without limits of its own a setting may go so many times beyond its range; a rate below MAX_RATE
MAX_RATE, MAX_CHANGE = 0.99, 0.99
MAX_BYTES = 2**20
MAX_SUM = 64  # nested terms of a number that is written as a sum
MAX_VALUES = 100_000


@dataclass(frozen=True, kw_only=True)
class PbtParam:
    """How one setting starts and changes in a search."""

    low: float  # bounds of the draw it starts from
    high: float
    draw: str = "loguniform"  # or uniform
    start: float | None = None  # where all members start, in place of a draw
    change: float = 0.2  # largest share by which it is changed, up or down, after a member was replaced
    is_bounded: bool = False  # whether changes stay within low and high

    def ours(self, key: str) -> SearchParam:
        """Return how it is searched here."""
        bounds = [self.low, self.high, *([] if self.start is None else [self.start])]
        least, most = (min(bounds), max(bounds)) if self.is_bounded else (min(bounds) / FAR, max(bounds) * FAR)
        most = min(most, MAX_RATE) if key.endswith("_rate") else most
        return SearchParam(
            low=self.low, high=min(self.high, most), draw=self.draw, start=self.start,
            change=min(self.change, MAX_CHANGE), min=least if least < self.low else None,
            max=most if most > self.high else None,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pbt:
    """A search: from epoch `first_epoch` on, every `every_epochs`, members that lose copy others."""

    params: dict[str, PbtParam]  # by our full key
    members: int | None = None
    every_epochs: int | None = None
    first_epoch: int | None = None
    monitor: str | None = None
    stop_patience: int | None = None  # generations without improvement
    stop_ratio: float | None = None  # smallest improvement that counts, as a share
    selection: str = "tournament"
    fates: list[Fate] = field(default_factory=list)


def read_pbt(path: Path) -> Pbt:
    """Return the search space that a Python file describes.

    Raises:
        ForeignError: it cannot be read, is no Python, or has no search space that is written as such.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        with warnings.catch_warnings():  # of what another interpreter may think of their code
            warnings.simplefilter("ignore")
            tree = ast.parse(text) if len(text) <= MAX_BYTES else None
    except OSError as error:
        raise ForeignError(f"{path}: cannot be read ({error.strerror}); give the path of a run_pbt.py") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ForeignError(f"{path}: is no Python file: {str(error)[:120]}") from None
    if tree is None:
        raise ForeignError(f"{path}: must be under {MAX_BYTES >> 20} MiB")
    try:
        return _Reader(path, tree).pbt()
    except RecursionError:
        raise ForeignError(f"{path}: is nested too deep to be a search space") from None


class _Reader:
    """Looks through the syntax of one file; names stand for what the file assigns to them last, if that is plain."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self._path = path
        self._nodes = list(ast.walk(tree))
        self._names: dict[str, ast.expr] = {}
        self._left = MAX_VALUES
        for node in self._nodes:
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                self._names[node.targets[0].id] = node.value

    def pbt(self) -> Pbt:
        params: dict[str, PbtParam] = {}
        fates: list[Fate] = []
        for key, node in self._settings():
            self._take(key, node, params, fates)
        for key in [key for key, param in params.items() if param.low == param.high]:
            value = params.pop(key).low  # one choice, and nothing that changes it: a value for every member
            fates = [replace(f, ours=key, to=value) if f.ours == f"pbt.space.{key}" else f for f in fates]
        for key, param in params.items():
            self._check(key, param)
        if not params:
            raise ForeignError(
                f"{self._path}: must hold a search space, as {{'model.lr_init': HyperParam(1e-5, 5e-3), …}} or "
                "dict(lr_init=tune.loguniform(1e-5, 5e-3)), found none"
            )
        return Pbt(
            params=params,
            members=self._keyword_int("num_samples"),
            every_epochs=self._keyword_int("perturbation_interval"),
            first_epoch=self._keyword_int("burn_in_period"),
            monitor=MONITORS.get(str(self._keyword("metric"))),
            stop_patience=self._keyword_int("patience"),
            stop_ratio=self._keyword_float("min_improvement_ratio"),
            selection="truncation" if self._calls("PopulationBasedTraining") else "tournament",
            fates=fates,
        )

    def _settings(self) -> list[tuple[str, ast.expr]]:
        """Return (their key, expression) of every entry of a dictionary, those of dict(model=dict(…)) with dots."""
        inner = {id(k.value) for n in self._nodes if isinstance(n, ast.Call) and _is_dict(n) for k in n.keywords}
        found: list[tuple[str, ast.expr]] = []
        for node in self._nodes:
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(key.value, str):
                        found.append((key.value, value))
            elif _is_dict(node) and id(node) not in inner:
                found += _dotted("", node)
        return [(key, value) for key, value in found if "." in key]

    def _take(self, key: str, node: ast.expr, params: dict[str, PbtParam], fates: list[Fate]) -> None:
        where = f"{self._path}:{node.lineno}"
        shown = ast.unparse(node)[:120]
        ours = SAME.get(key) or _rate(key)
        called = node.func if isinstance(node, ast.Call) else None
        kind = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        if isinstance(node, ast.Call) and kind in ("HyperParam", "choice", *DRAWS):
            if ours not in SEARCHABLE:
                why = "a setting that is not known here" if ours is None else "a search does not change it here"
                fates.append(unsupported(key, shown, why, where))
                return
            params[ours] = self._param(node, kind, where, params.get(ours))
            fates.append(kept(key, shown, f"pbt.space.{ours}", params[ours].draw, "", where))
        elif key.startswith(("model.", "datamodule.", "trainer.")):
            value = self._value(node)
            if ours is not None and isinstance(value, (bool, int, float)):
                fates.append(kept(key, shown, ours, value, "set for every member", where))
            else:
                fates.append(
                    unsupported(key, shown, "only known when the file is run; set it in the sweep file", where)
                )

    def _check(self, key: str, param: PbtParam) -> None:
        try:
            section_from_dict("pbt", {"space": space_text({key: param.ours(key)})}).searched()
        except ConfigError as error:
            raise ForeignError(f"{self._path}: has a search that cannot be done here: {error}") from None

    def _param(self, node: ast.Call, kind: str, where: str, before: PbtParam | None) -> PbtParam:
        """Return a setting of the search; of one that is drawn in one way and changed in another, both."""
        shown = ast.unparse(node)[:80]
        given = {k.arg: self._value(k.value) for k in node.keywords}
        numbers = [self._value(argument) for argument in node.args]
        if kind == "choice":
            return _only(numbers, before, f"{where}: choice must be of one number, found {shown}")
        bounds = [*numbers[:2], *(given[k] for k in ("min_samp", "max_samp", "lower", "upper") if k in given)]
        draw = DRAWS.get(str(given.get("sample_fn", "loguniform")) if kind == "HyperParam" else kind)
        if not (draw and len(bounds) == 2 and all(map(_is_number, bounds)) and bounds[0] < bounds[1]):
            raise ForeignError(f"{where}: must have two numbers, the first below the second, found {shown}")
        if draw == "loguniform" and bounds[0] <= 0:
            raise ForeignError(f"{where}: loguniform must begin above 0, found {shown}")
        start, change = given.get("init", before.start if before else None), given.get("explore_wt", 0.2)
        if not (_is_number(change) and (start is None or _is_number(start))):
            raise ForeignError(f"{where}: init and explore_wt must be numbers, found {shown}")
        return PbtParam(
            low=float(bounds[0]), high=float(bounds[1]), draw=draw, start=None if start is None else float(start),
            change=float(change), is_bounded=bool(given.get("enforce_limits", kind != "HyperParam")),
        )  # fmt: skip

    def _calls(self, name: str) -> bool:
        return any(isinstance(node, ast.Call) and ast.unparse(node.func).endswith(name) for node in self._nodes)

    def _keyword(self, name: str) -> Any:
        for node in self._nodes:
            if isinstance(node, ast.keyword) and node.arg == name:
                value = self._value(node.value)
                if value is not None:
                    return value
        return None

    def _keyword_int(self, name: str) -> int | None:
        value = self._keyword(name)
        return int(value) if _is_number(value) and float(value).is_integer() else None

    def _keyword_float(self, name: str) -> float | None:
        value = self._keyword(name)
        return float(value) if _is_number(value) else None

    def _value(self, node: ast.expr, depth: int = 0) -> Any:
        """Return a constant, a list of them, or a sum or product of numbers; None for what would have to be run."""
        self._left -= 1
        if depth > MAX_SUM or self._left < 0:
            return None
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name) and node.id in self._names:
            return self._value(self._names[node.id], depth + 1)
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self._value(item, depth + 1) for item in node.elts]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self._value(node.operand, depth + 1)
            return -inner if _is_number(inner) else None
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub, ast.Mult)):
            left, right = self._value(node.left, depth + 1), self._value(node.right, depth + 1)
            if not (_is_number(left) and _is_number(right)):
                return None
            if isinstance(node.op, ast.Mult):
                return float(left) * float(right)
            return left + right if isinstance(node.op, ast.Add) else left - right
        return None


def _only(numbers: list[Any], before: PbtParam | None, problem: str) -> PbtParam:
    """Return a setting that starts at the one number of a choice."""
    options = numbers[0] if numbers and isinstance(numbers[0], list) else []
    if len(options) != 1 or not _is_number(options[0]):
        raise ForeignError(problem)
    start = float(options[0])
    return replace(before, start=start) if before else PbtParam(low=start, high=start, draw="uniform", start=start)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**53 and math.isfinite(value)
    )


def _is_dict(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict"


def _dotted(prefix: str, node: ast.AST, depth: int = 0) -> list[tuple[str, ast.expr]]:
    found: list[tuple[str, ast.expr]] = []
    assert isinstance(node, ast.Call)
    for keyword in node.keywords:
        if keyword.arg is None or depth > 8:
            continue
        key = f"{prefix}{keyword.arg}"
        found += _dotted(f"{key}.", keyword.value, depth + 1) if _is_dict(keyword.value) else [(key, keyword.value)]
    return found


def _rate(key: str) -> str | None:
    """Return our key of a rate of coordinated dropout, which stands in the augmentation stack or in the model."""
    name = key.rpartition(".")[2]
    return f"hyper.{name}" if name in ("cd_rate", "cd_pass_rate") and key.startswith("model.") else None
