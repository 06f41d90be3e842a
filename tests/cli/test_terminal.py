"""Keys come from bytes cut anywhere; what is sent to the screen makes it what it should be, and no more is sent."""

from __future__ import annotations

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from band.cli.terminal import COLOURS, STYLES, Keys, Line, cells, changes, has_unicode

CODES = {**STYLES, **COLOURS}
WIDTH = 24
TEXT = st.text(st.sampled_from("ab c日本…é\u0301\x1b\n█ "), max_size=30)
LINE = st.lists(st.tuples(TEXT, st.sampled_from(["", "bold", "red", "reverse"])), max_size=4)


def test_keys_have_names_and_other_characters_are_themselves() -> None:
    keys = Keys()
    assert keys.feed(b"q\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[1~\x1b[F\r\x7f/\xc3\xa4\x1b[200~\x1b[1;5Cx\x00") == [
        "q", "up", "down", "pageup", "pagedown", "home", "end", "enter", "backspace", "/", "ä", "x",
    ]  # fmt: skip
    assert keys.feed(b"\x1b") == [] and keys.is_waiting
    assert keys.feed(b"", is_final=True) == ["escape"] and not keys.is_waiting
    assert keys.feed(b"\x1bq") == ["escape", "q"]


@settings(max_examples=40)
@given(st.lists(st.integers(0, 30), max_size=6))
def test_keys_are_the_same_wherever_their_bytes_are_cut(cuts: list[int]) -> None:
    data = b"a\x1b[A\x1b[6~\xe6\x97\xa5\x1bOH\x1b[24~\r\xc3\xa4z"
    keys, found = Keys(), []
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        found += keys.feed(data[begin:end])
    assert found == ["a", "up", "pagedown", "日", "home", "enter", "ä", "z"]


def picture(screen: pyte.Screen) -> list[tuple[str, bool, bool, str]]:
    row = screen.buffer[0]
    made = [(row[x].data, row[x].bold, row[x].reverse, row[x].fg) for x in range(screen.columns)]
    # How a space is coloured cannot be seen, unless it is reversed.
    return [cell if cell[0] != " " or cell[2] else (" ", False, False, "default") for cell in made]


@settings(max_examples=60)
@given(LINE, LINE)
def test_what_is_sent_makes_the_old_row_the_new_one(old: Line, new: Line) -> None:
    shown, fresh = pyte.Screen(WIDTH, 2), pyte.Screen(WIDTH, 2)
    before, after = cells(old, width=WIDTH), cells(new, width=WIDTH)
    pyte.Stream(shown).feed("\x1b[?7l" + changes([], before, row=0, codes=CODES))
    pyte.Stream(shown).feed(changes(before, after, row=0, codes=CODES))
    pyte.Stream(fresh).feed("\x1b[?7l" + changes([], after, row=0, codes=CODES))
    assert picture(shown) == picture(fresh)
    text = "".join(character for character, _ in after)
    assert shown.display[0].replace("\0", "").rstrip() == text.rstrip() and len(after) <= WIDTH
    assert changes(after, after, row=0, codes=CODES) == ""


def test_one_digit_that_changes_costs_few_bytes() -> None:
    before = cells([("run-0001  running  epoch 17/700 and much more behind", "")], width=80)
    after = cells([("run-0001  running  epoch 18/700 and much more behind", "")], width=80)
    assert len(changes(before, after, row=9, codes=CODES)) < 12


def test_a_terminal_without_unicode_gets_ascii() -> None:
    assert "".join(c for c, _ in cells([("█ 日 – …", "")], width=20, is_unicode=False)) == "# ? - ~"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"LANG": "en_GB.UTF-8"}, True),
        ({"LANG": "en_GB.UTF-8", "LC_ALL": "C"}, False),
        ({"LC_CTYPE": "C.utf8"}, True),
        ({}, False),
    ],
)
def test_what_a_terminal_can_show_is_said_by_its_locale(names: dict[str, str], expected: bool) -> None:
    assert has_unicode(names) is expected
