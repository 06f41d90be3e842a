"""What a submission takes up, how it is packed, and the files it writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from local_sweep import LocalSweep, make_sweep
from signed import signed

from band.attempts import Attempt, take
from band.config import run_config_from_dict
from band.files import read_json_object
from band.run_dir import EventWriter, SweepDir
from band.sweep.ledger import read_intents, record
from band.sweep.manifest import read_manifest
from band.sweep.pack import Room
from band.sweep.status import Survey, TaskState, take_survey
from band.sweep.submit import Plan, leave_alone, packed_before, plan, write, write_skip

ROOM = Room(slots=2, threads=1, device="cpu", memory_bytes=2**40)


@dataclass
class Told:
    """A scheduler that says what it is told."""

    answers: Mapping[str, str] = field(default_factory=dict)

    def task_states(self, tasks: Collection[str]) -> Mapping[str, TaskState]:
        return {task: TaskState(state=state) for task, state in self.answers.items()}


def survey(sweep: SweepDir, **answers: str) -> Survey:
    told = Told({task.lstrip("t"): state for task, state in answers.items()})
    return take_survey(sweep, read_manifest(sweep.path), scheduler=told)


def submit(sweep: SweepDir, *, members: int = 0, limit: int = 0) -> Plan:
    present = survey(sweep)
    planned = plan(present, sweep=sweep, room=ROOM, members=members, limit=limit)
    write(planned, sweep=sweep, manifest=present.manifest)
    return planned


@pytest.fixture
def local(tmp_path: Path) -> LocalSweep:
    return make_sweep(tmp_path, {f"run-{n}": {"seed": n, "hyper.lr": 1e-3} for n in range(5)})


def test_a_task_file_holds_all_that_an_attempt_needs(local: LocalSweep) -> None:
    submit(local.sweep)
    tasks = [read_json_object(path) for path in sorted(local.sweep.tasks.glob("*/task.json"))]
    assert [len(task["runs"]) for task in tasks] == [3, 2] and [task["task"] for task in tasks] == ["0001", "0002"]
    for task in tasks:
        assert (task["schema"], task["sweep"], task["threads"], task["device"]) == (1, "demo", 1, "cpu")
        assert set(task["dataset"]) == {"path", "digest", "file_digest", "size_bytes"} and task["memory_bytes"] > 0
        for run in task["runs"]:
            config = {key: value for key, value in run["config"].items() if key != "epochs"}
            assert run_config_from_dict(config).seed == int(run["id"][-1])


def test_what_was_packed_once_stays_packed_and_only_new_runs_get_new_tasks(local: LocalSweep) -> None:
    submit(local.sweep, members=3, limit=3)
    before = {path: path.read_bytes() for path in local.sweep.tasks.glob("*/task.json")}
    inodes = [path.stat().st_ino for path in before]
    second = submit(local.sweep, members=1)
    assert second.continued == {"0001": ("run-1", "run-2"), "0002": ("run-0",)}
    assert sorted(run.id for task in second.new for run in task.runs) == ["run-3", "run-4"]
    assert {path: path.read_bytes() for path in before} == before
    assert [path.stat().st_ino for path in before] == inodes, "what is right is not written again"
    third = submit(local.sweep)
    assert not third.new and len(third.continued) == 4


def test_a_task_that_lost_its_file_is_packed_anew(local: LocalSweep) -> None:
    submit(local.sweep)
    local.sweep.task("0001").task_json.unlink()
    second = submit(local.sweep)
    assert list(second.continued) == ["0002"] and sum(len(task.runs) for task in second.new) == 3


def test_what_is_queued_or_running_is_left_alone_unless_nobody_looks_after_it(local: LocalSweep) -> None:
    submit(local.sweep)
    busy = survey(local.sweep, t0001="running", t0002="queued")
    assert plan(busy, sweep=local.sweep, room=ROOM).runs == ()
    assert plan(busy, sweep=local.sweep, room=ROOM, adopt=True).continued.keys() == {"0001"}


def test_failed_and_cancelled_runs_are_not_taken_up(local: LocalSweep) -> None:
    submit(local.sweep)
    events = EventWriter(local.sweep.event_file("0002", attempt="one"))
    events.write("failed", runs=["run-0"], error="E", message="m", traceback="")
    record(local.sweep, "cancel", runs=["run-1", "run-2"])
    assert plan(survey(local.sweep), sweep=local.sweep, room=ROOM).runs == ("run-3", "run-4")


def test_a_limit_takes_the_first_runs_of_the_manifest(local: LocalSweep) -> None:
    values = json.loads(local.band_sweep("submit", "--dry-run", "--json", "--limit", "2", "--jobs", "1"))
    assert values["runs"] == ["run-0", "run-1"] and values["new_tasks"] == [["run-0", "run-1"]]
    assert not local.sweep.submissions.exists()


def test_a_recording_that_moved_is_followed_unless_an_attempt_holds_the_task(local: LocalSweep) -> None:
    submit(local.sweep)
    moved = local.sweep.manifest.read_text().replace("recording.h5", "moved.h5")
    local.sweep.manifest.write_text(signed(moved))
    take(local.sweep.task("0002").path, attempt=Attempt.current())
    submit(local.sweep)
    paths = [read_json_object(local.sweep.task(task).task_json)["dataset"]["path"] for task in ("0001", "0002")]
    assert [Path(path).name for path in paths] == ["moved.h5", "recording.h5"]


def test_the_request_is_written_after_its_tasks_so_that_a_broken_off_one_counts_for_nothing(
    local: LocalSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.link", no_space)
        with pytest.raises(OSError, match="No space left"):
            submit(local.sweep)
    assert read_intents(local.sweep) == [] and set(survey(local.sweep).counts()) == {"new"}
    submit(local.sweep)
    assert len(survey(local.sweep).ledger.tasks) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("submit", "--jobs", "0"), 2, "at least 1"),
        (("submit", "--cluster", "moon"), 1, "no template moon.sh in"),
        (("cancel",), 1, "name the runs to cancel, or say --all"),
        (("cancel", "nothing"), 1, "no run of demo is named 'nothing'"),
        (("retry",), 1, "name the runs to retry"),
        (("logs",), 1, "nothing has run yet"),
        (("logs", "run-0"), 1, "was never submitted"),
        (("logs", "--task", "7"), 1, "there is no task 7"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    local: LocalSweep, arguments: tuple[str, ...], code: int, message: str
) -> None:
    output = local.band_sweep(*arguments, code=code)
    assert message in output and "Traceback" not in output


def test_a_run_that_has_begun_costs_what_is_left_of_it(local: LocalSweep) -> None:
    whole = submit(local.sweep).seconds
    epochs = read_json_object(local.sweep.task("0002").task_json)["runs"][0]["config"]["train"]["max_epochs"]
    progress = {"run-0": {"epoch": epochs // 4, "max_epochs": epochs}}
    EventWriter(local.sweep.event_file("0002", attempt="one")).write("epoch", runs=progress, steps_per_s=1.0)
    left = plan(survey(local.sweep), sweep=local.sweep, room=ROOM).seconds
    assert left == pytest.approx(whole * (4 + (1 - epochs // 4 / epochs)) / 5)


@pytest.mark.parametrize(
    ("spare", "begun", "stays"),
    [(0, "", True), (1, "", True), (-1, "", False), (-1, "0001", True), (-1, "0002", False)],
)
def test_a_task_stays_as_it_was_packed_if_it_fits_or_has_begun(
    local: LocalSweep, spare: int, begun: str, stays: bool
) -> None:
    submit(local.sweep, members=2)
    values = read_json_object(local.sweep.task("0001").task_json)
    assert len(values["runs"]) == 2  # two at once need more than one does, for which there is room
    if begun:
        EventWriter(local.sweep.event_file(begun, attempt="one")).write("started")
    room = dataclasses.replace(ROOM, task_bytes=values["memory_bytes"] + spare)
    planned = plan(survey(local.sweep), sweep=local.sweep, room=room)
    assert ("0001" in planned.continued) == stays and "0002" in planned.continued


def test_work_takes_its_share_of_the_slots_but_no_less_than_the_longest_task(local: LocalSweep) -> None:
    planned = plan(survey(local.sweep), sweep=local.sweep, room=ROOM, members=1)
    assert planned.walltime_s == pytest.approx(sum(task.seconds for task in planned.new) / 2)
    many = plan(survey(local.sweep), sweep=local.sweep, room=dataclasses.replace(ROOM, slots=100), members=1)
    assert many.walltime_s == max(task.seconds for task in many.new) > many.seconds / 100
    assert dataclasses.replace(planned, new=[], seconds=0.0).walltime_s == 0


def test_what_runs_ahead_is_named_in_the_request_and_nothing_else(local: LocalSweep) -> None:
    present = survey(local.sweep)
    planned = plan(present, sweep=local.sweep, room=ROOM, has_canary=True)
    write(planned, sweep=local.sweep, manifest=present.manifest, scheduler="slurm", options={"time": 60})
    (request,) = read_intents(local.sweep)
    (canary,) = request.options.pop("canary")
    assert request.tasks[canary] == planned.canaries and len(planned.canaries) == 1
    assert len(request.tasks) > 1 and request.options == {"time": 60}


def test_runs_to_be_left_alone_are_written_for_the_next_attempt_and_forgotten_again(local: LocalSweep) -> None:
    submit(local.sweep, members=5)
    skip = local.sweep.task("0001").path / "skip.json"
    record(local.sweep, "cancel", runs=["run-3", "run-1"])
    members = [*(f"run-{n}" for n in range(5)), "unknown"]
    write_skip(local.sweep, "0001", members=members, survey=survey(local.sweep))
    assert json.loads(skip.read_bytes()) == {"runs": ["run-1", "run-3", "unknown"]} and skip.read_bytes()[-1:] == b"\n"
    leave_alone(local.sweep, "0001", runs=[])
    leave_alone(local.sweep, "0001", runs=[])
    assert not skip.exists()


def two_recordings(local: LocalSweep) -> None:
    """Have the last two runs of the manifest made for another recording."""
    head, *runs = map(json.loads, local.sweep.manifest.read_text().splitlines())
    head["datasets"].append({**head["datasets"][0], "path": "/data/other.h5", "digest": "e", "file_digest": "f" * 64})
    for run in runs[-2:]:
        run["dataset"] = 1
    runs.reverse()
    local.sweep.manifest.write_text(signed("\n".join(json.dumps(line) for line in (head, *runs))))


def recordings(local: LocalSweep) -> dict[str, str]:
    """Return {run: name of the recording that its task reads}."""
    tasks = [read_json_object(path) for path in local.sweep.tasks.glob("*/task.json")]
    return {run["id"]: Path(task["dataset"]["path"]).name for task in tasks for run in task["runs"]}


def test_of_several_recordings_each_task_reads_and_follows_its_own(local: LocalSweep) -> None:
    two_recordings(local)
    submit(local.sweep, members=2)
    expected = {f"run-{n}": "other.h5" if n > 2 else "recording.h5" for n in range(5)}
    assert recordings(local) == expected
    text = local.sweep.manifest.read_text()
    local.sweep.manifest.write_text(signed(text.replace("other.h5", "far.h5").replace("recording.h5", "near.h5")))
    submit(local.sweep)
    assert recordings(local) == {run: "far.h5" if name == "other.h5" else "near.h5" for run, name in expected.items()}
    before = {path: path.read_bytes() for path in local.sweep.tasks.glob("*/task.json")}
    runs = local.sweep.manifest.read_text().splitlines()[1:]
    gone = [line for line in runs if "run-4" in line or "run-3" in line]
    head = local.sweep.manifest.read_text().splitlines()[0].replace("far.h5", "farther.h5")
    local.sweep.manifest.write_text(signed("\n".join([head, *(line for line in runs if line not in gone)])))
    submit(local.sweep)
    assert {path: path.read_bytes() for path in before} == before, "of runs that are gone nobody knows the recording"


def test_a_task_follows_its_recording_though_its_first_run_is_in_the_manifest_no_more(local: LocalSweep) -> None:
    submit(local.sweep)
    firsts = [members[0] for members in survey(local.sweep).ledger.tasks.values()]
    head, *runs = local.sweep.manifest.read_text().splitlines()
    left = [line for line in runs if not any(first in line for first in firsts)]
    assert len(runs) == 5 and len(left) == 3
    local.sweep.manifest.write_text(signed("\n".join([head.replace("recording.h5", "moved.h5"), *left])))
    submit(local.sweep)
    assert set(recordings(local).values()) == {"moved.h5"}


@pytest.mark.parametrize("begun", ["0001", "0002"])
def test_only_the_task_that_has_begun_stays_on_a_device_that_is_no_more_wanted(local: LocalSweep, begun: str) -> None:
    submit(local.sweep)
    EventWriter(local.sweep.event_file(begun, attempt="one")).write("started")
    planned = plan(survey(local.sweep), sweep=local.sweep, room=dataclasses.replace(ROOM, device="cuda"))
    assert list(planned.continued) == [begun]


def test_a_task_of_several_populations_says_which_and_one_of_one_does_not(local: LocalSweep) -> None:
    present = survey(local.sweep)
    planned = plan(present, sweep=local.sweep, room=ROOM)
    (first, second) = planned.new
    a, b, c = ((run,) for run in first.runs)
    new = [dataclasses.replace(first, populations=(a, (*b, *c))), second]
    write(dataclasses.replace(planned, new=new), sweep=local.sweep, manifest=present.manifest)
    tasks = [read_json_object(path) for path in sorted(local.sweep.tasks.glob("*/task.json"))]
    ids = [run.id for run in first.runs]
    assert tasks[0]["populations"] == [ids[:1], ids[1:]] and [run["id"] for run in tasks[0]["runs"]] == ids
    assert "populations" not in tasks[1]


@pytest.mark.parametrize("spare", [-1, 0])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("packed_for", ["cpu", "cuda"])
def test_a_task_stays_on_its_device_and_on_a_gpu_the_trainer_sees_to_memory(
    local: LocalSweep, packed_for: str, device: str, spare: int
) -> None:
    present = survey(local.sweep)
    room = dataclasses.replace(ROOM, device=packed_for)
    write(plan(present, sweep=local.sweep, room=room), sweep=local.sweep, manifest=present.manifest)
    needed = max(read_json_object(path)["memory_bytes"] for path in local.sweep.tasks.glob("*/task.json"))
    room = dataclasses.replace(ROOM, device=device, task_bytes=max(needed + spare, 1))
    stays = packed_for == device and (spare == 0 or device == "cuda")
    assert ("0001" in plan(survey(local.sweep), sweep=local.sweep, room=room).continued) == stays


def test_what_slurm_runs_is_not_taken_up_by_anybody_else(local: LocalSweep) -> None:
    submit(local.sweep)
    states = {"0001": TaskState(state="running", job="12_1"), "0002": TaskState(state="queued")}
    present = dataclasses.replace(survey(local.sweep, t0001="running", t0002="queued"), scheduled=states)
    assert plan(present, sweep=local.sweep, room=ROOM, adopt=True).runs == ()
    unknown = survey(local.sweep, t0001="submit_unknown", t0002="held")
    assert plan(unknown, sweep=local.sweep, room=ROOM, adopt=True).runs == ()


def test_of_each_shape_one_run_goes_ahead_alone(tmp_path: Path) -> None:
    runs = {f"run-{n}": {"seed": n, "arch.gen_dim": 20 + 10 * (n % 2)} for n in range(6)}
    local = make_sweep(tmp_path, runs)
    present = survey(local.sweep)
    planned = plan(present, sweep=local.sweep, room=ROOM, has_canary=True)
    write(planned, sweep=local.sweep, manifest=present.manifest, scheduler="slurm", options={})
    (request,) = read_intents(local.sweep)
    ahead = [request.tasks[task] for task in request.options["canary"]]
    assert sorted(map(len, ahead)) == [1, 1] and {run for (run,) in ahead} == set(planned.canaries)
    assert len({int(run[-1]) % 2 for (run,) in ahead}) == 2


def test_a_request_with_nothing_that_goes_ahead_does_not_speak_of_it(local: LocalSweep) -> None:
    present = survey(local.sweep)
    planned = plan(present, sweep=local.sweep, room=ROOM)
    write(planned, sweep=local.sweep, manifest=present.manifest, scheduler="slurm", options={"time": 60})
    assert [request.options for request in read_intents(local.sweep)] == [{"time": 60}]


def test_without_options_a_request_asks_for_the_room_of_its_plan(local: LocalSweep) -> None:
    submit(local.sweep)
    (request,) = read_intents(local.sweep)
    assert request.scheduler == "local" and "canary" not in request.options
    assert {key: request.options[key] for key in ("slots", "threads", "device")} == {
        "slots": 2, "threads": 1, "device": "cpu",
    }  # fmt: skip


def test_a_task_that_goes_on_costs_what_is_left_of_it(local: LocalSweep) -> None:
    two_recordings(local)
    for task in submit(local.sweep, members=3).new:
        runs = task.runs
        name = next(n for n, names in survey(local.sweep).ledger.tasks.items() if runs[0].id in names)
        before = packed_before(local.sweep, name, survey=survey(local.sweep))
        assert (before.runs, before.dataset, before.memory_bytes) == (runs, task.dataset, task.memory_bytes)
        assert before.seconds == pytest.approx(task.seconds)
        record(local.sweep, "cancel", runs=[runs[0].id])
        left = packed_before(local.sweep, name, survey=survey(local.sweep))
        assert left.runs == runs[1:] and left.seconds == pytest.approx(task.seconds * (len(runs) - 1) / len(runs))
