"""Who is told how a generation run goes on, and how long each of its phases took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Protocol

_MB = 1e6


class Watcher(Protocol):
    """Told how a run goes on, to show it."""

    def note(self, text: str) -> None:
        """Something that the user should know, said once."""
        ...

    def phase(self, what: str, total: int, unit: str) -> None:
        """A phase before the first clip begins. total: units of it; 0: not known."""
        ...

    def progress(self, done: float) -> None:
        """So many units of the phase are done."""
        ...

    def begin(self, clips: int, skipped: int) -> None:
        """clips: still to make; skipped: already there."""
        ...

    def part(self, told: str, clips: float) -> None:
        """Where the present batch is, in words, and how many clips are made by now, parts of clips included."""
        ...

    def clip(self, name: str, path: Path, seconds: float) -> None:
        """A clip was written; seconds: that it took."""
        ...


class Unwatched:
    """A watcher that shows nothing. Those that show something may build on it."""

    def note(self, text: str) -> None: ...
    def phase(self, what: str, total: int, unit: str) -> None: ...
    def progress(self, done: float) -> None: ...
    def begin(self, clips: int, skipped: int) -> None: ...
    def part(self, told: str, clips: float) -> None: ...
    def clip(self, name: str, path: Path, seconds: float) -> None: ...


class Megabytes:
    """Shows how far the reading of something is, as a phase of its own."""

    def __init__(self, shown: Watcher, what: str) -> None:
        self._shown, self._what, self._total = shown, what, -1

    def __call__(self, done: int, total: int) -> None:
        """done, total: bytes."""
        whole = ceil(total / _MB)
        if total != self._total:
            self._total = total
            self._shown.phase(self._what, whole, "MB")
        self._shown.progress(whole if done == total else done // _MB)


class Clock:
    """Seconds by phase, in the order in which phases were first entered."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began

    def rounded(self) -> dict[str, float]:
        return {phase: round(seconds, 3) for phase, seconds in self.seconds.items()}
