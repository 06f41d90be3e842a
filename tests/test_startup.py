"""Commands of the login node start at once: none of the heavy libraries, and a quarter of a second at the most."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = (
    *("torch", "numpy", "h5py", "omegaconf", "submitit", "rich", "matplotlib", "scipy", "pynwb", "hdmf", "pandas"),
    *("pyarrow", "tensorboard", "wandb", "mlflow"),
)
LIMIT_S = 0.25  # of processor time: the clock on the wall also counts what else this machine is doing
SWEEP_COMMANDS = ("generate", "calibrate", "submit", "status", "watch", "logs")
SWEEP_COMMANDS += ("why", "cancel", "retry", "collect", "report")
STARTS = [
    ("sync", "--help"),
    *(("sync", command, "--help") for command in ("pull", "push", "status", "disconnect")),
    ("sync", "pull", "no_such_sweep"),
    ("sync", "status", "no_such_sweep"),
    ("train", "--help"),
    ("train", "import", "--help"),
    ("train", "export", "--help"),
    ("train", "export", "no_such_sweep", "--out", "no_such_file.ckpt"),
    ("sweep", "import", "--help"),
    ("sweep", "import", "no_such_sweep"),
    ("data", "--help"),
    *(("data", command, "--help") for command in ("import", "join", "chop", "merge")),
    *(("train", command, "--help") for command in ("infer", "sample", "score", "ablate", "perturb", "decode", "nlb")),
    ("sweep", "--help"),
    ("sweep", "--version"),
    ("sweep", "init", "--help"),
    ("sweep", "completion", "--help"),
    ("sweep", "doctor", "--help"),
    ("sweep", "export", "--help"),
    ("sweep", "export", "no_such_sweep", "--to", "tensorboard"),
    ("sweep", "cluster", "--help"),
    ("sweep", "doctor", "--cluster", "no_such_sweep"),
    *(("sweep", command, "--help") for command in SWEEP_COMMANDS),
    *(("sweep", command, "no_such_sweep") for command in SWEEP_COMMANDS),
]
PROGRAM = """
import importlib, sys
heavy, command, *arguments = sys.argv[1:]
try:
    code = importlib.import_module("band.cli." + command).main(arguments)
except SystemExit as end:
    code = end.code
print("loaded:", *sorted(set(heavy.split()) & set(sys.modules)), file=sys.stderr)
raise SystemExit(code)
"""
START = [sys.executable, "-c", PROGRAM, " ".join(HEAVY)]


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in an interpreter of its own; its stderr ends with what it has loaded."""
    return subprocess.run([*START, *arguments], capture_output=True, text=True, timeout=60)


def processor_seconds(*arguments: str) -> float:
    """Return the processor time that one start of a command takes, its interpreter included."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen([*START, *arguments], stdout=quiet, stderr=quiet) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("arguments", STARTS, ids=" ".join)
def test_a_command_starts_without_the_heavy_libraries(arguments: tuple[str, ...]) -> None:
    done = start(*arguments)
    assert "Traceback" not in done.stderr
    assert done.returncode == (1 if "no_such_sweep" in arguments else 0), done.stderr
    assert done.stderr.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("arguments", STARTS, ids=" ".join)
def test_a_command_starts_in_a_quarter_of_a_second(arguments: tuple[str, ...]) -> None:
    assert any(processor_seconds(*arguments) < LIMIT_S for _ in range(3))


def test_band_sync_used_wrongly_says_how_it_is_used() -> None:
    done = start("sync", "somewhere")
    assert done.returncode == 2 and not done.stdout
    assert "band-sync pull informatics:experiments/sweeps/maze" in start("sync", "--help").stdout
    assert "pull" in done.stderr and "Traceback" not in done.stderr
