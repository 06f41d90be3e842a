"""One task to the finished folders of all its runs: one population after the other."""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from band.config import run_config_from_dict
from band.errors import ConfigError
from band.train.augmentations import augmentations_of
from band.train.pbt import SearchSession
from band.train.session import EventSink, Session, is_finished
from band.train.shards import Launch
from band.train.trials import Trials

STOPPED = 4
ALONE = Launch()


def train_task(
    task: Mapping[str, Any],
    *,
    work: Path,
    data: Path,
    runs: Sequence[str],
    events: EventSink,
    commands: queue.SimpleQueue[str],
    launch: Launch = ALONE,
) -> int:
    """Train runs of a task until each has a finished folder `work/runs/RUN_ID`; return the worker's exit code.

    Args:
        task: content of task.json.
        work: folder for checkpoints and finished runs; continues from what it holds.
        data: the staged recording.
        runs: ids to train, all of the task or some.
        events: receives started, epoch, checkpoint, run_finished.
        commands: `checkpoint` and `stop`, looked at between steps.
        launch: how processes that share a search are found.

    Raises:
        BandError: a run is not in the task, the recording breaks a rule, a checkpoint is of another configuration.
    """
    known = {run["id"]: run_config_from_dict(run["config"]) for run in task["runs"]}
    if missing := [run for run in runs if run not in known]:
        raise ConfigError(f"task {task['task']} has no run {missing[0]}; it has {', '.join(known)}")
    torch.set_num_threads(int(task.get("threads", 1)))
    device = launch.device(task.get("device", "cpu"))
    configs = {run: known[run] for run in runs}
    torch.set_float32_matmul_precision(configs[runs[0]].train.matmul_precision)
    for key in ("augmentations", "inference_augmentations"):
        augmentations_of(list(configs.values()), key)  # one that is not there is told before anything is trained
    trials = Trials.load(data, list(configs.values()), device=device)
    # What this process has finished is the supervisor's from then on, who publishes it and takes the folder away.
    finished = {run for run in runs if is_finished(work / "runs" / run)}
    while pending := [run for run in runs if run not in finished]:
        searches = [run for run in pending if configs[run].pbt.members]
        kind = SearchSession if searches else Session
        session = kind(task, trials, configs, work, device, events, commands, launch)
        if not session.train(searches[:1] or pending):
            return STOPPED
        finished |= session.finished
    return 0
