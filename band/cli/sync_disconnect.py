"""`band-sync disconnect`: closes the connection that is kept to a host."""

from __future__ import annotations

import argparse

from band.cli.common import print_json, say
from band.sync.connection import disconnect


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("host", metavar="HOST", help="as `ssh HOST` takes it")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Close it; 0 whether or not there was one."""
    was_open = disconnect(args.host)
    if args.json:
        print_json({"schema": 1, "host": args.host, "was_open": was_open})
    else:
        say("closed" if was_open else "there was none")
    return 0
