"""What is fuzzed: each target takes any bytes, makes a file or an answer of them, and does with it what a command does.

The first byte chooses: even, the rest is the input as it stands; odd, the rest says how a valid one is to be changed. A
target may return or raise a BandError; whatever else comes out of it is a finding.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np

from band.attempts import Attempt, read_claim
from band.bridge.checkpoint import read_checkpoint
from band.bridge.convert import convert, run_config, values_of
from band.bridge.hydra import read_config
from band.bridge.pbt import read_pbt
from band.bridge.sweep_file import pbt_text, sweep_text
from band.bridge.values import plain as foreign_plain
from band.cli import logs as cli_logs
from band.cli import status as cli_status
from band.cli.common import print_json, printable, say
from band.cli.progress import as_json
from band.config import RunConfig, to_dict
from band.data import hdf5, inspect, recording
from band.errors import BandError
from band.files import canonical_json
from band.node.checkpoints import task_events
from band.node.course import Course
from band.node.job import Skip, Timing, read_task
from band.node.stop import StopRequest
from band.run_dir import SweepDir, absent_files, read_result, verify
from band.slurm import cluster, jobs, share
from band.slurm.options import OPTIONS, arguments, directives, merge, num_gpus, num_processes
from band.slurm.template import read_template
from band.slurm.user_config import read_user_config
from band.sweep import collect, control, manifest, plan, status
from band.sweep.fold import by_task
from band.sweep.grid import single_run
from band.sweep.journal import read_journals
from band.sweep.ledger import read_intents
from band.sync import choice, connection, far_sweep, rsync, sources
from band.sync.merge import merge as merge_manifests
from fuzz.mutate import ODD, changed, encoded, spliced

RUNS = ("band-0001", "lfads-0002")
COLOUR = re.compile(r"\x1b\[[0-9;]{0,20}m")  # what a terminal may be told


@dataclass(frozen=True, kw_only=True)
class Target:
    """One reader, or a few that read the same kind of thing."""

    what: str
    seeds: tuple[bytes, ...]  # valid inputs
    prepare: Callable[[Path], Callable[[bytes], None]]  # takes an empty folder, returns what takes an input
    structured: Callable[[bytes], bytes]  # an input from bytes that say how a valid one is to be changed

    def start(self, folder: Path) -> Callable[[bytes], None]:
        """Return what takes any bytes; `folder` is its to write in, and becomes the current one."""
        os.chdir(folder)
        os.environ |= {"HOME": str(folder), "BAND_SCRATCH": str(folder / "scratch"), "XDG_CONFIG_HOME": str(folder)}
        take = self.prepare(folder)

        def one(data: bytes) -> None:
            with suppress(BandError):
                take(data[1:] if not data or data[0] % 2 == 0 else self.structured(data[1:]))

        return one

    @property
    def corpus(self) -> list[bytes]:
        """Return what to begin with."""
        return [*(b"\0" + seed for seed in self.seeds), b"\1", b"\1\0\1\2\3"]


class NoScheduler:
    """Knows no task."""

    def task_states(self, tasks: object) -> Mapping[str, status.TaskState]:
        """Return nothing."""
        return {}

    def endings(self, tasks: object) -> Mapping[str, status.TaskState]:
        """Return nothing."""
        return {}


# --- what is valid ----------------------------------------------------------------------------------------------------


def _config() -> dict[str, Any]:
    return to_dict(RunConfig())


def _manifest_lines() -> list[dict[str, Any]]:
    dataset = {"path": "/data/maze.h5", "digest": "d" * 64, "file_digest": "f" * 64, "size_bytes": 1, "shapes": {}}
    head = {
        "kind": "sweep",
        "schema": 1,
        "name": "maze",
        "base": _config(),
        "datasets": [dataset],
        "source": "maze.yaml",
    }
    head |= {"set": ["seed=1"], "options": {"submit": {"sbatch": {"mem": "1G"}}}}
    overrides = ({"hyper.behavior_weight": 1.0}, {"seed": 1})
    rows = [
        {"kind": "run", "id": run, "dataset": 0, "overrides": values, "retired": False}
        for run, values in zip(RUNS, overrides, strict=True)
    ]
    return [head, *rows]


def _json_lines(values: Any) -> bytes:
    rows = values if isinstance(values, list) else [values]
    return b"\n".join(encoded(row) for row in rows) + b"\n"


def _signed(data: bytes) -> bytes:
    """Return the lines of a manifest with the digest that belongs to them, where the first can have one."""
    first, *lines = data.decode().splitlines()
    try:
        head = dict(json.loads(first))
        head.pop("digest", None)
        digest = manifest._digest(head, lines)
    except (ValueError, TypeError):
        return data
    return "\n".join([json.dumps({**head, "digest": digest}), *lines, ""]).encode()


def _sweep(folder: Path) -> SweepDir:
    sweep = SweepDir(folder / "sweeps/maze")
    for path in (sweep.runs, sweep.events, sweep.tasks / "0001", sweep.submissions / "0001", sweep.index, sweep.sync):
        path.mkdir(parents=True)
    sweep.manifest.write_bytes(_signed(_json_lines(_manifest_lines())))
    (sweep.submissions / "0001/intent.json").write_bytes(encoded(_intent()))
    return sweep


def _intent() -> dict[str, Any]:
    return {
        "schema": 1,
        "action": "submit",
        "t": 1.0,
        "scheduler": "local",
        "runs": list(RUNS),
        "tasks": {"0001": list(RUNS)},
        "failures": {RUNS[0]: ["0001.a"]},
        "options": {"sbatch": {}},
    }


def _result() -> dict[str, Any]:
    scores = {"bits_per_spike": 0.1, "behavior_r2": None}
    return {
        "schema": 1,
        "run_id": RUNS[0],
        "config": _config(),
        "dataset": {"path": "/data/maze.h5", "digest": "d" * 64},
        "training": {"outcome": "ok", "reason": "", "epochs": 3, "steps": 9, "best_epoch": 2, "seconds": 1.5},
        "scores": {"train": scores, "valid": scores, "test": scores},
        "split": {"train": 2, "valid": 1, "test": 1, "how": "shipped"},
        "provenance": {
            "code": "c" * 64,
            "versions": {"torch": "2.6"},
            "host": "n1",
            "threads": 1,
            "packing": [RUNS[0]],
        },
        "manifest": {"metrics.csv": {"size": 3, "sha256": hashlib.sha256(b"a,b").hexdigest()}},
    }


def _events() -> list[dict[str, Any]]:
    both = list(RUNS)
    epoch = {run: {"epoch": 1, "max_epochs": 9, "valid_recon": 0.5} for run in both}
    events: list[dict[str, Any]] = [
        {"event": "claimed", "claim": 0, "attempt": "a", "host": "n1", "pid": 3},
        {"event": "staged", "path": "/x", "source": "scratch", "copied": True, "reason": ""},
        {"event": "started", "runs": both, "step": 0},
        {"event": "epoch", "runs": epoch, "steps_per_s": 2.0},
        {"event": "checkpoint", "step": 5, "slot": 0, "sha256": "a" * 64, "size": 9, "runs": both},
        {
            "event": "split",
            "runs": both,
            "parts": [[RUNS[0]], [RUNS[1]]],
            "error": "E",
            "message": "m",
            "traceback": "",
        },
        {"event": "rehearsed", "share": 0.5, "train_s": 1.0, "outputs_s": 0.5},
        {"event": "run_finished", "run": RUNS[0], "outcome": "ok"},
        {"event": "published", "run": RUNS[0], "outcome": "ok"},
        {"event": "failed", "runs": [RUNS[1]], "error": "CudaError", "message": "no", "traceback": "T"},
        {"event": "interrupted", "reason": "time", "requeued": True},
        {"event": "ended", "code": 1},
    ]
    return [{**event, "t": 100.0 + place} for place, event in enumerate(events)]


def _task() -> dict[str, Any]:
    dataset = {"path": "/data/maze.h5", "digest": "d" * 64, "file_digest": "f" * 64, "size_bytes": 9}
    runs = [{"id": run, "config": _config()} for run in RUNS]
    return {
        "schema": 1,
        "sweep": "maze",
        "task": "0001",
        "runs": runs,
        "populations": [[run] for run in RUNS],
        "dataset": dataset,
        "threads": 1,
        "device": "cpu",
    }


SWEEP = {
    "name": "maze",
    "base": {
        "data": {"path": "r.h5"},
        "arch": {"behavior_decoder": "bin"},
        "hyper": {"lr": 0.001},
        "train": {"batch_size": 2, "max_epochs": "${train.stop_patience}"},
    },
    "grid": {"hyper.cd_rate": [0.1, 0.3]},
    "zip": {"hyper.jitter_width": [0, 1], "hyper.l2_gen_scale": [0.1, "${oc.env:SCALE,0.2}"]},
    "random": {"n": 2, "seed": 1, "hyper.lr": {"loguniform": [1e-4, 1e-2]}},
    "seeds": 2,
    "pair": {"behavior_weight": [1.0]},
    "exclude": [{"seed": 0, "hyper.cd_rate": 0.1}],
    "datasets": ["r.h5"],
    "pack": {"size": 2},
    "cluster": {"partition": "cpu"},
    "submit": {"sbatch": {"mem": "1G"}, "max_parallel": 3},
    "policy": {"OutOfMemory": 2},
}
SWEEP_TEXT = b"""# a sweep
name: maze
base: &b
  data: {path: r.h5}
  hyper: {lr: 1e-3}
  train: {batch_size: 2}
list:
- {hyper.lr: 1e-2, seed: 3}
- {hyper.lr: "${oc.env:RATE,0.5}"}
exclude:
- {seed: 7}
"""
TEMPLATE = b"""#!/bin/bash
# a cluster
#SBATCH --partition=gpu --mem=4G
#SBATCH -c 2 -t "1-12:00:00" # so
#SBATCH --gres=gpu:a100:1,shard:2
module load python || exit 72
#SBATCH --late
"""
USER = b"""cluster: eddie
sbatch: {account: lab}
clusters:
  eddie: {sbatch: {mem: 1G}, setup: [module load x]}
hosts: {h: {path: x}}
"""


# --- targets ----------------------------------------------------------------------------------------------------------


def _sweep_yaml(folder: Path) -> Callable[[bytes], None]:
    _recording_file(folder / "r.h5")
    path = folder / "s.yaml"

    def take(data: bytes) -> None:
        path.write_bytes(data)
        try:
            plan.make_plan(path)
        except BandError:
            single_run(path)

    return take


def _template(folder: Path) -> Callable[[bytes], None]:
    template, user = folder / "t.sh", folder / "config.yaml"

    def take(data: bytes) -> None:
        user.write_bytes(data)
        try:
            layers = read_user_config(user).layers("eddie")
        except BandError:
            layers = []
        template.write_bytes(data)
        found = read_template(template)
        options = merge([("template", found.sbatch), *layers])
        assert all("\n" not in word for word in arguments(options))
        for line in directives(options):
            assert line.startswith("#SBATCH --") and line.isprintable(), line
        num_gpus(options), num_processes(options)

    return take


def _structured_template(data: bytes) -> bytes:
    names, texts = list(OPTIONS), [str(value) for value in ODD]
    lines = [b"#!/bin/bash"]
    for start in range(0, min(len(data), 30) - 2, 3):
        name, value, form = names[data[start] % len(names)], texts[data[start + 1] % len(texts)], data[start + 2]
        text = (f"--{name}={value}", f"--{name} '{value}'", f'--{name}="{value}"', f"-{name[0]}{value}")[form % 4]
        lines.append(f"#SBATCH {text}".encode("utf-8", "surrogatepass"))
    return b"\n".join(lines)


def _recording_file(path: Path, **more: Any) -> bytes:
    counts = np.random.default_rng(0)
    with h5py.File(path, "w", **more) as file:
        for split, trials in (("train", 9), ("valid", 4)):
            spikes = counts.poisson(2.0, (trials, 3, 2)).astype(np.float32)
            file[f"{split}_encod_data"] = spikes
            file.create_dataset(f"{split}_recon_data", data=spikes, chunks=(2, 3, 2), compression="gzip")
            file[f"{split}_behavior"] = np.zeros((trials, 3, 2), np.float32)
            file[f"{split}_cond"] = np.array(["a"] * trials, dtype=object)
        file.attrs["bin_ms"] = 10.0
    return path.read_bytes()


def _recording_seeds() -> tuple[bytes, ...]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return tuple(_recording_file(Path(folder) / "r.h5", **more) for more in ({}, {"libver": "latest"}))


def _hdf5(folder: Path) -> Callable[[bytes], None]:
    path = folder / "r.h5"
    hdf5.TEXT_S = 3.0  # HDF5 never comes back from some heaps, and one input has ten seconds

    def take(data: bytes) -> None:
        path.write_bytes(data)
        try:
            recording.open_sessions(path, missing="mask")
        except BandError:
            found = inspect.inspect(path)
            json.dumps([inspect.lines(found), found], allow_nan=False)

    return take


def _manifests(folder: Path) -> Callable[[bytes], None]:
    sweep = _sweep(folder)
    home = manifest.read_manifest(sweep.path)

    def take(data: bytes) -> None:
        sweep.manifest.write_bytes(data)
        found = manifest.read_manifest(manifest.find_sweep(sweep.path))
        for run in found.runs:
            collect.flatten(found.run_config(run))
        survey = status.take_survey(sweep, found, scheduler=NoScheduler())
        _show(survey, sweep)
        manifest.manifest_text(merge_manifests(home, found))

    return take


def _results(folder: Path) -> Callable[[bytes], None]:
    sweep = _sweep(folder)
    place = sweep.run(RUNS[0])
    place.mkdir()
    (place / "metrics.csv").write_bytes(b"a,b")

    def take(data: bytes) -> None:
        try:
            values = json.loads(data)
            values.pop("digest", None)
            values["digest"] = hashlib.sha256(canonical_json(values)).hexdigest()
            data = canonical_json(values)
        except (ValueError, AttributeError, RecursionError, TypeError):
            pass
        (place / "result.json").write_bytes(data)
        (place / ".absent.json").write_bytes(data)
        absent_files(place)
        try:
            verify(place)
        except BandError:
            read_result(place)
        collect.write_results(collect.collect(sweep.path), into=folder)

    return take


def _tasks(folder: Path) -> Callable[[bytes], None]:
    sweep = _sweep(folder)
    path = sweep.task("0001").task_json
    path.write_bytes(encoded(_task()))
    task = read_task(path)

    def take(data: bytes) -> None:
        for name in ("skip.json", "claim.3.json", "task.json"):
            path.with_name(name).write_bytes(data)
        with suppress(BandError):
            read_task(path)
        with suppress(BandError):
            Skip(task)
        read_claim(path.parent)

    return take


def _ledgers(folder: Path) -> Callable[[bytes], None]:
    sweep = _sweep(folder)

    def take(data: bytes) -> None:
        first, _, rest = data.partition(b"\n")
        (sweep.submissions / "0001/intent.json").write_bytes(first)
        (sweep.submissions / "0001/journal.jsonl").write_bytes(rest)
        try:
            read_journals(sweep)
        except BandError:
            read_intents(sweep)
        found = manifest.read_manifest(sweep.path)
        _show(status.take_survey(sweep, found, scheduler=NoScheduler()), sweep)

    return take


def _journal() -> list[dict[str, Any]]:
    queued = {"t": 2.0, "array": 1, "step": "queued", "job_id": "17"}
    intent = {
        "t": 1.0,
        "array": 1,
        "step": "intent",
        "token": "b",
        "tasks": ["0001"],
        "script": "array.1.sh",
        "throttle": 2,
    }
    return [intent, queued, {"t": 3.0, "array": 1, "step": "released"}]


def _event_streams(folder: Path) -> Callable[[bytes], None]:
    sweep = _sweep(folder)
    found = manifest.read_manifest(sweep.path)
    stream, index = sweep.event_file("0001", attempt="j7_0-r0"), sweep.index / "0001.jsonl"
    sweep.task("0001").task_json.write_bytes(encoded(_task()))
    task = read_task(sweep.task("0001").task_json)
    job: Any = SimpleNamespace(task=task, sweep=sweep, attempt=Attempt.current(), skip=Skip(task), timing=Timing())
    course = Course(job, command=[], stop=StopRequest(), why_home="")

    def take(data: bytes) -> None:
        stream.write_bytes(data)
        index.write_bytes(data)
        _show(status.take_survey(sweep, found, scheduler=NoScheduler()), sweep)
        streams = task_events(job)
        course.checkpoints.learn(event for events in streams for event in events)
        course._shall_leave(streams)
        course._parts(streams)

    return take


def _show(survey: status.Survey, sweep: SweepDir) -> None:
    """Print a survey in every form that takes no terminal."""
    words = cli_status._text(survey, sweep=sweep, trouble="", rows=list(survey.runs))
    with redirect_stdout(io.StringIO()) as shown:
        say(words)
        plain = COLOUR.sub("", shown.getvalue())
        assert plain == printable(plain), "what can command a terminal is printed"
        print_json(cli_status._json(survey, sweep=sweep, trouble=""))
        print_json({run: as_json(one) for run, one in survey.runs.items()})
    by_task(survey.folds.values())
    cli_logs._attempts(survey)


def _slurm(folder: Path) -> Callable[[bytes], None]:
    said = ""

    def run(argv: Sequence[str], **_: object) -> str:
        return said

    jobs.run = cluster.run = share.run = run  # type: ignore[assignment,attr-defined]

    def take(data: bytes) -> None:
        nonlocal said
        said = data.decode("utf-8", "replace")
        for ask in (
            *(jobs.queued, lambda: jobs.accounted(["1"]), lambda: jobs.has_ended("1", 0, restart=0)),
            *(lambda: cluster.limits("cpu"), share.own_use, share.shares),
        ):
            try:
                ask()
            except BandError:
                continue

    return take


def _structured_slurm(data: bytes) -> bytes:
    columns = {name: list(values) for name, values in _SLURM.items()}
    sep = {"queue": jobs.SEPARATOR, "accounts": jobs.SEPARATOR, "rules": "|"}
    lines = []
    for start in range(0, len(data[:64]), 8):
        part = data[start : start + 8]
        kind = list(columns)[part[0] % len(columns)]
        row = changed(columns[kind], part[1:])
        row = row if isinstance(row, list) else [row]
        lines.append(sep.get(kind, " ").join(str(value) for value in row))
    return "\n".join(lines).encode("utf-8", "replace")


_SLURM: dict[str, tuple[str, ...]] = {
    "queue": (
        "7",
        "0-3%2",
        "PENDING",
        "me",
        "cpu",
        "1700000000",
        "N/A",
        "N/A",
        "1:00:00",
        "Priority",
        "0",
        "0",
        "",
        "b-1",
    ),
    "accounts": (
        "7_[0-3]",
        "CANCELLED by 5",
        "me",
        "cpu",
        "2024-01-01T00:00:00",
        "1",
        "2",
        "1:00",
        "None",
        "1:9",
        "n1",
        "b",
    ),
    "job": ("JobId=7", "JobName=b", "JobState=PENDING", "Restarts=1", "Reason=None", "EndTime=1700000000"),
    "partition": ("PartitionName=cpu", "Default=YES", "MaxTime=1-0", "TotalCPUs=4", "TotalNodes=2", "PriorityTier=1"),
    "node": ("NodeName=n1", "State=IDLE", "CPUTot=4", "CPUAlloc=0", "RealMemory=100", "Gres=gpu:a100:2(S:0-1)"),
    "rules": ("lab", "cpu", "normal", "normal", "10", "", "5", "1-0"),
    "config": ("MaxArraySize            = 1001", "\nMaxJobCount = 10"),
}


def _checkpoint_bytes(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("c/data.pkl", content)
        archive.writestr("c/byteorder", b"little")
        archive.writestr("c/data/0", bytes(16))
    return made.getvalue()


class _Storage:
    """Pickles as a storage of torch."""


class _Pickler(pickle.Pickler):
    """Writes what torch.save writes, without torch."""

    def persistent_id(self, value: Any) -> Any:
        """Return the id of a storage."""
        return ("storage", _named("torch FloatStorage"), "0", "cpu", 4) if isinstance(value, _Storage) else None


class _Called:
    """Pickles as a call."""

    def __init__(self, name: str, *values: Any) -> None:
        self.name, self.values = name, values


_MADE: dict[str, Any] = {}


def _named(name: str) -> Any:
    """Return a stand-in for a name that need not be importable."""
    return _MADE.setdefault(name, name)


def _pickled() -> tuple[bytes, ...]:
    """Return pickles as torch.save writes them: texts, numbers, and by hand a tensor, a class and a call."""
    plain = {
        "epoch": 3,
        "global_step": 9,
        "pytorch-lightning_version": "2.6.0",
        "hyper_parameters": {"lr": 0.1, "s": {1}},
    }
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
        b"K\0(K\x02K\x02t(K\x02K\x01t\x89NtR"
    )
    state = (
        b"\x80\x02}(X\x0a\0\0\0state_dict}(X\x01\0\0\0w"
        + tensor
        + b"uX\x05\0\0\0epochK\x03uX\x0b\0\0\0global_stepK\x09s."
    )
    objects = b"\x80\x02}X\x10\0\0\0hyper_parameterscmade.up\nPrior\n)\x81}X\x01\0\0\0aK\x01sbs."
    called = b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R."
    return (pickle.dumps(plain, 2), pickle.dumps(plain, 4), pickle.dumps(plain, 0), state, objects, called)


def _checkpoints(folder: Path) -> Callable[[bytes], None]:
    path = folder / "x.ckpt"

    def take(data: bytes) -> None:
        path.write_bytes(data)
        try:
            found = read_checkpoint(path)
        except BandError:
            path.write_bytes(_checkpoint_bytes(data))
            found = read_checkpoint(path)
        foreign_plain(found.hyper_parameters)

    return take


FOREIGN = b"""
model: {_target_: lfads_torch.model.LFADS, encod_data_dim: 4, recon_data_dim: "${model.encod_data_dim}", lr_init: 1e-3}
datamodule: {_target_: lfads_torch.datamodules.BasicDataModule, batch_size: 9, data_paths: ["x*.h5"]}
trainer: {max_epochs: 9}
seed: 1
"""
PBT = b"""import ray
HYPER = {"lr_init": {"init": 1e-3, "min": 1e-5, "max": 1e-2, "explore_wt": 0.3}}
space = {"model.lr_init": tune.loguniform(1e-4, 1e-2), **dict(a=1)}
scheduler = PopulationBasedTraining(hyperparam_mutations=space, perturbation_interval=5)
tune.run(run_model, num_samples=20, config=space, stop={"training_iteration": 3})
"""


def _foreign(folder: Path) -> Callable[[bytes], None]:
    path, script = folder / "single.yaml", folder / "run_pbt.py"

    def take(data: bytes) -> None:
        script.write_bytes(data)
        try:
            pbt_text(read_pbt(script), source="run_pbt.py", base=None)
        except BandError:
            path.write_bytes(data)
            fates = convert(read_config([path]))
            sweep_text(fates, sources=["single.yaml"])
            run_config(values_of(fates))

    return take


def _answers(folder: Path) -> Callable[[bytes], None]:
    sweep = _sweep(folder)

    class Far:
        """A machine that answers anything."""

        host = "far"
        config = read_user_config(folder / "none.yaml").hosts.get("far", connection.HostConfig())
        answer = b""

        def call(self, operation: str, **request: Any) -> dict[str, Any]:
            """Return the answer as it would be read."""
            return connection.read_answer(self.answer, host=self.host)

    far = Far()

    def take(data: bytes) -> None:
        (sweep.sync / "sources.json").write_bytes(data)
        try:
            for source in sources.read_sources(sweep):
                assert "/" not in source.name
        except BandError:
            pass
        far.answer = data
        found = far_sweep.look(far, "x", known={}, manifest="", has_logs=True)  # type: ignore[arg-type]
        for run in found.runs.values():
            assert all("/" not in name for name in (run.id, *(run.files or ())))
        if found.manifest is not None:
            manifest.parse_manifest(found.manifest, path=Path("far"))

    return take


def _answer() -> dict[str, Any]:
    run = {"sha256": "a" * 64, "size": 9, "outcome": "ok", "files": {"model.pt": [3, "b" * 64]}, "absent": ["model.pt"]}
    text = _signed(_json_lines(_manifest_lines())).decode()
    listing = {"path": "/x", "manifest": text, "sweep_yaml": "a: 1", "runs": {RUNS[0]: run}, "bad": {"x": "why"}}
    listing |= {"logs": [["a.log", 3]], "tasks": {"0001": RUNS[:1]}}
    return {**listing, "schema": 1, "sources": [{"host": "far", "path": "/x"}]}


def _filters(folder: Path) -> Callable[[bytes], None]:
    found = manifest.read_manifest(_sweep(folder).path)

    def take(data: bytes) -> None:
        words = data.decode("utf-8", "surrogateescape").split("\n")
        for read in (
            lambda: choice.Choice(where=choice.parse_where(words)).runs(found),
            lambda: control.match_runs(found, words),
            lambda: [connection.parse_place(word) for word in words],
            lambda: [rsync.check_rate(word) for word in words],
            lambda: [choice.parse_list(word, choices=choice.PARTS, what="--parts") for word in words],
            lambda: plan.make_plan(folder / "s.yaml", sets=words),
        ):
            try:
                read()
            except BandError:
                continue

    (folder / "s.yaml").write_bytes(encoded({"base": {"data": {"path": "r.h5"}}}))
    _recording_file(folder / "r.h5")
    return take


_WORDS = [
    "hyper.lr=1e-3,0.004",
    "seed=1",
    "data.path=*",
    "band-*",
    "band-0001",
    "me@far:x/y",
    "10M",
    "outputs,all",
    "grid.seed=[1]",
]


def _lines(words: Any) -> bytes:
    words = words if isinstance(words, list) else [words]
    return "\n".join(str(word) for word in words).encode("utf-8", "surrogatepass")


def _from_json(document: Any) -> Callable[[bytes], bytes]:
    return lambda data: encoded(changed(document, data))


def _from_lines(document: list[Any]) -> Callable[[bytes], bytes]:
    return lambda data: _json_lines(changed(document, data))


def _from_seeds(seeds: Sequence[bytes]) -> Callable[[bytes], bytes]:
    return lambda data: spliced(seeds, data)


def _targets() -> dict[str, Target]:
    files, pickles = _recording_seeds(), _pickled()
    hydra, answer = (FOREIGN, PBT), _answer()
    slurm = tuple(_structured_slurm(bytes([place] + [0] * 7)) for place in range(len(_SLURM)))
    ledger = [_intent(), *_journal()]
    return {
        "sweep files": Target(
            what="sweep YAML: read, interpolated, expanded, checked",
            seeds=(SWEEP_TEXT, encoded(SWEEP)),
            prepare=_sweep_yaml,
            structured=_from_json(SWEEP),
        ),
        "templates": Target(
            what="cluster templates, the user's configuration: read, merged, written as directives",
            seeds=(TEMPLATE, USER),
            prepare=_template,
            structured=_structured_template,
        ),
        "recordings": Target(
            what="HDF5: opened, checked, inspected", seeds=files, prepare=_hdf5, structured=_from_seeds(files)
        ),
        "manifests": Target(
            what="manifest.jsonl: read, surveyed, merged with another",
            seeds=(_signed(_json_lines(_manifest_lines())),),
            prepare=_manifests,
            structured=lambda data: _signed(_json_lines(changed(_manifest_lines(), data))),
        ),
        "results": Target(
            what="result.json, .absent.json: verified, collected, written as a table",
            seeds=(encoded(_result()),),
            prepare=_results,
            structured=_from_json(_result()),
        ),
        "tasks": Target(
            what="task.json, skip.json, claims",
            seeds=(encoded(_task()), encoded({"attempt": asdict(Attempt.current()), "t": 1.0, "is_released": False})),
            prepare=_tasks,
            structured=_from_json(_task()),
        ),
        "ledgers": Target(
            what="intent.json, journals: read, surveyed",
            seeds=(_json_lines(ledger),),
            prepare=_ledgers,
            structured=_from_lines(ledger),
        ),
        "events": Target(
            what="event streams, their index: folded, shown as text and as JSON",
            seeds=(_json_lines(_events()),),
            prepare=_event_streams,
            structured=_from_lines(_events()),
        ),
        "Slurm": Target(
            what="answers of squeue, sacct, scontrol, sacctmgr, sshare",
            seeds=slurm,
            prepare=_slurm,
            structured=_structured_slurm,
        ),
        "checkpoints": Target(
            what="checkpoints of others: the archive, its pickle, its tensors",
            seeds=(*pickles, _checkpoint_bytes(pickles[3])),
            prepare=_checkpoints,
            structured=_from_seeds([*pickles, _checkpoint_bytes(pickles[3])]),
        ),
        "configurations": Target(
            what="configurations and run_pbt.py of others", seeds=hydra, prepare=_foreign, structured=_from_seeds(hydra)
        ),
        "other machines": Target(
            what="listings that another machine sends, sources.json",
            seeds=(encoded(answer),),
            prepare=_answers,
            structured=_from_json(answer),
        ),
        "filters": Target(
            what="--where, --set, run patterns, HOST:PATH and the like",
            seeds=(_lines(_WORDS),),
            prepare=_filters,
            structured=lambda data: _lines(changed(_WORDS, data)),
        ),
    }


TARGETS = _targets()
