"""A Slurm in one JSON file: sbatch, squeue, sacct, scancel and scontrol as far as a submission uses them.

Each change of it is one rename, so that `stepping` can kill a process before and after each.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from band.slurm.command import Answer, SlurmError
from band.slurm.jobs import Job


class FakeSlurm:
    """Takes the place of `band.slurm.command.run`, `jobs.queued` and `jobs.accounted`."""

    def __init__(self, path: Path, *, most: int = 10_000, longest: int = 1001) -> None:
        """Start with an empty queue.

        Args:
            path: where it keeps its state.
            most: jobs of one user that it lets in, each task of an array being one; it tells nobody.
            longest: its MaxArraySize.
        """
        self.path, self.most, self.longest = path, most, longest
        self.cancelled: list[str] = []  # jobs, and tasks of them, as scancel was given them
        self.released: list[str] = []  # and scontrol release
        self._save({"next": 100, "jobs": {}, "calls": 0})

    def load(self) -> dict[str, Any]:
        return dict(json.loads(self.path.read_text()))

    def _save(self, state: dict[str, Any]) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(state))
        os.replace(temporary, self.path)

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Return {job id: job} of all that is not cancelled."""
        return {job_id: job for job_id, job in self.load()["jobs"].items() if job["state"] != "CANCELLED"}

    def arrays(self) -> dict[str, dict[str, Any]]:
        """Return those of them that are no closing jobs."""
        return {job_id: job for job_id, job in self.jobs().items() if not job["name"].endswith("-closing")}

    def run(self, argv: Sequence[str], *, timeout_s: float = 20.0) -> str:
        state = self.load()
        before = json.dumps(state)
        answer = str(getattr(self, argv[0])(state, list(argv[1:])))
        if json.dumps(state) != before:
            self._save(state)
        return answer

    def ask(self, argv: Sequence[str], *, timeout_s: float = 20.0) -> Answer:
        return Answer(self.run(argv, timeout_s=timeout_s), "")

    def sbatch(self, state: dict[str, Any], argv: list[str]) -> str:
        if "--test-only" in argv:
            return ""
        text = Path(argv[-1]).read_text()
        found = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", text, re.MULTILINE))
        tasks = int(found["array"].partition("-")[2].partition("%")[0]) + 1 if "array" in found else 0
        queued = sum(max(job["tasks"], 1) for job in self.jobs().values())
        if queued + max(tasks, 1) > self.most:
            raise SlurmError("sbatch: Job violates accounting/QOS policy (job submit limit …)", kind="refused")
        job = {"name": found["job-name"], "tasks": tasks, "state": "PENDING", "is_held": "hold" in found}
        state["jobs"][str(state["next"])] = {**job, "array": found.get("array", ""), "text": text}
        state["next"] += 1
        return f"{state['next'] - 1}\n"

    def scancel(self, state: dict[str, Any], argv: list[str]) -> str:
        self.cancelled += argv
        for label in argv:
            job_id, _, task = label.partition("_")
            if not task or state["jobs"][job_id]["tasks"] == 1:
                state["jobs"][job_id]["state"] = "CANCELLED"
        return ""

    def scontrol(self, state: dict[str, Any], argv: list[str]) -> str:
        if argv[-2:] == ["show", "config"]:
            return f"MaxArraySize            = {self.longest}\nMaxJobCount             = 10000\n"
        if "show" in argv:
            return ""
        if argv[0] == "update":
            job_id, most = (word.partition("=")[2] for word in argv[1:])
            state["jobs"][job_id]["array"] = f"{state['jobs'][job_id]['array'].partition('%')[0]}%{most}"
            return ""
        assert argv[0] == "release", argv
        self.released.append(argv[1])
        state["jobs"][argv[1].partition("_")[0]]["is_held"] = False
        return ""

    def sacctmgr(self, state: dict[str, Any], argv: list[str]) -> str:
        return ""

    def queued(self, **options: Any) -> list[Job]:
        found = []
        for job_id, job in self.load()["jobs"].items():
            reason = job.get("held_for", "JobHeldUser") if job["is_held"] else "Priority"
            common = Job(job_id=job_id, name=job["name"], state=job["state"], reason=reason)
            tasks = range(job["tasks"]) if job["tasks"] else [None]
            found += [dataclasses.replace(common, array_task=task) for task in tasks]
        return found

    def accounted(self, job_ids: Sequence[str], **options: Any) -> list[Job]:
        raise SlurmError("sacct: Slurm accounting storage is disabled", kind="refused", no_accounting=True)
