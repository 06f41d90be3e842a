"""The lab is what it says: nodes of their own, faults that really happen, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from slurm_lab.fixtures import CHECK
from slurm_lab.init import MEMORY_CGROUPS
from slurm_lab.lab import CGROUP_KILLS, NO_WCKEYS, QUICK_FAILURE, Lab, LabError
from slurm_lab.namespaces import wait_for

TESTS = Path(__file__).parents[1]
# A parent that outlives its child, unless the whole step is killed; the child takes 40 MB each 0.1 s.
HOG = """
import os, time
if os.fork() == 0:
    taken = []
    while True:
        taken.append(b"x" * 40_000_000)
        time.sleep(0.1)
print("child ended by signal", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""

# Notes each SIGTERM, and ends at the one that the number given tells.
STEP = r"""
cd $SLURM_JOB_PARTITION
trap 'printf "%(%s)T\n" >> told; [ $((signals += 1)) -lt $1 ] || exit' TERM
echo ${SLURM_RESTART_COUNT:-0} > started
while :; do sleep 0.1; done
"""


def output(lab: Lab, job: str) -> str:
    return (lab.home / f"slurm-{job}.out").read_text()


def content(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def processes_in(root: Path) -> list[str]:
    """Return the command lines of processes with a folder in their words, their environment or their mounts."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = [(entry / name).read_bytes() for name in ("cmdline", "environ", "mountinfo")]
        except OSError:
            continue
        if int(entry.name) != os.getpid() and any(os.fsencode(root) in part for part in words):
            found.append(words[0].replace(b"\0", b" ").decode())
    return found


def is_waiting_for_an_answer(pid: int) -> bool:
    """Return whether a process sleeps in poll(2) or recv(2)."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] in {"7", "45", "271"}


def test_each_node_has_a_name_a_scratch_disk_and_gpus_of_its_own(slurm_lab: Lab) -> None:
    wrap = "srun sh -c 'echo $CUDA_VISIBLE_DEVICES > /disk/scratch/$(hostname); hostname'"
    job = slurm_lab.sbatch("--nodes=2", "--ntasks-per-node=1", "--gres=gpu:2", wrap=wrap)
    slurm_lab.wait_for_job(job, "COMPLETED")
    for name, node in slurm_lab.nodes.items():
        assert [path.name for path in node.scratch.iterdir()] == [name]
        assert (node.scratch / name).read_text() == "0,1\n"
    assert sorted(output(slurm_lab, job).split()) == sorted(slurm_lab.nodes)
    assert slurm_lab.run(["hostname"]).stdout == "login\n"


def test_a_client_outside_of_the_namespaces_reaches_the_lab_by_its_environment(slurm_lab: Lab) -> None:
    submit = ["sbatch", "--parsable", "--chdir=/", "--output=/dev/null", "--wrap", "true"]
    done = subprocess.run(submit, env=slurm_lab.environment, capture_output=True, text=True, timeout=30, check=True)
    slurm_lab.wait_for_job(done.stdout.strip(), "COMPLETED")


def test_an_urgent_job_preempts_after_the_grace_time_and_the_preempted_ones_run_again(slurm_lab: Lab) -> None:
    (slurm_lab.home / "step.sh").write_text(STEP)
    jobs = {}
    for node, partition, last_signal in (("c1", "preemptible", 1), ("c2", "graceful", 2)):
        (slurm_lab.home / partition).mkdir()
        whole_node = ["--exclusive", f"--partition={partition}", f"--nodelist={node}"]
        jobs[partition] = slurm_lab.sbatch(*whole_node, wrap=f"srun bash step.sh {last_signal}")
    started = [slurm_lab.home / partition / "started" for partition in jobs]
    slurm_lab.wait_for(lambda: [content(path) for path in started] == ["0", "0"])
    for node, partition in zip(slurm_lab.nodes, jobs, strict=True):
        wrap = f"date +%s > {partition}/replaced"
        slurm_lab.sbatch("--exclusive", "--partition=urgent", f"--nodelist={node}", wrap=wrap)
    slurm_lab.wait_for(lambda: [content(path) for path in started] == ["1", "1"], timeout_s=60, what="both again")
    for (partition, job), grace_s in zip(jobs.items(), (0, 10), strict=True):
        told, replaced = (int(content(slurm_lab.home / partition / name).split()[0]) for name in ("told", "replaced"))
        assert grace_s - 1 <= replaced - told and slurm_lab.job(job)["Restarts"] == "1"


def test_a_step_that_takes_too_much_memory_is_killed_whole(slurm_lab: Lab) -> None:
    (slurm_lab.home / "hog.py").write_text(HOG)
    job = slurm_lab.sbatch("--mem=300", wrap=f"{sys.executable} hog.py")
    slurm_lab.wait_for_job(job, "OUT_OF_MEMORY", "FAILED", "CANCELLED")
    assert "child ended" not in output(slurm_lab, job)
    assert "memory" in output(slurm_lab, job)


@pytest.mark.skipif(
    not (MEMORY_CGROUPS / "cgroup.procs").exists(), reason=f"no cgroups of version 1 at {MEMORY_CGROUPS}"
)
def test_where_cgroups_act_only_the_process_that_takes_too_much_is_killed(slurm_lab: Lab) -> None:
    (slurm_lab.home / "hog.py").write_text(HOG)
    with slurm_lab.configured(**CGROUP_KILLS):
        job = slurm_lab.sbatch("--mem=300", wrap=f"{sys.executable} hog.py")
        slurm_lab.wait_for_job(job, "OUT_OF_MEMORY")
    assert "child ended by signal -9" in output(slurm_lab, job)


def test_more_jobs_than_the_limit_are_refused_until_it_is_lifted(slurm_lab: Lab) -> None:
    slurm_lab.set_limits(max_submit=3)
    with pytest.raises(LabError, match="AssocMaxSubmitJobLimit"):
        slurm_lab.sbatch("--hold", "--array=0-3", wrap="true")
    job = slurm_lab.sbatch("--hold", "--array=0-2", wrap="true")
    assert slurm_lab.job_states() == {**slurm_lab.job_states(), **{f"{job}_{task}": "PENDING" for task in range(3)}}
    slurm_lab.reset()
    slurm_lab.sbatch("--hold", "--array=0-9", wrap="true")


def test_nodes_that_lose_power_or_freeze_are_down_for_slurm_and_their_jobs_run_again(slurm_lab: Lab) -> None:
    dark, frozen = slurm_lab.nodes.values()
    with slurm_lab.configured(**QUICK_FAILURE):
        wrap = "touch /disk/scratch/here; sleep 60"
        jobs = [slurm_lab.sbatch("--array=4-4", f"--nodelist={name}", wrap=wrap) + "_4" for name in slurm_lab.nodes]
        slurm_lab.wait_for(lambda: all(slurm_lab.pids(job=job, command="sleep 60") for job in jobs))
        before = dark.pids()
        dark.kill()
        frozen.stop()
        assert len(before) > 3 and not [pid for pid in before if Path(f"/proc/{pid}").exists()]
        slurm_lab.wait_for(lambda: {slurm_lab.job(job)["Restarts"] for job in jobs} == {"1"}, what="requeues")
        assert frozen.pids(job=jobs[1], command="sleep 60"), "frozen is not dead"
        frozen.wake()
        dark.start()
        slurm_lab.wait_for(lambda: not frozen.pids(job=jobs[1]), what="the job's processes to be killed")
        slurm_lab.wait_for(slurm_lab.is_up)
    assert (dark.scratch / "here").exists()


def test_jobs_outlive_a_slurmd_that_is_killed(slurm_lab: Lab) -> None:
    job = slurm_lab.sbatch("--nodelist=c1", wrap="until test -e end; do sleep 0.1; done")
    slurm_lab.wait_for(lambda: slurm_lab.pids(job=job))
    slurm_lab.nodes["c1"].kill_slurmd()
    assert slurm_lab.pids(job=job)
    slurm_lab.nodes["c1"].start()
    (slurm_lab.home / "end").touch()
    slurm_lab.wait_for_job(job, "COMPLETED")


def test_what_a_paused_controller_was_asked_is_done_when_it_goes_on(slurm_lab: Lab) -> None:
    slurm_lab.pause_controller()
    with slurm_lab.popen(["sbatch", "--wrap", "true", "--job-name=patient"]) as submission:
        slurm_lab.wait_for(lambda: is_waiting_for_an_answer(submission.pid), what="sbatch to wait")
        submission.kill()
    slurm_lab.start_controller()
    names = ["squeue", "--noheader", "--states=all", "--format=%j"]
    slurm_lab.wait_for(lambda: "patient" in slurm_lab.run(names).stdout)


def test_a_controller_that_was_shut_down_or_killed_is_back_with_its_jobs(slurm_lab: Lab) -> None:
    job = slurm_lab.sbatch("--hold", wrap="true")
    for end in (slurm_lab.stop_controller, slurm_lab.kill_controller):  # killed, it forgets the last few seconds
        end()
        assert "DOWN" in slurm_lab.run(["scontrol", "ping"]).stdout
        slurm_lab.start_controller()
        assert slurm_lab.job_states()[job] == "PENDING"


def test_scratch_can_be_small_full_read_only_or_absent_on_one_node(slurm_lab: Lab) -> None:
    node, other = slurm_lab.nodes.values()
    write = ["sh", "-c", "head -c 3000000 /dev/zero > /disk/scratch/file"]
    node.run(write)
    assert (node.shrink_scratch(size_mb=2) / "file").exists() is False
    for fault, words in ((None, "No space"), (node.fill_scratch, "No space"), (node.protect, "Read-only")):
        if fault is not None:
            fault()
        with pytest.raises(LabError, match=words):
            node.run(write)
    node.remove_scratch()
    with pytest.raises(LabError):
        node.run(["ls", "/disk/scratch"])
    other.run(write)
    node.repair()
    assert node.run(["ls", "/disk/scratch"]).stdout == "file\n"


def test_home_can_be_read_only_on_one_node(slurm_lab: Lab) -> None:
    node, other = slurm_lab.nodes.values()
    node.protect(slurm_lab.home)
    other.run(["touch", slurm_lab.home / "there"])
    with pytest.raises(LabError, match="Read-only"):
        node.run(["touch", slurm_lab.home / "here"])


def test_home_can_be_seen_late_on_each_node(can_run_slurm: None, lab_folder: Path) -> None:
    with Lab(lab_folder, nodes=2, cpus=1, accounting=False, home_seen_late_s=30) as lab:
        look = ["sh", "-c", f"cat {lab.home}/name 2>/dev/null || echo absent"]
        first, second = lab.nodes.values()
        assert first.run(look).stdout == "absent\n"
        (lab.home / "name").write_text("there\n")
        assert lab.run(["cat", "name"]).stdout == second.run(look).stdout == "there\n"
        assert first.run(look).stdout == "absent\n"


def test_without_accounting_sacct_says_so_and_jobs_run(slurm_lab_without_accounting: Lab) -> None:
    lab = slurm_lab_without_accounting
    lab.wait_for_job(lab.sbatch(wrap="true"), "COMPLETED")
    assert "Slurm accounting storage is disabled" in lab.run(["sacct"]).stderr


def test_with_accounting_sacct_knows_each_attempt(slurm_lab: Lab) -> None:
    job = slurm_lab.sbatch(wrap="sleep ${SLURM_RESTART_COUNT:-60}0")
    slurm_lab.wait_for_job(job, "RUNNING")
    slurm_lab.run(["scontrol", "requeue", job], check=True)
    sacct = ["sacct", "--noheader", "--parsable2", "--duplicates", "--allocations", "--format=state", f"--jobs={job}"]
    slurm_lab.wait_for(lambda: slurm_lab.run(sacct).stdout.split() == ["REQUEUED", "PENDING"])


def test_other_settings_hold_for_a_while(slurm_lab: Lab) -> None:
    with slurm_lab.configured(MaxArraySize=3, Epilog=str(slurm_lab.wiping_epilog()), **NO_WCKEYS):
        with pytest.raises(LabError, match=r"wckeys are not used at this site, got mine\n"):
            slurm_lab.sbatch("--hold", "--wckey=mine", wrap="true")
        with pytest.raises(LabError, match="Invalid job array"):
            slurm_lab.sbatch("--hold", "--array=0-3", wrap="true")
        job = slurm_lab.sbatch("--nodelist=c1", wrap="touch /disk/scratch/file; ls /disk/scratch")
        slurm_lab.wait_for_job(job, "COMPLETED")
        slurm_lab.wait_for(slurm_lab.is_idle)
        assert output(slurm_lab, job) == "file\n" and not list(slurm_lab.nodes["c1"].scratch.iterdir())
    slurm_lab.sbatch("--hold", "--array=0-3", wrap="true")


def test_nothing_is_left_of_a_lab_whose_owner_is_killed(lab_folder: Path, slurm_lab: Lab) -> None:
    owner = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        from slurm_lab.lab import Lab
        lab = Lab(Path({str(lab_folder)!r}), accounting=False).__enter__()
        job = lab.sbatch("--nodes=2", wrap="setsid sleep 600 & sleep 600")
        lab.wait_for(lambda: lab.pids(job=job, command="sleep 600"))
        lab.nodes["c2"].stop()
        lab.pause_controller()
        print(lab.plan.cgroup, flush=True)
        time.sleep(600)
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen([sys.executable, "-c", owner], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        cgroup = Path(process.stdout.readline().strip())
        assert any("slurmd -D -N c2" in words for words in processes_in(lab_folder))
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not processes_in(lab_folder) and not cgroup.exists(), what="the lab to be gone")
    assert str(lab_folder) not in Path("/proc/self/mountinfo").read_text()
    assert slurm_lab.is_idle(), "another lab was touched"


def test_a_shell_on_a_lab_takes_the_lab_with_it(can_run_slurm: None) -> None:
    shell = [sys.executable, "-m", "slurm_lab"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    commands = "sinfo --noheader --format=%P; pwd; exit 3"
    done = subprocess.run(shell, input=commands, env=environment, capture_output=True, text=True, timeout=60)
    *_, normal, preemptible, graceful, urgent, home = done.stdout.split()
    assert (normal, preemptible, graceful, urgent) == ("normal*", "preemptible", "graceful", "urgent")
    assert done.returncode == 3 and not Path(home).exists() and not processes_in(Path(home).parent)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /usr/sbin; bash"], "sudo apt-get install slurm-wlm "),
        (["setpriv", "--reuid=65534", "--clear-groups", "bash"], "it needs root"),
    ],
)
def test_where_no_lab_can_run_the_line_that_changes_that_is_printed(
    can_run_slurm: None, command: list[str], words: str
) -> None:
    done = subprocess.run(command, input=CHECK.read_text(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and words in done.stderr
