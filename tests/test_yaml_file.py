"""YAML of sweep files: numbers as people write them, every value with its line, nothing executed, nothing unbounded."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from band.errors import ConfigError
from band.yaml_file import MAX_DEPTH, Node, parse_setting, parse_yaml, plain, read_scalar, read_yaml


def parse(text: str) -> Node:
    return parse_yaml(text, file="x.yaml", folder="/folder")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1e5", 1e5),
        ("-2.5E+2", -250.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("010", 10),
        ("+7", 7),
        ("true", True),
        ("False", False),
        ("on", "on"),
        ("no", "no"),
        ("1:30:00", "1:30:00"),
        ("2020-01-01", "2020-01-01"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("~", None),
        ("", None),
        ("null", None),
        ("'1e-3'", "1e-3"),
        ('"true"', "true"),
        ("1e-", "1e-"),
    ],
)
def test_a_scalar_is_the_number_or_word_that_it_looks_like(text: str, value: object) -> None:
    found = plain(parse(f"key: {text}\n"))["key"]
    assert found == value and type(found) is type(value)


def test_infinity_and_nan_are_read_so_that_they_can_be_refused_by_name() -> None:
    assert plain(parse("[.inf, -.inf]")) == [math.inf, -math.inf]
    assert math.isnan(plain(parse(".NaN")))


def test_every_value_knows_the_line_of_its_key() -> None:
    node = parse("a:\n  b: 1\n  c:\n    - 2\n    - 3\n")
    assert node.value["a"].source.line == 1
    assert node.value["a"].value["c"].source.line == 3
    assert node.value["a"].value["c"].value[1].source.line == 5
    assert str(node.value["a"].value["b"].source) == "x.yaml:2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"x\.yaml:3: a is given twice, first in line 1"),
        ("a: {b: 1, b: 2}", r"x\.yaml:1: b is given twice"),
        ("a: !!python/object/apply:os.system [echo]", r"x\.yaml:1: tags are not used here"),
        ("a: !!binary aGk=", r"tags are not used"),
        ("a: 1\n---\nb: 2\n", r"x\.yaml:2: must be one document"),
        ("a: *nowhere", r"alias \*nowhere has no anchor &nowhere"),
        ("a: &a [*a]", r"alias \*a has no anchor &a that ends before it"),
        ("? [1]\n: 2", r"x\.yaml:1: a key must be a word"),
        ("a: 1\nb: [1\nc: 2\n", r"x\.yaml:\d: not YAML"),
        ("a: b: c", r"x\.yaml:1: not YAML: mapping values are not allowed"),
        ("a: {path: ${x}/y}", r"needs quotes around it"),
        ("a: '\x07'", r"x\.yaml:1: not YAML"),
        ('a: "\\0seed"', r"x\.yaml:1: text must not hold a zero byte"),
        ("<<: 3", r"<< must be given a mapping, found 3"),
        ("[" * (MAX_DEPTH + 2), r"nested deeper than"),
        ("- " * 2000, r"nested deeper than"),
    ],
)
def test_what_is_no_sweep_yaml_is_refused_with_file_line_and_reason(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_anchors_and_merge_keys_work_and_the_nearer_value_wins() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 9}\nd: *a\n"
    assert plain(parse(text)) == {
        "a": {"x": 1, "y": 2},
        "b": {"y": 3, "z": 4},
        "c": {"x": 9, "y": 2, "z": 4},
        "d": {"x": 1, "y": 2},
    }


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(12)]
    started = time.process_time()
    with pytest.raises(ConfigError, match="aliases expand to more than"):
        parse("\n".join(lines))
    assert time.process_time() - started < 1


def test_a_very_long_number_stays_a_word() -> None:
    assert read_scalar("9" * 5000) == "9" * 5000


def test_an_empty_file_is_an_empty_mapping_and_other_things_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("# nothing\n")
    assert plain(read_yaml(path)) == {}
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"s\.yaml:1: must be a mapping .* found a list"):
        read_yaml(path)
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match=r"must be UTF-8 text, found byte 0xff at 3"):
        read_yaml(path)
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file"):
        read_yaml(tmp_path / "none.yaml")


def test_a_setting_of_the_command_line_is_key_and_yaml_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key, node = parse_setting("grid.hyper.lr=[1e-3, 4e-3]")
    assert (key, plain(node)) == ("grid.hyper.lr", [0.001, 0.004])
    assert (node.source.folder, str(node.source)) == (str(tmp_path), "--set grid.hyper.lr=[1e-3, 4e-3]")
    with pytest.raises(ConfigError, match=r"--set hyper\.lr: must be key=value"):
        parse_setting("hyper.lr")
    with pytest.raises(ConfigError, match=r"^--set a=\[1: not YAML"):
        parse_setting("a=[1")


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=4), children)
    ),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_any_json_reads_as_itself(value: object) -> None:
    assert plain(parse(json.dumps({"key": value}))) == {"key": value}


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_as_a_configuration_error(text: str) -> None:
    try:
        parse(text)
    except ConfigError as error:
        assert str(error).startswith("x.yaml:")
