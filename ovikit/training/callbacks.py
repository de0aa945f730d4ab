"""Checkpoints that are never seen half written, and stopping when asked to."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L  # as its documentation writes it

from ovikit.files import atomic_path
from ovikit.layout import LAST_CHECKPOINT
from ovikit.training.batches import Batch
from ovikit.training.sharded import checkpoint_path


class StopOnSignal(L.Callback):
    """The first Ctrl-C or SIGTERM ends training after the step under way, with a checkpoint; the second at once.

    told: called with a line for the user when the signal comes
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, told: Callable[[str], None] = lambda line: None) -> None:
        self.received: signal.Signals | None = None
        self._told = told
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning's own handler of SIGTERM, put in place before this, would raise in the middle of the loop.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in self.SIGNALS}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._restore()
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        self._told(f"{self.received.name}: finishing this step and saving a checkpoint; once more to stop at once")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(batch, Batch)
        if not batch.last:
            return
        stop = self.received is not None
        if trainer.world_size > 1:  # all processes leave after the same step
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            self.received = self.received or signal.SIGTERM
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


class Checkpoints(L.Callback):
    """``step-000500.ckpt`` every ``every`` steps, at the last step and where training is stopped; ``last.ckpt`` is the
    newest of them. Has to be the last callback, so that what the others did in the step is in the file.

    sharded: each process writes its share into a folder of that name
    keep:    how many of them stay, the newest; None: all
    """

    def __init__(self, folder: Path, every: int, sharded: bool = False, keep: int | None = None) -> None:
        self.folder, self.every, self.sharded, self.keep = folder, every, sharded, keep
        self.last: Path | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(batch, Batch)
        if not batch.last:
            return
        step = trainer.global_step
        if step % self.every == 0 or step == trainer.max_steps or trainer.should_stop:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> Path:
        """The path of a checkpoint of the present step, written now unless it is there already."""
        path = self.folder / f"step-{trainer.global_step:06d}.ckpt"
        if path == self.last:
            return path
        if trainer.global_rank > 0:  # its share goes where the first process says
            trainer.save_checkpoint(path)
        else:
            with checkpoint_path(path, self.sharded) as temporary:
                trainer.save_checkpoint(temporary)
            link(path, self.folder / LAST_CHECKPOINT)
            self._forget(trainer.global_step)
        trainer.strategy.barrier("checkpoint")
        self.last = path
        return path

    def _forget(self, step: int) -> None:
        """Removes what is too old to be kept, once a newer one is whole. What lies there of later steps, of a run that
        went on from an older checkpoint than its newest, does not count: it may be what could not be read."""
        if self.keep is None:
            return
        found = {int(path.stem.removeprefix("step-")): path for path in self.folder.glob("step-[0-9]*.ckpt")}
        for old in sorted(one for one in found if one <= step)[: -self.keep]:
            if found[old].is_dir():
                shutil.rmtree(found[old], ignore_errors=True)
                continue
            with suppress(OSError):  # no reason to end a run
                found[old].unlink()


def link(path: Path, name: Path) -> None:
    """Makes ``name`` a second name of a file, or a copy where the file system has no hard links; of a folder a symbolic
    link. Never half written."""
    if path.is_dir():
        temporary = name.with_name(f".{name.name}-new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(path.name)
        temporary.replace(name)
        return
    with atomic_path(name) as temporary:
        temporary.unlink()  # a link is made, never laid over a file
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copy2(path, temporary)
