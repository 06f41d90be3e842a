"""`band-sweep init` writes what works as it is: a template that sbatch and bash read, a sweep that expands, a check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pseudo_terminal import PseudoTerminal

from band.cli import data
from band.cli.sweep import main
from band.errors import ConfigError
from band.sweep.starter import ENVIRONMENTS, safe


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "reach.h5"
    sizes = ["--conditions", "2", "--trials", "12", "4", "4", "--neurons", "6"]
    assert data.main(["simulate", "reach", str(path), "--small", *sizes]) == 0
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recording: Path) -> Path:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/reach.h5").symlink_to(recording)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_what_is_written_holds_what_was_given_and_is_sound(
    project: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"venv": "~/my-venv", "apptainer": "/images/band.sif", "module": "python/3.12"}.get(kind, "mine")
    words = ["--cluster", "gpus", "--python", kind, "--environment", own, "--scratch", "/scratch/$USER/band"]
    words += ["--partition", "gpu", "--account", "lab", "--gpus", "2", "--mem", "8G", "--time", "2:00:00"]
    words += ["--recording", "datasets/reach.h5", "--weights", "0.5", "--seeds", "2", "--json"]
    assert main(["init", "--yes", *words]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["problem"] == "" and (said["schema"], said["command"]) == (1, "band-sweep init")
    assert sorted(said["files"]) == ["experiments/reach.check.sh", "experiments/reach.yaml", "sbatch_templates/gpus.sh"]
    template = Path("sbatch_templates/gpus.sh")
    text = template.read_text()
    for line in ("partition=gpu", "account=lab", "gres=gpu:2", "mem=8G", "time=2:00:00"):
        assert text.count(f"\n#SBATCH --{line}\n") == 1, line
    assert '\nexport BAND_SCRATCH="/scratch/$USER/band"\n' in text and own.replace("~", "$HOME") in text
    assert ENVIRONMENTS[kind] not in [line.split("/bin/activate")[0] for line in text.split("\n") if line[:1] != "#"]
    for script in (template, Path("experiments/reach.check.sh")):
        assert subprocess.run(["bash", "-n", str(script)], capture_output=True).stderr == b""
    assert main(["generate", "experiments/reach.yaml", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_runs"] == 4
    assert not Path("experiments/sweeps").exists()


def test_nothing_is_written_over(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["init", "--yes", "--cluster", "local", "--recording", "datasets/reach.h5"]
    assert main(words) == 0 and not Path("sbatch_templates").exists()
    Path("experiments/reach.yaml").write_text("mine")
    Path("experiments/reach.check.sh").unlink()
    capsys.readouterr()
    assert main(words) == 1
    assert "experiments/reach.yaml is there already" in capsys.readouterr().err
    assert Path("experiments/reach.yaml").read_text() == "mine" and not Path("experiments/reach.check.sh").exists()


def test_the_check_runs_and_fails_where_the_recording_is_not_there(project: Path) -> None:
    assert main(["init", "--yes", "--cluster", "local", "--recording", "datasets/reach.h5", "--no-check"]) == 0
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    check = ["bash", "experiments/reach.check.sh"]
    done = subprocess.run(check, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "ok: datasets/reach.h5" in done.stdout and "9 new" in done.stdout, done.stderr
    Path("datasets/reach.h5").unlink()
    assert subprocess.run(check, env={**os.environ, "PATH": path}, capture_output=True, timeout=60).returncode == 1


def test_without_a_recording_the_files_are_there_and_what_is_amiss_is_said(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--yes", "--cluster", "local", "--into", "new"]) == 4
    said = capsys.readouterr().out
    assert "written  new/experiments/recording.yaml" in said and "to mend  " in said and "recording.h5" in said


def test_nobody_to_ask_and_answers_that_cannot_be_are_said(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull) as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        assert main(["init"]) == 1
    assert "give --yes" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["init", "--yes", "--weights", "0,1"])
    assert main(["init", "--yes", "--partition", 'gpu"; rm -rf /']) == 1
    assert main(["init", "--yes", "--name", "../x"]) == 1
    assert not Path("experiments").exists()
    for bad in ("$(id)", "a b", "`id`", "a;b", 'a"b', "a\nb", "a&b", "a|b", "a\\b"):
        with pytest.raises(ConfigError):
            safe(bad, what="x")


def test_questions_are_asked_in_a_terminal_until_they_are_answered(project: Path) -> None:
    command = [sys.executable, "-m", "band.cli.sweep", "init"]
    environment = {**os.environ, "PYTHONPATH": str(Path(data.__file__).parents[2])}
    terminal = PseudoTerminal(command, environment=environment, width=120, height=40)
    for asked, answer in (
        ("a name for the cluster", "here"), ("how Python comes", "snake"), ("one of venv", "venv"),
        ("path of the venv", ""), ("a disk of each node", ""), ("partition", "gpu"), ("account", ""), ("GPUs", "1"),
        ("recording to train on", "datasets/reach.h5"), ("a name for the sweep [reach]", ""),
        ("behaviour weights of BAND, beside LFADS [0.1,1]", ""), ("seeds [3]", "none"), ("at least 1", "2"),
    ):  # fmt: skip
        terminal.wait_for(lambda lines, asked=asked: any(asked in line for line in lines))
        terminal.type(answer + "\n")
    assert terminal.wait(timeout_s=60) == 0
    shown = terminal.lines()
    assert any("reach: 6 runs, 2 LFADS and 4 BAND" in line for line in shown)
    assert any("band-sweep doctor --cluster here" in line for line in shown)
    assert "\n#SBATCH --partition=gpu\n" in Path("sbatch_templates/here.sh").read_text()
    terminal.close()
