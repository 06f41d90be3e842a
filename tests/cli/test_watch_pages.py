"""Every page of the watch fits any size; filters mean what they say; the choice stays with its run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from local_sweep import make_sweep

from band.cli import watch_pages as pages
from band.cli.watch_list import RunList, Seen, matches
from band.run_dir import EventWriter
from band.sweep.ledger import new_task, record
from band.sweep.status import RunStatus

LONG = "a-run-whose-name-is-so-long-that-it-fits-no-terminal-" + "x" * 90


@pytest.fixture
def seen(tmp_path: Path) -> Seen:
    runs = {f"run-{n:02d}": {"hyper.lr": 0.01 * n, "arch.gen_dim": 64} for n in range(30)}
    local = make_sweep(tmp_path, {LONG: {}, **runs})
    task = new_task(local.sweep)
    record(local.sweep, "submit", runs=["run-03", LONG], tasks={task: ["run-03", LONG]})
    events = EventWriter(local.sweep.event_file(task, attempt="one"))
    events.write("claimed", claim=0, attempt="one", host="c1", pid=1)
    events.write("started", runs=["run-03", LONG], step=0)
    events.write("failed", runs=[LONG], error="ValueError", message="日本 \x1b[31m bad", traceback="")
    for epoch in (1, 2, 3):
        progress = {"epoch": epoch, "max_epochs": 9, "valid_recon": 5.0 / epoch}
        events.write("epoch", runs={"run-03": progress}, steps_per_s=1.0)
    return Seen(sweep=local.sweep, survey=local.survey(), t=time.time(), trouble="Slurm does not answer\nmore")


def test_every_page_fits_every_size(seen: Seen) -> None:
    def all_pages() -> list[RunList | pages.Page]:
        table = RunList()
        typing = RunList()
        typing.press("/", seen)
        made = [pages.LogPage("run-03"), pages.CurvesPage("run-03", is_unicode=True), pages.help_page()]
        made += [pages.FailuresPage("failures"), pages.NodesPage("nodes"), pages.LogPage("gone")]
        made += [pages.WhyPage(LONG, seen=seen, wake=lambda: None), pages.CurvesPage("gone", is_unicode=False)]
        return [table, typing, *made]

    for page in all_pages():
        for width, height in ((1, 1), (5, 2), (12, 3), (30, 6), (80, 24), (300, 90), (80, 8), (79, 9)):
            lines = page.lines(seen, width=width, height=height)
            assert len(lines) <= height, (type(page), width, height)
            assert all("\x1b" not in text for line in lines for text, _ in line)


def test_keys_on_an_empty_screen_do_nothing(seen: Seen) -> None:
    table = RunList()
    table.pattern = "no such run"
    for key in ("up", "down", "pageup", "end", "home", "s", "S", "o", "x", " "):
        table.press(key, seen)
    assert table.settle(seen) == ""


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("run-0", True), ("RUN".lower(), True), ("run-1", False), ("run-?3", True), ("*-03", True), ("run", True),
        ("c1", True), ("c", False), ("valueerror", True), ("lr=0.03", True), ("hyper.lr=3e-2", True), ("lr=0.3", False),
        ("gen_dim=64", True), ("gen_dim=64.0", True), ("model=x", False),
    ],
)  # fmt: skip
def test_a_word_of_a_filter(word: str, expected: bool) -> None:
    status = RunStatus(state="failed", node="c1", error="ValueError")
    settings = {"hyper.lr": 0.03, "arch.gen_dim": 64}
    assert matches(word, run="run-03", status=status, overrides=settings) is expected


def test_the_choice_stays_with_its_run_while_the_rows_move(seen: Seen) -> None:
    table = RunList()
    assert table.settle(seen) == table.visible(seen)[0] == LONG, "failed comes before interrupted and new"
    for _ in range(5):
        table.press("down", seen)
    chosen = table.settle(seen)
    table.press("o", seen)
    assert table.settle(seen) == chosen and table.visible(seen) == list(seen.survey.runs)
    shown = table.lines(seen, width=200, height=20)
    assert sum(line[0][0] == "> " and line[1][0].strip() == chosen for line in shown if len(line) > 1) == 1
    table.pattern = "run-2"
    assert table.settle(seen) in table.visible(seen)


def test_a_log_goes_on_across_attempts_and_scrolls(seen: Seen) -> None:
    page = pages.LogPage("run-03")
    seen.sweep.logs.mkdir()
    seen.sweep.log_file("0001", attempt="one").write_text("".join(f"line {n}\n" for n in range(50)))

    def shown() -> list[str]:
        return ["".join(text for text, _ in line) for line in page.lines(seen, width=60, height=12)]

    assert shown()[10] == "line 49"
    page.press("home")
    assert shown()[2] == "line 0"
    page.press("pagedown")
    assert shown()[1] == "line 8"
    page.press("right")
    assert shown()[1] == ""
    page.press("left")
    page.press("end")
    events = EventWriter(seen.sweep.event_file("0001", attempt="two"))
    events.write("started", runs=["run-03"], step=0)
    seen.sweep.log_file("0001", attempt="two").write_text("again\n")
    later = make_later(seen)
    lines = ["".join(text for text, _ in line) for line in page.lines(later, width=60, height=12)]
    assert lines[10] == "again" and lines[9].startswith("== ")


def make_later(seen: Seen) -> Seen:
    from band.sweep.manifest import read_manifest
    from band.sweep.schedulers import scheduler_for
    from band.sweep.status import take_survey

    survey = take_survey(seen.sweep, read_manifest(seen.sweep.path), scheduler=scheduler_for(seen.sweep))
    return Seen(sweep=seen.sweep, survey=survey, t=seen.t)
