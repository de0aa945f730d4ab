"""How far generation and evaluation have come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from ovikit.progress import Meter


class GenerationProgress:
    """A ``Watcher`` that shows clips per second; the solver's steps move it between finished clips."""

    def __init__(self, console: Console, meter: Meter) -> None:
        self._console, self._meter = console, meter
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


@contextmanager
def generation_progress(console: Console) -> Iterator[GenerationProgress]:
    """A watcher whose bar is gone afterwards, however the run ends."""
    with Meter(console, "clips") as meter:
        yield GenerationProgress(console, meter)


@contextmanager
def evaluation_progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A ``Told`` that shows each phase of an evaluation, and whose bar is gone afterwards, however it ends."""
    with Meter(console, "clips") as meter:
        phase = ""

        def told(what: str, done: int, total: int) -> None:
            nonlocal phase
            if what != phase:
                phase = what
                meter.start(what, total)
            meter.update(done)

        yield told
