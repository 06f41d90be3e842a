"""One process that feeds one target for a while: `python -m fuzz.worker TARGET --engine atheris --seconds 60 …`.

atheris (libFuzzer) keeps what reaches new code of band, and goes on from it; hypothesis draws what breaks parsers.
What a target does not survive is written down and gone on from; what the process does not survive (a crash, a hang,
memory beyond the bound) ends it, and the runner writes it down.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMEOUT_S = 10  # of one input
MEMORY_MB = 2048
MOST_BYTES = 1 << 16
UNITS = "stat::number_of_executed_units:"  # as libFuzzer says it


class Findings:
    """Writes each distinct failure once, with the input that led to it."""

    def __init__(self, folder: Path, *, target: str) -> None:
        self._folder, self._target, self._seen = folder, target, set[str]()

    def add(self, error: BaseException, data: bytes) -> None:
        """Write down what an input led to."""
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "/band/" in frame.filename] or list(frames)
        where = f"{type(error).__name__} in {Path(ours[-1].filename).name}:{ours[-1].lineno}"
        if where in self._seen:
            return
        self._seen.add(where)
        name = f"{self._target.replace(' ', '-')}-{hashlib.sha256(where.encode()).hexdigest()[:8]}"
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / name).write_bytes(data)
        words = {"target": self._target, "where": where, "message": str(error)[:300], "input": name}
        words["traceback"] = "".join(traceback.format_exception(error))[-2000:]
        with (self._folder / f"{name}.json").open("w") as file:
            json.dump(words, file, indent=1)


def main() -> None:
    """Feed a target."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), required=True)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    feed = with_atheris if args.engine == "atheris" else with_hypothesis
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        feed(args, Path(place))


def watched(args: argparse.Namespace, place: Path) -> tuple[Callable[[bytes], None], Any]:
    """Return what takes any bytes and never fails, and the target."""
    from fuzz.targets import TARGETS

    target = TARGETS[args.target]
    folder = args.folder.absolute()
    findings = Findings(folder / "findings", target=args.target)
    take = target.start(place)

    def one(data: bytes) -> None:
        try:
            take(data)
        except Exception as error:
            findings.add(error, data)

    return one, target


def with_atheris(args: argparse.Namespace, place: Path) -> None:
    """Let libFuzzer choose the inputs; it ends the process."""
    import atheris

    args.folder = args.folder.absolute()
    with atheris.instrument_imports(include=["band"]):
        one, target = watched(args, place)
    corpus = args.folder / "corpus" / args.target.replace(" ", "-")
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.corpus:
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    crashes = args.folder / "crashes"
    crashes.mkdir(exist_ok=True)
    options = {
        "max_total_time": args.seconds,
        "timeout": TIMEOUT_S,
        "rss_limit_mb": MEMORY_MB,
        "max_len": MOST_BYTES,
        "keep_seed": 1,
        "len_control": 0,
        "seed": args.seed,
        "artifact_prefix": f"{crashes}/{args.target.replace(' ', '-')}-",
    }
    words = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], str(corpus), "-print_final_stats=1", *words], one)
    atheris.Fuzz()


def with_hypothesis(args: argparse.Namespace, place: Path) -> None:
    """Let hypothesis choose the inputs."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    one, target = watched(args, place)
    resource.setrlimit(resource.RLIMIT_AS, (4 * MEMORY_MB << 20, resource.RLIM_INFINITY))
    last = place.with_suffix(".input")
    count, end = 0, time.monotonic() + args.seconds

    def timed(data: bytes) -> None:
        nonlocal count
        if time.monotonic() > end:
            return
        last.write_bytes(data)
        signal.alarm(TIMEOUT_S)
        one(data)
        signal.alarm(0)
        count += 1

    quiet = settings(
        max_examples=2000,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    number = args.seed * 1_000_000
    while time.monotonic() < end:
        number += 1
        seed(number)(quiet(given(strategy(target))(timed)))()
    last.unlink(missing_ok=True)
    print(f"{UNITS} {count}", file=sys.stderr)
    shutil.rmtree(place, ignore_errors=True)


def strategy(target: Any) -> Any:
    """Return how hypothesis draws inputs of a target: seeds with pieces put in, and changes of a valid document."""
    from hypothesis import strategies as st

    from fuzz.mutate import ODD

    texts = st.one_of(st.sampled_from([str(value) for value in ODD]), st.text(max_size=20), st.floats().map(repr))
    piece = st.one_of(st.binary(max_size=12), texts.map(lambda text: text.encode("utf-8", "surrogatepass")))

    def put(seed: bytes, at: float, piece: bytes, size: int) -> bytes:
        place = int(at * len(seed))
        return seed[:place] + piece + seed[place + size :]

    share = st.floats(0, 1)
    raw = st.builds(put, st.sampled_from(target.seeds), share, piece, st.integers(0, 16)).map(lambda data: b"\0" + data)
    return st.one_of(raw, st.binary(min_size=4, max_size=48).map(lambda data: b"\1" + data))


if __name__ == "__main__":
    main()
