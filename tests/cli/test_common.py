"""However a command ends, the user gets one line and an exit code that means something."""

from __future__ import annotations

import subprocess
import sys

import pytest

from band.cli import common, sweep
from band.errors import BandError, ClaimError, ConfigError, SchedulerError


def raiser(error: BaseException):
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("a.yaml:3: wrong"), 1, "error: a.yaml:3: wrong\n"),
        (BandError("plain"), 1, "error: plain\n"),
        (SchedulerError("sbatch refused"), 3, "error: sbatch refused\n"),
        (ClaimError("held"), 4, "error: held\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (OSError(28, "No space left on device", "f"), 1, "error: [Errno 28] No space left on device: 'f'\n"),
        (ConfigError("red \x1b[31m\nnext line"), 1, "error: red \\x1b[31m\nnext line\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_ending_is_one_message_and_its_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert common.main_guard(raiser(error)) == code
    assert capsys.readouterr().err == said


def test_a_fault_of_ours_asks_for_a_report_and_shows_its_traceback_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BAND_DEBUG", raising=False)
    assert common.main_guard(raiser(ZeroDivisionError("oops"))) == 70
    said = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in said and "BAND_DEBUG=1" in said and "Traceback" not in said
    monkeypatch.setenv("BAND_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        common.main_guard(raiser(ZeroDivisionError("oops")))


def test_a_pipe_that_is_closed_early_ends_quietly() -> None:
    program = (
        "import sys; from band.cli.common import main_guard\n"
        "def command():\n"
        "    for _ in range(100_000): print('a line')\n"
        "    return 0\n"
        "sys.exit(main_guard(command))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 141


def test_json_in_a_pipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    common.set_command("")
    common.print_json({"a": [1, 2]})
    assert capsys.readouterr().out == '{"schema": 1, "command": "", "a": [1, 2]}\n'
    with pytest.raises(ValueError):
        common.print_json({"a": float("nan")})


def test_colours_keep_away_from_pipes_and_from_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert common.console().no_color and not common.console().is_terminal


def test_an_unknown_command_is_met_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["stauts"]) == 2
    assert capsys.readouterr().err == "error: band-sweep has no command 'stauts'; did you mean status?\n"
    assert sweep.main(["xyz"]) == 2
    assert "choose from init, generate, import" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "least"),
    [
        (["throttle", "maze", "-3"], 0),
        (["throttle", "maze", "all"], 0),
        (["submit", "maze", "--max-parallel", "0"], 1),
        (["submit", "maze", "--pack", "few"], 1),
        (["generate", "maze.yaml", "--limit", "-1"], 1),
    ],
)
def test_a_number_that_cannot_be_is_wrong_usage(
    words: list[str], least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        sweep.main(words)
    assert f"must be a whole number of at least {least}, got '{words[-1]}'" in capsys.readouterr().err


def test_nothing_given_shows_the_commands_as_wrong_usage_and_help_as_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main([]) == 2
    overview = capsys.readouterr().out
    assert all(name in overview for name in sweep.COMMANDS)
    assert sweep.main(["--help"]) == 0
    assert capsys.readouterr().out == overview


@pytest.mark.parametrize("name", sweep.COMMANDS)
def test_the_line_of_a_command_is_that_of_its_module(name: str) -> None:
    import importlib

    module = importlib.import_module(sweep.COMMANDS[name].module)
    assert sweep.COMMANDS[name].help == module.HELP
