"""Names, messages and what other machines print reach terminals, tables and scripts as text and as nothing else."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from local_sweep import make_sweep
from published_sweep import publish_sweep, runs_of
from rich.console import Console

from band.cli import after, common
from band.cli.common import say, say_line
from band.errors import SweepError
from band.run_dir import EventWriter, SweepDir
from band.slurm.user_config import HostConfig
from band.sweep.collect import collect, write_results
from band.sweep.ledger import Intent, record
from band.sweep.slurm_script import array_text
from band.sync.connection import Connection

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\rx\u202e\x08"  # sets the title, clears the screen, in C1 too, turns text round


def test_only_colours_pass_to_the_terminal() -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        say("a\tb", f"\x1b[1;31mred\x1b[0m{EVIL}")
    shown = out.getvalue()
    assert shown.startswith("a\tb \x1b[1;31mred\x1b[0m")
    assert not set("\x07\x9b\r\u202e\x08") & set(shown) and shown.count("\x1b") == 2


def test_what_an_event_stream_says_cannot_command_the_terminal(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"run-0": {"seed": 0}})
    task = "0001"
    run = next(iter(sweep.states()))
    record(sweep.sweep, "submit", runs=[run], tasks={task: [run]})
    events = EventWriter(sweep.sweep.event_file(task, attempt="n-1"))
    events.write("claimed", host=EVIL)
    events.write("failed", runs=[run], error=EVIL, message=EVIL, traceback=EVIL)
    for command in ("status", "logs", "why"):
        words = [
            sys.executable,
            "-m",
            "band.cli.sweep",
            command,
            str(sweep.sweep.path),
            *([run] if command != "status" else []),
        ]
        done = subprocess.run(words, env=dict(sweep.environment), capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert "x1b]0;owned" in said and not set("\x1b\x07\x9b\u202e\x08") & set(said), command


def test_labels_of_a_recording_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(after, "console", lambda: Console(file=out, width=200))
    after.print_table("[bold]t[/]", ["[link=file:///etc]c[/link]"], [("[red]x[/red] [/]", ["1[blink]"])])
    assert all(
        text in out.getvalue() for text in ("[bold]t[/]", "[link=file:///etc]c[/link]", "[red]x[/red] [/]", "1[blink]")
    )


def test_what_another_machine_prints_is_shown_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import sys; sys.stdin.read(); print(chr(27) + ']0;owned' + chr(7)); print(chr(27) + 'c', file=sys.stderr)\n"
        "print('x' * 300_000)"
    )
    far = Connection(host="far", ssh=("ssh",), config=HostConfig())
    monkeypatch.setattr(Connection, "shell", lambda self: [sys.executable, "-c", program])
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = far.band(path="x", words=["status"], show=say_line)
    assert (
        code == 0 and out.getvalue() == "\\x1b]0;owned\\x07\n" + "x" * 300_000 + "\n" and err.getvalue() == "\\x1bc\n"
    )


def test_no_cell_of_the_table_is_a_formula(tmp_path: Path) -> None:
    names = ["=1+1", "@SUM", "+1+1", "-1-1"]
    folder = publish_sweep(
        tmp_path / "s", runs_of(sessions=names, weights=(0.0,)), scores=lambda run: {"test": {"a": -0.5}}
    )
    with write_results(collect(folder)).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["session"] for row in rows) == sorted(f"'{name}" for name in names)
    assert {row["test/a"] for row in rows} == {"-0.5"}  # numbers stay


def _intent(**sbatch: str) -> Intent:
    options = {"sbatch": sbatch, "max_parallel": 0, "time_s": 60, "allow_versions": True, "code": "c" * 64, "setup": []}
    return Intent(number="0001", action="submit", t=1.0, tasks={"0001": ("a",)}, options=options)


@pytest.mark.parametrize("name", ["$(touch pwned)", "`touch pwned`", "a b;touch pwned #", "'\"'\"\\", "-rf", "%A%j"])
def test_no_name_of_a_folder_is_run_by_the_script_of_a_job(tmp_path: Path, name: str) -> None:
    sweep = SweepDir(tmp_path / name / "sweeps/maze")
    text = array_text(sweep, _intent(comment=name), tasks=["0001"], number=1, token="t")
    begin, _, command = text.rpartition("exec python3 ")
    assert command.strip().startswith("-u -m band.node.call ")
    options = [line for line in begin.splitlines() if line.startswith("#")]
    assert all(line.startswith("#SBATCH --") for line in options[2:] if line not in ("# setup", "# command"))
    script = f'{begin}printf "%s\\n" "$PYTHONPATH" {command}'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert not list(tmp_path.rglob("pwned")) and done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(sweep.submission("0001") / "submitit")
    assert done.stdout.splitlines()[0].startswith(str(sweep.code))


def test_a_folder_whose_name_would_end_a_line_of_the_script_is_refused(tmp_path: Path) -> None:
    sweep = SweepDir(tmp_path / "a\n#SBATCH --uid=0\ntouch pwned\n" / "maze")
    with pytest.raises(SweepError, match="cannot stand in a script"):
        array_text(sweep, _intent(), tasks=["0001"], number=1, token="t")


def test_an_error_in_any_words_is_one_text() -> None:
    err = io.StringIO()
    with redirect_stderr(err):
        common.main_guard(lambda: (_ for _ in ()).throw(SweepError(EVIL)))
    assert not set("\x1b\x07\x9b\u202e\x08") & set(err.getvalue())
