"""Submissions that go wrong on real Slurm: a deaf controller, lost answers, kills, limits; no run is sent twice."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from local_sweep import HELPERS, make_sweep
from slurm_lab.lab import NO_WCKEYS, Lab

from band.run_dir import SweepDir, read_events, verify
from band.sweep.journal import read_journals
from band.sweep.ledger import read_intents

TEMPLATE = """#!/bin/bash
#SBATCH --time=5
#SBATCH --mem=1G
export BAND_SCRATCH=/disk/scratch/band
export BAND_TRAINER="{python} {trainer}"
export FAKE_LEDGER={ledger}
export BAND_SETTLE_S=1
"""
LOST = "Batch job submission failed: Socket timed out on send/recv operation"


class Site:
    """A user's sweep on a lab, and what is typed there."""

    def __init__(self, lab: Lab, *, num_runs: int, runs: Mapping[str, Any] | None = None, **base: Any) -> None:
        runs = runs or {f"run-{number:03d}": {"seed": number} for number in range(num_runs)}
        made = make_sweep(lab.home, runs, base={"epochs": 2, **base})
        self.lab, self.sweep, self.ledger, self.num_runs = lab, made.sweep, lab.home / "ledger", num_runs
        (lab.home / "sbatch_templates").mkdir()
        trainer = HELPERS / "fake_trainer.py"
        self.template = lab.home / "sbatch_templates/lab.sh"
        text = TEMPLATE.format(python=sys.executable, trainer=trainer, ledger=self.ledger)
        self.template.write_text(text)

    def command(self, *arguments: str, path: str = "", settle_s: str = "1") -> list[str]:
        settings = [f"BAND_SETTLE_S={settle_s}", f"PATH={path + ':' if path else ''}{self.lab.environment['PATH']}"]
        return ["env", *settings, sys.executable, "-m", "band.cli.sweep", arguments[0], self.sweep.path, *arguments[1:]]

    def type(self, *arguments: str, code: int | None = 0, **options: str) -> str:
        """Run `band-sweep` and return all it printed."""
        done = self.lab.run(self.command(*arguments, **options), cwd=self.lab.home, timeout_s=90)
        text = done.stdout + done.stderr
        assert code in (None, done.returncode), f"{arguments} ended with {done.returncode}:\n{text}"
        assert "Traceback" not in text
        return text

    def submit(self, *arguments: str, code: int | None = 0, **options: str) -> str:
        return self.type("submit", "--cluster", "lab", "--pack", "1", *arguments, code=code, **options)

    def wrap(self, command: str, script: str) -> str:
        """Put a script in the place of one of Slurm's commands; return the folder to put first on PATH."""
        folder = self.lab.home / "bin"
        folder.mkdir(exist_ok=True)
        path = folder / command
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
        return str(folder)

    def names(self) -> Counter[str]:
        """Return how many arrays of each name Slurm has, closing jobs left out."""
        lines = self.lab.run(["squeue", "--noheader", "--format=%F %j"], check=True).stdout.splitlines()
        found = {tuple(line.split()) for line in lines}
        return Counter(name for _, name in found if not name.endswith("-closing"))

    def wait(self, *, timeout_s: float = 120) -> None:
        """Wait until nothing is queued any more."""
        is_idle = lambda: not self.lab.run(["squeue", "--noheader"], check=True).stdout  # noqa: E731
        self.lab.wait_for(is_idle, timeout_s=timeout_s, what=self.lab.run(["squeue"]).stdout)

    def check_all_done_once(self) -> None:
        """Every run is published, and no epoch of any was trained twice."""
        folders = [path for path in self.sweep.runs.iterdir() if not path.name.startswith(".")]
        assert len(folders) == self.num_runs and all(verify(path) for path in folders)
        epochs = Counter(self.ledger.read_text().split("\n")[:-1])
        assert len(epochs) == 2 * self.num_runs and set(epochs.values()) == {1}
        streams = [path for path in self.sweep.events.glob("*.jsonl") if "closing" not in path.name]
        claimed = Counter(
            path.name.split(".")[0] for path in streams for e in read_events(path)[0] if e["event"] == "claimed"
        )
        assert set(claimed.values()) == {1}


def test_an_array_that_sbatch_queued_and_then_reported_a_time_out_for_is_found_and_runs_once(slurm_lab: Lab) -> None:
    site = Site(slurm_lab, num_runs=3)
    lie = site.wrap(
        "sbatch",
        f'/usr/bin/sbatch "$@" >/dev/null; echo "sbatch: error: {LOST}" >&2; exit 1',
    )
    text = site.submit(code=3, path=lie)
    assert "Socket timed out" in text and "band-sweep reconcile" in text
    assert [array.step for array in read_journals(site.sweep)] == ["intent"]
    assert list(site.names().values()) == [1]
    site.type("reconcile")
    site.wait()
    site.check_all_done_once()


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("command", ["sbatch", "release"])
def test_a_submit_killed_at_a_request_is_taken_up_by_the_next_submit(slurm_lab: Lab, command: str, moment: str) -> None:
    site = Site(slurm_lab, num_runs=3)
    name, words = ("sbatch", '"$1" = --parsable') if command == "sbatch" else ("scontrol", '"$1" = release')
    real = f'/usr/bin/{name} "$@"'
    act = f"{real} >/dev/null; kill -KILL $PPID" if moment == "after" else "kill -KILL $PPID"
    path = site.wrap(name, f"if [ {words} ]; then {act}; exit 1; fi\nexec {real}")
    site.submit(code=-signal.SIGKILL, path=path)
    slurm_lab.wait_for(
        lambda: site.submit(code=None) and all(a.is_sent or a.is_dead for a in read_journals(site.sweep))
    )
    assert set(site.names().values()) <= {1}
    site.wait()
    site.check_all_done_once()


def test_with_the_controller_down_nothing_is_lost_and_the_next_submit_sends_it_once(slurm_lab: Lab) -> None:
    site = Site(slurm_lab, num_runs=3)
    stop = f"touch {slurm_lab.home}/reached; while [ ! -e {slurm_lab.home}/down ]; do sleep 0.05; done"
    path = site.wrap("sbatch", f'{stop}; exec /usr/bin/sbatch "$@"')
    with slurm_lab.popen(site.command("submit", "--cluster", "lab", path=path), cwd=slurm_lab.home) as process:
        slurm_lab.wait_for((slurm_lab.home / "reached").exists)
        slurm_lab.stop_controller()
        (slurm_lab.home / "down").touch()
        try:
            out, err = process.communicate(timeout=90)
        finally:
            slurm_lab.start_controller()
    assert process.returncode == 3 and "Traceback" not in out + err, out + err
    slurm_lab.wait_for(lambda: site.submit(code=None) and any(a.is_sent for a in read_journals(site.sweep)))
    site.wait()
    site.check_all_done_once()


def test_tasks_that_a_node_could_not_start_are_let_go_by_the_next_submit(slurm_lab: Lab) -> None:
    site, node = Site(slurm_lab, num_runs=3), slurm_lab.nodes["c1"]
    node.protect(slurm_lab.plan.spool("c1"))
    site.submit("--sbatch", "nodelist=c1")
    reasons = ["squeue", "--noheader", "--array", "--format=%T|%r"]

    def held() -> int:
        return slurm_lab.run(reasons, check=True).stdout.count("PENDING|launch failed requeued held")

    slurm_lab.wait_for(lambda: held() == 3)
    node.repair()
    text = site.submit()
    assert "_[0-2], which Slurm held (launch failed requeued held)" in text and "3 runs of it queued" in text
    assert not held()
    site.wait()
    site.check_all_done_once()


def test_what_fits_no_node_is_refused_in_slurms_words_and_does_not_wait_for_ever(slurm_lab: Lab) -> None:
    site = Site(slurm_lab, num_runs=3)
    text = site.submit("--mem", "900G", code=3)
    assert "Requested node configuration is not available" in text and "as asked for" in text
    assert not site.names() and not read_intents(site.sweep)
    site.submit()
    site.wait()
    site.check_all_done_once()


def test_submitting_twice_at_once_sends_each_run_once(slurm_lab: Lab) -> None:
    site = Site(slurm_lab, num_runs=3)
    commands = [site.command("submit", "--cluster", "lab") for _ in range(2)]
    processes = [slurm_lab.popen(command, cwd=slurm_lab.home) for command in commands]
    texts = ["".join(process.communicate(timeout=90)) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    assert sum("nothing to send" in text for text in texts) == 1
    site.wait()
    site.check_all_done_once()


def test_sixty_runs_pass_a_longest_array_of_21_and_a_limit_of_ten_jobs_unattended(slurm_lab: Lab) -> None:
    site = Site(slurm_lab, num_runs=60)
    with slurm_lab.configured(MaxArraySize=21):
        slurm_lab.set_limits(max_submit=10)
        try:
            text = site.submit()
            assert "later by closing jobs" in text
            slurm_lab.wait_for(
                lambda: (site.sweep.path / "report/results.csv").exists() or _is_all_there(site.sweep, 60),
                timeout_s=240,
            )
            site.wait()
        finally:
            slurm_lab.set_limits()
    site.check_all_done_once()
    assert max(len(array.tasks) for array in read_journals(site.sweep)) <= 9
    assert site.type("status", code=0)


def test_where_the_limits_are_hidden_refusals_are_the_limit(slurm_lab: Lab) -> None:
    site = Site(slurm_lab, num_runs=8)
    hiding = site.wrap("sacctmgr", "echo 'sacctmgr: error: Access/permission denied' >&2; exit 1")
    site.template.write_text(f"{site.template.read_text()}export PATH={hiding}:$PATH\n")
    slurm_lab.set_limits(max_submit=4)
    try:
        assert "AssocMaxSubmitJobLimit" in site.submit(path=hiding)
        assert [len(array.tasks) for array in read_journals(site.sweep) if array.is_sent] == [2]
        slurm_lab.wait_for(lambda: _is_all_there(site.sweep, 8), timeout_s=240)
        site.wait()
    finally:
        slurm_lab.set_limits()
    site.check_all_done_once()


def _is_all_there(sweep: SweepDir, count: int) -> bool:
    return len(list(sweep.runs.glob("[!.]*"))) == count


def test_cancelled_members_stop_and_the_rest_of_their_task_goes_on(slurm_lab: Lab) -> None:
    site = Site(slurm_lab, num_runs=4, epochs=40, epoch_s=0.1)
    site.type("submit", "--cluster", "lab", "--pack", "2", "--max-parallel", "2")
    slurm_lab.wait_for(site.ledger.exists, timeout_s=60)
    site.type("cancel", "run-000", "run-002", "run-003", code=None)
    site.wait(timeout_s=120)
    published = sorted(path.name for path in site.sweep.runs.glob("[!.]*"))
    assert published == ["run-001"]
    assert "3 cancelled" in site.type("submit", "--cluster", "lab", "--dry-run", code=None)


def test_at_the_worst_of_sites_the_next_submit_does_what_no_closing_job_can(slurm_lab_without_accounting: Lab) -> None:
    lab = slurm_lab_without_accounting
    site = Site(lab, num_runs=3, epochs=40, epoch_s=0.1)
    bare = site.wrap("python3", f'exec {sys.executable} "$@"')  # on the nodes, no command of Slurm's
    site.template.write_text(f"{site.template.read_text()}export PATH={bare}\n")
    with lab.configured(MaxArraySize=3, JobRequeue=0, Epilog=str(lab.wiping_epilog()), **NO_WCKEYS):
        site.submit("--sbatch", "exclusive")
        lab.wait_for(lambda: site.ledger.exists() and "run-001 3" in site.ledger.read_text(), timeout_s=60)
        (array,) = read_journals(site.sweep)
        (supervisor,) = lab.pids(job=f"{array.job_id}_1", command="band.node.call")
        os.kill(supervisor, signal.SIGKILL)
        site.wait()
        assert sorted(path.name for path in site.sweep.runs.glob("[!.]*")) == ["run-000", "run-002"]
        assert "cannot be run here" in "".join(path.read_text() for path in site.sweep.logs.glob("closing.*"))
        assert "died: 1 runs go on" in site.submit("--sbatch", "exclusive")
        site.wait()
    assert site.type("status") and "nothing to do" in site.submit()
    assert all(verify(site.sweep.run(f"run-00{number}")) for number in range(3))
    epochs = Counter(line for line in site.ledger.read_text().splitlines() if "run-001" not in line)
    assert len(epochs) == 80 and set(epochs.values()) == {1}


SHAPES = {
    f"{shape}-{number}": {"arch.gen_dim": dim, "seed": number, "train.max_epochs": 30_000}
    for shape, dim in (("small", 50), ("large", 100))
    for number in range(3)
}


def test_a_canary_of_each_shape_goes_ahead_and_the_rest_follows_with_the_time_it_measured(
    slurm_lab: Lab,
) -> None:
    site = Site(slurm_lab, num_runs=6, runs=SHAPES)
    template = site.template.read_text().replace("#SBATCH --time=5\n#SBATCH --mem=1G\n", "")
    site.template.write_text(template)
    site.type("submit", "--cluster", "lab", "--canary")
    tasks = {intent.number: intent for intent in read_intents(site.sweep)}
    (first,) = read_journals(site.sweep)
    assert sorted(tasks[first.submission].tasks[task] for task in first.tasks) == [("large-0",), ("small-0",)]
    assert "4 planned" in site.type("submit", "--cluster", "lab", "--dry-run", code=None)
    reason = " ".join(site.type("why", "small-1").split())
    assert "when the canary of its submission has ended well: large-0, small-0" in reason
    site.wait()
    site.check_all_done_once()
    before, after = (intent.options for intent in read_intents(site.sweep))
    assert before["origins"]["time"] == "estimate" and after["origins"]["time"] == "canary"
    assert after["time_s"] < before["time_s"] and "canary" not in after
    ends = _times(site.sweep, "published")
    assert max(t for t, run in ends if run.endswith("-0")) < min(t for t, run in ends if not run.endswith("-0"))


def test_a_canary_that_takes_long_is_cut_short_and_goes_on_beside_the_rest_that_it_was_measured_for(
    slurm_lab: Lab,
) -> None:
    slow = {
        name: {**run, "train.max_epochs": 40, "epochs": 40, "epoch_s": 0.2}
        for name, run in SHAPES.items()
        if name < "small"
    }
    site = Site(slurm_lab, num_runs=3, runs=slow)
    site.template.write_text(site.template.read_text().replace("#SBATCH --time=5\n#SBATCH --mem=1G\n", ""))
    site.type("submit", "--cluster", "lab", "--canary-time", "0:02")
    site.wait()
    first, second = (intent for intent in read_intents(site.sweep) if intent.action == "submit")
    assert first.options["canary_s"] == 2 and "canary_s" not in second.options
    assert set(second.tasks) == set(first.tasks)
    assert second.options["origins"]["time"] == "canary"
    assert second.options["time_s"] == 1200  # 8 s for each run, doubled, and ten minutes, in steps of ten minutes
    assert site.type("status") and "nothing to do" in site.submit()
    assert all(verify(site.sweep.run(f"large-{number}")) for number in range(3))
    epochs = Counter(site.ledger.read_text().splitlines())
    assert len(epochs) == 120 and set(epochs.values()) == {1}, "no epoch of the canary was trained twice"
    stream = [e for path in sorted(site.sweep.events.glob("*.jsonl")) for e in read_events(path)[0]]
    (told,) = [event for event in stream if event["event"] == "rehearsed"]
    assert 0.2 < told["share"] < 0.4 and 2 <= told["train_s"] < 4
    assert [e["requeued"] for e in stream if e["event"] == "interrupted"] == [False]


def test_the_rest_does_not_follow_a_canary_that_fails(slurm_lab: Lab) -> None:
    broken = {**SHAPES, "small-0": {**SHAPES["small-0"], "raise_at": 1}}
    site = Site(slurm_lab, num_runs=6, runs=broken)
    site.submit("--canary")
    site.wait()
    published = sorted(path.name for path in site.sweep.runs.glob("[!.]*"))
    assert published == ["large-0"] and len(read_journals(site.sweep)) == 1
    text = site.type("submit", "--cluster", "lab", "--dry-run", code=None)
    assert "1 failed" in text and "4 new" in text
    assert "did not end well" in "".join(path.read_text() for path in site.sweep.logs.glob("closing.*"))


def _times(sweep: SweepDir, name: str) -> list[tuple[float, str]]:
    """Return when each run had an event."""
    events = [event for path in sweep.events.glob("*.jsonl") for event in read_events(path)[0]]
    return [(event["t"], event.get("run", "")) for event in events if event["event"] == name]
