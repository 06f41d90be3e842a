"""What failures have in common: causes told apart, and values that stand out beyond chance."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from local_sweep import make_sweep
from scipy.stats import fisher_exact

from band.run_dir import EventWriter, SweepDir
from band.sweep.failures import at_least, groups, standouts
from band.sweep.ledger import new_task, record
from band.sweep.manifest import read_manifest
from band.sweep.schedulers import scheduler_for
from band.sweep.status import Survey, take_survey

Runs = dict[str, dict[str, Any]]


def survey_of(
    folder: Path, runs: dict[str, dict[str, Any]], *, failed: Iterable[str], hosts: tuple[str, ...]
) -> Survey:
    """Return a sweep of which some runs failed and all others are published, each task on the next of the hosts."""
    sweep = make_sweep(folder, runs).sweep
    host = itertools.cycle(hosts)
    sweep.runs.mkdir()
    for run in runs:
        task = new_task(sweep)
        record(sweep, "submit", runs=[run], tasks={task: [run]})
        events = EventWriter(sweep.event_file(task, attempt="one"))
        events.write("claimed", claim=0, attempt="one", host=next(host), pid=1)
        events.write("started", runs=[run], step=0)
        if run in failed:
            events.write("failed", runs=[run], error="ValueError", message=f"{run}: loss is 0.{len(run)} at step 17")
            events.write("ended", code=1)
        else:
            events.write("published", run=run, outcome="ok")
            events.write("ended", code=0)
            (sweep.runs / run).mkdir()
    return look(sweep)


def look(sweep: SweepDir) -> Survey:
    return take_survey(sweep, read_manifest(sweep.path), scheduler=scheduler_for(sweep))


def grid(num_seeds: int, num_rates: int) -> Runs:
    cells = itertools.product(range(num_seeds), range(num_rates))
    return {f"run-s{seed}-r{rate}": {"seed": seed, "hyper.lr": rate / 1000} for seed, rate in cells}


def test_a_seed_that_fails_more_often_than_all_others_is_named_and_nothing_else(tmp_path: Path) -> None:
    runs = grid(10, 20)
    failed = [f"run-s7-r{rate}" for rate in (1, 5, 8, 13, 19)]
    (found,) = standouts(survey_of(tmp_path, runs, failed=failed, hosts=("c1", "c2", "c3")))
    assert (found.key, found.value, found.failed, found.runs) == ("seed", "7", 5, 20)
    assert (found.rest_failed, found.rest_runs) == (0, 180) and list(found.members) == failed


def test_failures_spread_evenly_single_them_out_nowhere(tmp_path: Path) -> None:
    runs = grid(5, 8)
    failed = [f"run-s{n}-r{n}" for n in range(5)]
    assert standouts(survey_of(tmp_path, runs, failed=failed, hosts=("c1", "c2"))) == []


def test_causes_that_each_strike_one_seed_do_not_hide_each_other(tmp_path: Path) -> None:
    runs = grid(10, 4)
    struck = {3: "SIGSEGV", 5: "OutOfMemory", 7: "RuntimeError"}
    failed = [run for run, what in runs.items() if what["seed"] in struck]
    survey = survey_of(tmp_path, runs, failed=failed, hosts=("c1", "c2"))
    assert standouts(survey) == [], "of failures of one cause, three seeds of ten are no wonder"
    for run in failed:
        survey.runs[run] = replace(survey.runs[run], error=struck[int(runs[run]["seed"])])
    found = [(s.key, s.value, s.failed, s.runs, s.rest_failed, s.rest_runs) for s in standouts(survey)]
    assert found == [("seed", str(seed), 4, 4, 8, 36) for seed in struck]


def test_where_all_runs_fail_no_value_stands_out(tmp_path: Path) -> None:
    runs = grid(4, 4)
    assert standouts(survey_of(tmp_path, runs, failed=runs, hosts=("c1", "c2"))) == []


def test_a_node_on_which_runs_fail_is_named(tmp_path: Path) -> None:
    runs = grid(6, 4)
    failed = list(runs)[1::3]
    (found,) = standouts(survey_of(tmp_path, runs, failed=failed, hosts=("c1", "c2", "c3")))
    assert (found.key, found.value, found.failed, found.runs) == ("node", "c2", 8, 8)


def test_failures_that_differ_in_numbers_and_ids_alone_are_of_one_cause(tmp_path: Path) -> None:
    runs = {"run-a": {}, "run-bb": {}, "other": {}}
    survey = survey_of(tmp_path, runs, failed=["run-a", "run-bb"], hosts=("c1", "c2"))
    causes = groups(survey)
    assert [len(group.runs) for group in causes] == [1, 1], "a message that names the run tells runs apart"
    status = survey.runs["run-a"]
    survey.runs["other"] = type(status)(state="failed", error="ValueError", message="run-a: loss is 0.9 at step 230")
    assert [group.runs for group in groups(survey)] == [("run-a", "other"), ("run-bb",)]


@pytest.mark.parametrize(
    ("count", "draws", "marked", "total"), [(5, 20, 5, 200), (3, 10, 7, 40), (1, 1, 1, 2), (8, 8, 9, 30)]
)
def test_the_probability_is_that_of_fishers_exact_test(count: int, draws: int, marked: int, total: int) -> None:
    table = [[count, draws - count], [marked - count, total - draws - marked + count]]
    oracle = fisher_exact(table, alternative="greater").pvalue
    assert at_least(count, draws=draws, marked=marked, total=total) == pytest.approx(oracle)
