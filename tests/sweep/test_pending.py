"""Every reason of Slurm's has words."""

from __future__ import annotations

import re

import pytest

from band.sweep.pending import meaning

# From `man squeue` of Slurm 22.05 and the controller's own list of words.
REASONS = re.findall(
    r"\w+",
    """
    AccountNotAllowed AssocGrpBBMinutes AssocGrpCPUMinutesLimit AssocGrpCPURunMinutesLimit AssocGrpCpuLimit
    AssocGrpGRES AssocGrpJobsLimit AssocGrpMemLimit AssocGrpNodeLimit AssocGrpSubmitJobsLimit AssocGrpWallLimit
    AssocMaxCpuPerJobLimit AssocMaxGRESPerJob AssocMaxJobsLimit AssocMaxSubmitJobLimit
    AssocMaxWallDurationPerJobLimit AssociationJobLimit AssociationResourceLimit AssociationTimeLimit
    BadConstraints BeginTime BurstBufferResources Cleaning DeadLine Dependency DependencyNeverSatisfied
    InvalidAccount InvalidQOS JobArrayTaskLimit JobHeldAdmin JobHeldUser JobHoldMaxRequeue Licenses
    MaxMemPerLimit NodeDown None PartitionDown PartitionInactive PartitionNodeLimit PartitionTimeLimit Priority
    Prolog QOSGrpCpuLimit QOSGrpGRES QOSGrpSubmitJobsLimit QOSJobLimit QOSMaxCpuPerUserLimit QOSMaxGRESPerUser
    QOSMaxJobsPerUserLimit QOSMaxMemoryPerUser QOSMaxSubmitJobPerUserLimit QOSMaxWallDurationPerJobLimit
    QOSMinCpuNotSatisfied QOSMinGRES QOSNotAllowed QOSResourceLimit QOSTimeLimit QOSUsageThreshold
    ReqNodeNotAvail Reservation ReservationDeleted Resources SchedDefer
    """,
)


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_is_told_in_words(reason: str) -> None:
    assert not meaning(reason, job="12_3").words.startswith("Slurm says")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("QOSMaxSubmitJobPerUserLimit", "more jobs are queued"),
        ("AssocGrpSubmitJobsLimit", "more jobs are queued"),
        ("AssocGrpCpuLimit", "all of its users together"),
        ("AssocGrpCPUMinutesLimit", "more time"),
        ("QOSMaxWallDurationPerJobLimit", "more time"),
        ("QOSMaxJobsPerUserLimit", "as many of one's jobs run"),
        ("QOSMaxCpuPerUserLimit", "CPUs, GPUs, memory"),
        ("ReservationDeleted", "is gone"),
        ("Resources", "it is next"),
        ("ReqNodeNotAvail, UnavailableNodes:c[1-2]", "down, drained or reserved"),
        ("launch failed requeued held", "could not start it"),
        ("launch_failed_requeued_held", "could not start it"),
        ("JobHoldMaxRequeue", "so often that Slurm holds it"),
        ("job requeued in held state", "somebody had it queued again and held"),
        ("DependencyNeverSatisfied", "never starts"),
        ("", "has not looked"),
        ("SomethingNew", "Slurm says SomethingNew"),
    ],
)
def test_each_is_told_by_its_own_words(reason: str, words: str) -> None:
    assert words in meaning(reason, job="12_3").words


def test_a_remedy_names_the_job_or_its_array() -> None:
    assert meaning("JobHeldUser", job="12_3").remedy.endswith("scontrol release 12_3")
    assert "JobId=12 ArrayTaskThrottle" in meaning("JobArrayTaskLimit", job="12_3").remedy
