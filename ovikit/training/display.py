"""What a training run shows: the table of what is trained, and how far it has come."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L  # as its documentation writes it
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ovikit.data.latents import Progress as Report
from ovikit.data.seeds import generator_for
from ovikit.networks.joint import JointModel
from ovikit.numerics.protocols import Objective
from ovikit.training.metrics import Metrics
from ovikit.training.parameters import count_parameters
from ovikit.types import MODALITIES, Modality

LINE_EVERY_S = 10.0
_DRAWS = 4096


def noise_levels(objective: Objective, modalities: tuple[Modality, ...]) -> dict[Modality, str]:
    """The noise levels that the objective draws for each modality, in words, measured on a few thousand draws."""
    drawn = objective.sample_sigma(generator_for(0, "table"), _DRAWS)
    words: dict[Modality, str] = {}
    for modality in modalities:
        low, middle, high = (float(q) for q in drawn[modality].quantile(drawn[modality].new_tensor([0.05, 0.5, 0.95])))
        words[modality] = f"{middle:.2f} ({low:.2f}-{high:.2f})"
    if len(modalities) == 2 and drawn["video"].equal(drawn["audio"]):
        words["audio"] = "as video's"
    return words


def training_table(
    model: JointModel, objective: Objective, modalities: tuple[Modality, ...], clips: int, learning_rate: float
) -> Table:
    """What is trained: for each part of the model its parameters, and for each modality how it is learned."""
    table = Table(title="what is trained", title_justify="left")
    for heading in ("part", "trained", "frozen", "clips", "weight", "noise level", "rate"):
        table.add_column(heading, justify="left" if heading == "part" else "right", no_wrap=True)
    table.caption = (
        "clips per epoch; weight in the loss; median and 90 % range of the noise level; highest learning rate"
    )
    table.caption_justify = "left"
    levels = noise_levels(objective, modalities)
    for part, count in count_parameters(model).items():
        rate = f"{learning_rate:g}" if count.trained else "-"
        cells = ["-", "-", "-"]
        for modality in MODALITIES:
            if part == modality and modality in modalities:
                cells = [f"{clips:,}", f"{objective.weights[modality]:g}", levels[modality]]
        table.add_row(part, f"{count.trained:,}", f"{count.frozen:,}", *cells, rate)
    return table


def encoding_progress(console: Console) -> tuple[AbstractContextManager[Any], Report]:
    """A context to encode the dataset in, and what to tell of each clip done."""
    if not console.is_terminal:
        said = [time.monotonic()]

        def line(done: int, total: int) -> None:
            if time.monotonic() - said[0] > LINE_EVERY_S or done == total:
                said[0] = time.monotonic()
                console.print(f"encoded {done}/{total} clips")

        return nullcontext(), line
    bar = _bar(console)
    task = bar.add_task("encoding clips", total=None, numbers="")

    def advance(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    return bar, advance


class TrainingProgress(L.Callback):
    """A bar with the losses, the rate and the time left; where nobody watches a terminal, a line now and then."""

    def __init__(self, console: Console, metrics: Metrics) -> None:
        self.console, self.metrics = console, metrics
        self._bar: Progress | None = None
        self._task: Any = None
        self._began, self._first, self._said = 0.0, 0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began, self._first, self._said = time.monotonic(), trainer.global_step, time.monotonic()
        if self.console.is_terminal:
            self._bar = _bar(self.console)
            self._task = self._bar.add_task(
                "training", total=trainer.max_steps, completed=trainer.global_step, numbers=""
            )
            self._bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, now = trainer.global_step, time.monotonic()
        rate = (step - self._first) / max(now - self._began, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=f"{self._losses()}  {rate:.1f} step/s")
        elif step == trainer.max_steps or now - self._said >= LINE_EVERY_S:
            self._said = now
            left = (int(trainer.max_steps) - step) / max(rate, 1e-9)
            self.console.print(
                f"step {step}/{trainer.max_steps}  {self._losses()}  {rate:.1f} step/s  {clock(left)} left"
            )

    def _losses(self) -> str:
        row = self.metrics.last_row
        return "  ".join(f"{name} {value:.4f}" for name, value in row.items() if name.startswith("loss"))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(), console=console, refresh_per_second=4,
    )  # fmt: skip


def clock(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
