"""`band-sweep cluster`: what a cluster has, what of it is free, and what one's own jobs have of it."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from band.cli.common import print_json, printable, say
from band.cli.progress import duration, plural, size
from band.errors import SweepError
from band.slurm.cluster import Limits, Node, Partition, limits, nodes
from band.slurm.jobs import OVER, WAITING, Job, queued
from band.slurm.share import Share, Use, own_use, shares
from band.sweep.pending import meaning

HELP = "show partitions, free CPUs and GPUs, and one's own jobs and share"
EXAMPLES = """\
examples:
  band-sweep cluster
  band-sweep cluster gpu --nodes"""
MOST_NODES = 40  # a longer list is shown on request only


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("partition", metavar="PARTITION", nargs="?", default="", help="only the nodes of this one")
    parser.add_argument("--nodes", action="store_true", help=f"list every node, also where there are over {MOST_NODES}")
    parser.add_argument("--json", action="store_true", help="everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Print what Slurm says of the cluster."""
    found = limits(args.partition)
    names = {partition.name for partition in found.partitions or ()}
    if args.partition and found.partitions is not None and args.partition not in names:
        raise SweepError(f"there is no partition {args.partition!r}; there are {', '.join(sorted(names))}")
    everywhere = nodes() or ()
    jobs = [job for job in queued() if job.state not in OVER]
    use, standing = own_use(), shares()
    if args.json:
        print_json(_json(found, everywhere, jobs=jobs, use=use, standing=standing))
        return 0
    shown = [node for node in everywhere if not args.partition or args.partition in node.partitions]
    lines = [*_head(found), "", *_partition_lines(found.partitions or (), everywhere)]
    lines += ["", *_node_lines(shown, all_nodes=args.nodes), "", *_own_lines(jobs, use=use, standing=standing)]
    say(printable("\n".join(lines)))
    return 0


def _head(found: Limits) -> list[str]:
    accounts = {True: "accounts are kept", False: "no accounts are kept", None: "accounts unknown"}[
        found.has_accounting
    ]
    bounds = {
        "tasks in an array": found.max_array_size,
        "own jobs queued and running": found.max_submit_jobs,
        "own jobs running": found.max_jobs,
    }
    known = [f"{count} {what}" for what, count in bounds.items() if count is not None]
    lines = [f"{found.cluster or 'cluster'}: Slurm {found.version}, {accounts}"]
    return [*lines, f"  at most {', '.join(known)}"] if known else lines


def _free(have: Sequence[Node], what: str) -> str:
    """Return "5 of 8" for the CPUs or GPUs of nodes that take jobs; "-" where there are none."""
    total = sum(getattr(node, what) for node in have)
    free = sum(getattr(node, what) - getattr(node, f"{what}_taken") for node in have if node.is_up)
    return f"{free} of {total}" if total else "-"


def _partition_lines(found: Sequence[Partition], everywhere: Sequence[Node]) -> list[str]:
    row = "  {:<20} {:<6} {:>10} {:>12} {:>12} {:>14}  {}"
    lines = [row.format("partition", "state", "longest", "nodes up", "GPUs free", "CPUs free", "").rstrip()]
    for partition in found:
        own = [node for node in everywhere if partition.name in node.partitions]
        longest = duration(partition.max_wall_s) if partition.max_wall_s else "no limit"
        up = f"{sum(node.is_up for node in own)} of {len(own)}"
        name = partition.name + ("*" if partition.is_default else "")
        notes = "may be preempted" if partition.preempt_mode not in ("", "OFF") else ""
        free = (_free(own, "gpus"), _free(own, "cpus"))
        lines.append(row.format(name, partition.state, longest, up, *free, notes).rstrip())
    return lines


def _node_lines(shown: Sequence[Node], *, all_nodes: bool) -> list[str]:
    """Return a line a node: those with free GPUs first, then those with free CPUs."""

    def rank(node: Node) -> tuple[bool, int, int]:
        return (not node.is_up, node.gpus_taken - node.gpus, node.cpus_taken - node.cpus)

    row = "  {:<20} {:<16} {:>12} {:>12} {:>10}  {}"
    lines = [row.format("node", "state", "GPUs free", "CPUs free", "memory", "features")]
    ordered = sorted(shown, key=rank)
    for node in ordered if all_nodes else ordered[:MOST_NODES]:
        words = node.reason if not node.is_up and node.reason else node.features
        free = (_free([node], "gpus"), _free([node], "cpus"))
        lines.append(row.format(node.name, node.state.lower(), *free, size(node.memory_bytes), words).rstrip())
    left_out = len(ordered) - len(lines) + 1
    return [*lines, f"  … and {plural(left_out, 'other node')} (--nodes lists all)"] if left_out else lines


def _own_lines(jobs: Sequence[Job], *, use: Use, standing: Sequence[Share]) -> list[str]:
    waiting = [job for job in jobs if job.state in WAITING]
    taken = f" on {plural(use.cpus, 'CPU')}" + (f" and {plural(use.gpus, 'GPU')}" if use.gpus else "")
    lines = [f"  your jobs: {use.jobs} running{taken if use.jobs else ''}, {len(waiting)} waiting"]
    for reason, count in Counter(job.reason for job in waiting).most_common():
        lines.append(f"    {count} {reason or 'None'}: {meaning(reason, job='JOB').words}")
    for share in standing:
        factor = "" if share.factor is None else f"; fair-share {share.factor:.2f} (1 is served first)"
        lines.append(
            f"  your share in {share.account}: {share.share:.0%} promised, {share.usage:.0%} used of late{factor}"
        )
    return lines


def _json(
    found: Limits, everywhere: Sequence[Node], *, jobs: Sequence[Job], use: Use, standing: Sequence[Share]
) -> dict[str, Any]:
    return {
        "limits": {key: value for key, value in asdict(found).items() if key not in ("partitions", "nodes")},
        "partitions": [asdict(partition) for partition in found.partitions or ()],
        "nodes": [asdict(node) for node in everywhere],
        "jobs": [asdict(job) for job in jobs],
        "use": asdict(use),
        "shares": [asdict(share) for share in standing],
    }
