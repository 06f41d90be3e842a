"""Pushing files, looking at a sweep elsewhere, and having one submitted there, over a real sshd."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from far_machine import FarMachine, running
from local_sweep import LocalSweep, make_sweep
from near_machine import Home
from sealed_runs import publish
from slurm_lab.lab import Lab
from tiny import write_recording

from band.cli import submit_host
from band.cli import sweep as band_sweep
from band.run_dir import SweepDir, code_digest
from band.sweep.manifest import read_manifest
from band.sync import rsync

PYTHON = f"hosts: {{far: {{python: {sys.executable}, path: project}}}}"


def test_a_file_is_pushed_once_whole_and_over_nothing_else(far: FarMachine, home: Home) -> None:
    names = ["x y.h5", "-rf", "a'b\n.h5"]
    for name in names:
        (home.folder / name).write_bytes(name.encode() * 1000)
    files = [f"./{name}" for name in names]
    states = [entry["state"] for entry in home.json("push", *files, "far:data/")["files"]]
    assert states == ["new"] * 3
    assert {path.name: path.read_bytes() for path in (far.home / "data").iterdir()} == {
        name: name.encode() * 1000 for name in names
    }
    assert [entry["state"] for entry in home.json("push", *files, "far:data")["files"]] == ["same"] * 3
    (home.folder / "x y.h5").write_bytes(b"another")
    assert "NOT sent" in home.band_sync("push", "x y.h5", "far:data/", code=4)
    assert (far.home / "data/x y.h5").read_bytes() == b"x y.h5" * 1000
    home.band_sync("push", "x y.h5", "far:data/new name")
    assert (far.home / "data/new name").read_bytes() == b"another" and far.logins == 1


def test_a_push_that_is_cut_goes_on_where_it_stopped(far: FarMachine, home: Home) -> None:
    (home.folder / "big").write_bytes(os.urandom(3_000_000))
    process = home.start("push", "big", "far:data/", "--bwlimit", "3M")
    deadline = time.monotonic() + 20
    while not [p for p in far.home.glob("data/.band-incoming/*") if p.stat().st_size > 500_000]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    far.kill_sessions()
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 3, output
    assert not (far.home / "data/big").exists()
    said = home.band_sync("push", "big", "far:data/")
    assert "2 MiB to send" in said or "1 MiB to send" in said
    assert (far.home / "data/big").read_bytes() == (home.folder / "big").read_bytes()
    assert [path.name for path in (far.home / "data").iterdir()] == ["big"]


def test_a_sweep_elsewhere_is_looked_at_without_a_copy(far: FarMachine, home: Home) -> None:
    publish(far.home / "project/maze", range(3))
    home.configure(PYTHON)
    said = home.band_sync("status", "far:maze")
    assert "published           3" in said and not (home.folder / "sweeps").exists()
    home.band_sync("pull", "far:maze", "band-s0001")
    found = home.json_of_source("status", "maze")
    assert found["there"]["counts"] == {"published": 3} and found["home"]["wanted"] == ["band-s0000", "band-s0002"]


def test_without_band_there_the_status_says_what_was_tried(far: FarMachine, home: Home) -> None:
    publish(far.home / "maze", range(1))
    far.hide("nothing")
    far.restart()
    assert "no Python here can run band" in home.band_sync("status", "far:maze", code=3)


@pytest.fixture
def near_sweep(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSweep]:
    """A sweep at home that a fake trainer trains."""
    made = make_sweep(home.folder, {f"run{number}": {"seed": number} for number in range(3)})
    home.configure(PYTHON)
    yield made


def submit(*arguments: str, code: int = 0) -> None:
    assert band_sweep.main(["submit", *arguments]) == code


def test_a_sweep_is_sent_submitted_and_comes_home(
    near_sweep: LocalSweep,
    far: FarMachine,
    home: Home,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = ("BAND_TRAINER", "BAND_SCRATCH", "FAKE_LEDGER")
    lines = [f"export {name}='{near_sweep.environment[name]}'" for name in wanted]
    lines.append(f"export PYTHONPATH='{near_sweep.environment['PYTHONPATH']}'")
    (far.home / ".bash_profile").write_text("\n".join(lines) + "\necho noise\n")
    home.configure(f"hosts: {{far: {{python: {sys.executable}, path: project, setup: [':']}}}}")
    submit("demo", "--host", "far", "--dry-run")
    assert "would send" in capfd.readouterr().err and not (far.home / "project").exists()
    moved: list[tuple[int, list[int]]] = []

    @contextmanager
    def transfer(total: int, *, is_quiet: bool) -> Iterator[Callable[[int], None]]:
        moved.append((total, [0]))
        yield moved[-1][1].append

    monkeypatch.setattr(submit_host, "transfer", transfer)
    monkeypatch.setattr(rsync, "POLL_S", 20.0)  # so that files have moved before anybody asks how many
    for _ in range(2):  # the second time nothing is left to be done
        submit("demo", "--host", "far", "--detach", "--jobs=2")
        assert "band-sync pull demo" in capfd.readouterr().err
        there = SweepDir(far.home / "project/experiments/sweeps/demo")
        deadline = time.monotonic() + 30
        while len(list(there.runs.glob("run*"))) < 3:
            assert time.monotonic() < deadline, capfd.readouterr()
            time.sleep(0.1)
    (code,) = [path.name for path in there.code.iterdir()]
    assert code_digest(there.code / code / "band") == code
    assert all(seen[-1] == total for total, seen in moved)  # the bar comes to its end
    assert read_manifest(there.path).datasets[0]["path"] == str(far.home.resolve() / "project/datasets/recording.h5")
    assert band_sweep.main(["status", "demo"]) == 4
    assert "band-sync status demo" in capfd.readouterr().out  # and not to train here what is trained there
    assert len(home.json_of_source("pull", "demo")["new"]) == 3
    assert near_sweep.published() == ["run0", "run1", "run2"]


def test_a_recording_that_is_there_under_another_name_is_not_sent_and_a_taken_name_is_left(
    near_sweep: LocalSweep, far: FarMachine, home: Home
) -> None:
    data = far.home / "project/datasets"
    data.mkdir(parents=True)
    (data / "recording.h5").write_bytes(b"another recording")
    submit("demo", "--host", "far", "--dry-run")
    from band.sync.connection import connect
    from band.sync.send_sweep import plan_errand

    errand = plan_errand(near_sweep.sweep, connect("far"), cluster="local")
    sha256 = read_manifest(near_sweep.sweep.path).datasets[0]["file_digest"]
    assert errand.shipments[0].paths == (f"{data.resolve()}/recording-{sha256[:8]}.h5",)
    (data / "same.h5").write_bytes(Path(read_manifest(near_sweep.sweep.path).datasets[0]["path"]).read_bytes())
    errand = plan_errand(near_sweep.sweep, connect("far"), cluster="local")
    assert errand.shipments[0].paths == (f"{data.resolve()}/same.h5",) and not errand.shipments[0].size_bytes


def test_a_sweep_that_has_other_runs_there_is_not_replaced(
    near_sweep: LocalSweep, far: FarMachine, home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    publish(far.home / "project/experiments/sweeps/demo", range(2))
    submit("demo", "--host", "far", code=1)
    assert "2 runs that this one has not" in capfd.readouterr().err


def test_a_connection_that_breaks_while_submitting_says_what_to_do(
    near_sweep: LocalSweep, far: FarMachine, home: Home, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$4" = submit ] && kill -9 $PPID && sleep 60\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    home.configure(f"hosts: {{far: {{python: {python}, path: project}}}}")
    submit("demo", "--host", "far", code=3)
    said = capfd.readouterr().err
    assert "nothing is sent to Slurm twice" in said and "band-sync status demo" in said


TEMPLATE = """#!/bin/bash
#SBATCH --time=10
#SBATCH --mem=500M
export BAND_SCRATCH=/disk/scratch/band
export PYTHONPATH=$PYTHONPATH:{helpers}
export BAND_TRAINER="{python} {helpers}/fake_trainer.py" FAKE_LEDGER=/tmp/ledger
"""


def test_a_sweep_is_submitted_to_slurm_from_another_machine(
    slurm_lab: Lab, home: Home, far: FarMachine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lab = slurm_lab
    inside = lab.login_command([])
    login = FarMachine(tmp_path / "login", home=lab.home, environment=lab.environment, inside=inside)
    helpers = Path(__file__).parents[1] / "helpers"
    with running(login):
        far.knows(login, name="login")
        for folder in ("experiments", "sbatch_templates"):
            (home.folder / folder).mkdir()
        write_recording(home.folder / "experiments/one.h5")
        text = "datasets: [one.h5]\nbase: {train: {batch_size: 8, max_epochs: 3}}\nseeds: 3\n"
        (home.folder / "experiments/proof.yaml").write_text(text)
        (home.folder / "sbatch_templates/lab.sh").write_text(TEMPLATE.format(helpers=helpers, python=sys.executable))
        assert band_sweep.main(["generate", "experiments/proof.yaml"]) == 0
        home.configure(f"hosts: {{login: {{python: {sys.executable}}}}}")
        arguments = (
            "submit",
            "experiments/proof.yaml",
            "--host",
            "login:project",
            "--cluster=lab",
            "--sbatch=nice=1",
        )
        assert band_sweep.main([*arguments]) == 0, capfd.readouterr()
        assert "job " in capfd.readouterr().out
        there = SweepDir(lab.home / "project/experiments/sweeps/proof")
        assert "--nice=1" in (there.submission("0001") / "array.1.sh").read_text()
        lab.wait_for(lambda: len(list(there.runs.glob("[!.]*"))) == 3, timeout_s=60, what="three runs")
        assert band_sweep.main([*arguments]) == 0
        assert "nothing" in capfd.readouterr().out
        assert len(home.json_of_source("pull", "proof")["new"]) == 3
        home.band_sync("disconnect", "login")
