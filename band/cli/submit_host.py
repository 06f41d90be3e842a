"""`band-sweep submit --host HOST`: sends code, sweep and recordings there, and has them submitted there."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys

from band.cli.common import printable, say, say_line
from band.cli.progress import size, transfer
from band.errors import RemoteError
from band.run_dir import SweepDir
from band.sweep.manifest import read_manifest
from band.sweep.request import LOCAL, cluster_of
from band.sync.connection import Connection, Place, connect, parse_place
from band.sync.push import send
from band.sync.send_sweep import NEEDS, Errand, finish, plan_errand
from band.sync.sources import Source, remember


def run(args: argparse.Namespace, *, sweep: SweepDir) -> int:
    """Send what is not there yet and submit there; the exit code is that of the submission there."""
    connection = _connection(args.host)
    cluster = cluster_of(read_manifest(sweep.path), given=args.cluster)
    errand = plan_errand(sweep, connection, cluster=cluster, is_dry_run=args.dry_run)
    words = _words(args, cluster=cluster)
    for line in errand.notes:
        _tell(f"note: {line}")
    if args.dry_run and not errand.is_there:
        _tell(f"would send {size(errand.size_bytes)} to {connection.host}:{errand.path}, and run there")
        _tell(f"  band-sweep submit {shlex.join(words[1:])}")
        return 0
    if not args.dry_run:
        _send(sweep, connection, errand, is_quiet=args.json)
    try:
        code = connection.band(path=errand.path, words=words, code=errand.code, needs=NEEDS, show=say_line)
    except RemoteError as error:
        raise RemoteError(
            f"{error}\nwhether it was submitted is not known here; nothing is sent to Slurm twice: "
            f"`band-sync status {sweep.name}` says what is there, and the same command again does what is left"
        ) from None
    if not code and not args.dry_run:
        _tell(f"next, from here: band-sync status {sweep.name}; band-sync pull {sweep.name}, as often as you like")
    return code


def _connection(host: str) -> Connection:
    """Return the connection to HOST[:PATH], PATH taking the place of what the user's configuration has."""
    place = parse_place(host) if ":" in host else Place(host, "")
    connection = connect(place.host)
    if not place.path:
        return connection
    return dataclasses.replace(connection, config=dataclasses.replace(connection.config, path=place.path))


def _send(sweep: SweepDir, connection: Connection, errand: Errand, *, is_quiet: bool) -> None:
    if not errand.is_there:
        _tell(f"sending {size(errand.size_bytes)} to {connection.host}:{errand.path}")
    done = 0
    with transfer(errand.size_bytes, is_quiet=is_quiet) as show:
        for shipment in errand.shipments:
            send(connection, shipment, look=lambda moved, before=done: show(before + moved))  # type: ignore[misc]
            done += shipment.size_bytes
            show(done)
    finish(sweep, connection, errand)
    remember(Source(sweep=sweep, place=Place(connection.host, errand.path)))


def _words(args: argparse.Namespace, *, cluster: str) -> list[str]:
    """Return the command there: the options as they were given, without --host and without the sweep's name."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--host")
    _, words = own.parse_known_args(args.words)
    place = next(number for number, word in enumerate(words) if _is_sweep(args, words, number=number))
    words = [*words[:place], *words[place + 1 :]]
    return ["submit", *words, *([f"--cluster={cluster}"] if cluster != LOCAL and not args.cluster else [])]


def _is_sweep(args: argparse.Namespace, words: list[str], *, number: int) -> bool:
    """Return whether that word is the sweep's name, and not the value of an option that looks the same."""
    if words[number] != args.sweep:
        return False
    other = "another-sweep"
    changed = args.parser.parse_args([*words[:number], other, *words[number + 1 :]])
    return bool(changed.sweep == other)


def _tell(text: str) -> None:
    say(printable(text), file=sys.stderr)
