"""A pickle read as data, by a machine of its own: it builds plain values and placeholders, and cannot call anything.

Python's own unpickler imports what a file names and calls what it asks for. Here a name stays a name; making an
object of any class makes a placeholder; the few calls that rebuild tensors and plain values are done by functions of
ours that stand in a table; every other call is refused.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from band.bridge.names import arguments_of, checked_key, checked_name, is_class, shown
from band.bridge.values import Name, Placeholder
from band.errors import ForeignError

Rebuild = Callable[[list[Any]], Any]

MAX_BYTES = 2**28
MAX_OPCODES = 5_000_000
_MARK = object()
_SIMPLE = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_RECONSTRUCTORS = ("copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__")


def read_pickle(
    data: bytes, *, rebuild: Mapping[str, Rebuild], persistent: Callable[[Any], Any]
) -> tuple[Any, tuple[str, ...]]:
    """Return what a pickle holds, and the names of the classes whose objects became placeholders.

    Args:
        data: the pickle.
        rebuild: functions that take the place of the named ones; they get the arguments, unchecked.
        persistent: what stands for an object that is kept outside of the pickle, from its id.

    Raises:
        ForeignError: not a pickle, damaged, too large, or it asks for a call.
    """
    if len(data) > MAX_BYTES:
        raise ForeignError(f"its pickle has {len(data):,} bytes, more than {MAX_BYTES:,} are not read")
    machine = _Machine(rebuild, persistent)
    try:
        return machine.run(_opcodes(data)), tuple(machine.classes)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise ForeignError(f"its pickle is damaged ({type(error).__name__}: {str(error)[:120]})") from None
    except (RecursionError, MemoryError) as error:
        raise ForeignError(f"its pickle cannot be read ({type(error).__name__})") from None


def _opcodes(data: bytes) -> Iterator[tuple[str, Any]]:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(data))):
        if count > MAX_OPCODES:
            raise ForeignError(f"its pickle has more than {MAX_OPCODES:,} instructions")
        yield opcode.name, argument


class _Machine:
    """Stack, memo and the instructions; the method of an instruction bears its name."""

    def __init__(self, rebuild: Mapping[str, Rebuild], persistent: Callable[[Any], Any]) -> None:
        self._rebuild, self._persistent = rebuild, persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.classes: dict[str, None] = {}  # in the order of the file

    def run(self, opcodes: Iterator[tuple[str, Any]]) -> Any:
        """Carry out the instructions and return what is on top at STOP."""
        for name, argument in opcodes:
            if name in _SIMPLE:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name == "STOP":
                return self._take()
            elif name not in ("PROTO", "FRAME"):
                instruction = getattr(self, f"_{name.lower()}", None)
                if instruction is None:
                    raise ForeignError(f"its pickle uses {name}, which no checkpoint needs")
                instruction(argument)
        raise ForeignError("its pickle has no end: the file is cut off")

    def _take(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ForeignError("its pickle is damaged: a mark where a value should be")
        return value

    def _top(self) -> Any:
        value = self._stack[-1]
        return self._take() if value is _MARK else value

    def _pop_to_mark(self) -> list[Any]:
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _MARK:
                values = self._stack[place + 1 :]
                del self._stack[place:]
                return values
        raise ForeignError("its pickle is damaged: no mark")

    def _mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _pop(self, _: Any) -> None:
        self._stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._pop_to_mark()

    def _dup(self, _: Any) -> None:
        self._stack.append(self._top())

    # Memo.

    def _put(self, place: int) -> None:
        self._memo[place] = self._top()

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def _get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    _binget = _long_binget = _get

    # Containers.

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _empty_tuple(self, _: Any) -> None:
        self._stack.append(())

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _empty_set(self, _: Any) -> None:
        self._stack.append(set())

    def _list(self, _: Any) -> None:
        self._stack.append(self._pop_to_mark())

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _frozenset(self, _: Any) -> None:
        self._stack.append(frozenset(checked_key(value) for value in self._pop_to_mark()))

    def _dict(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._stack.append({checked_key(k): v for k, v in zip(values[::2], values[1::2], strict=True)})

    def _tuple_of(self, size: int) -> None:
        values = [self._take() for _ in range(size)]
        self._stack.append(tuple(reversed(values)))

    def _tuple1(self, _: Any) -> None:
        self._tuple_of(1)

    def _tuple2(self, _: Any) -> None:
        self._tuple_of(2)

    def _tuple3(self, _: Any) -> None:
        self._tuple_of(3)

    def _append(self, _: Any) -> None:
        self._extend([self._take()])

    def _appends(self, _: Any) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, (list, Placeholder)):
            raise ForeignError(f"its pickle is damaged: items for {type(target).__name__}")
        (target if isinstance(target, list) else target.items).extend(values)

    def _setitem(self, _: Any) -> None:
        value, key = self._take(), self._take()
        self._update([key, value])

    def _setitems(self, _: Any) -> None:
        self._update(self._pop_to_mark())

    def _update(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, (dict, Placeholder)):
            raise ForeignError(f"its pickle is damaged: entries for {type(target).__name__}")
        entries = target if isinstance(target, dict) else target.entries
        for key, value in zip(values[::2], values[1::2], strict=True):
            entries[checked_key(key)] = value

    def _additems(self, _: Any) -> None:
        values = [checked_key(value) for value in self._pop_to_mark()]
        target = self._top()
        if not isinstance(target, set):
            raise ForeignError(f"its pickle is damaged: members for {type(target).__name__}")
        target.update(values)

    # Names and what would be calls.

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(checked_name(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self._take(), self._take()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ForeignError("its pickle is damaged: a name that is no text")
        self._stack.append(checked_name(module, name))

    def _inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._call(checked_name(module, name), self._pop_to_mark()))

    def _obj(self, _: Any) -> None:
        made, *arguments = self._pop_to_mark()
        self._stack.append(self._call(made, arguments))

    def _reduce(self, _: Any) -> None:
        arguments, called = self._take(), self._take()
        self._stack.append(self._call(called, arguments_of(arguments)))

    def _newobj(self, _: Any) -> None:
        arguments, made = self._take(), self._take()
        self._stack.append(self._make(made, arguments_of(arguments)))

    def _newobj_ex(self, _: Any) -> None:
        keywords, arguments, made = self._take(), self._take(), self._take()
        self._stack.append(self._make(made, [*arguments_of(arguments), keywords]))

    def _call(self, called: Any, arguments: list[Any]) -> Any:
        """Return what stands for a call: of a maker of plain values its value, of a class a placeholder."""
        if not isinstance(called, Name):
            raise ForeignError(f"it asks to call {shown(called)}: pickled code is not run")
        if called.text in self._rebuild:
            return self._rebuild[called.text](arguments)
        if called.text in _RECONSTRUCTORS:
            made = self._make(arguments[0], arguments[1:])
            if isinstance(made, Placeholder) and isinstance(
                arguments[-1], dict
            ):  # a kind of dictionary, before pickle 2
                made.entries.update(arguments[-1])
            return made
        if not is_class(called):
            raise ForeignError(f"it asks to call the function {shown(called)}: pickled code is not run")
        return self._make(called, arguments)

    def _make(self, made: Any, arguments: list[Any]) -> Any:
        """Return what stands for an object of a class."""
        if not isinstance(made, Name):
            raise ForeignError(f"it asks for an object of {shown(made)}, which is no class: pickled code is not run")
        if made.text in self._rebuild:
            return self._rebuild[made.text](arguments)
        self.classes[made.text] = None
        return Placeholder(made.text, tuple(arguments))

    def _build(self, _: Any) -> None:
        state, target = self._take(), self._top()
        if isinstance(target, Placeholder):
            # The halves of what a class with slots keeps: attributes, and slots.
            parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
            if all(part is None or isinstance(part, dict) for part in parts):
                state = {key: value for part in parts if part for key, value in part.items()}
            target.state = state
        elif not isinstance(
            target, dict
        ):  # a dictionary's attributes, as the versions beside a state dict, say nothing
            raise ForeignError(f"it asks to set attributes of {shown(target)}: pickled code is not run")

    def _persid(self, argument: str) -> None:
        self._stack.append(self._persistent(argument))

    def _binpersid(self, _: Any) -> None:
        self._stack.append(self._persistent(self._take()))
