"""`band-train import`: a Lightning checkpoint of lfads-torch or BAND-torch becomes a run that goes on here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from band.cli.common import print_json, printable, say

HELP = "take over a checkpoint of lfads-torch or BAND-torch as a run that is scored and goes on here"
EXAMPLES = """examples:
  band-train import epoch=312.ckpt --config configs/model/chewie.yaml --data datasets/chewie.h5
  band-train import last.ckpt --config configs/single.yaml --data chewie.h5 --into imported/chewie
  band-train import last.ckpt --config model.yaml                             parameters alone, without scores
  band-train import last.ckpt --config model.yaml --data chewie.h5 --set max_epochs=2000

In the folder: run/, a finished run as the checkpoint has it (with --data also its scores and outputs on the recording);
NAME.yaml, the configuration, and imported.json, what became of each key and what was left out. With --data, `band-train
FOLDER/NAME.yaml` goes on training where the checkpoint stopped: parameters, moments of the optimiser, step size, epoch.

Nothing in the checkpoint is run: objects of classes are named and left out, pickled code is refused.
exit codes: 0 imported, 1 your input, 2 usage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="as Lightning saved it")
    parser.add_argument(
        "--config", type=Path, action="append", required=True, metavar="YAML",
        help="its Hydra configuration: of the model, or one that composes all; given again: over those before",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="FILE", help="the recording that it was trained on")
    parser.add_argument("--into", type=Path, metavar="DIR", help="folder to make (default: named after CKPT, here)")
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], metavar="key=value",
        help="over the configuration, as train.max_epochs=2000",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="read and check everything; write nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Import the checkpoint and say what became of it; return the exit code."""
    from band.bridge.convert import run_config
    from band.bridge.imported import read_import
    from band.cli.import_folder import facts_of, make_folder, place_for

    found = read_import(args.checkpoint, args.config)
    values = {key: value for key, value in found.values.items() if key != "data.path"} | _given(args)
    place = place_for(args.into, args.checkpoint, is_dry=args.dry_run)
    config = run_config(values)
    from band.train.adopt import adopt_import

    adopted = adopt_import(found, config, data=args.data)
    facts = facts_of(found, adopted) | {"folder": str(place.folder)}
    if not args.dry_run:
        facts |= make_folder(place, found, adopted, values=values, facts=facts, data=args.data)
    _report(facts, as_json=args.json, is_dry=args.dry_run)
    return 0


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Return {full key: value} of what the command line says."""
    from band.sweep.fields import coerce, resolve_key
    from band.yaml_file import parse_setting

    given: dict[str, Any] = {}
    for text in args.sets:
        key, node = parse_setting(text)
        full = resolve_key(key, source=node.source)
        given[full] = coerce(full, node).value
    if args.data is not None:
        given["data.path"] = str(args.data.resolve())
    return given


def _report(facts: dict[str, Any], *, as_json: bool, is_dry: bool) -> None:
    if as_json:
        print_json(facts)
        return
    for fate in facts["fates"]:
        ours = f" as {fate['ours']} = {fate.get('to')}" if "ours" in fate else ""
        say(printable(f"{fate['key']}: {fate['became']}{ours}{'; ' + fate['why'] if 'why' in fate else ''}"))
    if facts["left_out"]:
        say(printable(f"left out, objects of: {', '.join(facts['left_out'])}"))
    for note in facts["notes"]:
        say(printable(f"note: {note}"))
    say(printable(_ending(facts, is_dry=is_dry)))


def _ending(facts: dict[str, Any], *, is_dry: bool) -> str:
    held = f"{facts['parameters']} parameters after {facts['epochs']} epochs, {facts['steps']} steps"
    if is_dry:
        return f"{held}; nothing is written"
    name = Path(facts["folder"]).name
    lines = [f"{held}: {facts['folder']}/run"]
    if facts.get("goes_on"):
        lines.append(f"to train on from there: band-train {facts['folder']}/{name}.yaml")
    elif "goes_on" in facts:
        lines.append("it was trained to its last epoch; to train on, import it again with --set max_epochs=…")
    return "\n".join(lines)
