"""The contract of objectives: one loss per item and modality, zero where the prediction is right."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ovikit.numerics.protocols import Objective
from ovikit.testing.contract import Contract, global_generators_unused
from ovikit.testing.reference import drawn
from ovikit.types import AV, MODALITIES, Modality

_SHAPES: dict[Modality, tuple[int, ...]] = {"video": (3, 4, 2, 2), "audio": (2, 10)}
_BATCH = 4
_SAME = 1e-9


class ObjectiveContract(Contract):
    """Subclass it and name the component.

    zero_at_target: the loss of a right prediction is 0; False for objectives of which that is not so
    """

    kind = "objective"
    zero_at_target: ClassVar[bool] = True

    def test_there_is_one_loss_per_item_and_modality(self) -> None:
        """(b,) finite losses of the modalities that are predicted, not below 0."""
        objective: Objective = self.build()
        for kept in (MODALITIES, ("video",), ("audio",)):
            prediction, target = (AV[Tensor].of({m: _pair(seed)[m] for m in kept}) for seed in (1, 2))
            losses = objective.loss(prediction, target, AV())
            assert losses.modalities == kept, f"of {kept} losses of {losses.modalities} come back"
            for modality, loss in losses.items():
                shape = tuple(loss.shape)
                assert shape == (_BATCH,), f"the {modality} loss is {shape}; reduce each item by itself, to {(_BATCH,)}"
                assert bool(torch.isfinite(loss).all()), f"the {modality} loss is NaN or Inf"
                assert float(loss.min()) >= 0, f"the {modality} loss is below 0"

    def test_a_right_prediction_has_no_loss(self) -> None:
        """The loss is 0 at the target and above it elsewhere."""
        if not self.zero_at_target:
            return
        objective, target = self.build(), _pair(2)
        for modality, loss in objective.loss(target, target, AV()).items():
            worst = float(loss.abs().max())
            assert worst == 0, (
                f"a right prediction of the {modality} has a loss of {worst:.2g}; compare with the target"
            )
        for modality, loss in objective.loss(_pair(1), target, AV()).items():
            assert float(loss.min()) > 0, f"a wrong prediction of the {modality} has no loss"

    def test_items_of_a_batch_do_not_meet(self) -> None:
        """An item's loss is what it is alone."""
        objective, prediction, target = self.build(), _pair(1), _pair(2)
        whole = objective.loss(prediction, target, AV())
        for i in range(_BATCH):
            one = objective.loss(
                prediction.map(lambda x, i=i: x[i : i + 1]), target.map(lambda x, i=i: x[i : i + 1]), AV()
            )
            for modality, loss in one.items():
                off = abs(float(loss[0] - whole[modality][i]))
                assert off < _SAME, f"item {i} of the {modality} has {off:.2g} more or less loss in a batch than alone"

    def test_what_the_mask_leaves_out_does_not_count(self) -> None:
        """Masked latent steps, such as a given first frame, change no loss; a mask of ones changes nothing."""
        objective, prediction, target = self.build(), _pair(1), _pair(2)
        plain = objective.loss(prediction, target, AV())
        ones = AV[Tensor].of({m: torch.ones(_BATCH, x.shape[2], dtype=x.dtype) for m, x in target.items()})
        full = objective.loss(prediction, target, ones)
        for modality, loss in plain.items():
            off = float((loss - full[modality]).abs().max())
            assert off < _SAME, f"a mask of ones changes the {modality} loss by {off:.2g}"
        mask = ones.map(Tensor.clone)
        for value in mask.values():
            value[:, 0] = 0
        changed = prediction.map(Tensor.clone)
        for value in changed.values():
            value[:, :, 0] += 5
        first, second = (objective.loss(one, target, mask) for one in (prediction, changed))
        for modality, loss in first.items():
            off = float((loss - second[modality]).abs().max())
            assert off < _SAME, (
                f"masked steps of the {modality} change its loss by {off:.2g}; leave them out of the mean"
            )
            rest = objective.loss(
                AV.of({modality: prediction[modality][:, :, 1:]}), AV.of({modality: target[modality][:, :, 1:]}), AV()
            )[modality]
            off = float((loss - rest).abs().max())
            assert off < _SAME, f"the {modality} loss is {off:.2g} off the mean of what counts; divide by what counts"

    def test_the_gradient_is_finite_and_reaches_what_counts(self) -> None:
        """Training by this loss moves every latent that counts, also close to the target."""
        objective, target = self.build(), _pair(2)
        for away in (1.0, 1e-8, 0.0):
            prediction = target.map(lambda x, away=away: (x + away).requires_grad_())
            torch.stack([x.sum() for x in objective.loss(prediction, target, AV()).values()]).sum().backward()
            for modality, value in prediction.items():
                assert value.grad is not None, f"no gradient of the {modality} loss reaches the prediction"
                told = f"the gradient of the {modality} loss, {away:g} from the target,"
                assert bool(torch.isfinite(value.grad).all()), f"{told} is NaN or Inf; keep roots away from 0"
                assert away < 1 or float(value.grad.abs().min()) > 0, f"{told} is 0 somewhere"

    def test_levels_come_from_the_generator(self) -> None:
        """(b,) float32 levels on the CPU, within [0, 1], from the generator alone; other ones each time."""
        objective: Objective = self.build()
        generator = Generator().manual_seed(3)
        with global_generators_unused(f"the objective '{self.found().name}'"):
            first, more = objective.sample_sigma(generator, 512), objective.sample_sigma(generator, 512)
            again = objective.sample_sigma(Generator().manual_seed(3), 512)
        assert first.modalities == MODALITIES, f"levels are of {first.modalities}; draw them for both modalities"
        for modality, sigma in first.items():
            told = f"{modality} levels"
            assert tuple(sigma.shape) == (512,), f"{told} of a batch of 512 are {tuple(sigma.shape)}"
            assert sigma.dtype == torch.float32, f"{told} are {sigma.dtype}, not float32"
            assert sigma.device.type == "cpu", f"{told} lie on {sigma.device}, not on the CPU"
            assert float(sigma.min()) >= 0, f"{told} leave [0, 1]"
            assert float(sigma.max()) <= 1, f"{told} leave [0, 1]"
            assert torch.equal(sigma, again[modality]), (
                f"{told} of one seed differ; draw from the generator that is given"
            )
            assert not torch.equal(sigma, more[modality]), f"{told} are the same in the next batch"
            assert float(sigma.std()) > 0, f"{told} of one batch are all the same; draw one for each item"

    def test_weights_are_weights(self) -> None:
        """Each modality has a finite weight, not below 0, and they are not all 0."""
        weights = self.build().weights
        assert weights.modalities == MODALITIES, f"weights are of {weights.modalities}; give both modalities one"
        for modality, weight in weights.items():
            assert math.isfinite(weight), f"the weight of the {modality} is {weight}"
            assert weight >= 0, f"the weight of the {modality} is {weight}"
        assert any(weight > 0 for weight in weights.values()), "all weights are 0: nothing would be trained"


def _pair(seed: int) -> AV[Tensor]:
    return AV[Tensor].of(
        {m: drawn(_BATCH, *shape, seed=seed + 100 * i) for i, (m, shape) in enumerate(_SHAPES.items())}
    )
