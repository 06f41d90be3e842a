"""`band-train adapt`: adds a recording session to a trained model, whose core stays as it is."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any

from band.cli.common import say

HELP = "add a recording session to a trained model: its core stays as it is, read-in and read-out are trained"
EXAMPLES = """examples:
  band-train adapt experiments/sweeps/maze/runs/band1-s0-3fa9c04b1d day2.h5
  band-train adapt RUN day2.h5 train.max_epochs=100 hyper.lr=1e-3 --into adapted

The new session's neurons are mapped to what the encoders of RUN saw. Where both recordings have conditions (cond), that
map starts by principal-component regression: on what the encoders saw of the conditions in RUN's own recording and the
new session's train trials. What is trained is a sweep file of its own, FOLDER/adapt_STEM.yaml, and the run stands in
FOLDER/sweeps; the same command again continues.
"""
EPOCHS = 200  # by default; the maps alone are learnt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    from band.cli.train import add_machine_arguments

    parser.add_argument("run_folder", metavar="RUN", type=Path, help="folder of a trained run")
    parser.add_argument("data", metavar="DATA", type=Path, help="recording of the new session")
    parser.add_argument("sets", nargs="*", metavar="key=value", help="over RUN's configuration")
    parser.add_argument("--into", type=Path, default=Path(), metavar="FOLDER", help="default: the current folder")
    parser.add_argument("--readin", choices=("auto", "pcr_trained", "trained"), default="auto", help="start of the map")
    parser.add_argument("--dry-run", action="store_true", help="print the sweep file; write nothing")
    add_machine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the sweep file and train its one run."""
    import yaml

    from band.cli.train import parser as train_parser
    from band.cli.train import run as train

    base, notes = base_of(args.run_folder, args.data, readin=args.readin)
    text = yaml.safe_dump({"base": base}, sort_keys=False)
    for note in notes:
        say(note, file=sys.stderr)
    path = args.into / f"adapt_{args.data.stem}.yaml"
    if args.dry_run:
        say(text, end="")
        return 0
    write_once(path, text)
    arguments = [str(path), *args.sets, "--threads", str(args.threads), "--device", args.device]
    if args.json:
        arguments.append("--json")
    return train(train_parser().parse_args(arguments), argv=arguments)


def write_once(path: Path, text: str) -> None:
    """Write the sweep file unless it is there as it would be.

    Raises:
        ConfigError: another one of that name is there.
    """
    from band.errors import ConfigError
    from band.files import write_atomic

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
    elif path.read_text() != text:
        raise ConfigError(f"{path}: is there already and says something else; give another folder by --into")


def base_of(run_folder: Path, data: Path, *, readin: str = "auto") -> tuple[dict[str, Any], list[str]]:
    """Return the base of the sweep file that adapts a run to a recording, and what a reader should know of it.

    Raises:
        ConfigError: RUN is no trained run, or diverged.
        DataError: the recording cannot be read.
    """
    from band.config import trained_config
    from band.data.digest import dataset_shapes
    from band.errors import ConfigError, PublishError
    from band.run_dir import read_result, verify

    try:
        verify(run_folder)
        result = read_result(run_folder)
    except (PublishError, OSError) as error:
        raise ConfigError(f"{run_folder} must be the folder of a trained run: {error}") from None
    if result["training"]["outcome"] != "ok":
        raise ConfigError(f"{run_folder}: the run diverged; adapt another")
    shapes, source = dataset_shapes(data), Path(result["dataset"]["path"])
    base = trained_config(result)
    notes = []
    if readin == "auto":
        readin, note = _readin(shapes, source)
        notes.append(note)
    if base["hyper"]["behavior_weight"] and "behavior" not in shapes.get("train", {}):
        base["hyper"]["behavior_weight"] = 0.0
        notes.append(f"{data} has no behaviour: its maps are learnt from spikes alone")
    base["data"] |= {"path": str(data.resolve()), "fold": 0, "num_folds": 1}
    base["arch"] |= {"readin_dim": _channels(result["config"], source), "readin": readin}
    base["hyper"] |= {"kl_start_epoch": 0, "kl_increase_epoch": 0}
    digest = hashlib.sha256((run_folder / "model.pt").read_bytes()).hexdigest()
    base["train"] |= {
        "max_epochs": EPOCHS,
        "start_from": str(run_folder.resolve()),
        "start_sha256": digest,
        "trains": "session",
    }
    return base, notes


def _readin(shapes: dict[str, dict[str, list[int]]], source: Path) -> tuple[str, str]:
    """Return how the map starts, and why."""
    from band.data.digest import dataset_shapes
    from band.errors import DataError

    try:
        before = dataset_shapes(source)
    except DataError:
        return "trained", f"the map starts at random: {source}, which RUN was trained on, is not there"
    if "cond" in before.get("train", {}) and "cond" in shapes.get("train", {}):
        return "pcr_trained", "the map starts by principal-component regression on the conditions both recordings have"
    return "trained", "the map starts at random: not both recordings have conditions"


def _channels(config: dict[str, Any], source: Path) -> int:
    """Return how many channels the encoders of a run see."""
    from band.data.digest import dataset_shapes

    channels = int(config["arch"]["readin_dim"])
    if channels:
        return channels
    seen: int = dataset_shapes(source)["train"]["encod_data"][2]
    hidden: int = round(config["data"]["heldout_share"] * seen)
    return seen - hidden
