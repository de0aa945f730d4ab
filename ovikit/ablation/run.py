"""The cells of a plan, run one after another or several at once, each in a process of its own.

What is finished is never run again. A cell that fails is recorded with its reason, and the others go on; it is tried
again by the next run. A signal stops the cells with a checkpoint each; the next run goes on from there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from rich.console import Console

from ovikit.ablation.cell import STOPPED, Request
from ovikit.ablation.cells import Cell, Plan
from ovikit.ablation.store import LOG, Store
from ovikit.files import atomic_write_json
from ovikit.layout import LOCK, METRICS, read_metrics
from ovikit.progress import Meter, clock
from ovikit.recipe.load import load_suite
from ovikit.recipe.lock import write_lock

_LOOK_EVERY_S = 0.25
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TRAINING = 0.75
"""Share of a cell's way that is training, for the progress shown; measuring is the rest."""
_TAIL = 4000


@dataclass
class Running:
    """A cell at work."""

    cell: Cell
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    log_from: int
    began: float
    stopped: bool = False


@dataclass
class Tally:
    """How a run ended. stopped: the signal that ended it, if one did."""

    finished: list[Cell] = field(default_factory=list[Cell])
    failed: list[tuple[Cell, str]] = field(default_factory=list[tuple[Cell, str]])
    skipped: int = 0
    stopped: signal.Signals | None = None


class Runner:
    """Runs the cells of a plan that are not finished.

    jobs: how many at once; the processor's cores are shared out among them
    """

    def __init__(self, plan: Plan, store: Store, jobs: int, console: Console) -> None:
        self.plan, self.store, self.jobs, self.console = plan, store, jobs, console
        self.tally = Tally()
        self._running: list[Running] = []
        self._encoded: set[str] = set()

    def run(self) -> Tally:
        """Runs them. Cells that cannot be started for want of a file raise UserError; nothing is left running."""
        unique = list({cell.digest: cell for cell in self.plan.cells}.values())
        waiting = [cell for cell in unique if self.store.state(cell) != "finished"]
        self.tally.skipped = len(unique) - len(waiting)
        if self.tally.skipped:
            self.console.print(f"{self.tally.skipped} of {len(unique)} cells are finished already", highlight=False)
        with Meter(self.console, "cells") as meter, self._signals():
            if waiting:
                meter.start("cells", len(waiting))
            try:
                self._work(waiting, meter)
            finally:
                for one in self._running:
                    one.process.kill()
                    one.log.close()
        return self.tally

    def _work(self, waiting: list[Cell], meter: Meter) -> None:
        while self._running or (waiting and self.tally.stopped is None):
            while len(self._running) < self.jobs and self.tally.stopped is None:
                ready = next((cell for cell in waiting if self._is_ready(cell)), None)
                if ready is None:
                    break
                waiting.remove(ready)
                self._running.append(self._start(ready))
                if self.tally.stopped is not None:  # the signal came while the process was being started
                    self._stop(self._running[-1], signal.SIGTERM)
            for one in [one for one in self._running if one.process.poll() is not None]:
                self._running.remove(one)
                self._end(one)
            done = len(self.tally.finished) + len(self.tally.failed)
            meter.update(done + sum(self._way(one) for one in self._running), self._note())
            time.sleep(_LOOK_EVERY_S)

    def _is_ready(self, cell: Cell) -> bool:
        """Whether a cell would neither train what another one is training, nor encode what another is encoding."""
        for one in self._running:
            if one.cell.training == cell.training:
                return False
            if _data(one.cell) == _data(cell) and _data(cell) not in self._encoded:
                if not (self.store.training(one.cell) / METRICS).is_file():
                    return False
                self._encoded.add(_data(cell))
        return True

    def _start(self, cell: Cell) -> Running:
        folder = self.store.cell(cell)
        folder.mkdir(parents=True, exist_ok=True)
        self.store.write(cell, "begun", {})
        write_lock(cell.recipe, folder / LOCK)
        request = Request(
            str(folder), str(self.store.training(cell)), str(self.store.latents),
            str(self.store.truth(cell, load_suite(cell.suite).digest)), str(cell.suite.absolute()), cell.measured_at,
        )  # fmt: skip
        atomic_write_json(folder / "request.json", asdict(request))
        (folder / "outcome.json").unlink(missing_ok=True)
        log = (folder / LOG).open("ab")
        log.seek(0, os.SEEK_END)
        threads = str(threads_of(self.jobs))
        process = subprocess.Popen(
            [sys.executable, "-m", "ovikit.ablation.cell", str(folder / "request.json")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={"OMP_NUM_THREADS": threads} | os.environ,
        )  # fmt: skip
        return Running(cell, process, log, log.tell(), time.monotonic())

    def _end(self, one: Running) -> None:
        one.log.close()
        cell, code, seconds = one.cell, one.process.returncode, time.monotonic() - one.began
        outcome = self.store.cell(cell) / "outcome.json"
        if code == 0 and outcome.is_file():
            told: dict[str, Any] = json.loads(outcome.read_text(encoding="utf-8"))
            self.store.write(cell, "finished", {**told, "seconds": round(seconds, 1)})
            self.tally.finished.append(cell)
            line = f"{cell.label}: {_headline(self.plan, told)} in {clock(seconds)}"
            self.console.print(line, highlight=False, markup=False)
        elif code == STOPPED or (one.stopped and code != 0):
            pass  # begun, and gone on with by the next run
        else:
            reason = _reason(code, self.store.cell(cell) / LOG, one.log_from)
            self.store.write(cell, "failed", {"reason": reason, "seconds": round(seconds, 1)})
            self.tally.failed.append((cell, reason))
            self.console.print(f"{cell.label}: failed: {reason}", highlight=False, markup=False)

    @staticmethod
    def _stop(one: Running, number: signal.Signals) -> None:
        one.stopped = True
        one.process.send_signal(number)

    def _way(self, one: Running) -> float:
        """How far a cell has come, from 0 to 1."""
        path = self.store.training(one.cell) / METRICS
        rows = read_metrics(path) if path.is_file() else []
        return 0.0 if not rows else _TRAINING * int(rows[-1]["step"]) / one.cell.steps

    def _note(self) -> str:
        names = [one.cell.label for one in self._running]
        return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM are passed on to the cells, which save what they have; a second one ends them at once."""

        def handle(number: int, frame: FrameType | None) -> None:
            again = self.tally.stopped is not None
            self.tally.stopped = signal.Signals(number)
            if not again:
                self.console.print(f"{self.tally.stopped.name}: the cells save a checkpoint; once more to end at once")
            for one in self._running:
                self._stop(one, signal.SIGKILL if again else signal.SIGTERM)

        before = {number: signal.signal(number, handle) for number in _STOPPING}
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)


def threads_of(jobs: int) -> int:
    """How many threads a cell computes with, where the environment does not say."""
    return max(1, (os.cpu_count() or 1) // jobs)


def _data(cell: Cell) -> str:
    """What decides the encoded clips of a cell's training."""
    recipe = cell.recipe
    assert recipe.training is not None
    parts = (recipe.clip.to_dict(), recipe.model.codecs.to_dict(), recipe.model.conditioner, recipe.training.data)
    return repr(parts)


def _headline(plan: Plan, told: dict[str, Any]) -> str:
    """The first metric of a finished cell."""
    last = told["measured"][-1]["metrics"]
    name = (plan.matrix.metrics or tuple(last))[0]
    if name not in last:
        return "measured"
    value = last[name]["value"]
    return f"{name} {'unscored' if value is None else f'{value:.3f}'}"


def _reason(code: int, log: Path, start: int) -> str:
    """Why a cell's process failed, in a line: its own error, or the last line that it wrote from ``start`` on."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    with log.open("rb") as handle:
        handle.seek(max(start, log.stat().st_size - _TAIL))
        lines = [line for line in handle.read().decode(errors="replace").splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (told or lines or [f"exit status {code}"])[-1].strip()
