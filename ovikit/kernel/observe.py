"""A run of a command as its observers see it: started, then finished or failed."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ovikit.kernel.events import Command, RunFailed, RunFinished, RunStarted
from ovikit.kernel.manager import fire


@dataclass(slots=True)
class ObservedRun:
    """How a run went: filled in by the command, told to the observers when it ends.

    results: its headline numbers by name
    stopped: why it ended early although nothing went wrong; None: it did not
    """

    results: dict[str, float] = field(default_factory=dict[str, float])
    stopped: str | None = None


@contextmanager
def observed(command: Command, run: Path, recipe: str, digest: str) -> Generator[ObservedRun, None, None]:
    """Tells the observers that a command begins to write into the folder ``run``, and how it ended."""
    fire(RunStarted(command, run, recipe, digest))
    began, told = time.monotonic(), ObservedRun()
    try:
        yield told
    except BaseException as error:
        fire(RunFailed(command, run, time.monotonic() - began, str(error) or type(error).__name__))
        raise
    spent_s = time.monotonic() - began
    if told.stopped is None:
        fire(RunFinished(command, run, spent_s, told.results))
    else:
        fire(RunFailed(command, run, spent_s, told.stopped))
