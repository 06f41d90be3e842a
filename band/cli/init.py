"""`band-sweep init`: asks a few questions, or takes flags, and writes a template, a sweep file and a check of both."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from band.cli.common import print_json, printable, say, whole_number
from band.errors import BandError, ConfigError
from band.sweep.starter import ENVIRONMENTS, Start, write_start

HELP = "ask a few questions, and write a cluster's template, a sweep and a check"
EXAMPLES = """\
examples:
  band-sweep init                                            # asks; nothing is written over
  band-sweep init --yes --cluster local --recording datasets/maze.h5
  band-sweep init --yes --cluster gpus --python conda --environment band --partition gpu --gpus 1 \\
      --scratch /scratch/$USER/band --recording datasets/maze.h5 --weights 0.1,1 --seeds 5"""
DEFAULTS: dict[str, Any] = {
    "cluster": "mycluster",
    "python": "venv",
    "environment": "",
    "scratch": "",
    "partition": "",
    "account": "",
    "gpus": 0,
    "recording": "datasets/recording.h5",
    "name": "",
    "weights": (0.1, 1.0),
    "seeds": 3,
}
AT_A_CLUSTER = ("python", "environment", "scratch", "partition", "account", "gpus")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("--cluster", metavar="NAME", help="a name for it; local: this machine, without Slurm")
    add("--python", choices=tuple(ENVIRONMENTS), help="how Python comes to a job")
    add("--environment", metavar="E", help="path of the venv or image, name of the environment or module")
    add("--scratch", metavar="DIR", help="on each node, outliving the job (default: looked for there)")
    add("--partition", metavar="P", help="where to queue (default: the cluster's own)")
    add("--account", metavar="A", help="whose allocation pays (default: your own)")
    add("--gpus", type=_count, metavar="N", help="GPUs of a task; 0: trains on CPUs")
    add("--mem", default="", help="memory of a task, such as 8G (default: 4G)")
    add("--time", default="", help="time limit of a task (default: 08:00:00)")
    add("--recording", metavar="FILE.h5", help="what to train on; relative to here")
    add("--bin-ms", type=float, default=0.0, help="width of its bins, where it does not say so itself")
    add("--name", help="of the sweep (default: the recording's)")
    add("--weights", type=_weights, metavar="W,W", help="behaviour weights of BAND (default: 0.1,1)")
    add("--seeds", type=whole_number, metavar="N", help="each seed trains every model (default: 3)")
    add("--into", type=Path, default=Path(), metavar="DIR", help="project folder (default: here)")
    add("--yes", action="store_true", help="ask nothing: what is not given has its default")
    add("--no-check", action="store_true", help="do not expand the sweep once it is written")
    add("--json", action="store_true", help="print JSON; questions go to stderr")


def _count(text: str) -> int:
    return whole_number(text, least=0)


def _weights(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers such as 0.1,1, got {text!r}") from None
    if not all(0 < value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"must be above 0 (LFADS is weight 0, and comes by itself), got {text!r}")
    return values


def run(args: argparse.Namespace) -> int:
    """Ask, write, and expand the sweep once; 4 where that found something amiss in what was written."""
    if not args.yes and not sys.stdin.isatty():
        raise ConfigError("nobody is there to be asked; give --yes, and what differs from the defaults as options")
    start = _start(args)
    files = start.files(args.into)
    write_start(files)
    problem = "" if args.no_check else _check(args.into / "experiments" / f"{start.sweep}.yaml", is_quiet=args.json)
    steps = _next(start, into=args.into)
    if args.json:
        print_json({"files": [str(path) for path in files], "problem": problem, "next": steps})
    else:
        say("\n".join(f"written  {path}" for path in files))
        if problem:
            say(f"to mend  {printable(problem)}")
        say("\n".join(f"next     {step}" for step in steps))
    return 4 if problem else 0


def _start(args: argparse.Namespace) -> Start:
    ask = _take_default if args.yes else _ask
    values: dict[str, Any] = {}
    for key in DEFAULTS:
        given = getattr(args, key)
        if given is not None:
            values[key] = given
        elif values.get("cluster") == "local" and key in AT_A_CLUSTER:
            values[key] = DEFAULTS[key]
        else:
            values[key] = ask(key, _default(key, values))
    return Start(
        sweep=values.pop("name"),
        kind=values.pop("python"),
        mem=args.mem,
        time=args.time,
        bin_ms=args.bin_ms,
        batch_size=_batch_size(values["recording"]),
        **values,
    )


def _batch_size(recording: str) -> int:
    """Return a size of minibatches for a recording of so few trials that the default would not do, 0 for others."""
    from band.config import TrainConfig
    from band.data.recording import open_recording

    try:
        trials = open_recording(Path(recording)).num_trials
    except BandError:
        return 0  # the check says what is wrong with it
    most = trials // 2  # what is left of them for training, at the least
    return 0 if most >= TrainConfig().batch_size else max(2 ** (most.bit_length() - 1), 1) if most else 1


def _default(key: str, values: dict[str, Any]) -> Any:
    if key == "name":
        return Path(values["recording"]).stem
    return ENVIRONMENTS[values["python"]] if key == "environment" else DEFAULTS[key]


def _take_default(key: str, default: Any) -> Any:
    return default


QUESTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "cluster": ("a name for the cluster, or local for this machine", str),
    "python": (f"how Python comes to a job: {', '.join(ENVIRONMENTS)}", str),
    "environment": ("path of the venv or image, name of the environment or module", str),
    "scratch": ("a disk of each node that outlives a job; empty: looked for there", str),
    "partition": ("partition; empty: the cluster's own", str),
    "account": ("account; empty: your own", str),
    "gpus": ("GPUs of a task", _count),
    "recording": ("recording to train on", str),
    "name": ("a name for the sweep", str),
    "weights": ("behaviour weights of BAND, beside LFADS", _weights),
    "seeds": ("seeds", whole_number),
}


def _ask(key: str, default: Any) -> Any:
    """Return the answer to a question, asked again until it can be one; the empty answer is the default."""
    words, read = QUESTIONS[key]
    shown = ",".join(f"{value:g}" for value in default) if isinstance(default, tuple) else default
    while True:
        say(f"{words} [{shown}]: " if shown != "" else f"{words}: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise ConfigError("the questions were left unanswered; nothing is written")
        try:
            answer = read(line.strip()) if line.strip() else default
        except argparse.ArgumentTypeError as error:
            say(f"  it {error}", file=sys.stderr)
            continue
        if key == "python" and answer not in ENVIRONMENTS:
            say(f"  one of {', '.join(ENVIRONMENTS)}", file=sys.stderr)
            continue
        return answer


def _check(sweep: Path, *, is_quiet: bool) -> str:
    """Expand the sweep and write nothing; return what was wrong with it."""
    from band.cli.generate import describe
    from band.sweep.plan import make_plan

    try:
        plan = make_plan(str(sweep))
    except BandError as error:
        return str(error)
    if not is_quiet:
        say(printable(describe(plan, is_dry_run=True)) + "\n")
    return ""


def _next(start: Start, *, into: Path) -> list[str]:
    sweep = into / "experiments" / f"{start.sweep}.yaml"
    doctor = [] if start.cluster == "local" else [f"band-sweep doctor --cluster {start.cluster}"]
    return [
        f"bash {sweep.with_suffix('.check.sh')}",
        *doctor,
        f"band-sweep generate {sweep}",
        f"band-sweep submit {start.sweep}",
    ]
