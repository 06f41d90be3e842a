"""What a step takes of memory, and that it is done in pieces where a GPU has too little."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import config, make_loop, train, write_recording

from band.config import to_dict
from band.sizes import Sizes, training_bytes
from band.train.memory import CONTEXT_BYTES, trials_at_once
from benchmarks.cases import predicted_bytes

GPU_TABLE = Path(__file__).parents[2] / "benchmarks" / "GPU.md"
STEPS = """
import sys
import torch
from benchmarks.step import ours, peak_bytes

torch.set_num_threads(1)
ours("small", 1)()
before = peak_bytes()
step = ours(sys.argv[1], int(sys.argv[2]), trials_at_once=int(sys.argv[3]))
for _ in range(3):
    step()
print(peak_bytes() - before)
"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("tiny") / "tiny.h5")


def test_what_a_gpu_was_measured_to_take_was_predicted():
    rows = re.findall(
        r"^\| ([\w-]+) \| (\d+) \|.*\| (\d+) \|$", GPU_TABLE.read_text().partition("## Paths")[0], re.MULTILINE
    )
    large = [(name, int(members), int(mib)) for name, members, mib in rows if int(mib) >= 1024]
    assert len(large) >= 10
    for name, members, mib in large:
        assert 0.75 < predicted_bytes(name, members) / (mib * 2**20) < 1.33, f"{members} x {name}: {mib} MiB measured"


def test_what_a_gpu_was_measured_to_take_in_pieces_was_predicted():
    table = GPU_TABLE.read_text().partition("## Fewer trials at once")[2].partition("##")[0]
    rows = re.findall(r"^\| ([\w-]+) \| (\d+) \| (\d+) \| [\d.]+ \| [\d.]+ \| (\d+) \| \d+ \|", table, re.MULTILINE)
    assert len(rows) >= 12
    for name, *numbers in rows:
        members, trials, mib = map(int, numbers)
        predicted = predicted_bytes(name, members, trials_at_once=trials)
        assert 0.85 < predicted / (mib * 2**20) < 1.2, f"{members} x {name}, {trials} at once: {mib} MiB measured"


@pytest.mark.parametrize(("name", "members", "at_once"), [("large", 2, 0), ("large", 2, 32), ("maze", 8, 16)])
def test_what_a_process_takes_was_predicted(name, members, at_once):
    command = [sys.executable, "-c", STEPS, name, str(members), str(at_once)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=GPU_TABLE.parents[1])
    assert done.returncode == 0, done.stderr
    assert 0.85 < predicted_bytes(name, members, trials_at_once=at_once) / int(done.stdout) < 1.35


def test_in_pieces_training_comes_to_the_same_but_for_rounding(recording):
    common = {"dtype": "float64", "max_epochs": 12, "batch_size": 8}
    (whole, _), (pieces, _) = (
        train(recording, {"a": config(seed=3, behavior_weight=0.5, train={**common, "trials_at_once": n})})["a"]
        for n in (0, 3)
    )
    assert not torch.equal(whole, pieces), "another order of sums is meant to show"
    assert float((whole - pieces).norm() / whole.norm()) < 1e-10


def test_a_gpu_with_too_little_memory_has_fewer_trials_at_once_and_what_is_configured_counts(recording, capsys):
    loop = make_loop(recording, {"a": config(train={"batch_size": 16})})
    trials, run = loop._trials, config(train={"batch_size": 16})
    assert trials_at_once(run, trials, members=64) == 0, "a CPU is not asked"
    assert trials_at_once(run, trials, members=64, gpu_bytes=80 * 2**30) == 0
    assert not capsys.readouterr().out
    need = training_bytes(to_dict(run), _sizes_of(trials), members=64, is_recorded=True)
    tight = int((CONTEXT_BYTES + 0.99 * need) / 0.9)
    assert trials_at_once(run, trials, members=64, gpu_bytes=tight) == 8
    assert "64 members are too much for 0.7 GiB: 8 trials at once" in capsys.readouterr().out
    assert trials_at_once(run, trials, members=10**6, gpu_bytes=tight) == 4, "it is tried all the same"
    given = config(train={"batch_size": 16, "trials_at_once": 5})
    assert trials_at_once(given, trials, members=64, gpu_bytes=tight) == 5


def _sizes_of(trials) -> Sizes:
    (session,), widths = trials.sessions, trials.widths
    counts = {name: len(session.split(name, 0)) for name in ("train", "valid", "test")}
    return Sizes(
        **counts, bins=widths.num_bins, recon_bins=widths.num_recon_bins, neurons=widths.num_neurons[0],
        recon_neurons=widths.num_recon_neurons[0], behavior=widths.behavior_dim, external=0,
    )  # fmt: skip
