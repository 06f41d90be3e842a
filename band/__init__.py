"""BAND and LFADS sweeps: behaviour-aligned models of neural spiking, trained in populations on Slurm or one machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from band.after.run import Run

__version__ = "0.1.0"


def load_run(folder: str | Path) -> Run:
    """Return a finished run: `load_run(folder).factors["test"]`, `.config`, `.scores`, `.metrics`.

    Raises:
        PublishError: the folder is no finished run.
    """
    from band.after.run import Run

    return Run(folder)


def load_sweep(sweep: str | Path) -> pd.DataFrame:
    """Return a table with a row a published run: configuration, outcome and scores, as in results.csv (extra `pandas`).

    Args:
        sweep: name, folder or YAML file of a sweep.

    Raises:
        SweepError: there is no such sweep, or nothing of it is published.
        ConfigError: pandas is not installed.
    """
    from band.sweep.table import sweep_table

    return sweep_table(sweep)
