"""An array that is over, from hand-made folders: what each task's end leads to, once, wherever a closing is killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from local_sweep import make_sweep
from stepping import DEATHS, Hook, hooked, run_until_killed

from band.attempts import Attempt, Claim, take
from band.errors import ClaimError
from band.files import canonical_json
from band.node.checkpoints import task_events
from band.run_dir import EventWriter, SweepDir, seal
from band.slurm import jobs
from band.slurm.cluster import Limits, Node
from band.slurm.command import SlurmError
from band.sweep import conclude
from band.sweep.conclude import Closing, due
from band.sweep.fold import AttemptFold, read_index
from band.sweep.journal import Array, append, read_journals, standing
from band.sweep.ledger import Intent, new_task, read_intents, record
from band.sweep.manifest import read_manifest
from band.sweep.status import Survey, TaskState, take_survey

OPTIONS = {
    "sbatch": {"mem": "1000M", "time": "60"}, "origins": {"mem": "template"}, "mem_bytes": 1000 << 20, "time_s": 3600,
    "policy": {}, "max_parallel": None, "code": "x", "versions": {}, "allow_versions": True, "setup": [],
}  # fmt: skip


@dataclass
class Told:
    """A scheduler that says what it is told."""

    answers: Mapping[str, TaskState] = field(default_factory=dict)

    def task_states(self, tasks: Collection[str]) -> Mapping[str, TaskState]:
        return {task: state for task, state in self.answers.items() if task in tasks}

    def endings(self, tasks: Mapping[str, Sequence[AttemptFold]]) -> Mapping[str, TaskState]:
        return {}


@dataclass
class Sent:
    """A sweep of which one array, job 7, was sent and is over."""

    sweep: SweepDir
    tasks: dict[str, list[str]]  # {task: runs}
    ends: dict[str, TaskState] = field(default_factory=dict)
    claim: Claim | None = None  # the hold under which it is closed; None: one that nobody disputes

    def tell(self, index: int, *events: tuple[str, dict[str, Any]], restart: int = 0) -> None:
        """Write what an attempt at the index-th task said."""
        task = list(self.tasks)[index]
        writer = EventWriter(self.sweep.event_file(task, attempt=f"j7_{index}-r{restart}"))
        for name, fields in [("claimed", {"claim": 2 * restart, "host": "c1"}), *events]:
            assert writer.write(name, **fields)

    def end(self, index: int, state: str, *, exit_code: int = 0, end_t: float = 1.0) -> None:
        """Have Slurm say how the index-th task ended."""
        job = {"job": f"7_{index}", "node": "c1", "words": state}
        self.ends[list(self.tasks)[index]] = TaskState(end=state, exit_code=exit_code, end_t=end_t, **job)

    def survey(self) -> Survey:
        newest = standing(read_intents(self.sweep), read_journals(self.sweep))
        told = {task: end for task, end in self.ends.items() if newest[task] is not None}
        return take_survey(self.sweep, read_manifest(self.sweep.path), scheduler=Told(told))

    def close(self) -> list[str]:
        """Conclude what is due."""
        survey = self.survey()
        return [line for array in due(self.sweep, survey) for line in self._closing(survey, array).conclude()]

    def _closing(self, survey: Survey, array: Array) -> Closing:
        claim = self.claim or Claim(folder=self.sweep.submissions, number=-1, attempt=Attempt.current(), t=0.0)
        return Closing(self.sweep, claim, survey, array)

    def states(self) -> dict[str, str]:
        return {run: status.state for run, status in self.survey().runs.items()}

    def submissions(self) -> list[Intent]:
        """Return the requests to submit that came after the first."""
        return [intent for intent in read_intents(self.sweep) if intent.action == "submit"][1:]


@pytest.fixture
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no accounts to ask, and a controller that knows no job."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise SlurmError("no accounts", kind="refused", no_accounting=True)

    monkeypatch.setattr(jobs, "accounted", refuse)
    monkeypatch.setattr(jobs, "show", lambda *args, **kwargs: {})
    monkeypatch.setattr(conclude, "limits_of", lambda options: Limits())


def send(folder: Path, *tasks: str, **options: Any) -> Sent:
    """Return a sweep whose array has these tasks, each named by its runs: "ab" trains runs a and b."""
    sweep = make_sweep(folder, {run: {} for runs in tasks for run in runs}).sweep
    made = {new_task(sweep): list(runs) for runs in tasks}
    for task, runs in made.items():
        values = {"schema": 1, "task": task, "memory_bytes": 500 << 20, "populations": [runs]}
        sweep.task(task).task_json.write_bytes(canonical_json(values))
    runs = [run for members in made.values() for run in members]
    record(sweep, "submit", runs=runs, tasks=made, options={**OPTIONS, **options}, scheduler="slurm")
    append(sweep, "0001", array=1, step="intent", token="band-demo", tasks=list(made), script="array.1.sh")
    for step, fields in (("queued", {"job_id": "7"}), ("closing", {"job_id": "8"}), ("released", {})):
        append(sweep, "0001", array=1, step=step, **fields)
    return Sent(sweep, made)


def started(*runs: str) -> tuple[str, dict[str, Any]]:
    return "started", {"runs": list(runs), "step": 0}


def publish(sweep: SweepDir, run: str) -> None:
    sweep.run(run).mkdir(parents=True)
    seal(sweep.run(run), result={"schema": 1, "run_id": run, "training": {"outcome": "ok"}})


pytestmark = pytest.mark.usefixtures("no_slurm")


def test_a_task_that_was_published_leaves_task_claim_events_and_log(tmp_path: Path) -> None:
    sent = send(tmp_path, "a")
    claim = take(sent.sweep.task("0001").path, attempt=Attempt.current())
    claim.release()
    sent.tell(0, started("a"), ("published", {"run": "a", "outcome": "ok"}), ("ended", {"code": 0}))
    publish(sent.sweep, "a")
    sent.end(0, "COMPLETED")
    calls = sent.sweep.submission("0001") / "submitit"
    sent.sweep.logs.mkdir()
    calls.mkdir()
    for path in (calls / "7_0_submitted.pkl", calls / "7_0_0_result.pkl", sent.sweep.logs / "7_0.out"):
        path.write_text("words")
    assert sent.close() == []
    assert not calls.exists() and list(sent.sweep.logs.iterdir()) == []
    assert sent.submissions() == []
    assert [array.is_closed for array in read_journals(sent.sweep)] == [True]
    (line,) = (sent.sweep.index / "0001.jsonl").read_text().splitlines()
    assert json.loads(line)["outcomes"] == {"a": "ok"}
    files = [path for path in sent.sweep.path.rglob("*0001*") if path.is_file() and "index" not in str(path)]
    files += list(sent.sweep.task("0001").path.iterdir())
    assert len(files) <= 4


def test_tasks_that_were_cut_short_go_on_in_one_submission_with_what_they_had(tmp_path: Path) -> None:
    sent = send(tmp_path, "ab", "c", "d")
    for index, runs in enumerate(["ab", "c", "d"]):
        sent.tell(index, started(*runs), ("checkpoint", {"step": 3}))
    sent.end(0, "NODE_FAIL")
    sent.end(1, "TIMEOUT")
    sent.end(2, "PREEMPTED")
    said = sent.close()
    (again,) = sent.submissions()
    assert again.tasks == {"0001": ("a", "b"), "0002": ("c",), "0003": ("d",)}
    assert again.runs == ("a", "b", "c", "d") and again.scheduler == "slurm"
    assert again.options["sbatch"] == OPTIONS["sbatch"]
    assert any("node_failure: 2 runs go on" in line for line in said)
    assert set(standing(read_intents(sent.sweep), read_journals(sent.sweep)).values()) == {None}
    assert sent.close() == [] and len(sent.submissions()) == 1


def test_a_population_whose_whole_step_lacked_memory_goes_on_in_halves_after_its_claim(tmp_path: Path) -> None:
    sent = send(tmp_path, "abc")
    take(sent.sweep.task("0001").path, attempt=Attempt(
        host="c1", boot_id="b", pid_namespace="p", pid=1, start_ticks=1, job_id="7", array_task=0
    ))  # fmt: skip
    sent.tell(0, ("split", {"runs": ["a", "b", "c"], "parts": [["a", "b", "c"]]}), started("a", "b", "c"))
    sent.end(0, "OUT_OF_MEMORY")
    sent.close()
    (again,) = sent.submissions()
    assert again.runs == ("a", "b", "c") and again.options["sbatch"]["mem"] == "1000M"

    class FakeJob:
        sweep, task = sent.sweep, type("Task", (), {"name": "0001"})

    streams = task_events(FakeJob())  # type: ignore[arg-type]
    splits = [event for events in streams for event in events if event["event"] == "split"]
    assert splits[-1]["parts"] == [["a", "b"], ["c"]]


def test_a_run_alone_that_lacked_memory_gets_more_once_in_a_submission_of_its_own(tmp_path: Path) -> None:
    sent = send(tmp_path, "a", "b")
    sent.tell(0, started("a"))
    sent.tell(1, started("b"))
    sent.end(0, "OUT_OF_MEMORY")
    sent.end(1, "NODE_FAIL")
    sent.close()
    options = {intent.runs: intent.options for intent in sent.submissions()}
    assert options["a",]["sbatch"]["mem"] == "1500M" and options["a",]["origins"]["mem"] == "policy"
    assert options["a",]["mem_bytes"] == 1500 << 20 and options["a",]["memory_factor"] == 1.5
    assert options["b",]["sbatch"] == OPTIONS["sbatch"]


@pytest.mark.parametrize(
    ("sbatch", "shown", "expected"),
    [
        ({"mem-per-cpu": "2G"}, {}, {"mem-per-cpu": "3072M"}),
        ({}, {"TRES": "cpu=1,mem=800M,node=1"}, {"mem": "1200M"}),
        ({}, {}, {"mem": "750M"}),
    ],
)
def test_more_memory_is_asked_for_in_the_option_that_was_given(
    tmp_path: Path, sbatch: dict[str, str], shown: dict[str, str], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = send(tmp_path, "a", sbatch=sbatch, mem_bytes=None)
    monkeypatch.setattr(jobs, "show", lambda *args, **kwargs: shown)
    sent.tell(0, started("a"))
    sent.end(0, "OUT_OF_MEMORY")
    sent.close()
    assert sent.submissions()[0].options["sbatch"] == expected


@pytest.mark.parametrize(
    ("sbatch", "expected"),
    [
        ({"mem": "1000M"}, {"mem": "1500M"}),
        ({"mem": "1800M"}, {"mem": "2000M"}),
        ({"mem-per-cpu": "400M"}, {"mem-per-cpu": "500M"}),
        ({"mem": "2000M"}, {"mem": "2000M"}),
    ],
)
def test_no_more_memory_is_asked_for_than_a_node_has(
    tmp_path: Path, sbatch: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = (1000, 2000)
    nodes = tuple(Node(name=f"c{size}", cpus=8, memory_bytes=size << 20) for size in sizes)
    monkeypatch.setattr(conclude, "limits_of", lambda options: Limits(nodes=nodes))
    sent = send(tmp_path, "a", sbatch=sbatch, cpus=4)
    sent.tell(0, started("a"))
    sent.end(0, "OUT_OF_MEMORY")
    sent.close()
    assert sent.submissions()[0].options["sbatch"] == expected


def test_a_run_that_a_policy_gives_up_is_failed_for_good_and_told_apart(tmp_path: Path) -> None:
    sent = send(tmp_path, "a", policy={"node_failure": 0})
    sent.tell(0, started("a"))
    sent.end(0, "NODE_FAIL")
    sent.close()
    assert sent.states() == {"a": "failed"}
    assert sent.survey().runs["a"].error == "NodeFailure"
    sent.ends.clear()  # Slurm forgets
    assert sent.states() == {"a": "failed"} and sent.submissions() == []


def test_what_was_scancelled_is_cancelled_in_the_ledger(tmp_path: Path) -> None:
    sent = send(tmp_path, "ab", "c")
    sent.tell(0, started("a", "b"), ("interrupted", {"reason": "SIGTERM"}), ("ended", {"code": 4}))
    sent.end(0, "CANCELLED")
    sent.ends["0002"] = TaskState(state="cancelled", job="7_1")  # before it started: Slurm keeps no record of it
    sent.close()
    sent.ends.clear()
    assert sent.states() == {"a": "cancelled", "b": "cancelled", "c": "cancelled"}
    assert sent.submissions() == []
    record(sent.sweep, "retry", runs=["a"])
    sent.close()
    assert sent.states()["a"] != "cancelled"  # the user's word after it stands


def test_a_failure_that_the_policy_tries_again_is_forgiven(tmp_path: Path) -> None:
    sent = send(tmp_path, "ab", policy={"exception": 1})
    failed = [("failed", {"runs": [run], "error": "ValueError", "message": "no"}) for run in "ab"]
    sent.tell(0, started("a", "b"), *failed, ("ended", {"code": 1}))
    sent.end(0, "FAILED", exit_code=1)
    sent.close()
    assert sent.submissions()[0].runs == ("a", "b")
    assert sent.states() == {"a": "interrupted", "b": "interrupted"}


def test_a_task_that_could_not_write_home_waits_on_its_node_and_is_not_sent_again(tmp_path: Path) -> None:
    sent = send(tmp_path, "a")
    sent.tell(0, started("a"))
    sent.end(0, "FAILED", exit_code=75)
    sent.close()
    sent.ends.clear()
    assert sent.states() == {"a": "unsynced"} and sent.submissions() == []


def test_nothing_is_judged_before_home_must_have_shown_the_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAND_SETTLE_S", "100")
    sent = send(tmp_path, "a", "b")
    sent.tell(0, started("a"), ("interrupted", {"reason": "time limit"}), ("ended", {"code": 4}))
    sent.tell(1, started("b"))
    sent.end(0, "TIMEOUT", end_t=time.time())
    sent.end(1, "NODE_FAIL", end_t=time.time() - 50)
    assert sent.close() == [] and sent.submissions() == []
    sent.end(1, "NODE_FAIL", end_t=time.time() - 101)
    assert sent.close() and len(sent.submissions()) == 1


@pytest.mark.parametrize(
    ("state", "words"), [("running", ""), ("queued", ""), ("held", ""), ("submit_unknown", ""), ("", "COMPLETING")]
)
def test_an_array_with_a_task_that_is_not_over_is_not_closed(tmp_path: Path, state: str, words: str) -> None:
    sent = send(tmp_path, "a", "b")
    sent.tell(0, started("a"))
    sent.end(0, "NODE_FAIL")
    sent.tell(1, started("b"), ("interrupted", {"reason": "SIGTERM"}), ("ended", {"code": 4}))
    sent.ends["0002"] = TaskState(state=state, words=words, job="7_1")
    assert sent.close() == []


def test_a_task_that_a_user_sent_again_is_left_to_that(tmp_path: Path) -> None:
    sent = send(tmp_path, "a", "b")
    for index, run in enumerate("ab"):
        sent.tell(index, started(run))
        sent.end(index, "NODE_FAIL")
    record(sent.sweep, "submit", runs=["a"], tasks={"0001": ["a"]}, options=OPTIONS, scheduler="slurm")
    sent.close()
    assert [intent.runs for intent in sent.submissions()] == [("a",), ("b",)]


def test_a_node_that_failed_twice_by_the_accounts_is_excluded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = send(tmp_path, "a", sbatch={"exclude": "c9"})
    for restart in range(2):
        sent.tell(0, started("a"), restart=restart)
    records = [
        jobs.Job(job_id="7", array_task=0, name="band-demo", state="NODE_FAIL", nodes="c1", start_t=float(start))
        for start in range(2)
    ]
    monkeypatch.setattr(jobs, "accounted", lambda *args, **kwargs: records)
    sent.end(0, "NODE_FAIL")
    sent.close()
    assert sent.submissions()[0].options["sbatch"]["exclude"] == "c9,c1"


def everything(folder: Path) -> Sent:
    """Return an array whose tasks ended in every way that leads to something."""
    sent = send(folder, "ab", "c", "d", "e", "f", "g", policy={"exception": 1})
    sent.tell(0, started("a", "b"))
    sent.end(0, "OUT_OF_MEMORY")
    sent.tell(1, started("c"))
    sent.end(1, "OUT_OF_MEMORY")
    sent.tell(2, started("d"), ("failed", {"runs": ["d"], "error": "ValueError"}), ("ended", {"code": 1}))
    sent.end(2, "FAILED", exit_code=1)
    sent.end(3, "CANCELLED")
    sent.end(4, "FAILED", exit_code=1)
    sent.tell(5, started("g"), ("published", {"run": "g", "outcome": "ok"}), ("ended", {"code": 0}))
    publish(sent.sweep, "g")
    return sent


def outcome(sent: Sent) -> Any:
    """Return all that a closing is to bring about."""
    requests = [(intent.action, intent.runs, intent.options.get("memory_factor")) for intent in sent.submissions()]
    index = [fold.task for fold in read_index(sent.sweep).values()]
    notes = {path.name: len(path.read_bytes().splitlines()) for path in sent.sweep.events.glob("[!.]*closing*")}
    return sent.states(), sorted(requests), sorted(set(index)), notes


def test_who_was_taken_for_dead_as_he_closed_an_array_sends_nothing_again(tmp_path: Path) -> None:
    sent = send(tmp_path, "a")
    sent.end(0, "NODE_FAIL")
    sent.tell(0, started("a"))
    sent.claim = take(sent.sweep.submissions, attempt=Attempt.current())
    others: list[list[str]] = []

    def be_stopped(name: str, call: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        """Stop as the verdict gets its name; meanwhile another closes the array, and sends what goes on."""
        done = call()
        if name == "link" and "closing-0001-1" in str(args[1]) and not others:
            others.append([])
            first, sent.claim = sent.claim, take(sent.sweep.submissions, attempt=Attempt.current())
            others[0] += sent.close()
            sent.claim = first
        return done

    with hooked(be_stopped), pytest.raises(ClaimError, match="taken over by another process"):
        sent.close()
    assert [line for line in others[0] if "go on" in line] and len(sent.submissions()) == 1


@pytest.mark.parametrize("death", DEATHS)
def test_wherever_a_closing_is_killed_the_next_does_the_rest_and_nothing_twice(tmp_path: Path, death: Hook) -> None:
    expected = everything(tmp_path / "undisturbed")
    expected.close()
    assert expected.states() == {
        "a": "interrupted", "b": "interrupted", "c": "interrupted", "d": "interrupted",
        "e": "cancelled", "f": "failed", "g": "published",
    }  # fmt: skip
    number = 0
    while True:
        sent = everything(tmp_path / str(number))
        was_killed = run_until_killed(sent.close, number=number, death=death)
        sent.close()
        assert outcome(sent) == outcome(expected), f"killed at call {number}"
        if not was_killed:
            break
        number += 1
    assert number > 30
