"""`band-sync push`: sends recordings and other files to another machine; verified there, never over something else."""

from __future__ import annotations

import argparse
from pathlib import Path

from band.cli.common import print_json, printable, say
from band.cli.progress import plural, size, transfer
from band.errors import ConfigError
from band.sync.connection import connect, parse_place
from band.sync.push import Parcel, Shipment, offer, parcel, send
from band.sync.rsync import check_rate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="what to send")
    parser.add_argument("target", metavar="HOST:PATH", help="a folder there, or the new name of a single file")
    parser.add_argument("--bwlimit", default="", metavar="RATE", help="bytes a second at the most, such as 500K or 10M")
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent; send nothing")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Send; 0 when all is there, 4 when something else stands in the way of a file."""
    place, rate = parse_place(args.target), check_rate(args.bwlimit)
    parcels = _parcels(args.files)
    connection = connect(place.host)
    shipment = offer(connection, parcels, folder=place.path, may_rename=True, is_dry_run=args.dry_run)
    if not args.json:
        say(f"{plural(len(parcels), 'file')} for {printable(str(place))}: {size(shipment.size_bytes)} to send")
    if not args.dry_run:
        with transfer(shipment.size_bytes, is_quiet=args.json) as show:
            send(connection, shipment, bwlimit=rate, look=show)
            show(shipment.size_bytes)
    _say(shipment, args=args, host=place.host)
    return 4 if "differs" in shipment.states else 0


def _parcels(files: list[Path]) -> list[Parcel]:
    names = [path.name for path in files]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(f"several of these files are named {sorted(twice)[0]!r}; send them one by one")
    return [parcel(path) for path in files]


def _say(shipment: Shipment, *, args: argparse.Namespace, host: str) -> None:
    """Print what became of each file."""
    is_sent = "would be sent" if args.dry_run else "sent"
    words = {"new": is_sent, "same": "there already", "differs": "NOT sent: another file of that name is there"}
    entries = list(zip(shipment.parcels, shipment.paths, shipment.states, strict=True))
    if args.json:
        files = [
            {"file": str(each.path), "path": path, "state": state, "size": each.size, "sha256": each.sha256}
            for each, path, state in entries
        ]
        print_json({"schema": 1, "host": host, "is_dry_run": args.dry_run, "files": files})
        return
    for _, path, state in entries:
        say(f"  {printable(f'{host}:{path}')}: {words[state]}")
