"""All published runs of a sweep as a table of pandas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from band.errors import needed
from band.sweep.collect import collect, table_row
from band.sweep.manifest import find_sweep

if TYPE_CHECKING:
    import pandas as pd


def sweep_table(sweep: str | Path) -> pd.DataFrame:
    """Return a row a published run with the columns of results.csv, runs as the index; what does not exist is missing.

    Raises:
        SweepError: there is no such sweep, or nothing of it is published.
        ConfigError: pandas is not installed.
    """
    pandas = needed("pandas")
    rows = [table_row(run) for run in collect(find_sweep(sweep)).runs]
    table: pd.DataFrame = pandas.DataFrame(rows).set_index("run_id")
    return table
