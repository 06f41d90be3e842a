"""The doctor on a real Slurm cluster: what is well is called well, and each fault is found by its name."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from slurm_lab.lab import Lab

SCRATCH = "export BAND_SCRATCH=/disk/scratch/band"
ANSWER = '{"versions": {"python": "3.11.0", "torch": "2.99.0"}, "cuda": null, "gpus": 0}'
TRAINER = f"#!/bin/sh\necho '{ANSWER}'\n"  # a trainer's Python in which other versions are installed, and no CUDA
SHIFT_S = 120


class Report:
    """What a doctor has printed as JSON."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        assert "Traceback" not in process.stderr, process.stderr
        self.code = process.returncode
        self.words = process.stderr
        values = json.loads(process.stdout)
        self.facts: dict[str, Any] = values["facts"]
        self.findings: dict[str, dict[str, str]] = {finding["check"]: finding for finding in values["findings"]}

    def levels(self) -> dict[str, str]:
        return {check: finding["level"] for check, finding in self.findings.items()}

    def bad(self) -> set[str]:
        return {check for check, level in self.levels().items() if level not in ("well", "note")}


class Clinic:
    """Several doctors at work at once on one lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._started: dict[str, subprocess.Popen[str]] = {}
        (lab.home / "sbatch_templates").mkdir()

    def start(self, name: str, *template: str, arguments: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        path = self.lab.home / f"sbatch_templates/{name}.sh"
        path.write_text("\n".join(["#!/bin/bash", *template]) + "\n")
        command = ["band-sweep", "doctor", "--cluster", name, "--json", *arguments]
        self._started[name] = self.lab.popen(command)
        return self._started[name]

    def reports(self) -> dict[str, Report]:
        found = {}
        for name, process in self._started.items():
            out, err = process.communicate(timeout=120)
            found[name] = Report(subprocess.CompletedProcess(process.args, process.returncode, out, err))
        return found


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def customised(folder: Path, text: str) -> str:
    """Return the line of a template that has every Python of the job begin with `text`."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(text)
    return f"export PYTHONPATH={folder}"


def several_faults(home: Path) -> list[str]:
    """Return a template with faults that do not hide each other."""
    executable(home / "trainer", TRAINER)
    few = home / "few"
    few.mkdir()
    for command, path in (
        ("python3", sys.executable),
        *((name, shutil.which(name)) for name in ("scontrol", "squeue")),
    ):
        executable(few / command, f'#!/bin/sh\nexec {path} "$@"\n')
    customise = "import ctypes, time\nreal = time.time\ntime.time = lambda: real() + "
    without_rename = "ctypes.CDLL = lambda *words, **names: object()"
    return [
        "#SBATCH --nodelist=c1",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --gres=gpu:2",
        "export BAND_SCRATCH=/proc/nowhere/band",
        'scontrol update JobId="$SLURM_JOB_ID" Requeue=0',
        f"taskset -p -c {min(os.sched_getaffinity(0))} $$",
        customised(home / "shifted", f"{customise}{SHIFT_S}\n{without_rename}\n"),
        f'export BAND_TRAINER="{home}/trainer -m band.train.worker"',
        f"export PATH={few}",
    ]


@pytest.fixture(scope="module")
def reports(shared_slurm_lab: Lab) -> dict[str, Report]:
    """What the doctors say of healthy and faulty templates, all looked at together."""
    lab = shared_slurm_lab
    lab.reset()
    clinic = Clinic(lab)
    protected = lab.home / "protected"
    protected.mkdir()
    lab.nodes["c2"].run(["mount", "--bind", protected, protected])
    lab.nodes["c2"].run(["mount", "-o", "remount,bind,ro", protected])
    lab.nodes["c2"].run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", "/disk/scratch"])
    try:
        clinic.start("healthy", "#SBATCH --nodelist=c1", "#SBATCH --cpus-per-task=2", SCRATCH)
        clinic.start("faulty", *several_faults(lab.home))
        no_links = "import os\ndef link(*paths, **options):\n    raise PermissionError(1, 'Operation not permitted')\n"
        clinic.start(
            "bare",
            "#SBATCH --nodelist=c2",
            SCRATCH,
            customised(lab.home / "no_links", no_links + "os.link = link\n"),
            "export PATH=/usr/bin:/bin",
        )
        clinic.start("broken", "#SBATCH --nodelist=c1", "source /no/such/environment || exit 72")
        clinic.start("protected", "#SBATCH --nodelist=c2", arguments=("--home", str(protected)))
        clinic.start("elsewhere", "#SBATCH --partition=gpu_long")
        clinic.start("later", "#SBATCH --begin=now+1hour", arguments=("--timeout", "1"))
        return clinic.reports()
    finally:
        lab.nodes["c2"].run(["umount", protected])
        lab.nodes["c2"].run(["umount", "/disk/scratch"])


def test_a_healthy_cluster_is_well_in_every_respect(reports: dict[str, Report]) -> None:
    report = reports["healthy"]
    assert not report.bad() and report.code == 0, report.findings
    assert set(report.levels()) == {
        *("slurm", "accounting", "template", "home", "rename", "environment", "scratch", "cpus"),
        *("slurm on the node", "clock", "scratch outlives", "requeue"),
    }
    assert report.facts["first"]["trainer"]["versions"]["torch"]


def test_no_job_and_no_file_is_left_behind(reports: dict[str, Report], shared_slurm_lab: Lab) -> None:
    assert not shared_slurm_lab.run(["squeue", "--noheader"], check=True).stdout
    assert not list(shared_slurm_lab.home.glob(".band-doctor*"))
    scratch = shared_slurm_lab.nodes["c1"].scratch / "band"
    assert [path.name for path in scratch.iterdir()] == ["data"]


def test_faults_that_come_together_are_told_apart(reports: dict[str, Report]) -> None:
    report = reports["faulty"]
    assert report.code == 4
    expected = {"versions", "scratch", "cpus", "gpus", "slurm on the node", "clock", "requeue"}
    assert report.bad() == expected, report.findings
    found = report.findings
    assert found["rename"]["level"] == "note" and "renameat2" in found["rename"]["seen"]
    assert "/proc/nowhere/band cannot be used" in found["scratch"]["seen"]
    assert found["cpus"]["seen"].startswith("1 visible")
    assert "built without CUDA" in found["gpus"]["seen"]
    assert found["slurm on the node"]["what"].startswith("sbatch cannot be called from c1")
    assert "torch 2.99.0 there" in found["versions"]["seen"]
    assert "disabled" in found["requeue"]["seen"]
    (skew,) = [word for word in found["clock"]["what"].split() if word.startswith("+")]
    assert SHIFT_S - 30 <= int(skew) <= SHIFT_S


def test_a_full_scratch_a_home_without_links_and_a_python_without_submitit_are_named(
    reports: dict[str, Report],
) -> None:
    found = reports["bare"].findings
    assert reports["bare"].code == 4
    assert found["scratch"]["level"] == "degraded" and "No space left" in found["scratch"]["seen"]
    assert found["rename"]["level"] == "broken" and "Operation not permitted" in found["rename"]["seen"]
    assert found["environment"]["what"] == "/usr/bin/python3 on c2 has no submitit"


def test_an_environment_that_is_missing_is_named_in_the_words_of_the_shell(reports: dict[str, Report]) -> None:
    report = reports["broken"]
    assert report.code == 4 and report.bad() == {"environment"}
    assert "exit code 72: " in report.findings["environment"]["seen"]
    assert "/no/such/environment: No such file" in report.findings["environment"]["seen"]


def test_a_home_that_the_node_cannot_write_is_told_by_the_exit_code(reports: dict[str, Report]) -> None:
    report = reports["protected"]
    assert report.code == 4 and report.bad() == {"home"}
    assert "cannot be written from c2" in report.findings["home"]["what"]


def test_a_partition_that_does_not_exist_is_named_beside_those_that_do(reports: dict[str, Report]) -> None:
    report = reports["elsewhere"]
    assert report.code == 3 and report.bad() == {"template"}
    assert "'gpu_long'" in report.findings["template"]["what"]
    assert "normal, preemptible" in report.findings["template"]["mend"]


def test_a_job_that_does_not_start_in_time_is_cancelled_and_its_reason_shown(reports: dict[str, Report]) -> None:
    report = reports["later"]
    assert report.code == 3 and report.bad() == {"job"}
    assert report.findings["job"]["seen"] == "PENDING (BeginTime)"


def test_ctrl_c_cancels_the_job(slurm_lab: Lab) -> None:
    doctor = Clinic(slurm_lab).start("later", "#SBATCH --begin=now+1hour")
    slurm_lab.wait_for(lambda: "PENDING" in slurm_lab.job_states().values(), what="the doctor's job")
    doctor.send_signal(signal.SIGINT)
    _, words = doctor.communicate(timeout=30)
    assert doctor.returncode == 130 and "Traceback" not in words
    assert "PENDING" not in slurm_lab.job_states().values()
    assert not list(slurm_lab.home.glob(".band-doctor*"))


def test_scratch_that_an_epilog_wipes_missing_accounts_and_a_silent_controller_are_found(
    tmp_path: Path, lab_folder: Path
) -> None:
    epilog = executable(tmp_path / "epilog", "#!/bin/sh\nrm -rf /disk/scratch/*\n")
    if shutil.which("slurmctld") is None or os.getuid() != 0:
        pytest.skip("no Slurm here, or not root")
    with Lab(lab_folder, nodes=1, accounting=False, settings={"Epilog": str(epilog), "JobRequeue": 0}) as lab:
        executable(lab.home / "trainer", TRAINER)
        clinic = Clinic(lab)
        late = "#SBATCH --qos=long"  # below a command: sbatch reads no option there
        clinic.start("wiped", SCRATCH, late, f'export BAND_TRAINER="{lab.home}/trainer -m band.train.worker"')
        report = clinic.reports()["wiped"]
        lab.stop_controller()
        clinic.start("wiped", arguments=("--no-job",))
        silent = clinic.reports()["wiped"]
    assert silent.code == 3 and silent.findings["slurm"]["what"] == "Slurm does not answer"
    assert report.findings["accounting"]["level"] == "note"
    assert report.findings["template lines"]["level"] == "note"
    assert report.findings["scratch outlives"]["level"] == "degraded"
    assert report.code == 4 and report.bad() == {"scratch outlives", "versions"}


def test_a_machine_without_slurm_is_told_so(tmp_path: Path) -> None:
    executable(tmp_path / "sbatch_templates/here.sh", "#!/bin/bash\n")
    command = [sys.executable, "-m", "band.cli.sweep", "doctor", "--cluster", "here", "--json"]
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    report = Report(done)
    assert report.code == 3 and report.bad() == {"slurm"}
    assert report.findings["slurm"]["what"] == "no Slurm on this machine"
