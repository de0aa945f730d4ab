"""How far generation and evaluation have come: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0


class Meter:
    """Progress through a number of units, with their rate and the time left."""

    def __init__(self, console: Console, unit: str) -> None:
        self._console, self._unit = console, unit
        self._what, self._total, self._began, self._said = "", 0, 0.0, 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def start(self, what: str, total: int) -> None:
        """Ends what was shown before and begins anew."""
        self.close()
        self._what, self._total = what, total
        self._began = self._said = time.monotonic()
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(), console=self._console, refresh_per_second=4,
            )  # fmt: skip
            self._task = self._bar.add_task(what, total=total, rate="")
            self._bar.start()

    def update(self, done: float) -> None:
        """``done`` of the total; parts of a unit count towards the rate."""
        now = time.monotonic()
        rate = done / max(now - self._began, 1e-9)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=int(done), rate=f"{rate:.2f} {self._unit}/s")
        elif now - self._said >= LINE_EVERY_S or done >= self._total:
            self._said = now
            left = (self._total - done) / max(rate, 1e-9)
            self._console.print(
                f"{self._what} {int(done)}/{self._total}  {rate:.2f} {self._unit}/s  {left:.0f} s left", highlight=False
            )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class GenerationProgress:
    """A ``Watcher`` that shows clips per second; the solver's steps move it between finished clips."""

    def __init__(self, console: Console) -> None:
        self._console, self._meter = console, Meter(console, "clips")
        self._clips, self._steps, self._stepped, self._written = 0, 1, 0, 0

    def begin(self, clips: int, skipped: int, steps: int) -> None:
        if skipped:
            self._console.print(f"{skipped} clips are there already", highlight=False)
        self._clips, self._steps = clips, steps
        if clips:
            self._meter.start("generating", clips)

    def step(self, clips: int) -> None:
        self._stepped += clips
        self._show()

    def clip(self, name: str, path: Path) -> None:
        self._written += 1
        self._show()

    def _show(self) -> None:
        # Decoding and writing are the last tenth of the way of a clip.
        reached = 0.9 * self._stepped / self._steps + 0.1 * self._written
        self._meter.update(self._clips if self._written == self._clips else min(reached, self._clips - 0.01))

    def close(self) -> None:
        self._meter.close()


class EvaluationProgress:
    """Shows each phase of an evaluation."""

    def __init__(self, console: Console) -> None:
        self._meter, self._what = Meter(console, "clips"), ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what = what
            self._meter.start(what, total)
        self._meter.update(done)

    def close(self) -> None:
        self._meter.close()


@contextmanager
def generation_progress(console: Console) -> Iterator[GenerationProgress]:
    """A watcher whose bar is gone afterwards, however the run ends."""
    shown = GenerationProgress(console)
    try:
        yield shown
    finally:
        shown.close()


@contextmanager
def evaluation_progress(console: Console) -> Iterator[EvaluationProgress]:
    """A ``Told`` whose bar is gone afterwards, however the run ends."""
    shown = EvaluationProgress(console)
    try:
        yield shown
    finally:
        shown.close()
