"""How far something long has come: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

LINE_EVERY_S = 10.0


class Meter:
    """Progress through a number of units, with their rate and the time left. A context that ends with its bar."""

    def __init__(self, console: Console, unit: str) -> None:
        self._console, self._unit = console, unit
        self._what, self._total, self._first, self._began, self._said = "", 0, 0.0, 0.0, 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def start(self, what: str, total: int, done: int = 0, unit: str | None = None) -> None:
        """Ends what was shown before and begins anew, with ``done`` units that need not be made. ``unit``: from now
        on, another one."""
        self.close()
        self._what, self._total, self._first = what, total, done
        self._unit = self._unit if unit is None else unit
        self._began = self._said = time.monotonic()
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", table_column=_whole()),
                BarColumn(None),
                MofNCompleteColumn(table_column=_whole()),
                TextColumn("{task.fields[told]}", table_column=_whole()),
                TimeRemainingColumn(table_column=_whole()),
                console=self._console,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task(what, total=total, completed=done, told="")
            self._bar.start()

    def update(self, done: float, note: str = "") -> None:
        """``done`` of the total, parts of a unit counting towards the rate; ``note`` is shown beside it."""
        now = time.monotonic()
        rate = (done - self._first) / max(now - self._began, 1e-9)
        told = f"{note}  {rate:.3g} {self._unit}/s".strip()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, told=told)
        elif now - self._said >= LINE_EVERY_S or done >= self._total:
            self._said = now
            left = f"  {clock((self._total - done) / rate)} left" if rate > 0 else ""
            self._console.print(f"{self._what} {int(done)}/{self._total}  {told}{left}", highlight=False)

    def close(self) -> None:
        """Takes the bar off the screen's last line: what it showed stays."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _whole() -> Column:
    """A column that is not cut on a narrow terminal: the bar gives way."""
    return Column(no_wrap=True)


def clock(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
