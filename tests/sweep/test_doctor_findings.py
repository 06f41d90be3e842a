"""What the doctor makes of numbers that a lab cannot show: clocks with delays between them, and requests cut down."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from band.slurm.command import SlurmError
from band.slurm.options import Value, num_gpus
from band.sweep.doctor_findings import MAX_SKEW_S, Asked, Ended, Finding, accounting, no_slurm, no_word, on_the_node
from band.sweep.doctor_job import smallest

ASKED = Asked(cpus=1, gpus=0, home="/home/me", versions={}, sent_t=(1000.0, 1001.0))
ENDED = Ended(
    job_id="7", state="COMPLETED", exit_code=0, node="c1", submit_t=1000, start_t=1002, end_t=1010, restarts=0, words=""
)
FACTS = {
    "t": 1003.0,
    "t_end": 1009.0,
    "host": "c1",
    "home": {"error": "", "refuses_to_replace": True, "free_bytes": None},
    "python": {"executable": "/env/bin/python3", "version": "3.11.7"},
    "submitit": "1.5.4",
    "cpus": 1,
    "cuda_visible_devices": None,
    "slurm": {"sbatch": "", "scontrol": "", "squeue": ""},
    "scratch": {"path": "/scratch", "error": "", "is_volatile": False, "free_bytes": None},
    "trainer": {"command": ["/env/bin/python3"], "error": "", "versions": {"torch": "2"}, "cuda": "12", "gpus": 1},
}


def on_node(check: str, *, asked: Asked = ASKED, ended: Ended = ENDED, **facts: object) -> Finding:
    (found,) = [
        finding for finding in on_the_node({**FACTS, **facts}, asked=asked, ended=ended) if finding.check == check
    ]
    return found


delays = st.floats(0, 600)


@given(skew=st.floats(-5000, 5000), launch=delays, work=delays, report=delays)
def test_a_clock_is_never_said_to_be_further_off_than_it_is(
    skew: float, launch: float, work: float, report: float
) -> None:
    begun = 2000.0
    ended = Ended(
        job_id="7",
        state="COMPLETED",
        exit_code=0,
        node="c1",
        submit_t=None,
        start_t=math.floor(begun),
        end_t=math.floor(begun + launch + work + report),
        restarts=0,
        words="",
    )
    finding = on_node("clock", ended=ended, t=begun + launch + skew, t_end=begun + launch + work + skew)
    said = re.search(r"([+-]\d+) s", finding.what)
    if said:
        assert 0 <= int(said[1]) / skew <= 1 + 1 / MAX_SKEW_S
    else:
        assert abs(skew) <= MAX_SKEW_S + 1 + max(launch, report) + 1


def test_the_controllers_clock_is_compared_with_that_of_the_login_side() -> None:
    asked = Asked(cpus=1, gpus=0, home="/home/me", versions={}, sent_t=(4600.0, 4601.0))
    finding = on_node("clock", asked=asked)
    assert finding.level == "degraded" and "the controller's clock against this machine's: -3599 s" in finding.what


def test_a_gpu_that_is_asked_for_and_seen_is_well() -> None:
    asked = Asked(cpus=1, gpus=1, home="/home/me", versions={}, sent_t=(1000.0, 1001.0))
    assert on_node("gpus", asked=asked).level == "well"


def test_scratch_that_goes_with_the_job_is_told_even_where_a_second_job_finds_it_again() -> None:
    from band.sweep.doctor_findings import afterwards

    volatile = {**FACTS["scratch"], "is_volatile": True}  # type: ignore[dict-item]
    found = afterwards({"mark": True, "requeue": ""}, scratch=volatile, ended=ENDED)
    assert next((finding.check, finding.level) for finding in found) == ("scratch outlives", "degraded")


def test_a_controller_that_does_not_answer_is_not_a_machine_without_slurm() -> None:
    finding = no_slurm(SlurmError("squeue cannot reach the controller", kind="unreachable"))
    assert finding.level == "broken" and finding.what == "Slurm does not answer"
    assert "accounts" in accounting(False, answer="disabled").what and accounting(True, answer="").level == "well"


def test_a_job_that_a_node_failure_ended_is_not_taken_for_a_missing_environment() -> None:
    ended = Ended(
        job_id="7", state="NODE_FAIL", exit_code=0, node="c1", submit_t=1, start_t=2, end_t=3, restarts=0, words="3.11"
    )
    finding = no_word(ended, asked=ASKED)
    assert finding.check == "job" and "NODE_FAIL" in finding.what


@pytest.mark.parametrize(
    ("name", "asked", "sent"),
    [
        ("gres", "gpu:a100:4(S:0,1),shard:2", "gpu:a100:1,shard:2"),
        ("gres", "gpu", "gpu:1"),
        ("gres", "gpu=2", "gpu:1"),
        ("gpus", "4", "1"),
        ("gpus-per-node", "h200:2", "h200:1"),
        ("cpus-per-task", "16", "2"),
        ("cpus-per-task", "1", "1"),
        ("mem", "64G", "2G"),
        ("mem", "0", "2G"),
        ("mem", "500M", "500M"),
        ("time", "2-00:00:00", "15"),
        ("time", "5", "5"),
        ("partition", "gpu", "gpu"),
    ],
)
def test_the_small_job_asks_for_little_of_the_same_kind(name: str, asked: str, sent: str) -> None:
    small = smallest({name: Value(asked, "template")})
    assert small[name].value == sent
    assert num_gpus(small) <= 1
    assert {"mem", "time"} <= set(small)
