"""Pulling over a real sshd: what is new comes home once, whole and verified, whatever breaks on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from far_machine import FarMachine
from near_machine import Home
from sealed_runs import FILES, publish, run_id, tree, verified
from signed import signed

from band.cli import sweep
from band.cli.sync_pull import _home_of
from band.run_dir import ABSENT, SweepDir, absent_files, check_name, verify

BIG = {**FILES, "outputs.h5": 3_000_000}


def far_sweep(far: FarMachine, numbers: range, **options: object) -> SweepDir:
    return publish(far.home / "experiments/sweeps/maze", numbers, **options)  # type: ignore[arg-type]


def home_sweep(home: Home) -> SweepDir:
    return SweepDir(home.folder / "sweeps/maze")


def announce(sweep: SweepDir, run: str) -> None:
    """Add a run that is not published to a sweep's manifest."""
    line = {"kind": "run", "id": run, "dataset": 0, "overrides": {"seed": 2}, "retired": False}
    sweep.manifest.write_text(signed(sweep.manifest.read_text() + json.dumps(line)))


PULL = ("pull", "far:experiments/sweeps/maze")


def wait_until(condition: object, *, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_a_pull_brings_published_runs_as_they_are_and_the_next_one_nothing(far: FarMachine, home: Home) -> None:
    there = far_sweep(far, range(5))
    (there.runs / ".incoming/half").mkdir(parents=True)
    first = home.json_of_source(*PULL)
    assert sorted(first["new"]) == verified(home_sweep(home)) == [run_id(n) for n in range(5)]
    assert tree(home_sweep(home).runs) == tree(there.runs)
    again = home.json_of_source("pull", "maze")
    assert (again["new"], again["held"], again["bytes"]) == ([], 5, 0)
    publish(there.path, range(5, 7))
    assert home.json_of_source("pull", "maze")["new"] == [run_id(5), run_id(6)]
    assert far.logins == 1


def test_one_connection_serves_every_command_until_it_is_closed(far: FarMachine, home: Home) -> None:
    far_sweep(far, range(2))
    for _ in range(2):
        home.band_sync(*PULL)
        home.band_sync("push", str(Path("sweeps/maze/manifest.jsonl")), "far:other/")
    assert far.logins == 1
    assert "closed" in home.band_sync("disconnect", "far")
    home.band_sync("pull", "maze")
    assert far.logins == 2


def test_parts_come_one_after_the_other_and_a_run_in_part_is_not_taken_for_a_damaged_one(
    far: FarMachine, home: Home
) -> None:
    far_sweep(far, range(4))
    home.band_sync(*PULL, "--what", "results,metrics")
    run = home_sweep(home).run(run_id(0))
    assert {path.name for path in run.iterdir()} == {"result.json", "metrics.csv", ABSENT}
    assert absent_files(run) == {"model.pt", "outputs.h5"}
    assert verify(run, may_lack=absent_files(run))["run_id"] == run.name
    assert sweep.main(["report", "maze", "--no-figures"]) == 0
    assert home.json_of_source("pull", "maze", "--what", "metrics")["held"] == 4
    rest = home.json_of_source("pull", "maze", run_id(0))
    assert rest["completed"] == [run_id(0)] and rest["bytes"] == 80_000
    assert not absent_files(run) and verify(run)
    home.band_sync("pull", "maze")
    assert len(verified(home_sweep(home))) == 4


def test_runs_are_chosen_by_name_outcome_and_parameter(far: FarMachine, home: Home) -> None:
    far_sweep(far, range(12))
    wanted = home.json_of_source(*PULL, "--dry-run", "--where", "seed=1,3,9", "--state", "ok")["wanted"]
    assert sorted(wanted) == [run_id(1), run_id(3)] and not (home.folder / "sweeps").exists()
    assert list(home.json_of_source(*PULL, "--dry-run", "--state", "diverged")["wanted"]) == [run_id(9)]
    assert len(home.json_of_source(*PULL, "--dry-run", "band-s000*")["wanted"]) == 10
    # Quoted: a shell in a folder with a file of that name would take the pattern for it.
    assert "give more of it, or 'band-s000*'" in home.band_sync(*PULL, "--dry-run", "band-s000", code=1)
    assert "hyper.lr" in home.band_sync(*PULL, "--where", "hyper.lrr=1", code=1)
    assert "metrics" in home.band_sync(*PULL, "--what", "metric", code=1)


@pytest.mark.parametrize("cut", ["the connection", "the pull"])
def test_a_pull_that_is_killed_in_the_middle_of_a_file_goes_on_from_there(
    cut: str, far: FarMachine, home: Home
) -> None:
    there = far_sweep(far, range(3), sizes=BIG)
    process = home.start(*PULL, "--bwlimit", "4M")
    incoming = home_sweep(home).sync
    wait_until(lambda: sum(path.stat().st_size for path in incoming.glob("*/incoming/*/outputs.h5")) > 500_000)
    if cut == "the connection":
        far.kill_sessions()
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 3 and "give the same command again" in output, output
    else:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    (partial,) = incoming.glob("*/incoming/*/outputs.h5")
    stopped_at = partial.stat().st_size
    assert 0 < stopped_at < 3_000_000
    source = there.runs / partial.parent.name / "outputs.h5"
    assert partial.read_bytes() == source.read_bytes()[:stopped_at]
    home.band_sync("pull", "maze")
    assert tree(home_sweep(home).runs) == tree(there.runs)


def test_the_far_command_ends_when_the_pull_alone_is_killed(far: FarMachine, home: Home) -> None:
    far_sweep(far, range(2), sizes=BIG)
    process = home.start(*PULL, "--bwlimit", "500K")
    wait_until(lambda: list(home_sweep(home).sync.glob("*/incoming/*/metrics.csv")))
    process.kill()
    process.wait()
    begun = time.monotonic()
    home.band_sync(*PULL)  # waits until the rsync of the other has let go
    assert time.monotonic() - begun < 8 and len(verified(home_sweep(home))) == 2


def test_two_pulls_at_once_do_not_disturb_each_other(far: FarMachine, home: Home) -> None:
    far_sweep(far, range(2), sizes=BIG)
    process = home.start(*PULL, "--bwlimit", "3M")
    wait_until(lambda: list(home_sweep(home).sync.glob("*/incoming/*/metrics.csv")))
    assert f"process {process.pid}" in home.band_sync(*PULL, code=4)
    process.communicate(timeout=20)
    assert process.returncode == 0 and len(verified(home_sweep(home))) == 2


def test_a_full_disk_at_home_is_said_and_what_has_come_stays(far: FarMachine, home: Home) -> None:
    there = far_sweep(far, range(30))
    mounted = home.folder / "sweeps"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "small", str(mounted)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no right to mount a small disk: {done.stderr.strip()}")
    try:
        said = home.band_sync(*PULL, code=1)
        assert "No space left" in said and "what has come is kept" in said
        came = verified(home_sweep(home))
        assert 5 < len(came) < 30
        subprocess.run(["mount", "-o", "remount,size=8m", str(mounted)], check=True)
        home.band_sync("pull", "maze")
        assert tree(home_sweep(home).runs) == tree(there.runs)
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def test_a_file_that_is_not_what_its_manifest_says_is_never_published_at_home(far: FarMachine, home: Home) -> None:
    there = far_sweep(far, range(3))
    path = there.run(run_id(1)) / "model.pt"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))  # same size: only its digest tells
    (there.run(run_id(2)) / "model.pt").write_bytes(good[:100])
    found = home.json_of_source(*PULL, code=4)
    assert found["new"] == [run_id(0)] and set(found["not_taken"]) == {run_id(1), run_id(2)}
    assert "model.pt" in found["not_taken"][run_id(1)] and "model.pt" in found["not_taken"][run_id(2)]
    assert verified(home_sweep(home)) == [run_id(0)]
    path.write_bytes(good)
    assert home.json_of_source("pull", "maze", code=4)["new"] == [run_id(1)]


def test_a_file_that_changes_while_it_is_read_is_fetched_anew(far: FarMachine, home: Home) -> None:
    there = far_sweep(far, range(1), sizes=BIG)
    process = home.start(*PULL, "--bwlimit", "2M")
    wait_until(lambda: list(home_sweep(home).sync.glob("*/incoming/*/outputs.h5")))
    path = there.run(run_id(0)) / "outputs.h5"
    with path.open("r+b") as file:  # a moment later it is as it was: the copy may hold some of either
        good = path.read_bytes()
        file.seek(2_000_000)
        file.write(b"x" * 900_000)
        file.flush()
        partial = next(home_sweep(home).sync.glob("*/incoming/*/outputs.h5"))
        wait_until(lambda: not partial.exists() or partial.stat().st_size > 2_900_000)
        file.seek(0)
        file.write(good)
    output, _ = process.communicate(timeout=20)
    assert process.returncode in (0, 4), output
    home.band_sync("pull", "maze")
    assert tree(home_sweep(home).runs) == tree(there.runs)


def test_links_are_not_followed(far: FarMachine, home: Home) -> None:
    there = far_sweep(far, range(3))
    secret = far.home / "secret"
    secret.write_bytes((there.run(run_id(0)) / "model.pt").read_bytes())
    (there.run(run_id(0)) / "model.pt").unlink()
    (there.run(run_id(0)) / "model.pt").symlink_to(secret)
    there.run(run_id(1)).rename(far.home / "elsewhere")
    there.run(run_id(1)).symlink_to(far.home / "elsewhere")
    there.logs.mkdir()
    (there.logs / "0001.a.log").symlink_to(secret)
    found = home.json_of_source(*PULL, "--what", "all", code=4)
    assert found["new"] == [run_id(2)] and set(found["not_taken"]) == {run_id(0), run_id(1)}
    assert "link" in found["not_taken"][run_id(0)] and "link" in found["not_taken"][run_id(1)]
    assert not [path for path in home.folder.rglob("*") if path.is_symlink()] and found["num_logs"] == 0


def test_what_differs_at_home_stays_and_the_other_is_kept_beside_and_named(far: FarMachine, home: Home) -> None:
    there = far_sweep(far, range(2))
    publish(home_sweep(home).path, range(1), salt="trained at home")
    before = tree(home_sweep(home).run(run_id(0)))
    found = home.json_of_source(*PULL, "--into", "sweeps/maze")
    assert found["new"] == [run_id(1)] and list(found["beside"]) == [run_id(0)]
    beside = Path(found["beside"][run_id(0)])
    assert tree(beside) == tree(there.run(run_id(0))) and tree(home_sweep(home).run(run_id(0))) == before
    assert home.json_of_source("pull", "maze")["beside"] == {}  # it is there already
    changed = home_sweep(home).run(run_id(1)) / "metrics.csv"
    changed.write_bytes(changed.read_bytes()[::-1])
    assert home.json_of_source("pull", "maze")["held"] == 2  # its size is right …
    assert list(home.json_of_source("pull", "maze", "--check")["beside"]) == [run_id(1)]  # … but reading tells
    assert changed.read_bytes() != (there.run(run_id(1)) / "metrics.csv").read_bytes()


def test_two_clusters_feed_one_sweep_and_a_run_that_both_trained_is_kept_twice(far: FarMachine, home: Home) -> None:
    far_sweep(far, range(3))
    other = publish(far.home / "elsewhere/maze", range(2, 5), salt="other")
    home.band_sync(*PULL)
    found = home.json_of_source("pull", "other:elsewhere/maze")
    assert found["new"] == [run_id(3), run_id(4)] and list(found["beside"]) == [run_id(2)]
    assert verified(home_sweep(home)) == [run_id(number) for number in range(5)]
    publish(other.path, [5], salt="other")
    from_both = home.json("pull", "maze")["sources"]  # in one document
    assert [source["new"] for source in from_both] == [[], [run_id(5)]]
    assert run_id(5) in verified(home_sweep(home))


def test_of_several_sources_one_that_is_away_does_not_keep_the_others(far: FarMachine, home: Home) -> None:
    far_sweep(far, range(2))
    home.band_sync(*PULL)
    known = home_sweep(home).sync / "sources.json"
    here = json.loads(known.read_text())["sources"]
    known.write_text(json.dumps({"schema": 1, "sources": [{"host": "nowhere.invalid", "path": "/maze"}, *here]}))
    publish(far.home / "experiments/sweeps/maze", [2])
    away, reached = home.json("pull", "maze", code=3)["sources"]
    assert "nowhere.invalid" in away["error"] and reached["new"] == [run_id(2)]


def test_runs_are_deleted_there_only_when_both_ends_hold_them_and_somebody_said_yes(
    far: FarMachine, home: Home
) -> None:
    there = far_sweep(far, range(3))
    home.band_sync(*PULL)
    before = tree(there.runs)
    assert "did not say yes" in home.band_sync("pull", "maze", "--delete-remote-after-verify", code=4)
    assert tree(there.runs) == before
    near = home_sweep(home).run(run_id(0)) / "model.pt"
    near.write_bytes(near.read_bytes()[::-1])  # damaged at home
    far_file = there.run(run_id(1)) / "model.pt"
    far_file.write_bytes(far_file.read_bytes()[::-1])  # damaged there
    found = home.json_of_source("pull", "maze", "--delete-remote-after-verify", "--yes", code=4)
    assert found["cleared"]["runs"] == [run_id(2)] and set(found["cleared"]["kept"]) == {run_id(0), run_id(1)}
    assert {path.name for path in there.run(run_id(2)).iterdir()} == {"result.json", ABSENT}
    assert (there.run(run_id(0)) / "model.pt").exists() and far_file.exists()
    assert home.json_of_source("pull", "maze", run_id(2))["held"] == 1


@pytest.mark.parametrize("answer", ["y", "n"])
def test_at_a_terminal_deleting_there_asks_and_does_as_it_is_told(answer: str, far: FarMachine, home: Home) -> None:
    there = far_sweep(far, range(1))
    home.band_sync(*PULL)
    near, terminal = os.openpty()
    process = home.start("pull", "maze", "--delete-remote-after-verify", stdin=terminal)
    os.write(near, f"{answer}\n".encode())
    output, _ = process.communicate(timeout=20)
    os.close(near), os.close(terminal)
    assert "1 run of far:" in output and "[y/N]" in output
    assert process.returncode == (0 if answer == "y" else 4)
    assert (there.run(run_id(0)) / "model.pt").exists() == (answer == "n")


NAMES = ("my sweep", "it's", 'a"b', "new\nline", "-rf", "$(touch pwned)`touch pwned`;touch pwned", "ß→", "*")


def test_sweeps_and_logs_of_any_name_come_home(far: FarMachine, home: Home) -> None:
    for number, name in enumerate(NAMES):
        there = publish(far.home / "sweeps" / name, range(1))
        there.logs.mkdir()
        logs = {f"{name} {log}": f"{log}" for log in range(2)} | {name: "x", "--delete": "y"}
        for log, text in logs.items():
            (there.logs / log).write_text(text)
        found = home.json_of_source("pull", f"far:sweeps/{name}", "--what", "all", "--into", f"here{number}")
        assert found["new"] == [run_id(0)]
        (brought,) = (home.folder / f"here{number}/sync").glob("*/logs")
        assert {path.name: path.read_text() for path in brought.iterdir()} == logs
    assert not list(home.folder.rglob("pwned")) and not list(far.home.rglob("pwned"))


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_of_any_name_gets_a_folder_at_home_that_leaves_its_place_nowhere(name: str, tmp_path: Path) -> None:
    folder = _home_of(f"../../{name}/", given=None)
    assert folder.parent.name == "sweeps" and check_name(folder.name)


def test_logs_that_grow_are_continued(far: FarMachine, home: Home) -> None:
    there = far_sweep(far, range(1))
    there.logs.mkdir()
    (there.logs / "0001.a.log").write_text("one\n")
    home.band_sync(*PULL, "--what", "logs")
    assert {path.name for path in home_sweep(home).run(run_id(0)).iterdir()} == {"result.json", ABSENT}
    (there.logs / "0001.a.log").write_text("one\ntwo\n")
    home.band_sync("pull", "maze", "--what", "logs")
    assert [path.read_text() for path in home_sweep(home).sync.glob("*/logs/*")] == ["one\ntwo\n"]


def test_logs_of_chosen_runs_come_home_and_are_shown_there(
    far: FarMachine, home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    there = far_sweep(far, range(3))
    announce(there, "failed")  # its seed is that of run 2
    there.logs.mkdir()
    for number, runs in enumerate([[run_id(0), run_id(1)], [run_id(2)], ["failed"]]):
        task = there.task(f"000{number + 1}").task_json
        task.parent.mkdir(parents=True)
        task.write_text(json.dumps({"runs": [{"id": run} for run in runs]}))
        (there.logs / f"000{number + 1}.j5_{number}-r0.log").write_text(f"printed by {' and '.join(runs)}\n")
        (there.logs / f"5_{number}.out").write_text(f"said by job {number}\n")
    (there.logs / "closing.0001.1.out").write_text("closing\n")

    def brought(*options: str) -> set[str]:
        home.band_sync(*PULL, "--what", "logs", *options)
        return {path.name for path in home_sweep(home).sync.glob("*/logs/*")}

    assert sweep.main(["logs", "sweeps/maze", run_id(2)]) == 1  # there is no such sweep here
    of_run_2 = {"0002.j5_1-r0.log", "5_1.out"}
    assert brought("--where", "seed=2", "--state", "ok") == of_run_2
    assert brought("--where", "seed=2") == of_run_2 | {"0003.j5_2-r0.log", "5_2.out"}
    capfd.readouterr()
    for arguments, words in (
        ([run_id(2)], f"printed by {run_id(2)}"),
        (["failed"], "printed by failed"),
        (["--task", "3", "--slurm"], "said by job 2"),
        ([], "printed by failed"),
    ):
        assert sweep.main(["logs", "maze", *arguments]) == 0
        assert words in capfd.readouterr().out
    assert sweep.main(["logs", "maze", run_id(0)]) == 1
    assert "band-sync pull maze --what logs" in capfd.readouterr().err
    assert len(brought()) == 7


def test_watching_brings_what_is_published_meanwhile_and_ends_with_the_sweep(far: FarMachine, home: Home) -> None:
    there = far_sweep(far, range(2))
    announce(there, run_id(2))
    process = home.start(*PULL, "--watch", "0.3s")
    wait_until(lambda: home_sweep(home).run(run_id(1)).exists())
    far.kill_sessions()
    time.sleep(0.5)
    publish(far.home / "tmp/maze", [2])
    (far.home / "tmp/maze/runs" / run_id(2)).rename(there.run(run_id(2)))
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0, output
    assert len(verified(home_sweep(home))) == 3


def test_watching_is_ended_by_an_interrupt_without_a_traceback(far: FarMachine, home: Home) -> None:
    there = far_sweep(far, range(1))
    announce(there, "later")
    process = home.start(*PULL, "--watch", "0.2s")
    assert process.stdout is not None
    watchdog = threading.Timer(20, process.kill)
    watchdog.start()
    said = [next(line for line in process.stdout if "nothing new" in line) for _ in range(2)]
    watchdog.cancel()
    assert all(line.endswith("maze: nothing new at far, 1 not published there\n") for line in said)  # a line a round
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 130 and "no longer watched" in output and "Traceback" not in output


def test_many_runs_killed_at_random_come_home_with_every_digest_right(far: FarMachine, home: Home) -> None:
    there = far_sweep(far, range(60))
    draws = random.Random(7)
    kills = 0
    while kills < 4:
        process = home.start(*PULL, "--bwlimit", "6M")
        time.sleep(0.5 + draws.random())
        if process.poll() is None:
            kills += 1
            os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), printed
        if process.returncode == 0:
            break
    assert kills
    home.band_sync(*PULL)
    assert tree(home_sweep(home).runs) == tree(there.runs)
