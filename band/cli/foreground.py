"""One run as it is trained in the foreground: a bar with the time left on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from band.cli.common import console, printable, say
from band.cli.progress import duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_S = 10.0  # between progress lines in a pipe
SCORES = {"valid_recon": "valid recon", "valid_bits_per_spike": "bits/spike", "valid_behavior_r2": "behaviour R²"}


class Foreground:
    """What the events of one run come to, told to a person; everything goes to stderr."""

    def __init__(self, run_id: str, *, progress: Progress | None) -> None:
        self._run_id = run_id
        self._progress = progress
        self._bar: TaskID | None = None
        self._begun: tuple[float, int] | None = None  # time and epoch of the first epoch that was seen
        self._last_line = 0.0
        self.epoch = 0
        self.failure: Mapping[str, Any] = {}  # the event, where the run failed
        self.interruption: Mapping[str, Any] = {}  # the event, where it is to be continued

    def take(self, event: Mapping[str, Any]) -> None:
        """Take an event of the attempt."""
        handle = getattr(self, f"_on_{event['event']}", None)
        if handle is not None:
            handle(event)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._progress is None:
            say(printable(text), file=sys.stderr, flush=True)
        else:
            self._progress.console.print(printable(text), markup=False)

    def _on_staged(self, event: Mapping[str, Any]) -> None:
        if event["source"] == "home":
            self.say(f"the recording is read from {event['path']}: {event['reason']}")

    def _on_started(self, event: Mapping[str, Any]) -> None:
        beta = event.get("effective_beta", {}).get(self._run_id, {})
        if beta:
            numbers = ", ".join(f"{name} {value:g}" for name, value in beta.items())
            self.say(f"effective beta at the end of the KL ramp (1 is the evidence bound): {numbers}")
        if event.get("step"):
            self.say(f"continues from its checkpoint at step {event['step']}")
        self._begun = None

    def _on_epoch(self, event: Mapping[str, Any]) -> None:
        values = event["runs"].get(self._run_id, {})
        if "max_epochs" not in values:
            return
        self.epoch, most = int(values["epoch"]), int(values["max_epochs"])
        self._begun = self._begun or (event["t"], self.epoch)
        parts = [f"{name} {values[key]:.4g}" for key, name in SCORES.items() if key in values]
        parts += self._pace(event["t"], most=most)
        self._show(f"epoch {self.epoch}/{most}", done=self.epoch, most=most, note=", ".join(parts))

    def _pace(self, t: float, *, most: int) -> list[str]:
        assert self._begun is not None
        seconds, epochs = t - self._begun[0], self.epoch - self._begun[1]
        if seconds <= 0 or epochs <= 0:
            return []
        left = (most - self.epoch) * seconds / epochs
        return [f"{epochs / seconds:.2g} epochs/s", f"{duration(left)} left at most"]

    def _on_outputs(self, event: Mapping[str, Any]) -> None:
        share = float(event.get("share", 0.0))
        self._show(f"outputs: {event.get('what', '')}", done=share, most=1.0, note=f"{share:.0%}")

    def _on_restarted(self, event: Mapping[str, Any]) -> None:
        self.say(f"{event['message']}; started again from the last checkpoint")

    def _on_failed(self, event: Mapping[str, Any]) -> None:
        self.failure = event

    def _on_interrupted(self, event: Mapping[str, Any]) -> None:
        self.interruption = event

    def _show(self, what: str, *, done: float, most: float, note: str) -> None:
        if self._progress is not None:
            if self._bar is None:
                self._bar = self._progress.add_task(what, total=most, note=note)
            self._progress.update(self._bar, description=what, completed=done, total=most, note=note)
            self._progress.refresh()
        elif time.monotonic() - self._last_line >= LINE_S or done >= most:
            self._last_line = time.monotonic()
            self.say(f"{time.strftime('%H:%M:%S')} {what}  {note}")


@contextmanager
def foreground(run_id: str) -> Iterator[Foreground]:
    """Show a run while the block lasts."""
    if not sys.stderr.isatty():
        yield Foreground(run_id, progress=None)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[note]}"))
    # Refreshed by events: a thread of its own would be in the way when the trainer is forked off.
    with Progress(*columns, console=console(stderr=True), expand=True, auto_refresh=False) as progress:
        yield Foreground(run_id, progress=progress)
