"""Options of sbatch on a command line: those that stand in the help, and any other by --sbatch."""

from __future__ import annotations

import argparse

from band.cli.common import whole_number
from band.cli.parsers import brief
from band.errors import ConfigError
from band.slurm.units import time_s
from band.sweep.request import CANARY_DEFAULT_S

COMMON = {
    "account": "whose allocation pays",
    "constraint": "features that a node must have",
    "cpus-per-task": "CPUs of a task; the trainer's threads",
    "exclude": "nodes to avoid",
    "gpus": "GPUs of a task",
    "gres": "generic resources, such as gpu:1",
    "mem": "memory of a task (default: estimated)",
    "partition": "where to queue",
    "qos": "quality of service",
    "time": "time limit of a task (default: estimated)",
}


def add_submit_options(parser: argparse.ArgumentParser) -> None:
    """Add what a submission to a cluster, and no other, can be told."""
    group = parser.add_argument_group("on a Slurm cluster")
    add_options(group)
    group.add_argument("--max-parallel", type=whole_number, default=0, metavar="N", help="array tasks that run at once")
    group.add_argument(
        "--canary", action="store_true", help="one run of each shape goes ahead for a while; if well, the rest follows"
    )
    group.add_argument("--canary-time", metavar="TIME", help="for how long, as --time takes it (default: 5:00)")
    group.add_argument(
        "--allow-version-difference", action="store_true", help="run though the node's torch or numpy differs from here"
    )


def add_options(group: argparse._ArgumentGroup) -> None:
    """Add the options of sbatch, which `options_of` reads again."""
    group.description = f"--{', --'.join(COMMON)} VALUE: as sbatch takes them"
    for name, words in COMMON.items():
        brief(group.add_argument(f"--{name}", metavar="VALUE", dest=f"sbatch_{name}", help=words))
    group.add_argument(
        "--sbatch", action="append", default=[], metavar="KEY=VALUE", help="any option of sbatch; may be repeated"
    )


def canary_s(args: argparse.Namespace) -> int:
    """Return for how many seconds a canary is to train, 0 where the command line asks for none.

    Raises:
        ConfigError: that is no time.
    """
    if args.canary_time is None:
        return CANARY_DEFAULT_S if args.canary else 0
    seconds = time_s(args.canary_time)
    if not seconds:
        raise ConfigError(f"--canary-time must be a time as --time takes it, such as 5:00, got {args.canary_time!r}")
    return seconds


def options_of(args: argparse.Namespace) -> dict[str, object]:
    """Return the options of sbatch that the command line gives.

    Raises:
        ConfigError: --sbatch is given no name.
    """
    options: dict[str, object] = {}
    for text in args.sbatch:
        name, is_given, value = text.partition("=")
        if not name.strip("-"):
            raise ConfigError(f"--sbatch must be given KEY=VALUE or KEY, such as --sbatch nice=100, got {text!r}")
        options[name.strip().lstrip("-")] = value if is_given else True
    given = {name: getattr(args, f"sbatch_{name}") for name in COMMON}
    return {**options, **{name: value for name, value in given.items() if value is not None}}
