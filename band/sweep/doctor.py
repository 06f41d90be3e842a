"""Whether a cluster does what band needs: looks at the login side and, by two small jobs, at a compute node."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from band.errors import ConfigError, SweepError
from band.files import write_atomic
from band.node.probe import SCRIPT
from band.run_dir import SweepDir
from band.slurm import cluster, jobs
from band.slurm.command import SlurmError
from band.slurm.options import num_gpus
from band.slurm.user_config import read_user_config
from band.sweep import doctor_findings as findings
from band.sweep.doctor_findings import Asked, Finding
from band.sweep.doctor_job import SmallJob, cancel, script, send, smallest
from band.sweep.manifest import Manifest
from band.sweep.request import Request, make_request
from band.sweep.snapshot import take_snapshot, versions

OF_SLURM = ("slurm", "template", "job")  # where these are bad, Slurm did not do as asked

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found, in the order in which it was looked at."""

    template: str
    findings: list[Finding]
    facts: dict[str, Any] = field(default_factory=dict)  # as observed: {"first": …, "again": …}

    @property
    def exit_code(self) -> int:
        """0 all well or only notes, 3 Slurm did not do as asked, 4 other findings."""
        bad = [finding for finding in self.findings if finding.level not in (findings.WELL, findings.NOTE)]
        return 0 if not bad else 3 if any(finding.check in OF_SLURM for finding in bad) else 4


def examine(
    cluster: str, *, options: Mapping[str, object], home: Path, timeout_s: float, with_job: bool, say: Say
) -> Report:
    """Look at everything; the jobs are over or cancelled, and their folder is gone, when this returns.

    Args:
        cluster: name or file of a template; "": the one that the user's configuration names.
        options: of sbatch, over those of the template and the user's configuration.
        home: a folder on the shared home; sweeps would lie there.
        timeout_s: how long the jobs may take, waiting included.
        with_job: whether to look at a compute node at all.
        say: is told what goes on.

    Raises:
        BandError: there is no such cluster, what is said of it is wrong, or `home` cannot be written from here.
    """
    name = cluster or read_user_config().cluster
    if not name:
        raise ConfigError("no cluster is named: give --cluster NAME, or set `cluster:` in ~/.config/band/config.yaml")
    request = make_request(Manifest(name="", base={}, datasets=[], runs=[]), cluster=name, sbatch=options)
    doctor = _Doctor(request, home=home.absolute(), timeout_s=timeout_s, say=say)
    try:
        doctor.look(with_job=with_job)
    except SlurmError as error:
        doctor.found.append(findings.no_slurm(error))
    finally:
        doctor.leave()
    return Report(template=str(request.template.path), findings=doctor.found, facts=doctor.facts)


class _Doctor:
    def __init__(self, request: Request, *, home: Path, timeout_s: float, say: Say) -> None:
        self.found: list[Finding] = []
        self.facts: dict[str, Any] = {}
        self._request = request
        self._options = smallest(request.sbatch)
        self._token = f"band-doctor-{secrets.token_hex(4)}"
        self._folder = home / f".{self._token}"
        self._timeout_s = timeout_s
        self._say = say

    def look(self, *, with_job: bool) -> None:
        limits = cluster.limits()
        self.found.append(Finding(check="slurm", level=findings.WELL, what=f"Slurm {limits.version} answers"))
        self.found.append(findings.accounting(limits.has_accounting, answer=_answer_of_accounts()))
        self._prepare()
        try:
            start = cluster.expected_start(self._folder / SCRIPT)
            self.found.append(findings.taken(start, now=time.time()))
            self.found += [findings.ignored(warning) for warning in self._request.template.warnings]
            if with_job:
                self._look_at_node()
        except SlurmError as error:
            if error.kind != "refused":
                raise
            names = [partition.name for partition in limits.partitions or ()]
            self.found.append(
                findings.refused(
                    error,
                    template=str(self._request.template.path),
                    partition=self._options["partition"].value if "partition" in self._options else "",
                    partitions=names,
                )
            )

    def leave(self) -> None:
        """Leave nothing behind, at Slurm or at home."""
        if self._folder.exists():
            cancel(self._token)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _prepare(self) -> None:
        """Write the script and the code that the jobs run.

        Raises:
            SweepError: home cannot be written from here.
        """
        try:
            self._folder.mkdir()
            place = SweepDir(self._folder)
            text = script(
                self._folder,
                token=self._token,
                options=self._options,
                setup=self._request.setup,
                code=place.code / take_snapshot(place),
            )
            write_atomic(self._folder / SCRIPT, text.encode())
        except OSError as error:
            raise SweepError(f"{self._folder.parent} cannot be written: {error}; name a folder with --home") from None

    def _look_at_node(self) -> None:
        """Send a job that looks around, and a second one to the same node."""
        deadline = time.monotonic() + self._timeout_s
        before = time.time()
        first = send(self._folder, "first", deadline=deadline)
        asked = self._asked(sent_t=(before, time.time()))
        if not self._wait(first):
            return
        facts = first.facts()
        if not facts:
            self.found.append(findings.no_word(first.ended(), asked=asked))
            return
        self.facts["first"] = facts
        self.found += findings.on_the_node(facts, asked=asked, ended=first.ended())
        try:
            again = send(self._folder, "again", deadline=deadline, options=[f"--nodelist={first.ended().node}"])
        except SlurmError as error:
            self.found.append(findings.not_again(error))
            return
        if self._wait(again):
            self.facts["again"] = again.facts()
            self.found += findings.afterwards(self.facts["again"], scratch=facts["scratch"], ended=again.ended())

    def _asked(self, *, sent_t: tuple[float, float]) -> Asked:
        return Asked(
            cpus=int(self._options["cpus-per-task"].value) if "cpus-per-task" in self._options else 1,
            gpus=num_gpus(self._options),
            home=str(self._folder.parent),
            versions={name: version for name, version in versions().items() if version},
            sent_t=sent_t,
        )

    def _wait(self, job: SmallJob) -> bool:
        is_over = job.wait(say=self._say)
        if not is_over:
            self.found.append(findings.not_run(job.state, reason=job.reason, waited_s=self._timeout_s))
        return is_over


def _answer_of_accounts() -> str:
    """Return why sacct does not answer, "" where it does."""
    try:
        jobs.accounted(["1"], since_t=time.time())
    except SlurmError as error:
        return str(error)
    return ""
