"""The table of runs as results.parquet, whose columns have types."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from band.files import write_atomic
from band.sweep.collect import PublishedRun, table_row

NAME = "results.parquet"
MISSING = f"{NAME} needs pyarrow: pip install 'band-sweep[parquet]', then report again"


def is_available() -> bool:
    """Return whether what writes the file is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def write_parquet(path: Path, runs: Sequence[PublishedRun]) -> Path:
    """Write one row a run with the columns of results.csv; a column of several kinds is one of words."""
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, list[Any]] = {}
    for number, run in enumerate(runs):
        for column, value in table_row(run).items():
            if column not in columns:
                columns[column] = [None] * len(runs)
            columns[column][number] = value
    table = pyarrow.table({column: _column(values) for column, values in columns.items()})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    write_atomic(path, buffer.getvalue())
    return path


def _column(values: Sequence[Any]) -> list[Any]:
    """Return values of one kind: all numbers, all words, or all true or false; None where there is none."""
    plain = [json.dumps(value) if isinstance(value, (dict, list)) else value for value in values]
    kinds = {type(value) for value in plain if value is not None}
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in plain]
    return plain if len(kinds) <= 1 else [None if value is None else str(value) for value in plain]
