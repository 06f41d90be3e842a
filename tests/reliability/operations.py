"""What changes files, operation by operation: how it begins, how it is done (again), and what a reader sees of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_sweep import make_sweep
from sealed_runs import write_run
from sweep_files import write_shapes, write_sweep

from band.attempts import Attempt, Claim, read_claim, take
from band.errors import BandError, PublishError
from band.files import (
    append_line,
    canonical_json,
    copy_tree_verified,
    copy_verified,
    create_exclusive,
    read_lines,
    rename_exclusive,
    sha256_file,
    whole_file,
    write_atomic,
)
from band.node.checkpoints import Checkpoints
from band.node.job import Job, Reporter, Skip, Timing, read_task
from band.node.publish import publish, publish_incoming
from band.node.scratch import prepare
from band.node.stage import staged
from band.run_dir import (
    RESULT,
    EventWriter,
    ScratchDir,
    SweepDir,
    absent_files,
    read_events,
    read_result,
    seal,
    verify,
)
from band.sweep.fold import AttemptFold, add_to_index, read_index
from band.sweep.journal import append, read_journal
from band.sweep.ledger import read_intents
from band.sweep.manifest import read_manifest
from band.sweep.pack import Room
from band.sweep.plan import make_plan, write_plan
from band.sweep.schedulers import scheduler_for
from band.sweep.snapshot import take_snapshot
from band.sweep.status import take_survey
from band.sweep.submit import plan, write
from band.sync.choice import DEFAULT_PARTS, Choice
from band.sync.connection import Place
from band.sync.far_sweep import FarFile, FarRun
from band.sync.holding import compare, finish_placing, has_come, settle
from band.sync.sources import Source, read_sources, remember

View = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation in a folder of its own; doing it again is what the product does after a crash."""

    name: str
    prepare: Callable[[Path], Any]
    act: Callable[[Path], Any]
    view: Callable[[Path], View]  # what there is for a reader; nothing in it that depends on the time
    is_gradual: bool = False  # whether a reader may see a part of its entries, each of them old or new
    duplicates: Callable[[Path], int] = lambda folder: 0


def attempt_of(pid: int) -> Attempt:
    """Return an attempt that this machine cannot see: its word alone says whether it is over."""
    return Attempt(host="elsewhere", boot_id="b" * 32, pid_namespace="1", pid=pid, start_ticks=1)


def nothing(folder: Path) -> None:
    """Begin with an empty folder."""


def is_temporary(path: Path) -> bool:
    """Return whether a file is what a killed writer may leave: hidden, and named as such."""
    return any(part.startswith(".") and part.endswith(".tmp") for part in path.parts)


def picture(folder: Path) -> View:
    """Return {path: sha256, or "folder"} of all below a folder but temporary files."""
    found: View = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not is_temporary(name):
            found[str(name)] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# --- the file layer --------------------------------------------------------------------------------------------------


def _old(folder: Path) -> None:
    (folder / "file").write_bytes(b"old" * 1000)


def _rename(folder: Path) -> None:
    if (folder / "source").exists():
        assert rename_exclusive(folder / "source", folder / "target")


def _a_folder(folder: Path) -> None:
    (folder / "source").mkdir()
    for number in range(3):
        (folder / "source" / f"{number}").write_bytes(bytes([number]) * 5000)


def _copy_tree(folder: Path) -> None:
    digests = {path.name: sha256_file(path) for path in (folder / "source").iterdir()}
    copy_tree_verified(folder / "source", folder / "copy", sha256=digests)


def _whole_file(folder: Path) -> None:
    if not (folder / "file").exists():
        with whole_file(folder / "file", replace=False) as path, path.open("wb") as file:
            for number in range(3):
                file.write(bytes([number]) * 20_000)


def _events(folder: Path) -> None:
    """Go on with a stream as the next attempt's would: what is there is not said again."""
    said = len(_said(folder))
    writer = EventWriter(folder / "stream.jsonl")
    for number in range(said, 4):
        if not writer.write("epoch", number=number):
            raise OSError("the stream cannot be written")


def _said(folder: Path) -> list[int]:
    return [event["number"] for event in read_events(folder / "stream.jsonl")[0]]


FILES_LAYER = (
    Operation(
        name="write_atomic over an old file",
        prepare=_old,
        act=lambda folder: write_atomic(folder / "file", b"new" * 2000),
        view=picture,
    ),
    Operation(
        name="create_exclusive",
        prepare=nothing,
        act=lambda folder: create_exclusive(folder / "file", b"new" * 2000),
        view=picture,
    ),
    Operation(name="whole_file", prepare=nothing, act=_whole_file, view=picture),
    Operation(name="rename_exclusive", prepare=_a_folder, act=_rename, view=picture),
    Operation(
        name="copy_verified",
        prepare=lambda folder: [begin(folder) for begin in (_a_folder, _old)],
        act=lambda folder: copy_verified(folder / "source" / "1", folder / "file"),
        view=picture,
    ),
    Operation(name="copy_tree_verified", prepare=_a_folder, act=_copy_tree, view=picture, is_gradual=True),
    Operation(
        name="append_line, an event stream",
        prepare=nothing,
        act=_events,
        view=lambda folder: {str(number): True for number in _said(folder)},
        duplicates=lambda folder: len(_said(folder)) - len(set(_said(folder))),
        is_gradual=True,
    ),
)

# --- runs ------------------------------------------------------------------------------------------------------------


def _sweep(folder: Path) -> SweepDir:
    return SweepDir(folder / "home" / "sweeps" / "demo")


def _finished(folder: Path) -> Path:
    return folder / "scratch" / "run-1"


def _unsealed(folder: Path) -> None:
    for name in ("metrics.csv", "model.pt"):
        (folder / name).write_bytes(name.encode() * 100)


def _sealed_view(folder: Path) -> View:
    try:
        return {"run": verify(folder)["digest"]}
    except PublishError:
        return {}


def _finish_one(folder: Path) -> None:
    _sweep(folder).runs.mkdir(parents=True)
    _finished(folder).parent.mkdir()
    write_run(_finished(folder), 1, base={}, sizes={"metrics.csv": 500, "model.pt": 9000}, salt="")


def _arrived(folder: Path) -> None:
    """Begin with a run that an attempt has copied home and not published, and one of which half has come."""
    _finish_one(folder)
    sweep = _sweep(folder)
    write = {"metrics.csv": 500, "model.pt": 9000}
    for run, attempt in (("run-1", "first"), ("run-2", "first")):
        folder_in = sweep.incoming_run(run, attempt=attempt)
        folder_in.parent.mkdir(exist_ok=True)
        write_run(folder_in, 1, base={}, sizes=write, salt="")
        result = json.loads((folder_in / RESULT).read_bytes())
        for key in ("digest", "manifest"):
            del result[key]
        seal(folder_in, result={**result, "run_id": run})
    (sweep.incoming_run("run-2", attempt="first") / RESULT).unlink()


def _publish(folder: Path) -> None:
    publish(_finished(folder), sweep=_sweep(folder), run_id="run-1", attempt="second")


def _publish_damaged_there(folder: Path) -> None:
    _finish_one(folder)
    (_sweep(folder).runs / "run-1").mkdir()
    (_sweep(folder).runs / "run-1" / RESULT).write_bytes(b"{}")


def _publish_arrived(folder: Path) -> None:
    sweep = _sweep(folder)
    for run in ("run-1", "run-2"):
        incoming = sweep.incoming_run(run, attempt="first")
        if incoming.exists():
            publish_incoming(incoming, sweep=sweep, run_id=run, attempt="first")


def _published(folder: Path) -> View:
    """Return what counts as published; a folder that is there must be whole."""
    return {path.name: verify(path)["digest"] for path in _sweep(folder).runs.glob("[!.]*")}


def _published_or_damaged(folder: Path) -> View:
    found: View = {}
    for path in _sweep(folder).runs.glob("[!.]*"):
        with suppress(PublishError):
            found[path.name] = verify(path)["digest"]
    return found


def _superseded(folder: Path) -> int:
    with suppress(FileNotFoundError):
        return len([path for path in _sweep(folder).superseded.iterdir() if "damaged" not in path.name])
    return 0


RUNS = (
    Operation(
        name="seal",
        prepare=_unsealed,
        act=lambda folder: seal(folder, result={"schema": 1, "run_id": "run"}),
        view=_sealed_view,
    ),
    Operation(name="publish", prepare=_finish_one, act=_publish, view=_published, duplicates=_superseded),
    Operation(
        name="publish where a damaged run is in the way",
        prepare=_publish_damaged_there,
        act=_publish,
        view=_published_or_damaged,
        duplicates=_superseded,
    ),
    Operation(
        name="publish what an earlier attempt had brought",
        prepare=_arrived,
        act=_publish_arrived,
        view=_published,
        duplicates=_superseded,
    ),
)

# --- claims ----------------------------------------------------------------------------------------------------------


def _claims(folder: Path) -> int:
    """Return how many claims there are too many once somebody else has taken the task."""
    take(folder, attempt=attempt_of(9), is_over=lambda claim: True)
    return len(list(folder.glob("claim.*.json"))) - 1


def _holder(folder: Path) -> View:
    claim = read_claim(folder)
    return {} if claim is None else {"holder": 0 if claim.is_released else claim.attempt.pid}


def _take(folder: Path) -> None:
    take(folder, attempt=attempt_of(2), is_over=lambda claim: claim.attempt.pid == 1)


def _held(folder: Path) -> None:
    take(folder, attempt=attempt_of(1))


def _given_back(folder: Path) -> None:
    take(folder, attempt=attempt_of(1)).release()


def _give_back(folder: Path) -> None:
    claim = read_claim(folder)
    assert claim is not None
    if not claim.is_released:
        claim.release()


CLAIMS = (
    Operation(name="take a free task", prepare=nothing, act=_take, view=_holder, duplicates=_claims),
    Operation(name="take over a task", prepare=_held, act=_take, view=_holder, duplicates=_claims),
    Operation(name="take a task given back", prepare=_given_back, act=_take, view=_holder, duplicates=_claims),
    Operation(name="give a task back", prepare=_held, act=_give_back, view=_holder, duplicates=_claims),
)

# --- checkpoints -----------------------------------------------------------------------------------------------------

SAVED = (b"older" * 3000, b"newer" * 3000)


def _checkpointed(folder: Path) -> None:
    """Begin with two checkpoints of a trainer on scratch, the older of which is at home already."""
    sweep = make_sweep(folder / "home", {"a": {}}).sweep
    task = sweep.task("0001")
    task.path.mkdir(parents=True)
    dataset = {"path": "/d", "digest": "d", "file_digest": "f", "size_bytes": 1}
    values = {"schema": 1, "sweep": "demo", "task": "0001", "runs": [{"id": "a", "config": {}}], "dataset": dataset}
    task.task_json.write_bytes(canonical_json(values))
    work = folder / "scratch" / "0"
    work.mkdir(parents=True)
    events = EventWriter(sweep.event_file("0001", attempt="first"))
    for slot, data in enumerate(SAVED):
        (work / f"population.{slot}.pt").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        record = {"step": slot, "slot": slot, "sha256": digest, "size": len(data), "runs": ["a"]}
        append_line(work / "checkpoints.jsonl", {"event": "checkpoint", **record})
        events.write("checkpoint", **record)
    task.population(0).write_bytes(SAVED[0])


def _checkpoints(folder: Path) -> tuple[Checkpoints, Job]:
    sweep = _sweep(folder)
    task = read_task(sweep.task("0001").task_json)
    attempt = attempt_of(3)
    claim = Claim(folder=task.folder.path, number=0, attempt=attempt, t=0.0)
    reporter = Reporter(sweep.event_file("0001", attempt=attempt.name), on_event=lambda event: None, epoch_s=5.0)
    job = Job(
        task=task, attempt=attempt, claim=claim, scratch=ScratchDir(folder / "scratch"), is_volatile=False,
        skip=Skip(task), reporter=reporter, timing=Timing(),
    )  # fmt: skip
    checkpoints = Checkpoints(job)
    for path in sweep.event_files("0001"):
        checkpoints.learn(read_events(path)[0])
    checkpoints.look_at_home()
    return checkpoints, job


def _mirror(folder: Path) -> None:
    checkpoints, _ = _checkpoints(folder)
    checkpoints.look_at(folder / "scratch" / "0")
    checkpoints.mirror([["a"]])


def _newest_at_home(folder: Path) -> View:
    """Return the step that an attempt on another node would go on from."""
    return {"step": _checkpoints(folder)[0].newest_step(["a"])}


def _save(folder: Path) -> None:
    """Write two checkpoints as the trainer does: its digest noted first, then the file, in the slot of the older."""
    steps = [int(path.read_bytes()[:1]) for path in folder.glob("population.*.pt")]
    for step in range(max(steps, default=-1) + 1, 3):
        data = b"%d" % step * 9000
        append_line(folder / "checkpoints.jsonl", {"step": step, "sha256": hashlib.sha256(data).hexdigest()})
        write_atomic(folder / f"population.{step % 2}.pt", data)


def _slots(folder: Path) -> View:
    """Return the newest checkpoint whose digest has been noted."""
    noted = {}
    with suppress(FileNotFoundError):
        noted = {line["sha256"]: line["step"] for line in read_lines(folder / "checkpoints.jsonl")[0]}
    found = [sha256_file(path) for path in folder.glob("population.*.pt")]
    assert all(digest in noted for digest in found), "a checkpoint that nobody vouches for"
    return {str(step): True for step in range(max((noted[digest] for digest in found), default=-1) + 1)}


CHECKPOINTS = (
    Operation(name="mirror a checkpoint home", prepare=_checkpointed, act=_mirror, view=_newest_at_home),
    Operation(name="save checkpoints in two slots", prepare=nothing, act=_save, view=_slots, is_gradual=True),
)

# --- scratch ---------------------------------------------------------------------------------------------------------


def _recording(folder: Path) -> dict[str, Any]:
    path = folder / "recording.h5"
    return {"path": str(path), "digest": "d", "file_digest": hashlib.sha256(b"spikes" * 5000).hexdigest(),
            "size_bytes": 30_000}  # fmt: skip


def _to_stage(folder: Path) -> None:
    (folder / "recording.h5").write_bytes(b"spikes" * 5000)
    prepare(ScratchDir(folder / "scratch"))


def _stage(folder: Path) -> None:
    with staged(_recording(folder), scratch=ScratchDir(folder / "scratch"), max_bytes=10**9) as data:
        assert sha256_file(data.path) == _recording(folder)["file_digest"]
        if data.fallback:
            raise OSError(data.fallback)


def _staged(folder: Path) -> View:
    """Return the copy if it is one that the next task would take without reading it."""
    place = ScratchDir(folder / "scratch").dataset(_recording(folder)["file_digest"])
    if not (place / "verified.json").exists():
        return {}
    return {"copy": sha256_file(place / "recording.h5")}


SCRATCH = (
    Operation(name="stage a recording to scratch", prepare=_to_stage, act=_stage, view=_staged),
    Operation(
        name="make and probe scratch",
        prepare=nothing,
        act=lambda folder: prepare(ScratchDir(folder / "scratch")),
        view=lambda folder: {"scratch": True} if (folder / "scratch" / "data").is_dir() else {},
        is_gradual=True,
    ),
)

# --- the sweep's own files -------------------------------------------------------------------------------------------


def _with_sweep(folder: Path) -> None:
    make_sweep(folder / "home", {name: {"seed": number} for number, name in enumerate("abcd")})


def _submit(folder: Path) -> None:
    """Submit what is not yet submitted, as `band-sweep submit` does before it starts a queue."""
    sweep = _sweep(folder)
    manifest = read_manifest(sweep.path)
    survey = take_survey(sweep, manifest, scheduler=scheduler_for(sweep))
    if not survey.ledger.tasks:
        room = Room(slots=2, threads=1, device="cpu", memory_bytes=10**10)
        write(plan(survey, sweep=sweep, room=room, members=2), sweep=sweep, manifest=manifest)


def _submitted(folder: Path) -> View:
    """Return which runs are in a task that counts, and its file; every one of them must be readable."""
    sweep = _sweep(folder)
    intents = read_intents(sweep)
    return {
        run: [other["id"] for other in json.loads(sweep.task(task).task_json.read_bytes())["runs"]]
        for intent in intents
        for task, runs in intent.tasks.items()
        for run in runs
    }


def _submitted_twice(folder: Path) -> int:
    runs = [run for intent in read_intents(_sweep(folder)) for runs in intent.tasks.values() for run in runs]
    return len(runs) - len(set(runs))


def _sweep_file(folder: Path, *, seeds: int) -> None:
    if not (folder / "recording.h5").exists():
        write_shapes(folder / "recording.h5")
    values = {"base": {"data.path": "recording.h5"}, "seeds": seeds, "pair": {"hyper.behavior_weight": [0.5]}}
    write_sweep(folder / "sweep.yaml", values)


def _generate(folder: Path) -> None:
    write_plan(make_plan(folder / "sweep.yaml"))


def _generated(folder: Path) -> View:
    try:
        manifest = read_manifest(folder / "sweeps" / "sweep")
    except BandError:
        assert not (folder / "sweeps" / "sweep" / "manifest.jsonl").exists(), "a manifest that cannot be read"
        return {}
    return {"runs": [(run.id, run.retired) for run in manifest.runs]}


def _regenerate(folder: Path) -> None:
    _sweep_file(folder, seeds=2)
    _generate(folder)
    _sweep_file(folder, seeds=3)


def _folds() -> list[AttemptFold]:
    return [AttemptFold("0001", name, first_t=1.0, last_t=2.0, phases={"a": "published"}, code=0) for name in "xyz"]


def _index(folder: Path) -> None:
    known = read_index(_sweep(folder))
    add_to_index(_sweep(folder), "0001", [fold for fold in _folds() if fold.stem not in known])


def _indexed(folder: Path) -> View:
    return {stem: dataclasses.asdict(fold) for stem, fold in read_index(_sweep(folder)).items()}


def _indexed_twice(folder: Path) -> int:
    with suppress(FileNotFoundError):
        lines = [line["attempt"] for line in read_lines(_sweep(folder).index / "0001.jsonl")[0]]
        return len(lines) - len(set(lines))
    return 0


def _journalled(folder: Path) -> None:
    _sweep(folder).submission("0001").mkdir(parents=True)


STEPS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("intent", {"token": "t", "tasks": ["0001"], "script": "array.1.sh"}),
    ("queued", {"job_id": "7"}),
    ("closing", {"job_id": "8"}),
    ("released", {}),
)


def _journal(folder: Path) -> None:
    """Note the steps of an array of which the journal does not know, as whoever holds the sweep next does."""
    done = _steps(folder)
    for step, fields in STEPS:
        if step not in done:
            append(_sweep(folder), "0001", array=1, step=step, **fields)


def _steps(folder: Path) -> View:
    arrays = read_journal(_sweep(folder), "0001")
    return dict.fromkeys(arrays[0].steps, True) if arrays else {}


def _package(folder: Path) -> None:
    (folder / "band").mkdir()
    for name in ("__init__.py", "files.py", "README.md"):
        (folder / "band" / name).write_text(f"# {name}\n")
    _sweep(folder).path.mkdir(parents=True)


def _snapshots(folder: Path) -> View:
    with suppress(FileNotFoundError):
        return {path.name: picture(path) for path in _sweep(folder).code.glob("[!.]*")}
    return {}


SWEEPS = (
    Operation(name="generate", prepare=lambda folder: _sweep_file(folder, seeds=2), act=_generate, view=_generated),
    Operation(name="generate again, with more runs", prepare=_regenerate, act=_generate, view=_generated),
    Operation(
        name="submit: task files and request",
        prepare=_with_sweep,
        act=_submit,
        view=_submitted,
        duplicates=_submitted_twice,
    ),
    Operation(
        name="fold events into the index",
        prepare=_with_sweep,
        act=_index,
        view=_indexed,
        is_gradual=True,
        duplicates=_indexed_twice,
    ),
    Operation(name="the journal of a Slurm array", prepare=_journalled, act=_journal, view=_steps, is_gradual=True),
    Operation(
        name="snapshot of the code",
        prepare=_package,
        act=lambda folder: take_snapshot(_sweep(folder), package=folder / "band"),
        view=_snapshots,
    ),
)

# --- brought home ----------------------------------------------------------------------------------------------------


def _source(folder: Path) -> Source:
    return Source(sweep=_sweep(folder), place=Place("far", "/far/demo"))


def _far_run(folder: Path) -> FarRun:
    """Return the run in `far/` as the other machine would list it."""
    far = folder / "far" / "run-1"
    files = {path.name: FarFile(size=path.stat().st_size, sha256=sha256_file(path)) for path in far.iterdir()}
    return FarRun(id="run-1", sha256=files[RESULT].sha256, outcome="ok", files=files)


def _come(folder: Path) -> None:
    """Begin with a run that rsync has brought, as whole files under `incoming/`."""
    _sweep(folder).runs.mkdir(parents=True)
    (folder / "far").mkdir()
    write_run(folder / "far" / "run-1", 1, base={}, sizes={"metrics.csv": 500, "model.pt": 9000}, salt="")
    _bring(folder, ["metrics.csv", "model.pt", RESULT])


def _come_in_part(folder: Path) -> None:
    """Begin with a run of which all but the model is at home, and the model has come."""
    _come(folder)
    (_source(folder).incoming / "run-1" / "model.pt").unlink()
    _take_in(folder, parts=("metrics",))
    _bring(folder, ["model.pt"])


def _bring(folder: Path, names: list[str]) -> None:
    """Do what rsync does: have the files that are wanted under `incoming/`."""
    target = _source(folder).incoming / "run-1"
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        (target / name).write_bytes((folder / "far" / "run-1" / name).read_bytes())


def _take_in(folder: Path, *, parts: tuple[str, ...] = DEFAULT_PARTS) -> None:
    source = _source(folder)
    remember(source)
    finish_placing(source)
    wanted = compare(source.sweep, _far_run(folder), choice=Choice(parts=parts))
    if wanted.files:
        if not has_come(source, wanted):
            _bring(folder, list(wanted.files))
        damaged = settle(source, [wanted]).damaged
        assert not damaged, damaged


def _at_home(folder: Path) -> View:
    found: View = {}
    for path in _sweep(folder).runs.glob("[!.]*"):
        absent = absent_files(path)
        verify(path, may_lack=absent)
        present = {name for name in read_result(path)["manifest"] if (path / name).exists()}
        found[path.name] = {"absent": sorted(absent), "present": sorted(present)}
    return found


def _known(folder: Path) -> View:
    return {str(source.place): True for source in read_sources(_sweep(folder))}


def _waits(folder: Path) -> int:
    """Return how many runs lie in `incoming/` although they have their places."""
    return len(list(_source(folder).incoming.glob("*")))


SYNC = (
    Operation(
        name="sync: where a sweep is from",
        prepare=lambda folder: _sweep(folder).path.mkdir(parents=True),
        act=lambda folder: remember(_source(folder)),
        view=_known,
    ),
    Operation(
        name="sync: a run that has come gets its place",
        prepare=_come,
        act=_take_in,
        view=_at_home,
        duplicates=_waits,
    ),
    Operation(
        name="sync: what a run lacked is linked into its folder",
        prepare=_come_in_part,
        act=_take_in,
        view=_at_home,
        duplicates=_waits,
    ),
)

OPERATIONS = (*FILES_LAYER, *RUNS, *CLAIMS, *CHECKPOINTS, *SCRATCH, *SWEEPS, *SYNC)

# What a bench that is any good must find fault with: written in place, and said to be done in a file of its own.
NAIVE = Operation(
    name="naive: written in place",
    prepare=_old,
    act=lambda folder: [(folder / name).write_bytes(b"new" * 2000) for name in ("file", "done")],
    view=picture,
)
