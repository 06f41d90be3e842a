"""band-train: from a sweep file to one trained run, interrupted and continued, with a trainer that only pretends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fake_task import TRAINER
from fake_trainer import expected_state
from proc import wait_for

from band.cli.train import main

SWEEP = """
base:
  data: {path: recording.h5, bin_ms: 10}
  train: {max_epochs: 6, batch_size: 4}
pair: {behavior_weight: [0.1]}
seeds: 2
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep file beside a small recording, and the pretending trainer in the environment."""
    import h5py
    import numpy as np

    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "recording.h5", "w") as recording:
        for split, trials in (("train", 20), ("valid", 8)):
            spikes = rng.poisson(0.5, (trials, 10, 5)).astype("float32")
            recording[f"{split}_encod_data"] = recording[f"{split}_recon_data"] = spikes
            recording[f"{split}_behavior"] = rng.normal(size=(trials, 10, 2)).astype("float32")
    path = tmp_path / "reach.yaml"
    path.write_text(SWEEP)
    monkeypatch.setenv("BAND_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("BAND_TRAINER", " ".join(TRAINER))
    monkeypatch.setenv("FAKE_LEDGER", str(tmp_path / "ledger"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return path


def published(file: Path) -> list[str]:
    return sorted(path.name for path in (file.parent / "sweeps" / "reach.train" / "runs").glob("[!.]*"))


def test_one_run_is_trained_and_its_scores_are_printed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "hyper.behavior_weight=0.1"]) == 0
    said = capsys.readouterr()
    assert "bits_per_spike" in said.out and "0.2500" in said.out and "6 epochs" in said.out
    assert "BAND, behaviour weight 0.1, seed 0, at most 6 epochs" in said.err and "epoch 6/6" in said.err
    (run,) = published(file)
    metrics = file.parent / "sweeps" / "reach.train" / "runs" / run / "metrics.csv"
    assert expected_state(run, epochs=6) in metrics.read_text()


def test_the_same_run_is_not_trained_twice_and_another_joins_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file)]) == 0 and main([str(file)]) == 0
    ledger = (file.parent / "ledger").read_text().splitlines()
    assert len(ledger) == len(set(ledger)) == 6
    assert "is trained already" in capsys.readouterr().err
    assert main([str(file), "seed=1"]) == 0
    assert len(published(file)) == 2
    manifest = (file.parent / "sweeps" / "reach.train" / "manifest.jsonl").read_text()
    assert all(f'"{run}"' in manifest for run in published(file)) and '"retired": true' not in manifest


def test_the_result_as_json_stands_alone_on_stdout(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["run_id"] == published(file)[0] and values["scores"]["test"]["bits_per_spike"] == 0.25


def test_ctrl_c_saves_and_the_command_that_is_named_continues(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CONFIG", '{"epoch_s": 0.05, "epochs": 30}')
    command = [sys.executable, "-m", "band.cli.train", str(file)]
    ledger = file.parent / "ledger"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: ledger.exists() and len(ledger.read_text().splitlines()) >= 5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "(SIGINT), saved; to continue: band-train " in said and "Traceback" not in said
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0 and "continues from its checkpoint at step" in again.stderr
    lines = ledger.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 30


def test_a_run_that_fails_says_why_and_where_to_look(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CONFIG", '{"raise_at": 3}')
    assert main([str(file)]) == 1
    said = capsys.readouterr().err
    assert "cannot go beyond epoch 3" in said and ".log" in said and "to go on from the last checkpoint" in said
    assert "Traceback" not in said
    monkeypatch.setenv("FAKE_CONFIG", "{}")
    assert main([str(file)]) == 0


def test_what_the_file_varies_must_be_set(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(
        SWEEP + "grid: {lr: [1e-3, 4e-3], arch.gen_dim: [32, 64]}\nrandom: {n: 3, cd_rate: {uniform: [0.1, 0.2]}}\n"
    )
    assert main([str(file), "lr=1e-3"]) == 1
    said = capsys.readouterr().err
    assert "arch.gen_dim (grid)" in said and "hyper.cd_rate (random)" in said and "hyper.lr" not in said
    assert not (file.parent / "sweeps").exists()
    assert main([str(file), "lr=1e-3", "gen_dim=32", "cd_rate=0.1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lr=fast"], "hyper.lr"),
        (["lrr=1e-3"], "did you mean"),
        (["seeds=3"], "seeds is not a field"),
        (["lr"], "must be key=value"),
        (["data.path=nowhere.h5"], "nowhere.h5"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(
    file: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(file), *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and "Traceback" not in said
    assert not (file.parent / "sweeps").exists()


def test_a_bar_with_the_time_left_is_shown_on_a_terminal(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pty

    monkeypatch.setenv("FAKE_CONFIG", '{"epoch_s": 0.05, "epochs": 20}')
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "band.cli.train", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, stdin=theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and b"bits_per_spike" in out
    assert "━".encode() in shown and b"epoch 10/20" in shown and b"left at most" in shown and b"\x1b[" not in out
