"""What holds for each command of each tool: help that fits a screen, one JSON document, plain pipes, a manual page."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_sweep import LocalSweep, make_sweep
from pseudo_terminal import PseudoTerminal

from band.cli import man_pages, sweep
from band.cli.parsers import EXIT_CODES, TOOLS, all_parsers, fitted
from band.run_dir import EventWriter
from band.sweep.ledger import new_task, record

ROOT = Path(__file__).parents[2]
NAMES = sorted(all_parsers())
TABLES = {"band-data"}  # tools that are told of by what their commands show
NO_JSON = {"band-sweep watch", *TABLES}  # a screen is no document
LONGEST, WIDEST = 40, 100


@pytest.fixture(scope="module")
def parsers() -> dict[str, argparse.ArgumentParser]:
    return all_parsers()


@pytest.mark.parametrize("name", NAMES)
def test_help_fits_a_screen_and_ends_with_examples(
    name: str, parsers: dict[str, argparse.ArgumentParser], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = parsers[name].format_help().splitlines()
    assert len(lines) <= LONGEST and max(map(len, lines)) <= WIDEST
    place = lines.index("examples:")
    assert any(line.startswith(f"  {name} ") for line in lines[place + 1 :])
    monkeypatch.setenv("COLUMNS", "80")
    assert max(len(line) for line in parsers[name].format_help().splitlines()) <= 80


@pytest.mark.parametrize("name", sorted(set(NAMES) - TABLES))
def test_what_an_example_shows_exists(name: str, parsers: dict[str, argparse.ArgumentParser]) -> None:
    epilog = (parsers[name].epilog or "").replace("\\\n", " ")
    known = {flag for action in parsers[name]._actions for flag in action.option_strings}
    for line in epilog.split("\n"):
        if line.startswith(f"  {name} "):
            own = re.split(r" {2,}|[|&#>]", line.strip())[0]
            assert set(re.findall(r"(?<= )--[a-z][a-z-]*", own)) <= known, line


@pytest.mark.parametrize("name", sorted(set(NAMES) - NO_JSON))
def test_every_command_that_prints_a_result_prints_it_as_json_too(
    name: str, parsers: dict[str, argparse.ArgumentParser]
) -> None:
    assert any("--json" in action.option_strings for action in parsers[name]._actions)


def test_exit_codes_are_said_in_the_overview_and_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["--help"]) == 0
    overview = capsys.readouterr().out.splitlines()
    assert len(overview) <= LONGEST and max(map(len, overview)) <= WIDEST
    assert all(f"  {code:<3}  {words}" in overview for code, words in EXIT_CODES.items())
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert "0 done, 1 your input, 2 usage, 3 Slurm or ssh, 4 partial" in readme


def test_examples_keep_their_words_when_they_are_folded() -> None:
    text = "examples:\n  do --this      what it is\n  do --that --and --much --more \\\n      --behind   why\n\nWords."
    for width in (44, 60, 100):
        lines = fitted(text, width=width)
        assert max(map(len, lines)) <= width
        assert " ".join(" ".join(lines).replace("\\", "").split()).split() == text.replace("\\", "").split()


# --- one document


@pytest.fixture
def failed(tmp_path: Path) -> Iterator[LocalSweep]:
    """A sweep of two runs, of which one has failed and one was interrupted."""
    local = make_sweep(tmp_path, {"a": {}, "b": {}})
    task = new_task(local.sweep)
    record(local.sweep, "submit", runs=["a", "b"], tasks={task: ["a", "b"]})
    events = EventWriter(local.sweep.event_file(task, attempt="one"))
    events.write("started", runs=["a", "b"], step=0)
    events.write("failed", runs=["a"], error="ValueError", message="no", traceback="Traceback: here")
    events.write("ended", code=1)
    local.sweep.logs.mkdir()
    local.sweep.log_file(task, attempt="one").write_text("a: one line\nb diverged: x\n")
    yield local


@pytest.mark.parametrize(
    ("words", "code", "keys"),
    [
        (["status"], 4, {"counts", "runs", "failures", "eta_s"}),
        (["why"], 0, {"sweep", "runs"}),
        (["logs"], 0, {"sweep", "failures", "logs"}),
        (["logs", "b"], 0, {"sweep", "failures", "logs"}),
        (["cancel", "b"], 0, {"sweep", "cancelled", "were_over", "still_running"}),
        (["retry", "--failed"], 0, {"sweep", "cleared", "left_alone", "submit_exit_code"}),
        (["submit", "--dry-run"], 0, {"sweep", "new_tasks"}),
        (["reconcile"], 0, {"sweep", "done"}),
        (["rescue"], 0, {"sweep", "nodes"}),
        (["rescue", "--dry-run"], 0, {"sweep", "nodes"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_json_is_one_document_with_a_schema_and_the_command(
    failed: LocalSweep, words: list[str], code: int, keys: set[str]
) -> None:
    process = failed.start(*words, "--json", stderr=subprocess.PIPE)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code and output.count("\n") == 1
    document = json.loads(output)
    assert (document["schema"], document["command"]) == (1, f"band-sweep {words[0]}")
    assert keys <= document.keys()


def test_retry_and_submit_say_one_document(failed: LocalSweep) -> None:
    process = failed.start("retry", "a", "--submit", "--json", stderr=subprocess.PIPE)
    output, said = process.communicate(timeout=60)
    document = json.loads(output)
    assert document["cleared"] == ["a"] and document["submit_exit_code"] == process.returncode == 0, said
    failed.band_sweep("cancel", "--all")


def test_logs_as_json_hold_the_lines(failed: LocalSweep) -> None:
    document = json.loads(failed.band_sweep("logs", "b", "--json"))
    (log,) = document["logs"]
    assert log["lines"] == ["a: one line", "b diverged: x"] and log["path"].endswith("0001.one.log")
    (failure,) = json.loads(failed.band_sweep("logs", "a", "--json"))["failures"]
    assert failure["run"] == "a" and failure["lines"][-1] == "a failed: ValueError: no"
    assert "not allowed with argument" in failed.band_sweep("logs", "--json", "-f", code=2)


def test_a_log_that_names_its_run_itself_is_not_named_twice(tmp_path: Path) -> None:
    local = make_sweep(tmp_path, {"a": {}, "b": {}})
    for run in "ab":
        task = new_task(local.sweep)
        record(local.sweep, "submit", runs=[run], tasks={task: [run]})
        events = EventWriter(local.sweep.event_file(task, attempt="one"))
        events.write("started", runs=[run], step=0)
        events.write("ended", code=1)
        local.sweep.logs.mkdir(exist_ok=True)
        local.sweep.log_file(task, attempt="one").write_text(f"{run}: an epoch a line\n{run} diverged\nplain\n")
    output = local.band_sweep("logs", "a", "b", "-f")
    for run in "ab":
        assert [line for line in output.split("\n") if line.startswith(run)] == [
            f"{run} | an epoch a line", f"{run} | diverged", f"{run} | plain"
        ]  # fmt: skip


# --- colours


@pytest.mark.parametrize("words", [["status"], ["logs"], ["why"], ["cancel", "b"]], ids=" ".join)
def test_pipes_are_plain_and_so_are_terminals_with_no_color(failed: LocalSweep, words: list[str]) -> None:
    environment = {key: value for key, value in failed.environment.items() if key != "NO_COLOR"}
    output, _ = failed.start(*words, env={**environment, "TERM": "xterm-256color"}).communicate(timeout=60)
    assert output and "\x1b" not in output
    command = [os.sys.executable, "-m", "band.cli.sweep", words[0], str(failed.sweep.path), *words[1:]]  # type: ignore[attr-defined]
    terminal = PseudoTerminal(command, environment={**environment, "TERM": "xterm-256color", "NO_COLOR": "1"})
    terminal.wait()
    assert terminal.sent and not re.search(rb"\x1b\[[0-9;]*3[0-7]", terminal.sent)
    terminal.close()


# --- manual pages


def test_every_command_has_a_manual_page_with_all_its_options(parsers: dict[str, argparse.ArgumentParser]) -> None:
    pages = man_pages.pages()
    assert set(pages) == {f"{name.replace(' ', '-')}.1" for name in parsers} | {f"{tool}.1" for tool in TOOLS}
    for name, parser in parsers.items():
        page = pages[f"{name.replace(' ', '-')}.1"].replace("\\-", "-")
        options = [f for action in parser._actions for f in action.option_strings if f not in ("-h", "--help")]
        assert all(option in page for option in options), name
        assert ".SH EXIT STATUS" in page and not re.search(r"^[.'](?![A-Z]{2}|nf|fi|[BI] )", page, re.MULTILINE)


@pytest.mark.parametrize("reader", ["mandoc", "man"])
def test_manual_pages_are_read_without_complaint(tmp_path: Path, reader: str) -> None:
    if shutil.which(reader) is None:
        pytest.skip(f"no {reader} here: apt-get install {'man-db' if reader == 'man' else reader}")
    assert man_pages.main([str(tmp_path)]) == 0
    files = sorted(map(str, (tmp_path / "man1").iterdir()))
    if reader == "mandoc":
        done = subprocess.run(
            ["mandoc", "-T", "lint", "-W", "warning", *files], capture_output=True, text=True, timeout=60
        )
        said = [line for line in done.stdout.splitlines() if "missing date" not in line]
        assert not said, said[:5]
    else:
        environment = {**os.environ, "MANWIDTH": "90", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"}
        done = subprocess.run(
            ["man", "--warnings", "-l", files[-1]], capture_output=True, text=True, timeout=60, env=environment
        )
        assert done.returncode == 0 and done.stderr == "" and "EXIT STATUS" in done.stdout
