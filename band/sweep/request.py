"""What a user asks of a cluster: template, user configuration, sweep file and command line, each with its origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from band.errors import ConfigError
from band.slurm.options import Value, merge, num_gpus
from band.slurm.template import Template, find_template
from band.slurm.units import memory_bytes, time_s
from band.slurm.user_config import ClusterConfig, UserConfig, read_user_config
from band.sweep.ledger import CANARY_S
from band.sweep.manifest import Manifest
from band.sweep.policy import read_policy

LOCAL = "local"
OWN = (
    "max_parallel",
    "canary",
    "policy",
    "allow_version_difference",
    "sbatch",
)  # keys of submit: that are not sbatch's
COMMAND_LINE = "command line"
CANARY_DEFAULT_S = 300  # of training, and no less than one epoch


@dataclass(frozen=True, kw_only=True)
class Request:
    """How the tasks of a submission are to run."""

    cluster: str
    template: Template
    sbatch: Mapping[str, Value]  # options by their long names
    setup: tuple[str, ...]  # lines that a job runs before it starts
    policy: Mapping[str, Any]
    max_parallel: int = 0  # tasks at once; 0: as many as the cluster lets
    canary_s: int = 0  # for how long one run of each shape trains before the rest follows; 0: all at once
    allow_versions: bool = False
    container: str = ""

    def value(self, option: str) -> str:
        """Return what stands after an option, "" where it is not set."""
        return self.sbatch[option].value if option in self.sbatch else ""

    @property
    def cpus(self) -> int:
        """CPUs of a task."""
        per_gpu = self.value("cpus-per-gpu")
        return int(per_gpu) * max(self.gpus, 1) if per_gpu else int(self.value("cpus-per-task") or 1)

    @property
    def gpus(self) -> int:
        """GPUs of a task."""
        return num_gpus(self.sbatch)

    @property
    def time_s(self) -> int | None:
        """Seconds that a task may take, None where nothing says so."""
        return time_s(self.value("time")) if self.value("time") else None

    @property
    def memory_bytes(self) -> int | None:
        """Memory of a task, None where nothing says so, or all that the node has."""
        shares = {"mem": 1, "mem-per-cpu": self.cpus, "mem-per-gpu": max(self.gpus, 1)}
        for option, share in shares.items():
            if self.value(option):
                return (memory_bytes(self.value(option)) or 0) * share or None
        return None

    def options(self, *, code: str, versions: Mapping[str, str]) -> dict[str, Any]:
        """Return what a submission's intent keeps of the request.

        Args:
            code: digest of the snapshot that the jobs run.
            versions: {package: version} that they compare theirs with.
        """
        return {
            "cluster": self.cluster,
            "template": str(self.template.path),
            "sbatch": {name: option.value for name, option in self.sbatch.items()},
            "origins": {name: option.origin for name, option in self.sbatch.items()},
            "max_parallel": self.max_parallel,
            "time_s": self.time_s,
            "mem_bytes": self.memory_bytes,
            "cpus": self.cpus,
            "gpus": self.gpus,
            "code": code,
            "versions": dict(versions),
            "allow_versions": self.allow_versions,
            "setup": list(self.setup),
            "policy": dict(self.policy),
            "container": self.container,
            **({CANARY_S: self.canary_s} if self.canary_s else {}),
        }


def cluster_of(manifest: Manifest, *, given: str = "") -> str:
    """Return where a sweep is to run: as given, as its file says, as the user's configuration says, or here.

    Raises:
        ConfigError: the file's entry is none, or the configuration cannot be read.
    """
    return given or _of_file(manifest)[0] or read_user_config().cluster or LOCAL


def make_request(
    manifest: Manifest,
    *,
    cluster: str,
    sbatch: Mapping[str, object],
    max_parallel: int = 0,
    canary_s: int = 0,
    allow_versions: bool = False,
) -> Request:
    """Return the request for a sweep on a cluster; of two places that set an option, the later one counts.

    Args:
        manifest: the sweep.
        cluster: name or path of a template, or a name of the user's configuration.
        sbatch: options of the command line.
        max_parallel: tasks at once; 0: as the sweep file or the configuration has it.
        canary_s: one run of each shape goes first, for so many seconds; 0: as the sweep file has it.
        allow_versions: a job runs with other package versions than those here, too.

    Raises:
        ConfigError: an option, a template or a file breaks a rule; names where.
    """
    user = read_user_config()
    config = user.for_cluster(cluster)
    template = find_template(config.template or cluster, folder=user.path.parent if config.template else None)
    source = manifest.source
    where = f"{source}: submit"
    section = dict(manifest.options.get("submit") or {})
    own = {key: section.pop(key) for key in OWN if key in section}
    layers: list[tuple[str, Mapping[str, object]]] = [
        (f"template {template.path}", template.sbatch),
        (str(user.path), {"wckey": config.wckey} if config.wckey else {}),
        *user.layers(cluster),
        (f"{source}: cluster", _of_file(manifest)[1]),
        (where, _mapping(own.get("sbatch"), where=f"{where}.sbatch")),
        (where, section),
        (COMMAND_LINE, sbatch),
    ]
    return Request(
        cluster=cluster,
        template=template,
        sbatch=merge(layers),
        setup=(*template.setup, *_setup(config)),
        policy=dict(read_policy((source, manifest.options.get("policy")), (where, own.get("policy"))).retries),
        max_parallel=max_parallel or _count(own.get("max_parallel"), where=where) or config.max_parallel,
        canary_s=canary_s or _canary_s(own.get("canary"), where=f"{where}.canary"),
        allow_versions=allow_versions
        or _flag(own.get("allow_version_difference"), where=f"{where}.allow_version_difference"),
        container=config.container,
    )


def user_config() -> UserConfig:
    """Return the user's configuration."""
    return read_user_config()


def _of_file(manifest: Manifest) -> tuple[str, dict[str, object]]:
    """Return the cluster that the sweep file names, "" for none, and the options of sbatch beside it."""
    value = manifest.options.get("cluster") or ""
    if isinstance(value, str):
        return value, {}
    options = dict(value)
    name = options.pop("name", "")
    if not isinstance(name, str):
        raise ConfigError(f"{manifest.source}: cluster.name must be the name of a cluster, found {name!r}")
    return name, options


def _setup(config: ClusterConfig) -> list[str]:
    """Return the lines that the user's configuration adds to the template's."""
    lines = [f'export BAND_SCRATCH="{config.scratch}"'] if config.scratch else []
    if config.container:
        lines.append(f'export BAND_TRAINER="{config.container} python -m band.train.worker"')
    return [*lines, *config.setup]


def _mapping(value: object, *, where: str) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must be a mapping of options to values, found {value!r}")
    return value


def _count(value: object, *, where: str) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{where}.max_parallel must be a whole number of at least 1, found {value!r}")
    return value


def _canary_s(value: object, *, where: str) -> int:
    if value is None or value is False:
        return 0
    seconds = CANARY_DEFAULT_S if value is True else time_s(str(value))
    if not seconds:
        raise ConfigError(f'{where} must be true, false or a time such as "5:00", found {value!r}')
    return seconds


def _flag(value: object, *, where: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise ConfigError(f"{where} must be true or false, found {value!r}")
    return bool(value)
