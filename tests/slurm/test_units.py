"""Times and memory, against what Slurm says of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from band.slurm.units import memory_bytes, memory_text, time_s, time_text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("1:30:00", 5400),
        ("1-12", 129_600),
        ("1-12:30", 131_400),
        ("1-12:30:15", 131_415),
        ("25:00:00", 90_000),
        ("0", 0),
    ],
)
def test_every_form_of_a_time_is_read_as_the_manual_of_sbatch_says(text: str, seconds: int) -> None:
    assert time_s(text) == seconds


@pytest.mark.parametrize("text", ["UNLIMITED", "Partition_Limit", "1h", "", "1.5", "-5", "1:2:3:4", "NOT_SET"])
def test_what_is_no_time_is_none(text: str) -> None:
    assert time_s(text) is None


@given(st.floats(min_value=0, max_value=3e7))
def test_a_time_that_is_written_is_read_again_rounded_up_to_minutes(seconds: float) -> None:
    assert time_s(time_text(seconds)) == max(math.ceil(seconds / 60), 1) * 60


@pytest.mark.parametrize(
    ("text", "size"), [("4000", 4000 << 20), ("4G", 4 << 30), ("500k", 500 << 10), ("1T", 1 << 40), ("2GB", 2 << 30)]
)
def test_memory_is_in_megabytes_unless_it_says_otherwise(text: str, size: int) -> None:
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "4X", "-1", "a4G"])
def test_what_is_no_memory_is_none(text: str) -> None:
    assert memory_bytes(text) is None


@given(st.integers(min_value=1, max_value=1 << 50))
def test_memory_that_is_written_holds_what_it_was_written_for_and_less_than_a_megabyte_more(size: int) -> None:
    written = memory_bytes(memory_text(size))
    assert written is not None and size <= written < size + (1 << 20)
