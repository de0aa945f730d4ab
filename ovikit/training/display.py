"""What a training run shows: the table of what is trained, and how far it has come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L  # as its documentation writes it
from rich.console import Console
from rich.table import Table

from ovikit.data.encoded import EncodedClips
from ovikit.data.latents import Progress as Report
from ovikit.data.seeds import generator_for
from ovikit.networks.joint import JointModel
from ovikit.numerics.protocols import Objective
from ovikit.progress import Meter
from ovikit.recipe.training import ModalityDropout, Optimizer, Training
from ovikit.training.metrics import Metrics
from ovikit.training.parameters import Frozen, count_parameters
from ovikit.training.watch import loss_name
from ovikit.types import MODALITIES, Modality

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
    model: JointModel, objective: Objective, modalities: tuple[Modality, ...], clips: int, optimizer: Optimizer
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
        rate = f"{optimizer.learning_rate * optimizer.rates.to_dict()[part]:g}" if count.trained else "-"
        cells = ["-", "-", "-"]
        for modality in MODALITIES:
            if part == modality and modality in modalities:
                cells = [f"{clips:,}", f"{objective.weights[modality]:g}", levels[modality]]
        table.add_row(part, f"{count.trained:,}", f"{count.frozen:,}", *cells, rate)
    counts = count_parameters(model).values()
    table.add_section()
    table.add_row("all", f"{sum(one.trained for one in counts):,}", f"{sum(one.frozen for one in counts):,}", *"----")
    return table


def freeze_table(frozen: Sequence[Frozen]) -> Table:
    """What each rule freezes, in the order in which they apply."""
    table = Table(title="what is frozen", title_justify="left")
    table.add_column("by", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("")
    for one in frozen:
        told = "" if one.more == one.matched else f"of {one.matched:,}; the rest was frozen above"
        if one.more == 0:
            told = f"nothing more: the {one.matched:,} that it names were frozen above"
        table.add_row(one.rule, f"{one.more:,}", told)
    return table


def choices_table(objective: Objective, training: Training, clips: EncodedClips) -> Table:
    """What is drawn and read for each clip of a batch, and the fields of the recipe that say so."""
    table = Table(title="what is drawn and read for a clip", title_justify="left")
    for heading in ("", "", "by"):
        table.add_column(heading, no_wrap=heading == "by")
    if training.stage == "joint":
        drawn = objective.sample_sigma(generator_for(0, "table"), _DRAWS)
        shared = "one for both modalities" if drawn["video"].equal(drawn["audio"]) else "one each, independent"
        table.add_row("noise level", shared, "training.objective")
        noise = "begins with the same numbers in both" if training.same_noise else "one each, independent"
        table.add_row("noise", noise, "training.same_noise")
        table.add_row("modalities", _learned(training.modality_dropout), "training.modality_dropout")
    if training.stage != "audio":
        share = training.first_frame
        table.add_row("first frame", f"given {100 * share:.3g} %" if share else "never given", "training.first_frame")
    table.add_row("prompt", _dropped(training.text_dropout), "training.text_dropout")
    table.add_row("text", _texts(clips), "model.conditioner")
    return table


def _texts(clips: EncodedClips) -> str:
    """Who reads what, in words; and of how many clips a tower reads nothing though the other does."""
    silent = clips.silent()
    if not silent.modalities:
        return "the whole prompt"
    told = "a text for each tower"
    for modality, count in silent.items():
        if count:
            told += f"; {count:,} of {len(clips):,} have none for {modality}, which reads the empty prompt"
    return told


def _learned(dropout: ModalityDropout) -> str:
    """What is learned of how many clips, in words."""
    audio, video = dropout.audio_from_video, dropout.video_from_audio
    shares = (("both are learned", 1 - audio - video), ("audio from video", audio), ("video from audio", video))
    return ", ".join(f"{what} {100 * share:.3g} %" for what, share in shares if share > 1e-9)


def _dropped(share: float) -> str:
    return f"left out {100 * share:.3g} %" if share else "always there"


@contextmanager
def encoding_progress(console: Console) -> Iterator[Report]:
    """What to tell of each clip of the dataset that has been encoded."""
    with Meter(console, "clips") as meter:
        started = False

        def report(done: int, total: int) -> None:
            nonlocal started
            if not started:  # the clips of a cache that is read need no meter
                started = True
                meter.start("encoding clips", total)
            meter.update(done)

        yield report


class TrainingProgress(L.Callback):
    """Shows the steps, the losses, the rate and the time left."""

    def __init__(self, console: Console, metrics: Metrics) -> None:
        self._meter, self._metrics = Meter(console, "steps"), metrics

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._meter.start("step", int(trainer.max_steps), trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        row = self._metrics.last_row
        parts = [f"{m} {row[loss_name(m)]:.3f}" for m in MODALITIES if loss_name(m) in row]
        self._meter.update(trainer.global_step, f"loss {row['loss']:.3f} ({', '.join(parts)})" if row else "")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._meter.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._meter.close()
