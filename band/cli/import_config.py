"""`band-sweep import`: a configuration or search space of lfads-torch or BAND-torch becomes a sweep file.

It is a command of band-sweep because what it writes is what every other command of band-sweep begins with.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from band.cli.common import print_json, printable, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from band.bridge.fates import Fate
    from band.bridge.pbt import Pbt

HELP = "turn a configuration of lfads-torch or BAND-torch into a sweep file"
PARTIAL = 4
EXAMPLES = """examples:
  band-sweep import BAND-torch/configs/single.yaml --out experiments/chewie.yaml      follows its defaults
  band-sweep import model/chewie.yaml datamodule/chewie.yaml --out experiments/chewie.yaml
  band-sweep import model/chewie.yaml run_pbt.py --out experiments/chewie.yaml        also experiments/chewie.pbt.yaml
  band-sweep import model/chewie.yaml --dry-run --json | jq '.fates[] | select(.became == "unsupported")'

Later files go over earlier ones. A Python file is read as text and never run; its search goes to a sweep file of its
own, which includes the other.

exit codes: 0 all of it, 1 your input, 4 some keys are unsupported (the file is written all the same)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `band-sweep import`."""
    parser.add_argument("files", nargs="+", type=Path, metavar="CONFIG", help="YAML of Hydra, or a run_pbt.py")
    parser.add_argument("--out", type=Path, metavar="FILE.yaml", help="sweep file to write (default: NAME.yaml here)")
    parser.add_argument("--force", action="store_true", help="replace it if it is there")
    parser.add_argument("--dry-run", action="store_true", help="say what would become of each key; write nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Convert the files, write the sweep file, say what became of each key; return the exit code."""
    from band.bridge.convert import convert, run_config, values_of
    from band.bridge.fates import UNSUPPORTED
    from band.bridge.hydra import read_config
    from band.bridge.pbt import read_pbt

    scripts = [path for path in args.files if path.suffix == ".py"]
    configs = [path for path in args.files if path not in scripts]
    searches = [read_pbt(path) for path in scripts]
    fates = (convert(read_config(configs)) if configs else []) + [fate for search in searches for fate in search.fates]
    run_config(values_of([fate for fate in fates if not fate.ours.startswith("pbt.")]))
    texts = _texts(args, configs, fates, searches)
    if not args.dry_run:
        _write(texts, force=args.force)
    _report(fates, texts, as_json=args.json, is_dry=args.dry_run)
    return PARTIAL if any(fate.became == UNSUPPORTED for fate in fates) else 0


def _texts(
    args: argparse.Namespace, configs: Sequence[Path], fates: Sequence[Fate], searches: Sequence[Pbt]
) -> dict[Path, str]:
    """Return the files to write: the sweep, and beside it the search space of the last script."""
    from band.bridge.sweep_file import pbt_text, sweep_text

    out = args.out or Path(f"{args.files[0].stem}.yaml")
    texts: dict[Path, str] = {}
    if configs:
        own = [fate for fate in fates if not fate.ours.startswith("pbt.")]
        texts[out] = sweep_text(own, sources=[path.name for path in args.files])
    if searches:
        scripts = [path.name for path in args.files if path.suffix == ".py"]
        base = out.name if configs else None
        texts[out.with_suffix(".pbt.yaml")] = pbt_text(searches[-1], source=scripts[-1], base=base)
    return texts


def _write(texts: dict[Path, str], *, force: bool) -> None:
    """Write the files, each whole, after it is clear that all of them may be.

    Raises:
        ForeignError: one is there already.
        OSError: the disk is full, read-only …
    """
    from band.errors import ForeignError
    from band.files import write_atomic

    for path in texts:
        if path.exists() and not force:
            raise ForeignError(f"{path}: is there already; give another name by --out, or --force to replace it")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())


def _report(fates: Sequence[Fate], texts: dict[Path, str], *, as_json: bool, is_dry: bool) -> None:
    if as_json:
        files = [] if is_dry else [str(path) for path in texts]
        print_json(
            {"files": files, "texts": {str(p): t for p, t in texts.items()}, "fates": [f.to_json() for f in fates]}
        )
        return
    for fate in fates:
        say(printable(fate.line()))
    for path, text in texts.items():
        say(printable(f"\n{path} would be:\n{text}" if is_dry else f"\nwritten: {path}"))
