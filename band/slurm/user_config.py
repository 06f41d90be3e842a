"""What a user has set for all sweeps: ~/.config/band/config.yaml."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from band.errors import ConfigError, did_you_mean
from band.slurm.options import Value, read_layer
from band.yaml_file import Node, kind_of, plain, read_yaml

_WORDS = ("cluster", "wckey", "hook", "webhook", "mail")
_CLUSTER_WORDS = ("template", "wckey", "container", "scratch")
KEYS = (*_WORDS, "clusters", "hosts", "sbatch")
CLUSTER_KEYS = (*_CLUSTER_WORDS, "sbatch", "max_parallel", "setup")
HOST_KEYS = ("path", "python", "setup")


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """What a user has set for one cluster; empty: nothing."""

    template: str = ""  # name or path; "": the cluster's own name
    sbatch: Mapping[str, Value | None] = field(default_factory=dict)
    wckey: str = ""
    max_parallel: int = 0
    container: str = ""
    scratch: str = ""
    setup: tuple[str, ...] = ()  # lines that a job runs after those of the template


@dataclass(frozen=True, kw_only=True)
class HostConfig:
    """What a user has set for one machine that is reached by ssh; empty: nothing."""

    path: str = ""  # the project's folder there; "~/…" and relative ones start at the home there
    python: str = ""  # the interpreter there that has what band needs
    setup: tuple[str, ...] = ()  # lines that a login there runs first, such as `module load`


@dataclass(frozen=True, kw_only=True)
class UserConfig:
    """What a user has set; all empty where there is no file."""

    path: Path
    cluster: str = ""  # the one that `submit` takes without --cluster
    sbatch: Mapping[str, Value | None] = field(default_factory=dict)  # for every cluster
    clusters: Mapping[str, ClusterConfig] = field(default_factory=dict)
    hosts: Mapping[str, HostConfig] = field(default_factory=dict)  # by their names in ~/.ssh/config
    wckey: str = ""
    hook: str = ""  # command that is called once a sweep is complete
    webhook: str = ""  # address that is told
    mail: str = ""  # address that is written to

    def layers(self, cluster: str) -> list[tuple[str, Mapping[str, Value | None]]]:
        """Return the sbatch options for a cluster as layers of `options.merge`, the weakest first."""
        return [(str(self.path), self.sbatch), (str(self.path), self.for_cluster(cluster).sbatch)]

    def for_cluster(self, cluster: str) -> ClusterConfig:
        """Return what is set for one cluster, over what is set for all but the options of sbatch."""
        own = self.clusters.get(cluster, ClusterConfig())
        return replace(own, wckey=own.wckey or self.wckey)


def config_folder() -> Path:
    """Return the folder of a user's configuration, which need not exist."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "band"


def read_user_config(path: Path | None = None) -> UserConfig:
    """Return the user's configuration; without a file, the empty one.

    Raises:
        ConfigError: it is no such file, or has an unknown key or a value of another kind; names its line.
    """
    path = path or config_folder() / "config.yaml"
    if not path.exists():
        return UserConfig(path=path)
    values = _mapping(read_yaml(path), keys=KEYS)
    clusters = {name: _cluster(node, name=name) for name, node in _mapping(values.get("clusters")).items()}
    hosts = {name: _host(node, name=name) for name, node in _mapping(values.get("hosts")).items()}
    words: dict[str, Any] = {key: _word(node, key=key) for key, node in values.items() if key in _WORDS}
    return UserConfig(path=path, sbatch=sbatch_layer(values.get("sbatch")), clusters=clusters, hosts=hosts, **words)


def _host(node: Node, *, name: str) -> HostConfig:
    values = _mapping(node, keys=HOST_KEYS, below=f"hosts.{name}.")
    words = {key: _word(child, key=key) for key, child in values.items() if key != "setup"}
    return HostConfig(setup=_lines(values["setup"]) if "setup" in values else (), **words)


def _cluster(node: Node, *, name: str) -> ClusterConfig:
    values = _mapping(node, keys=CLUSTER_KEYS, below=f"clusters.{name}.")
    known: dict[str, Any] = {key: _word(values[key], key=key) for key in _CLUSTER_WORDS if key in values}
    if "max_parallel" in values:
        known["max_parallel"] = _count(values["max_parallel"], key="max_parallel")
    if "setup" in values:
        known["setup"] = _lines(values["setup"])
    return ClusterConfig(sbatch=sbatch_layer(values.get("sbatch")), **known)


def sbatch_layer(node: Node | None) -> dict[str, Value | None]:
    """Return the options under an `sbatch:` key, each with the line it stands on.

    Raises:
        ConfigError: sbatch has no such option, or it takes no such value.
    """
    layer: dict[str, Value | None] = {}
    for name, child in _mapping(node).items():
        found = read_layer({name: plain(child)}, origin=str(child.source))
        for option in found:
            if option in layer:
                raise ConfigError(f"{child.source}: {option} is given twice; leave one out")
        layer |= found
    return layer


def _mapping(node: Node | None, *, keys: tuple[str, ...] = (), below: str = "") -> dict[str, Node]:
    """Return the entries of a mapping, those of no value left out; `keys`: all that it may have."""
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        raise ConfigError(f"{node.source}: must be a mapping of keys to values, found {kind_of(node)}")
    for key, child in node.value.items():
        if keys and key not in keys:
            raise ConfigError(f"{child.source}: {below}{key} is no setting; {did_you_mean(key, keys)}")
    return (
        dict(node.value) if not keys else {key: child for key, child in node.value.items() if child.value is not None}
    )


def _word(node: Node, *, key: str) -> str:
    if isinstance(node.value, (dict, list, bool)):
        raise ConfigError(f"{node.source}: {key} must be text, found {kind_of(node)}")
    return str(node.value)


def _count(node: Node, *, key: str) -> int:
    if not isinstance(node.value, int) or isinstance(node.value, bool) or node.value < 1:
        raise ConfigError(f"{node.source}: {key} must be a whole number above 0, found {kind_of(node)}")
    return node.value


def _lines(node: Node) -> tuple[str, ...]:
    entries = node.value if isinstance(node.value, list) else [node]
    return tuple(line for entry in entries for line in _word(entry, key="setup").splitlines())
