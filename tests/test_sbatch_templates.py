"""The shipped templates: bash takes them, band reads them, and each brings its Python to a job on a real Slurm cluster.

The virtual environments are real. conda, micromamba, module and apptainer are small stand-ins that are called as the
templates call the real ones, write down how, and do what is seen of them from outside.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from slurm_lab.lab import Lab

from band.slurm.template import read_template

FOLDER = Path(__file__).parents[1] / "sbatch_templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.sh"))
# Prints what the doctor asks a trainer's Python for; importing torch seven times at once would tell nothing more.
ANSWER = """
import json
from band.train.provenance import versions
print(json.dumps({"versions": versions(), "cuda": None, "gpus": 0}))
"""


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def environment(folder: Path) -> Path:
    """Make a virtual environment that has the packages of this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


class Site:
    """A user's home on a lab with everything that the templates look for, and what was called."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.calls = lab.home / "calls"
        home = lab.home
        environment(home / "band-venv")
        environment(home / "band-plain")
        for root in ("miniconda3", "micromamba"):
            environment(home / root / "envs/band")
        write_down = f'echo "$*" >>{self.calls}'
        executable(
            home / "miniconda3/etc/profile.d/conda.sh",
            f'conda() {{ echo "conda $*" >>{self.calls}; PATH="$HOME/miniconda3/envs/$2/bin:$PATH"; }}\n',
        )
        hook = f'micromamba() {{ echo "micromamba $*" >>{self.calls}; PATH="$MAMBA_ROOT_PREFIX/envs/$2/bin:$PATH"; }}'
        executable(home / ".local/bin/micromamba", f"#!/bin/sh\n{write_down}\ncat <<'END'\n{hook}\nEND\n")
        answer = f"exec {sys.executable} -c '{ANSWER}'"
        executable(home / "bin/apptainer", f"#!/bin/sh\n{write_down}\n{answer}\n")
        executable(home / "bin/trainer", f"#!/bin/sh\n{answer}\n")

    def doctor(self, name: str, *, trainer: str) -> subprocess.Popen[str]:
        """Start a doctor for a shipped template, from a shell in which `module` is known, as it is on a login node."""
        module = f'BASH_FUNC_module%%=() {{ echo "module $*" >>{self.calls}; }}'
        path = f"PATH={self.lab.home}/bin:{self.lab.environment['PATH']}"
        command = ["band-sweep", "doctor", "--json", "--cluster", name]
        return self.lab.popen(["env", module, path, *([f"BAND_TRAINER={trainer}"] if trainer else []), *command])


@pytest.fixture(scope="module")
def site(shared_slurm_lab: Lab) -> Site:
    shared_slurm_lab.reset()
    return Site(shared_slurm_lab)


@pytest.fixture(scope="module")
def reports(site: Site) -> dict[str, dict[str, Any]]:
    """What the doctors say of the shipped templates, all tried at once."""
    stand_in = f"{site.lab.home}/bin/trainer -m band.train.worker"
    started = {name: site.doctor(name, trainer="" if name in ("venv", "apptainer") else stand_in) for name in NAMES}
    found = {}
    for name, process in started.items():
        out, words = process.communicate(timeout=120)
        assert out, words
        values = json.loads(out)
        found[name] = {**values["facts"], "findings": {entry["check"]: entry for entry in values["findings"]}}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_bash_and_band_read_a_template_without_a_complaint(name: str) -> None:
    path = FOLDER / f"{name}.sh"
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=10)
    template = read_template(path)
    assert not template.warnings
    assert {"cpus-per-task", "mem", "time"} <= set(template.sbatch)
    assert all(len(line) <= 120 for line in template.text.splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_a_set_up_reads_no_variable_that_need_not_be_set_and_fails_where_its_environment_is_missing(
    name: str, tmp_path: Path
) -> None:
    words = ["env", "-i", f"HOME={tmp_path}", f"BAND_SCRATCH={tmp_path}/scratch", "PATH=/usr/bin:/bin", "bash", "-u"]
    done = subprocess.run([*words, str(FOLDER / f"{name}.sh")], capture_output=True, text=True, timeout=10)
    assert "unbound variable" not in done.stderr
    assert done.returncode == (0 if name == "apptainer" else 72), done.stderr


def test_the_page_beside_the_templates_names_each_of_them() -> None:
    text = (FOLDER / "README.md").read_text()
    assert all(f"`{name}.sh`" in text for name in NAMES)


@pytest.mark.parametrize(
    ("name", "python"),
    [
        ("apptainer", "band-plain"),
        ("conda", "miniconda3/envs/band"),
        ("edinburgh", "band-venv"),
        ("micromamba", "micromamba/envs/band"),
        ("module", "band-venv"),
        ("venv", "band-venv"),
    ],
)
def test_a_job_runs_with_the_python_that_its_template_brings(
    name: str, python: str, site: Site, reports: dict[str, dict[str, Any]]
) -> None:
    assert reports[name]["first"]["python"]["executable"] == f"{site.lab.home}/{python}/bin/python3"
    bad = {check for check, entry in reports[name]["findings"].items() if entry["level"] not in ("well", "note")}
    assert bad == ({"gpus"} if name == "edinburgh" else set()), reports[name]["findings"]


def test_the_tools_are_called_as_their_manuals_say(site: Site, reports: dict[str, dict[str, Any]]) -> None:
    calls = site.calls.read_text().splitlines()
    root = site.lab.home / "micromamba"
    for expected in (
        "conda activate band",
        f"shell hook --shell bash --root-prefix {root}",
        "micromamba activate band",
        "module load python/3.11",
    ):
        assert calls.count(expected) == 2, calls  # the doctor sends two jobs


def test_in_a_container_runs_the_trainer_alone_and_sees_home_and_scratch(
    site: Site, reports: dict[str, dict[str, Any]]
) -> None:
    facts = reports["apptainer"]["first"]
    home, scratch = site.lab.home, facts["scratch"]["path"]
    (call,) = [line for line in site.calls.read_text().splitlines() if line.startswith("exec ")]
    assert call.startswith(f"exec --nv --bind {scratch} --bind {home} {home}/band.sif python -c")


def test_edinburgh_has_its_scratch_on_the_nodes_own_disk_and_asks_for_a_gpu(
    reports: dict[str, dict[str, Any]],
) -> None:
    facts = reports["edinburgh"]
    assert facts["first"]["scratch"]["path"] == "/disk/scratch/root/band"
    assert facts["first"]["cuda_visible_devices"] in ("0", "1")
    assert facts["findings"]["gpus"]["level"] == "broken"  # those of the lab are only files


def test_templates_are_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from band.slurm.template import templates

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    found = templates(tmp_path)
    assert sorted(found) == NAMES
    assert all(path.is_relative_to(Path(sys.modules["band"].__path__[0])) for path in found.values())
