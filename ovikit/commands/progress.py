"""How far generation and evaluation have come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.status import Status

from ovikit.generate.watch import Unwatched
from ovikit.progress import Meter, clock

_WORTH_SAYING_S = 1.0
"""A phase shorter than this leaves no line behind."""


class GenerationProgress(Unwatched):
    """A ``Watcher``: on a terminal a bar that moves with every step; elsewhere a line per phase, and one now and then
    in long ones. Notes and, where wanted, finished clips have a line each."""

    def __init__(self, console: Console, meter: Meter, lines: bool) -> None:
        self._console, self._meter, self._lines = console, meter, lines
        self._clips, self._written, self._generating = 0, 0, False
        self._phase, self._began = "", 0.0
        self._status: Status | None = None

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def phase(self, what: str, total: int, unit: str) -> None:
        self.end_phase()
        self._generating = False
        if total:
            self._meter.start(what, total, unit=unit)
            return
        self._phase, self._began = what, time.monotonic()
        if self._console.is_terminal:
            self._status = self._console.status(what)
            self._status.start()

    def progress(self, done: float) -> None:
        self._meter.update(done)

    def end_phase(self) -> None:
        """Ends what is shown of a phase. One without a bar leaves a line if it was long."""
        self._meter.close()
        if self._status is not None:
            self._status.stop()
            self._status = None
        seconds = time.monotonic() - self._began
        if self._phase and seconds >= _WORTH_SAYING_S:
            self._console.print(f"{self._phase}: {clock(seconds)}", highlight=False, markup=False)
        self._phase = ""

    def begin(self, clips: int, skipped: int) -> None:
        self.end_phase()
        if skipped:
            self._console.print(f"{skipped} clips are there already", highlight=False)
        self._clips = clips

    def part(self, told: str, clips: float) -> None:
        if not self._generating:
            self.end_phase()
            self._meter.start("generating", self._clips, unit="clips")
            self._generating = True
        # Only written clips count as whole ones.
        self._meter.update(self._clips if self._written == self._clips else min(clips, self._clips - 0.01), told)

    def clip(self, name: str, path: Path, seconds: float) -> None:
        self._written += 1
        if self._lines:
            self._console.print(f"{path}  ({seconds:.1f} s)", highlight=False, markup=False)
        self.part("", self._written)


@contextmanager
def generation_progress(console: Console, lines: bool = False) -> Iterator[GenerationProgress]:
    """A watcher whose bar is gone afterwards, however the run ends. ``lines``: each clip has a line."""
    with Meter(console, "clips") as meter:
        shown = GenerationProgress(console, meter, lines)
        try:
            yield shown
        finally:
            shown.end_phase()


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
