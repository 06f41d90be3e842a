"""The first files of a project: a cluster's template, a sweep file, and a script that checks both."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from band.errors import ConfigError
from band.files import write_atomic
from band.run_dir import check_name

SHIPPED = Path(__file__).parents[1] / "sbatch_templates"
# How Python comes to a job: {kind: what of the shipped example the user's own takes the place of}.
ENVIRONMENTS = {
    "venv": "$HOME/band-venv",
    "conda": "band",
    "micromamba": "band",
    "module": "python/3.11",
    "apptainer": "$HOME/band.sif",
}
_PLACES = {  # regular expressions, each with what stands before and behind the value
    "venv": r'(source ")\$HOME/band-venv(/bin/activate")',
    "conda": r"(\nconda activate )band( )",
    "micromamba": r"(\nmicromamba activate )band( )",
    "module": r"(\nmodule load )python/3\.11( )",
    "apptainer": r'(\nimage=")\$HOME/band\.sif(")',
}
_SAFE = re.compile(r"[\w@%+=:,./~${}-]+")
_SCRATCH = re.compile(r"^#?export BAND_SCRATCH=.*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a project begins with."""

    cluster: str  # "local": this machine, which needs no template
    sweep: str
    recording: str
    kind: str = "venv"  # one of ENVIRONMENTS
    environment: str = ""  # "": as in the shipped example
    scratch: str = ""
    partition: str = ""
    account: str = ""
    gpus: int = 0
    mem: str = ""
    time: str = ""
    weights: tuple[float, ...] = (0.1, 1.0)
    seeds: int = 3
    bin_ms: float = 0.0  # 0: as the recording says
    batch_size: int = 0  # 0: the default

    def files(self, folder: Path) -> dict[Path, str]:
        """Return {path: text} of the files to write below `folder`.

        Raises:
            ConfigError: a value cannot stand in a script.
            SweepError: a name cannot stand in a path.
        """
        check_name(self.sweep, what="the sweep's name")
        check_name(self.cluster, what="the cluster's name")
        sweep = folder / "experiments" / f"{self.sweep}.yaml"
        made = {sweep: self._sweep_text(sweep), sweep.with_suffix(".check.sh"): self._check_text(sweep, folder=folder)}
        if self.cluster != "local":
            made[folder / "sbatch_templates" / f"{self.cluster}.sh"] = self._template_text()
        return made

    def _template_text(self) -> str:
        text = (SHIPPED / f"{self.kind}.sh").read_text(encoding="utf-8")
        options = {
            "partition": self.partition,
            "account": self.account,
            "gres": f"gpu:{self.gpus}" if self.gpus else "",
            "mem": self.mem,
            "time": self.time,
        }
        for name, value in options.items():
            if value:
                line = f"#SBATCH --{name}={safe(value, what=name)}"
                text = re.sub(rf"^##?SBATCH --{name}=.*$", line, text, flags=re.MULTILINE)
        if self.scratch:
            scratch = f'export BAND_SCRATCH="{safe(self.scratch, what="scratch")}"'
            text = _SCRATCH.sub(lambda match: scratch, text)
        if self.environment:
            own = safe(self.environment, what="environment")
            text, count = re.subn(_PLACES[self.kind], lambda match: f"{match[1]}{own}{match[2]}", text)
            assert count == 1, f"{self.kind}.sh has no place for an environment"
        return text

    def _sweep_text(self, path: Path) -> str:
        where = Path(self.recording)
        place = where if where.is_absolute() else Path(os.path.relpath(where, path.parent))
        weights = ", ".join(f"{weight:g}" for weight in self.weights)
        lines = [
            f"# LFADS beside BAND on {where.name}. What is not named has its default; experiments/mc_maze.yaml of band",
            "# explains each section. To look at what it will run, writing nothing:",
            f"#   bash {path.stem}.check.sh",
            "",
            "base:",
            "  data:",
            f"    path: {_yaml(str(place))}   # relative to this file",
            *([f"    bin_ms: {self.bin_ms:g}"] if self.bin_ms else []),
            *(["  train:", f"    batch_size: {self.batch_size}   # there are few trials"] if self.batch_size else []),
            "",
            "# LFADS (weight 0) and BAND (each weight), equal in all else: same seed, split, minibatches, noise.",
            "pair:",
            f"  behavior_weight: [{weights}]",
            "",
            f"seeds: {self.seeds}",
            "",
            f"cluster: {self.cluster}",
        ]
        return "\n".join(lines) + "\n"

    def _check_text(self, sweep: Path, *, folder: Path) -> str:
        where = self.recording if Path(self.recording).is_absolute() else os.path.relpath(self.recording, folder)
        recording = shlex.quote(where)
        own = shlex.quote(os.path.relpath(sweep, folder))
        doctor = f"band-sweep doctor --cluster {self.cluster}" if self.cluster != "local" else ""
        lines = [
            "#!/bin/bash",
            "# Checks what a sweep needs, from the recording to a compute node; trains nothing and writes no sweep.",
            "set -eu",
            'cd "$(dirname "$0")/.."',
            f"band-data check {recording}",
            f"band-sweep generate {own} --dry-run",
            *([doctor] if doctor else []),
        ]
        return "\n".join(lines) + "\n"


def safe(value: str, *, what: str) -> str:
    """Return a value that can stand in a shell script between double quotes, and do nothing there.

    Raises:
        ConfigError: it has blanks, quotes, or other characters that a shell acts upon.
    """
    if _SAFE.fullmatch(value):
        return f"$HOME{value[1:]}" if value.startswith("~/") else value  # no shell looks for ~ between quotes
    raise ConfigError(f"{what} must be letters, digits and any of @%+=:,./~${{}}_- without blanks, got {value!r}")


def _yaml(text: str) -> str:
    return text if re.fullmatch(r"[\w./-]+", text) else "'" + text.replace("'", "''") + "'"


def write_start(files: Mapping[Path, str]) -> None:
    """Write the files, none over another.

    Raises:
        ConfigError: one of them is there already; nothing was written.
        OSError: a folder cannot be written.
    """
    there = [str(path) for path in files if path.exists()]
    if there:
        raise ConfigError(f"{', '.join(there)} is there already, and is left as it is; give other names")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
        if text.startswith("#!"):
            path.chmod(path.stat().st_mode | 0o111)
