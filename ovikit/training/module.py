"""The LightningModule: one step of training, from latents to losses.

Shape legend: b batch, c channels, t y x latent steps, rows, columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import lightning as L  # as its documentation writes it
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from ovikit.data.seeds import generator_for
from ovikit.errors import UserError, listed
from ovikit.networks.joint import JointModel
from ovikit.networks.lora import is_adapter
from ovikit.networks.reading import each
from ovikit.numerics import path
from ovikit.numerics.protocols import Objective
from ovikit.runtime.parallel import TokenPartition, meet
from ovikit.runtime.processes import ANSWER_WITHIN
from ovikit.runtime.shard import shard_layers, whole
from ovikit.training.batches import Batch, drop_text
from ovikit.training.draws import (
    Choices,
    draw_first,
    draw_given,
    draw_noise,
    learned_mask,
    mean_learned,
    unlearned_first,
)
from ovikit.training.optimizer import AdamWCosine
from ovikit.training.watch import LossWatch, loss_name, named_losses
from ovikit.types import AV, Text, TokenGrid


class JointTraining(L.LightningModule):
    """Learns the velocity of the modalities that the batches hold.

    All that is random in a step is drawn from generators made for that step (``ovikit/data/seeds.py``): the noise
    levels, the dropped prompts and the given modalities on the CPU, the noise on the device.

    grids:     of the latents of each bucket, from the codecs
    optimizer: makes the optimizer and its schedule for the trained parameters
    choices:   what a step draws
    sequence:  how many neighbouring processes share the tokens of a clip
    """

    def __init__(
        self,
        model: JointModel,
        objective: Objective,
        grids: Sequence[AV[TokenGrid]],
        optimizer: AdamWCosine,
        watch: LossWatch,
        *,
        seed: int,
        choices: Choices,
        gradient_clip: float | None,
        sequence: int = 1,
    ) -> None:
        super().__init__()
        self.model, self.objective, self.grids, self.watch = model, objective, grids, watch
        self.make_optimizer = optimizer
        self.seed, self.choices, self.gradient_clip, self.sequence = seed, choices, gradient_clip, sequence
        self.adapted = any(is_adapter(name) for name, _ in model.named_parameters())
        self.strict_loading = not self.adapted  # checkpoints of adapters hold nothing else
        self.gradient_norm: Tensor | None = None
        self._batch: list[int] = []  # the clips of the step under way
        self._step = -1

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted loss of a batch. On the CPU, NonFiniteError before the weights can be spoilt."""
        losses = self.losses(batch)
        total = torch.stack([self.objective.weights[m] * loss for m, loss in losses.items()]).sum()
        if batch.step != self._step:
            self._step, self._batch = batch.step, []
        self._batch = [*self._batch, *batch.clips]
        given = self._given(batch)
        absent = [loss_name(m) for m, held in given.items() if held.all()]
        self.watch.record(batch.step + 1, named_losses(total, losses), list(batch.clips), absent)
        return total

    def losses(self, batch: Batch) -> AV[Tensor]:
        """The mean loss of each modality of a micro-batch, with the random numbers of its place in the run: over the
        clips in which it is not given."""
        place = (batch.step, batch.part)
        data = batch.latents
        size = next(iter(data.values())).shape[0]
        small = generator_for(self.seed, "levels", *place)
        sigma = self.objective.sample_sigma(small, size)
        dropped = torch.rand(size, generator=small, dtype=torch.float32) < self.choices.text_dropout
        noise = draw_noise(data.map(lambda x: x.shape), next(data.values()), self.choices.same_noise, self.seed, *place)
        given = self._given(batch)
        # Mixed at level 0, a given modality is its data; its tower is told that level.
        sigma = sigma if not given.modalities else sigma.zip(given, lambda level, held: level.masked_fill(held, 0))
        sigma = data.zip(sigma, lambda x, level: level.to(x.device))
        noisy = AV.of({m: path.mix(x, noise[m], sigma[m]) for m, x in data.items()})
        # A clip loses its text as a whole: both towers' at once.
        text = each(batch.text, lambda one: drop_text(one, batch.empty, dropped))
        mask = given.zip(data, learned_mask)
        held = self._first_frames(batch)
        if held is not None:
            assert batch.first is not None
            shown = held.to(data["video"].device)
            start = torch.where(shown[:, None, None, None, None], batch.first, noisy["video"][:, :, :1])
            noisy = replace(noisy, video=torch.cat((start, noisy["video"][:, :, 1:]), dim=2))
            mask = replace(mask, video=unlearned_first(mask.video, held, data["video"]))
        prediction = self._predict(noisy, sigma, text, held, self.grids[batch.bucket])
        losses = self.objective.loss(prediction, data.zip(noise, path.velocity), mask)
        return mean_learned(losses, given) if given.modalities else losses.map(torch.mean)

    def _given(self, batch: Batch) -> AV[Tensor]:
        """(b,) bool on the CPU: which clips are given a modality; nothing where the recipe never does so."""
        chances = self.choices.given
        if not any(chances.values()):
            return AV()
        return draw_given(chances, len(batch.clips), self.seed, batch.step, batch.part)

    def _first_frames(self, batch: Batch) -> Tensor | None:
        """(b,) bool on the CPU: of which clips the first frame is given; None where it is of none."""
        chance = self.choices.first_frame
        if chance == 0:
            return None
        held = draw_first(chance, len(batch.clips), self.seed, batch.step, batch.part)
        return held if held.any() else None

    def _predict(
        self, noisy: AV[Tensor], sigma: AV[Tensor], text: AV[Text], held: Tensor | None, grids: AV[TokenGrid]
    ) -> AV[Tensor]:
        # what is frozen may be kept shorter than that
        dtype = next(p.dtype for p in self.model.parameters() if p.requires_grad)
        context = self.model.embed_text(each(text, lambda one: one.to(one.tokens.device, dtype)), cache=False)
        latents = noisy.map(lambda x: x.to(dtype))
        if held is None:
            return self.model(latents, sigma, context, grids)
        clean = AV(video=held.to(latents["video"].device))
        return self.model(latents, sigma, context, grids, clean_steps=AV(video=1), clean=clean)

    def configure_model(self) -> None:
        """Connects the processes that share tokens, and shares the model out where the strategy asks for it."""
        partition = self.model.partition
        if self.sequence > 1 and isinstance(partition, TokenPartition) and partition.peers.group is None:
            partition.peers = meet(self.trainer.global_rank, self.trainer.world_size, self.sequence, ANSWER_WITHIN)
        if isinstance(self.trainer.strategy, ModelParallelStrategy) and not isinstance(self.model, FSDPModule):
            shard_layers(self.model, self.trainer.strategy.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        self.watch.alone = self.trainer.world_size == 1

    def add_up(self, values: Tensor) -> Tensor:
        """The sum over all processes, which all have to ask for; on the CPU. Those that share the tokens of a clip have
        the same values, which count once."""
        if self.trainer.world_size == 1:
            return values
        if self.trainer.global_rank % self.sequence:
            values = torch.zeros_like(values)
        found = self.trainer.strategy.reduce(values.to(self.trainer.strategy.root_device), reduce_op="sum")
        assert isinstance(found, Tensor)
        return found.cpu()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        # With a gradient scaler the fused kernel would unscale by itself, after the norm has been taken.
        optimizer, schedule = self.make_optimizer(self.model, fused=self.trainer.precision != "16-mixed")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips, and keeps the norm from before for the log. The norm is measured once, also without clipping."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = whole(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        if self.trainer.precision != "16-mixed":  # whose scaler expects infinities and skips such steps itself
            self.watch.expect_finite(self.global_step + 1, "the gradient", norm, self._batch)
        if self.gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.gradient_clip, norm)
        self.gradient_norm = norm

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what Lightning does not keep. ovikit draws nothing from the global generators, but a network of a
        plugin may (``nn.Dropout`` does), and its resumed run must be exact as well."""
        self.watch.check()
        if self.adapted:
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: value for name, value in state.items() if is_adapter(name)}
        checkpoint["ovikit"] = {
            "watch": self.watch.state_dict(self.add_up),
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        _count_micro_batches(checkpoint, self.trainer.accumulate_grad_batches)
        if self.adapted:
            wanted = {name for name in self.state_dict() if is_adapter(name)}
            if lacking := wanted.symmetric_difference(checkpoint["state_dict"]):
                raise UserError(f"this checkpoint holds other adapters: {listed(sorted(lacking), 4)}")
        kept: Mapping[str, Any] = checkpoint["ovikit"]
        if self.trainer.global_rank == 0:  # the sums of all processes, which are added up again
            self.watch.load_state_dict(kept["watch"])
        torch.set_rng_state(kept["rng"].cpu())
        if torch.cuda.is_available() and len(kept["rng_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in kept["rng_cuda"]])


def _count_micro_batches(checkpoint: dict[str, Any], own: int) -> None:
    """Tells Lightning how many micro-batches make the steps of a checkpoint now: as many processes as wrote it may have
    shared them otherwise, and Lightning steps at every ``own``-th that it has counted."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    done = checkpoint["global_step"] * own
    for counts in (progress["total"], progress["current"]):
        # checkpoints are written while the last micro-batch of a step is being completed
        counts.update(ready=done, started=done, processed=done, completed=done - 1)
