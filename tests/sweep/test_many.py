"""Many at once: tasks that write events side by side while somebody looks, users on one scratch, drawn parameters."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from band.run_dir import ScratchDir, SweepDir
from band.sweep.collect import PublishedRun
from band.sweep.effects import effects
from band.sweep.fold import read_folds

WRITERS, EPOCHS = 100, 40
# One small process that forks a hundred, for each of them to write a stream of its own.
WRITE = """
import os, sys
from pathlib import Path
from band.run_dir import EventWriter, SweepDir
sweep, writers, epochs = SweepDir(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
pids = []
for number in range(writers):
    pid = os.fork()
    if not pid:
        task, run = f"{number + 1:04d}", f"run-{number}"
        stream = EventWriter(sweep.event_file(task, attempt=f"j7_{number}-r0"))
        good = stream.write("started", runs=[run])
        for epoch in range(epochs):
            good = stream.write("epoch", runs={run: {"epoch": epoch, "max_epochs": epochs}}) and good
        good = stream.write("published", run=run, outcome="ok") and stream.write("ended", code=0) and good
        os._exit(0 if good else 1)
    pids.append(pid)
sys.exit(sum(os.waitpid(pid, 0)[1] != 0 for pid in pids))
"""
# Users, each in a process of his own, look for scratch in one folder that all may write in and stage a recording.
STAGE = """
import json, os, sys
from pathlib import Path
from band.node import scratch
from band.node.stage import staged
from band.run_dir import SweepDir
root, dataset = Path(sys.argv[1]), json.loads(sys.argv[2])
scratch.ROOTS = (str(root),)
pids = []
for user in map(int, sys.argv[3:]):
    pid = os.fork()
    if not pid:
        os.setgid(user)
        os.setuid(user)
        found = scratch.find_scratch(SweepDir(root / "none"), environment={"USER": f"user{user}"})
        with staged(dataset, scratch=found.scratch) as copy:
            whole = copy.copied and copy.path.read_bytes() == Path(dataset["path"]).read_bytes()
        os._exit(0 if whole else 1)
    pids.append(pid)
sys.exit(sum(os.waitpid(pid, 0)[1] != 0 for pid in pids))
"""


def environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}


def test_what_a_hundred_tasks_write_at_once_is_read_right_while_they_do(tmp_path: Path) -> None:
    sweep = SweepDir(tmp_path)
    sweep.events.mkdir()
    command = [sys.executable, "-c", WRITE, str(tmp_path), str(WRITERS), str(EPOCHS)]
    process = subprocess.Popen(command, env=environment())
    folds, seen, looks_between = {}, {}, 0
    while process.poll() is None:
        folds = read_folds(sweep, known=folds)
        looks_between += any(len(fold.epochs) > 0 and fold.code is None for fold in folds.values())
        for stem, fold in folds.items():
            epochs = [epoch for epoch, _ in fold.epochs.values()]
            assert set(fold.phases) <= {f"run-{int(fold.task) - 1}"}, "a stream tells of its own run alone"
            assert max(epochs, default=-1) >= seen.get(stem, -1), "epochs do not go back"
            seen[stem] = max(epochs, default=-1)
        time.sleep(0.005)
    assert process.returncode == 0 and looks_between
    for found in (read_folds(sweep, known=folds), read_folds(sweep)):
        assert len(found) == WRITERS
        for fold in found.values():
            run = f"run-{int(fold.task) - 1}"
            assert (fold.phases, fold.epochs, fold.code) == ({run: "published"}, {run: [EPOCHS - 1, EPOCHS]}, 0)


def test_ten_users_share_a_scratch_and_each_has_a_verified_copy_that_is_his_alone() -> None:
    users = list(range(61000, 61010)) if os.getuid() == 0 else [os.getuid()]  # only root can be others
    with tempfile.TemporaryDirectory() as name:  # not pytest's folder, into which no other user may look
        place, root = Path(name), Path(name, "scratch")
        place.chmod(0o755)
        root.mkdir()
        root.chmod(0o1777)
        recording = place / "recording.h5"
        recording.write_bytes(b"spikes" * 1000)
        digest = hashlib.sha256(recording.read_bytes()).hexdigest()
        dataset = {"path": str(recording), "file_digest": digest, "size_bytes": recording.stat().st_size}
        command = [sys.executable, "-c", STAGE, str(root), json.dumps(dataset), *map(str, users)]
        assert subprocess.run(command, env=environment(), timeout=60).returncode == 0
        assert sorted(path.name for path in root.iterdir()) == [f"user{user}" for user in users]
        for user in users:
            own = ScratchDir(root / f"user{user}" / "band")
            copy = own.dataset(digest) / "recording.h5"
            assert (own.path.stat().st_uid, own.path.stat().st_mode & 0o777) == (user, 0o700)
            assert copy.stat().st_uid == user and copy.read_bytes() == recording.read_bytes()


class Counted(dict[str, int]):
    """Counts how often the trials of a split are asked for."""

    reads = 0

    def __getitem__(self, key: str) -> int:
        Counted.reads += 1
        return super().__getitem__(key)


def reads_for(count: int) -> int:
    """Return how often the effects of a parameter that was drawn for each of so many runs look at a run."""
    split = Counted(test=20, train=80)
    runs = [
        PublishedRun(
            id=f"r{n}", folder=Path(f"r{n}"), session="maze", outcome="ok", split=split, training={},
            parameters={"hyper.behavior_weight": 0.0, "hyper.lr": 0.001 + n, "data.fold": 0, "seed": 0},
            scores={"test": {"bits_per_spike": 0.1 * n}},
        )
        for n in range(count)
    ]  # fmt: skip
    Counted.reads = 0
    (found,) = effects(runs, ["bits_per_spike"])
    assert found.rank_correlation == pytest.approx(1) and not found.steps
    return Counted.reads


def test_effects_of_a_drawn_parameter_cost_no_more_than_linearly_many_looks_at_runs() -> None:
    assert reads_for(160) <= 4 * max(reads_for(40), 1)
