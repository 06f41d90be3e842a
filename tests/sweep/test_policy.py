"""What follows from how a task ended: each class of failure, and that no run is forgotten whatever happened."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from band.errors import ConfigError
from band.node import course
from band.sweep.fold import AttemptFold
from band.sweep.policy import REHEARSED, Case, End, Policy, Verdict, failure_class, judge, read_policy

RUNS = ["a", "b", "c", "d"]


def attempt(number: int, *events: tuple[str, dict[str, Any]], task: str = "0001") -> AttemptFold:
    """Return the attempt of restart `number`, on node c1, folded from its events."""
    fold = AttemptFold(task, f"j9_0-r{number}")
    start = {"event": "claimed", "t": 1000.0 * number + 1, "host": "c1"}
    for place, (name, fields) in enumerate([("claimed", start), *events]):
        fold.add({"t": 1000.0 * number + place + 1, **fields, "event": name})
    return fold


def started(*runs: str, step: int = 0) -> tuple[str, dict[str, Any]]:
    return "started", {"runs": list(runs), "step": step}


def checkpoint(step: int) -> tuple[str, dict[str, Any]]:
    return "checkpoint", {"step": step, "sha256": "x", "slot": 0}


def published(run: str) -> tuple[str, dict[str, Any]]:
    return "published", {"run": run, "outcome": "ok"}


def failed(run: str, error: str) -> tuple[str, dict[str, Any]]:
    return "failed", {"runs": [run], "error": error, "message": "no"}


def interrupted(reason: str) -> list[tuple[str, dict[str, Any]]]:
    return [("interrupted", {"reason": reason}), ("ended", {"code": 4})]


def case(
    *attempts: AttemptFold,
    state: str = "FAILED",
    runs: list[str] = RUNS,
    failures: dict[str, str] | None = None,
    ends: dict[str, End] | None = None,
    exit_code: int = 0,
) -> Case:
    end = End(state=state, node="c1", exit_code=exit_code)
    return Case(open_runs=runs, failures=failures or {}, attempts=attempts, ends=ends or {}, end=end, job="9_0")


def judged(*attempts: AttemptFold, **given: Any) -> Verdict:
    return judge(case(*attempts, **given), Policy())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("ValueError", "exception"), ("SIGSEGV", "exception"), ("TrainerEnded", "exception"), ("", ""),
        ("OutOfMemory", "out_of_memory"), ("OutOfMemoryError", "out_of_memory"), ("NoHeadway", "time_limit"),
        ("StageError", "staging"), ("NodeFailure", "node_failure"), ("Preempted", "preemption"), ("Died", "died"),
    ],
)  # fmt: skip
def test_an_error_says_its_class(error: str, expected: str) -> None:
    assert failure_class(error) == expected


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("OUT_OF_MEMORY", "out_of_memory"), ("TIMEOUT", "time_limit"), ("DEADLINE", "time_limit"),
        ("NODE_FAIL", "node_failure"), ("BOOT_FAIL", "node_failure"), ("PREEMPTED", "preemption"),
        ("CANCELLED", "cancelled"), ("FAILED", "died"), ("COMPLETED", "died"), ("", "died"),
    ],
)  # fmt: skip
def test_of_an_attempt_without_a_last_word_slurm_says_why(state: str, kind: str) -> None:
    assert judged(attempt(0, started(*RUNS), checkpoint(10)), state=state).kind == kind


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "TIMEOUT", "FAILED"])
def test_what_was_cut_short_goes_on(state: str) -> None:
    verdict = judged(attempt(0, started(*RUNS), checkpoint(10)), state=state)
    assert verdict.again == tuple(RUNS)
    assert (verdict.failed, verdict.parts, verdict.exclude, verdict.memory_factor) == ({}, (), (), 1.0)


@pytest.mark.parametrize("reason", ["preemption", "time limit"])
def test_an_attempt_that_could_not_be_requeued_goes_on_for_the_reason_it_gave(reason: str) -> None:
    verdict = judged(attempt(0, started(*RUNS), checkpoint(1), *interrupted(reason)), state="COMPLETED")
    assert verdict.kind == reason.replace(" ", "_")
    assert verdict.again == tuple(RUNS)


def test_what_was_scancelled_stays_cancelled() -> None:
    spoken = judged(attempt(0, started(*RUNS), checkpoint(1), *interrupted("SIGTERM")), state="CANCELLED")
    silent = judged(state="CANCELLED")
    assert spoken.cancelled == silent.cancelled == tuple(RUNS)
    assert spoken.again == silent.again == ()


def test_a_task_whose_members_were_cancelled_goes_on_with_the_others() -> None:
    verdict = judged(attempt(0, started(*RUNS), *interrupted("asked")), runs=["b", "c"])
    assert verdict.again == ("b", "c")


def test_a_task_that_another_attempt_holds_is_left_to_it() -> None:
    verdict = judged(attempt(0, started(*RUNS), *interrupted("another attempt holds the task")))
    assert verdict == Verdict()


def test_a_task_that_said_how_each_run_ended_is_over() -> None:
    spoken = attempt(0, started("a", "b"), published("a"), failed("b", "ValueError"), ("ended", {"code": 1}))
    assert judged(spoken, runs=[], failures={"b": "ValueError"}) == Verdict()
    # Slurm tells of any process that lacked memory, also of one whose lack was dealt with.
    assert judged(spoken, runs=[], failures={"b": "ValueError"}, state="OUT_OF_MEMORY") == Verdict()


def test_the_third_attempt_in_a_row_that_the_time_limit_ends_without_headway_is_the_last() -> None:
    cut = [attempt(number, started("a"), *interrupted("time limit")) for number in range(3)]
    assert judged(*cut[:2], state="TIMEOUT", runs=["a"]).again == ("a",)
    verdict = judged(*cut, state="TIMEOUT", runs=["a"])
    assert verdict.failed["a"][0] == "NoHeadway" and "--time" in verdict.failed["a"][1]
    assert failure_class(verdict.failed["a"][0]) == "time_limit"


@pytest.mark.parametrize("sign", [checkpoint(20), published("b")])
def test_a_new_checkpoint_or_a_published_run_is_headway(sign: tuple[str, dict[str, Any]]) -> None:
    first = attempt(0, started("a", "b"), checkpoint(10), *interrupted("time limit"))
    second = attempt(1, started("a", "b"), checkpoint(10), *interrupted("time limit"))
    third = attempt(2, started("a", "b"), sign, *interrupted("time limit"))
    fourth = attempt(3, started("a"), checkpoint(20), *interrupted("time limit"))
    assert judged(first, second, third, fourth, state="TIMEOUT", runs=["a"]).again == ("a",)


def test_a_task_that_dies_without_a_word_three_times_without_headway_is_given_up() -> None:
    silent = [attempt(number, started("a")) for number in range(3)]
    assert judged(*silent[:2], runs=["a"]).again == ("a",)
    error, message = judged(*silent, runs=["a"], exit_code=139).failed["a"]
    assert error == "Died" and "139" in message and "c1" in message and "9_0" in message


def test_a_job_whose_supervisor_never_spoke_is_given_up_at_once() -> None:
    assert judged(runs=["a"], exit_code=78).failed["a"][0] == "Died"
    earlier = AttemptFold("0001", "j5_0-r0", first_t=1.0, checkpoint_step=3)
    assert judged(earlier, runs=["a"]).failed["a"][0] == "Died"


def test_a_node_failure_before_the_supervisor_spoke_is_no_fault_of_the_task() -> None:
    assert judged(runs=["a"], state="NODE_FAIL").again == ("a",)


def test_a_node_that_failed_twice_under_a_task_is_avoided() -> None:
    tries = [attempt(number, started("a"), checkpoint(number)) for number in range(3)]
    once = {"j9_0-r0": End(state="NODE_FAIL", node="c2"), "j9_0-r1": End(state="PREEMPTED", node="c1")}
    assert judged(*tries, runs=["a"], state="NODE_FAIL", ends=once).exclude == ()
    twice = {**once, "j9_0-r1": End(state="NODE_FAIL", node="c1")}
    assert judged(*tries, runs=["a"], state="NODE_FAIL", ends=twice).exclude == ("c1",)
    # … and stays avoided when the next attempt is cut short for another reason.
    ends = {**twice, "j9_0-r2": End(state="NODE_FAIL", node="c1")}
    assert judged(*tries, attempt(3, checkpoint(9)), runs=["a"], state="TIMEOUT", ends=ends).exclude == ("c1",)


def test_a_population_that_lacked_memory_goes_on_in_halves() -> None:
    verdict = judged(attempt(0, started("a", "b", "c"), checkpoint(5)), runs=["a", "b", "c"], state="OUT_OF_MEMORY")
    assert verdict.parts == (("a", "b"), ("c",))
    assert verdict.again == ("a", "b", "c") and verdict.memory_factor == 1.0 and not verdict.failed


def test_of_a_task_in_parts_the_one_that_was_trained_is_halved() -> None:
    divided = attempt(0, started(*RUNS), ("split", {"runs": RUNS, "parts": [["a", "b"], ["c", "d"]]}), published("a"))
    second = attempt(1, started("b"), published("b"), started("c", "d"))
    verdict = judged(divided, second, runs=["c", "d"], state="OUT_OF_MEMORY")
    assert verdict.parts == (("c",), ("d",))
    first = judged(divided, attempt(1, started("a", "b")), runs=RUNS, state="OUT_OF_MEMORY")
    assert first.parts == (("a",), ("b",), ("c", "d"))


def test_a_run_alone_that_lacked_memory_gets_half_as_much_more_once() -> None:
    tries = [attempt(number, started("a"), checkpoint(number)) for number in range(2)]
    first = judged(tries[0], runs=["a"], state="OUT_OF_MEMORY")
    assert first.again == ("a",) and first.memory_factor == 1.5 and not first.parts
    second = judged(*tries, runs=["a"], state="OUT_OF_MEMORY", ends={"j9_0-r0": End(state="OUT_OF_MEMORY")})
    assert second.failed["a"][0] == "OutOfMemory" and not second.again


def test_more_memory_is_kept_when_the_run_is_cut_short_later() -> None:
    tries = [attempt(number, started("a"), checkpoint(number)) for number in range(2)]
    verdict = judged(*tries, runs=["a"], state="NODE_FAIL", ends={"j9_0-r0": End(state="OUT_OF_MEMORY")})
    assert verdict.again == ("a",) and verdict.memory_factor == 1.5


def test_a_run_alone_whose_trainer_lacked_memory_gets_half_as_much_more_once() -> None:
    lacks = [attempt(n, started("a"), failed("a", "OutOfMemory"), ("ended", {"code": 1})) for n in range(2)]
    first = judged(lacks[0], runs=[], failures={"a": "OutOfMemory"})
    assert first.again == first.forgiven == ("a",) and first.memory_factor == 1.5
    assert judged(*lacks, runs=[], failures={"a": "OutOfMemory"}) == Verdict()


def test_memory_of_the_device_is_not_asked_for_again() -> None:
    lack = attempt(0, started("a"), failed("a", "OutOfMemoryError"), ("ended", {"code": 1}))
    assert judged(lack, runs=[], failures={"a": "OutOfMemoryError"}).again == ()


@pytest.mark.parametrize("error", ["ValueError", "StageError", "SIGSEGV"])
def test_exceptions_and_staging_errors_are_not_tried_again_unless_asked_for(error: str) -> None:
    lack = attempt(0, started("a"), failed("a", error), ("ended", {"code": 1}))
    given = case(lack, runs=[], failures={"a": error})
    assert judge(given, Policy()).again == ()
    policy = read_policy(("sweep.yaml", {failure_class(error): 1}))
    assert judge(given, policy).forgiven == ("a",)
    again = attempt(1, started("a"), failed("a", error), ("ended", {"code": 1}))
    assert judge(case(lack, again, runs=[], failures={"a": error}), policy).again == ()


def test_a_task_that_could_not_write_home_waits_on_its_node() -> None:
    spoken = judged(attempt(0, started("a"), ("ended", {"code": 75})), runs=["a"], state="FAILED")
    silent = judged(attempt(0, started("a")), runs=["a"], state="FAILED", exit_code=75)
    assert spoken.unsynced == silent.unsynced == ("a",)
    assert spoken.kind == "sync" and spoken.again == ()


def test_limits_of_the_policy_hold() -> None:
    tries = [attempt(number, started("a"), checkpoint(number)) for number in range(2)]
    ends = {"j9_0-r0": End(state="PREEMPTED")}
    policy = read_policy(("user", {"preemption": 5}), ("sweep", {"preemption": 1}))
    given = case(*tries, runs=["a"], state="PREEMPTED", ends=ends)
    assert judge(given, policy).failed["a"][0] == "Preempted"
    assert judge(given, read_policy(("user", {"preemption": "unlimited"}))).again == ("a",)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"preemptoin": 1}, "preemptoin.*did you mean preemption"),
        ({"diverged": 1}, "diverged is no failure that is tried again"),
        ({"exception": -1}, "policy.exception must be .* got -1"),
        ({"exception": True}, "got True"),
        ({"exception": "often"}, "got 'often'"),
        (["exception"], "must be a mapping"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(section: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"x.yaml.*{message}"):
        read_policy(("x.yaml", section))


EVENTS = st.one_of(
    st.sampled_from(RUNS).map(published),
    st.tuples(st.sampled_from(RUNS), st.sampled_from(["ValueError", "OutOfMemory", "StageError"])).map(
        lambda pair: failed(*pair)
    ),
    st.integers(0, 5).map(checkpoint),
    st.lists(st.sampled_from(RUNS), min_size=1, unique=True).map(lambda runs: started(*runs)),
    st.permutations(RUNS).map(lambda runs: ("split", {"runs": runs, "parts": [runs[:2], runs[2:]]})),
)
ENDINGS = st.sampled_from(
    [[], [("ended", {"code": 1})], [("ended", {"code": 75})], interrupted("time limit"), interrupted("asked")]
)
STATES = st.sampled_from(["OUT_OF_MEMORY", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "CANCELLED", "FAILED", "COMPLETED", ""])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Return a task of any past, in which some runs are open and some have failed."""
    tries = [
        attempt(number, *draw(st.lists(EVENTS, max_size=5)), *draw(ENDINGS))
        for number in range(draw(st.integers(0, 4)))
    ]
    open_runs = draw(st.lists(st.sampled_from(RUNS), unique=True))
    errors = draw(st.lists(st.sampled_from(["ValueError", "OutOfMemory"]), min_size=4, max_size=4))
    failures = {run: error for run, error in zip(RUNS, errors, strict=True) if run not in open_runs}
    ends = {fold.attempt: End(state=draw(STATES)) for fold in tries}
    return case(*tries, state=draw(STATES), runs=open_runs, failures=failures, ends=ends)


@given(cases())
def test_whatever_happened_every_open_run_has_one_fate(given: Case) -> None:
    verdict = judge(given, Policy())
    fates = [*verdict.again, *verdict.failed, *verdict.cancelled, *verdict.unsynced]
    assert sorted(fates) == sorted([*given.open_runs, *verdict.forgiven])
    assert set(verdict.forgiven) <= set(given.failures)
    members = [run for part in verdict.parts for run in part]
    assert len(members) == len(set(members)) and set(members) <= set(given.open_runs)
    assert judge(given, Policy()) == verdict


def test_a_canary_that_stopped_by_itself_is_left_to_those_who_wait_for_it():
    told = ("rehearsed", {"share": 0.1, "train_s": 300.0, "outputs_s": 2.0})
    seen = case(attempt(0, started(*RUNS), checkpoint(5), told, *interrupted(course.REHEARSED)))
    assert course.REHEARSED == REHEARSED and judge(seen, Policy()) == Verdict()
    assert seen.attempts[0].rehearsal == told[1]
