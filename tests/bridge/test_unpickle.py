"""A foreign pickle is read as data: plain values come out as they went in, and nothing in it is ever run."""

from __future__ import annotations

import collections
import functools
import io
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from band.bridge.archive import Archive
from band.bridge.rebuild import REBUILD
from band.bridge.unpickle import read_pickle
from band.bridge.values import Name, Placeholder, Storage, StoredTensor, plain
from band.errors import ForeignError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Stack:
    """An augmentation stack that nobody here knows."""

    def __init__(self, rate: float) -> None:
        self.rate, self.inner = rate, [self]


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("rate",)


class Table(dict):
    """A mapping of its own kind."""


class Reduced:
    """Pickles as whatever it is told to."""

    def __init__(self, *parts: object) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[object, ...]:
        return self.parts

    def __call__(self) -> None:
        raise AssertionError("nobody calls this")


def read(data: bytes) -> object:
    """Return the value that a pickle without storages holds."""
    return read_pickle(data, rebuild=REBUILD, persistent=lambda identity: identity)[0]


def saved(path: Path, value: object) -> Path:
    """Write `value` as torch does."""
    torch.save(value, path)
    return path


def content(path: Path) -> object:
    """Return what the reader finds."""
    with Archive(path) as archive:
        return archive.content()[0]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(VALUES, st.sampled_from(PROTOCOLS))
def test_plain_values_come_out_as_they_went_in(value: object, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ordered_dictionaries_sets_paths_and_numpy_numbers_become_plain_values(protocol: int) -> None:
    value = {
        "state": collections.OrderedDict(a=1, b=2), "set": {1, 2}, "frozen": frozenset("ab"), "path": Path("/a/b"),
        "number": np.float64(0.25), "small": np.int32(7), "yes": np.bool_(True), "dtype": torch.float32,
        "size": torch.Size([2, 3]), "device": torch.device("cpu"), "queue": collections.deque([1, 2]),
    }  # fmt: skip
    found = read(pickle.dumps(value, protocol))
    assert isinstance(found, dict)
    assert found["state"] == {"a": 1, "b": 2} and found["set"] == {1, 2} and found["frozen"] == frozenset("ab")
    assert found["path"] == "/a/b" and (found["number"], found["small"], found["yes"]) == (0.25, 7, True)
    assert found["size"] == (2, 3) and found["device"] == "cpu" and found["queue"] == [1, 2]
    assert plain(found)["dtype"] == "torch.float32"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_objects_of_unknown_classes_are_named_and_kept_as_data(protocol: int) -> None:
    table = Table(a=1)
    data = pickle.dumps({"stack": Stack(0.3), "table": table, "part": functools.partial(Stack, 2)}, protocol)
    found, classes = read_pickle(data, rebuild=REBUILD, persistent=id)
    assert isinstance(found["stack"], Placeholder) and found["stack"].attributes()["rate"] == 0.3
    assert found["stack"].attributes()["inner"][0] is found["stack"]
    assert found["table"].attributes()["a"] == 1
    assert {name.rpartition(".")[2] for name in classes} == {"Stack", "Table", "partial"}
    assert plain(found)["stack"]["rate"] == 0.3


def test_what_a_class_with_slots_keeps_is_found() -> None:
    value = Slotted()
    value.rate = 0.5
    (found,) = [read(pickle.dumps(value, 2))]
    assert isinstance(found, Placeholder) and found.attributes() == {"rate": 0.5}


def attacks(flag: Path) -> dict[str, object]:
    """Return objects that make the file `flag` when an ordinary unpickler reads them."""
    code = f"open({str(flag)!r}, 'w').close()"
    return {
        "os.system": Reduced(os.system, (f"touch {flag}",)),
        "eval": Reduced(eval, (code,)),
        "exec": Reduced(exec, (code,)),
        "subprocess.Popen": Reduced(subprocess.Popen, (["touch", str(flag)],)),
        "subprocess.run": Reduced(subprocess.run, (["touch", str(flag)],)),
        "getattr": Reduced(getattr, (Reduced(__import__, ("os",)), "system")),
        "nested": Reduced(Reduced(functools.partial, (os.system, f"touch {flag}")), ()),
        "in a dictionary": {"a": [Reduced(os.mkdir, (str(flag),))]},
        "path method": Reduced(pathlib.Path.touch, (flag,)),
        "state": Reduced(Stack, (0.1,), {"run": Reduced(os.system, (f"touch {flag}",))}),
        "torch.load": Reduced(torch.load, (str(flag),)),
        "pickle.loads": Reduced(pickle.loads, (pickle.dumps(Reduced(os.system, (f"touch {flag}",))),)),
        "a module's own function": Reduced(np.save, (str(flag), np.zeros(1))),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", attacks(Path("/nowhere")))
def test_pickled_code_is_refused_by_name_and_does_not_run(name: str, protocol: int, tmp_path: Path) -> None:
    flag = tmp_path / "it_ran"
    data = pickle.dumps(attacks(flag)[name], protocol)
    with pytest.raises(ForeignError, match="pickled code is not run"):
        read(data)
    assert not list(tmp_path.iterdir())


def test_the_attacks_would_run_in_an_ordinary_unpickler(tmp_path: Path) -> None:
    flag = tmp_path / "it_ran"
    pickle.loads(pickle.dumps(attacks(flag)["os.system"]))
    assert flag.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
        b"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR.",
        b"ccopyreg\n_reconstructor\n(cos\nsystem\ncbuiltins\nobject\nNtR.",
        b"ccollections\nOrderedDict\n(S'__init__'\ncos\nsystem\ndb.",
        b"ca\nb\n(S'x'\ntR.",
        b"ca\nB\n(S'x'\ntR(S'y'\ntR.",
        b"]}(S'__class__'\nca\nB\nub.",
        b"\x82\x01.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\nI0\n(I1\nt(I1\ntI00\nNtR.",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ca\nb\nca\nC\n(tNtR.",
    ],
)
def test_hand_made_instructions_are_refused(data: bytes) -> None:
    with pytest.raises(ForeignError):
        read(data)


def test_the_reader_needs_neither_pickle_nor_torch(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", {"state_dict": {"w": torch.ones(2)}})
    program = (
        "import sys\nfrom pathlib import Path\nfrom band.bridge.checkpoint import read_checkpoint\n"
        f"assert read_checkpoint(Path({str(path)!r})).state['w'].tolist() == [1, 1]\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4), torch.randn(4, 3).t(), torch.arange(24).view(2, 3, 4)[:, 1:, ::2], torch.tensor(1.5),
        torch.zeros(0, 3), torch.tensor([True, False]), torch.randn(5).double(), torch.randn(5).half(),
        torch.tensor([1.5, -2.25, 3e38], dtype=torch.bfloat16), torch.nn.Parameter(torch.randn(2)),
        torch.ones(1).expand(4, 5), torch.tensor([-1, 2], dtype=torch.int8),
    ],
)  # fmt: skip
def test_tensors_come_out_as_they_went_in(tensor: torch.Tensor, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", {"t": tensor})
    with Archive(path) as archive:
        found = archive.array(archive.content()[0]["t"])
    want = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
    np.testing.assert_array_equal(found, want.numpy(), strict=True)


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [(0, (5,), (1,)), (1, (4,), (1,)), (0, (2, 2), (3, 1)), (0, (2**40, 2**40), (0, 0)), (-1, (1,), (1,)),
     (0, (2,), (-1,)), (0, (2**30,), (0,)), (0, (1,) * 9, (1,) * 9)],
)  # fmt: skip
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(
    offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    with pytest.raises(ForeignError, match="damaged"):
        StoredTensor(storage=Storage("float32", "0", 4), dtype="float32", offset=offset, shape=shape, stride=stride)


def rewritten(path: Path, change: dict[str, bytes | None], *, compression: int = zipfile.ZIP_STORED) -> Path:
    """Return a copy of an archive with entries replaced, or left out for None."""
    copy = path.with_name("changed.ckpt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w", compression) as new:
        for entry in old.infolist():
            name = entry.filename.partition("/")[2]
            data = change.get(name, old.read(entry))
            if data is not None:
                new.writestr(entry.filename, data)
    return copy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data/0": b"\0" * 4}, "must hold 2 numbers"),
        ({"data/0": None}, "is not there"),
        ({"data.pkl": None}, "not one that torch.save wrote"),
        ({"data.pkl": b""}, "damaged"),
        ({"byteorder": b"big"}, "big-endian"),
    ],
)
def test_an_archive_that_does_not_hold_what_it_says_is_refused(
    change: dict[str, bytes | None], words: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.ckpt", {"t": torch.ones(2)})
    with pytest.raises(ForeignError, match=words):
        content(rewritten(path, change))


def test_a_zip_bomb_is_refused_unread(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", {"t": torch.ones(2)})
    bomb = rewritten(path, {"data/0": b"\0" * 2**24}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ForeignError, match="compressed, which"):
        content(bomb)


def test_what_is_no_checkpoint_is_told_apart(tmp_path: Path) -> None:
    old = tmp_path / "old.ckpt"
    torch.save({"t": torch.ones(2)}, old, _use_new_zipfile_serialization=False)
    with pytest.raises(ForeignError, match=r"before 1\.6"):
        content(old)
    with pytest.raises(ForeignError, match="cannot be read"):
        content(tmp_path / "missing.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ForeignError, match="must be a checkpoint that"):
        content(tmp_path / "text.ckpt")


def test_a_billion_laughs_are_not_laughed(tmp_path: Path) -> None:
    value: list[object] = ["ha"]
    for _ in range(60):
        value = [value, value]
    assert len(str(plain(read(pickle.dumps(value))))) < 10**6


def test_deep_nesting_is_an_error_or_a_value_and_never_a_crash() -> None:
    deep = b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b"."
    assert "…" in str(plain(read(deep)))
    with pytest.raises(ForeignError):
        read(b"\x80\x04}" + b")" + b"\x85" * 200_000 + b"Ns.")


BASE = io.BytesIO()
torch.save(
    {"state_dict": {"w": torch.randn(3, 2), "b": torch.zeros(2).half()}, "hyper_parameters": {"stack": Stack(0.1)},
     "epoch": 3, "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(3, 2)}}}]},
    BASE,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(BASE.getvalue()) - 1), st.integers(0, 255)), max_size=12), st.integers(0))
def test_a_mutated_file_gives_a_result_or_our_own_error(changes: list[tuple[int, int]], cut: int) -> None:
    from tempfile import TemporaryDirectory

    from band.bridge.checkpoint import read_checkpoint

    data = bytearray(BASE.getvalue())
    for place, value in changes:
        data[place] = value
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.ckpt"
        path.write_bytes(data if cut % 3 else data[: cut % len(data)])
        try:
            read_checkpoint(path)
        except ForeignError as error:
            assert str(path) in str(error)


with zipfile.ZipFile(BASE) as _archive:
    PICKLE = next(_archive.read(name) for name in _archive.namelist() if name.endswith("data.pkl"))


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(PICKLE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_mutated_pickle_gives_a_value_or_our_own_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(PICKLE)
    for place, value in changes:
        data[place] = value
    with suppress(ForeignError):
        plain(read_pickle(bytes(data), rebuild=REBUILD, persistent=lambda i: Storage("float32", "0", 6))[0])


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([
    b"(", b"]", b"}", b")", b"0", b"1", b"2", b"N", b"I1\n", b"K\x02", b"Va\n", b"l", b"d", b"t", b"\x85", b"\x86",
    b"a", b"e", b"s", b"u", b"R", b"b", b"\x81", b"\x92", b"o", b"Q", b"q\x00", b"h\x00", b"\x94", b"\x8f", b"\x90",
    b"\x91", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ca\nB\n", b"ccollections\nOrderedDict\n", b"ctorch\nSize\n",
    b"\x93", b"c_codecs\nencode\n", b"cpathlib\nPosixPath\n", b"cnumpy.core.multiarray\nscalar\n", b"cnumpy\ndtype\n",
]), max_size=30))  # fmt: skip
def test_any_row_of_instructions_gives_a_value_or_our_own_error(parts: list[bytes]) -> None:
    with suppress(ForeignError):
        plain(read(b"".join(parts) + b"."))


def test_a_name_alone_is_kept_as_a_name() -> None:
    assert read(b"ctorch\nfloat32\n.") == Name("torch.float32")
