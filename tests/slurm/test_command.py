"""How a command of Slurm ends is told apart by what it means: nothing was done, perhaps something, or a refusal."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from slurm_lab.lab import Lab

from band.slurm import cluster, jobs
from band.slurm.command import SlurmError, environment, failure, job_environment, run

SOCKET = "slurm_persist_conn_open_without_init: failed to open persistent connection to host:127.0.0.1:20002"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", "timeout"),
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (receive failure)",
            "timeout",
        ),
        ("sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received", "timeout"),
        ("sbatch: error: Batch job submission failed: Unspecified error", "timeout"),
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            "unreachable",
        ),
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", "unreachable"),
        (f"sacct: error: {SOCKET}: Connection refused\nsacct: error: Sending PersistInit msg", "unreachable"),
        ("sbatch: error: resolve_ctls\nsbatch: fatal: Could not establish a configuration source", "absent"),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination", "refused"),
        ("something that nobody has seen yet", "refused"),
    ],
)
def test_a_failure_is_of_the_kind_that_its_words_mean(words: str, kind: str) -> None:
    assert failure(words.partition(":")[0], words=words, code=1).kind == kind


def test_words_of_slurm_are_passed_on_without_its_decoration_and_a_remedy_is_added() -> None:
    words = (
        "sbatch: error: invalid partition specified: gpuu\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
    )
    assert str(failure("sbatch", words=words, code=1)) == (
        "sbatch: invalid partition specified: gpuu; Batch job submission failed: Invalid partition name specified\n"
        "  `band-sweep cluster` lists the partitions; give one with --partition"
    )


def test_a_command_that_a_signal_ended_may_have_done_its_work() -> None:
    with pytest.raises(SlurmError, match="SIGKILL") as caught:
        run([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
    assert caught.value.kind == "timeout"


def test_a_command_that_answers_too_late_may_have_done_its_work() -> None:
    with pytest.raises(SlurmError, match=r"did not answer within 0\.2 s") as caught:
        run(["sleep", "10"], timeout_s=0.2)
    assert caught.value.kind == "timeout"


def test_a_queue_that_is_full_is_a_refusal_as_long_as_sbatch_has_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying"
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\nsleep $WAIT\necho '{said}' >&2\nexec sleep 20\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("WAIT", "0.3")
    with pytest.raises(SlurmError, match=r"the controller's queue is full \(MaxJobCount\)") as caught:
        run(["sbatch", "job.sh"])
    assert caught.value.kind == "refused"
    monkeypatch.setenv("WAIT", "0")
    busy = itertools.count(0.0, 0.7)  # a machine too busy to look in time
    monkeypatch.setattr("band.slurm.command.time", SimpleNamespace(monotonic=lambda: next(busy)))
    with pytest.raises(SlurmError, match="within 2 s; it said: Slurm temporarily unable") as caught:
        run(["sbatch", "job.sh"], timeout_s=2.0)
    assert caught.value.kind == "timeout"


def test_a_machine_without_slurm_is_told_what_works_there() -> None:
    with pytest.raises(SlurmError, match="band-sweep submit NAME` runs on this machine") as caught:
        run(["no_such_command_of_slurm"])
    assert caught.value.kind == "absent" and caught.value.exit_code == 3


def test_what_a_job_left_in_the_environment_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stray = ("SBATCH_PARTITION", "SLURM_JOB_ID", "SLURMD_NODENAME", "SQUEUE_FORMAT", "SRUN_X", "SLURM_CLUSTERS")
    for name in (*stray, "SLURM_CONF", "SLURMISH", "MY_SLURM_JOB_ID"):
        monkeypatch.setenv(name, "7")
    for kept in (environment(), job_environment()):
        assert not set(stray) & set(kept)
        assert kept["SLURM_CONF"] == kept["SLURMISH"] == kept["MY_SLURM_JOB_ID"] == "7"
    assert environment()["SLURM_TIME_FORMAT"] == "%s"
    assert job_environment() == {name: value for name, value in os.environ.items() if name not in stray}


def test_stray_variables_change_neither_a_job_nor_what_is_asked(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SBATCH_PARTITION": "urgent",
        "SBATCH_TIMELIMIT": "3",
        "SBATCH_NO_REQUEUE": "1",
        "SBATCH_JOB_NAME": "stray",
        "SLURM_TIME_FORMAT": "relative",
        "SQUEUE_STATES": "RUNNING",
        "SQUEUE_PARTITION": "urgent",
        "SLURM_JOB_NAME": "stray",
    }.items():
        monkeypatch.setenv(name, value)
    job = run(["sbatch", "--parsable", "--begin=now+1hour", "--wrap", "env"]).strip()
    shown = jobs.show(job)
    assert (shown["Partition"], shown["TimeLimit"], shown["Requeue"], shown["JobName"]) == (
        "normal", "01:00:00", "1", "wrap",
    )  # fmt: skip
    # Other tests' jobs, that are over, may still be there.
    assert [found.job_id for found in jobs.queued() if found.state == "PENDING"] == [job]


def test_a_job_is_given_the_users_environment_and_none_of_the_askers(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "POSIX")
    monkeypatch.setenv("MINE", "kept")
    monkeypatch.setenv("SBATCH_MINE", "not kept")
    job = run(["sbatch", "--parsable", "--output=env", "--wrap", "env"]).strip()
    lab.wait_for_job(job, "COMPLETED")
    lines = (lab.home / "env").read_text().splitlines()
    assert "MINE=kept" in lines and "LC_ALL=POSIX" in lines
    assert not [line for line in lines if line.startswith(("SLURM_TIME_FORMAT=", "SBATCH_MINE=", "SLURM_BITSTR_LEN="))]


def test_each_refusal_of_sbatch_comes_with_its_words_and_a_remedy(lab: Lab) -> None:
    for option, words, remedy in (
        ("--partition=nosuch", "invalid partition specified: nosuch", "lists the partitions"),
        ("--array=0-5000", "Invalid job array specification", "MaxArraySize"),
        ("--gres=gpu:9", "Requested node configuration is not available", "no node of that partition"),
        ("--account=nosuch", "Invalid account or account/partition combination", "--account"),
        ("--qos=nosuch", "Invalid qos specification", "--qos"),
        ("--constraint=nosuch", "Invalid feature specification", "--constraint"),
        ("--mem=900G", "Memory specification can not be satisfied", "memory"),
    ):
        with pytest.raises(SlurmError) as caught:
            run(["sbatch", option, "--wrap", "true"])
        assert caught.value.kind == "refused" and words in str(caught.value) and remedy in str(caught.value), option


def kind_of(call: Callable[[], object]) -> str:
    """Return how a call fails; empty: it does not."""
    try:
        call()
    except SlurmError as error:
        assert "\n" not in str(error)
        return error.kind
    return ""


def test_a_controller_and_a_database_that_are_down_are_unreachable_until_they_are_back(lab: Lab) -> None:
    calls = (lambda: run(["sbatch", "--wrap", "true"]), jobs.queued, cluster.limits, lambda: jobs.accounted(["1"]))
    lab.stop_controller()
    lab.stop_dbd()
    with ThreadPoolExecutor() as pool:  # each gives up after nine seconds
        assert list(pool.map(kind_of, calls)) == ["unreachable"] * 4
    lab.start_dbd()
    lab.start_controller()
    assert [kind_of(call) for call in calls[1:]] == ["", "", ""]


def test_without_accounting_the_accounts_say_so_and_the_queue_knows_how_jobs_ended(lab_without_accounting: Lab) -> None:
    lab = lab_without_accounting
    with pytest.raises(SlurmError) as caught:
        jobs.accounted(["1"])
    assert caught.value.no_accounting and caught.value.kind == "refused"
    job = lab.sbatch("--output=/dev/null", wrap="exit 3")
    lab.wait_for_job(job, "FAILED")
    (ended,) = [found for found in jobs.queued() if found.job_id == job]
    assert (ended.state, ended.exit_code, ended.exit_signal, ended.reason) == ("FAILED", 3, 0, "NonZeroExitCode")
