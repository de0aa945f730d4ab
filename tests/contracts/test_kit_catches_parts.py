"""Components of the other kinds that are broken in one way each: the contract says so, by the one check about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from kit_examples import caught, component, failures
from torch import Generator, Tensor

from ovikit.checkpoints.format import CheckpointFormat
from ovikit.checkpoints.keymap import KeyMap, Rule
from ovikit.networks.attention import ScaledDotProduct
from ovikit.networks.precision import Precision
from ovikit.numerics.guidance import NEGATIVE, ClassifierFree
from ovikit.numerics.objective import FlowMatching
from ovikit.numerics.protocols import Pass
from ovikit.numerics.schedule import ShiftedSchedule
from ovikit.testing import (
    AttentionContract,
    BackboneContract,
    CheckpointFormatContract,
    GuidanceContract,
    ObjectiveContract,
    ScheduleContract,
)
from ovikit.testing.reference import ReferenceBlock, ReferenceTower
from ovikit.types import AV, Modality, NoiseConditioning

# schedules


class Unfinished(ShiftedSchedule):
    """Stops before the clip is clean."""

    def sigmas(self, steps: int) -> AV[Tensor]:
        return ShiftedSchedule.sigmas(self, steps).map(lambda sigma: sigma.clamp(min=0.01))


def test_schedules() -> None:
    assert failures(ScheduleContract, component(lambda config: ShiftedSchedule())) == {}
    found = failures(ScheduleContract, component(lambda config: Unfinished()))
    caught(found, "test_levels_fall_from_noise_to_data", "end at 0.01, not 0")


# guidances


class Unlike(ClassifierFree):
    """Adds a little of the negative velocity."""

    def combine(self, velocities: Mapping[str, AV[Tensor]], x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
        guided = ClassifierFree.combine(self, velocities, x, sigma)
        return guided.zip(velocities[NEGATIVE], lambda one, other: one + 0.01 * other)


class Together(ClassifierFree):
    """Scales by norms over the whole batch."""

    def combine(self, velocities: Mapping[str, AV[Tensor]], x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
        prompt = velocities["prompt"]
        guided = ClassifierFree.combine(self, velocities, x, sigma)
        return guided.zip(prompt, lambda one, wanted: one * wanted.norm().clamp(min=1e-9) / one.norm().clamp(min=1e-9))


class More(ClassifierFree):
    """Makes a pass that it does not declare."""

    def passes(self, sigma: AV[float]) -> tuple[Pass, ...]:
        return (*ClassifierFree.passes(self, sigma), Pass("more", "prompt"))


def test_guidances() -> None:
    def found(kind: type[ClassifierFree]) -> dict[str, str]:
        return failures(GuidanceContract, component(lambda config: kind(AV(4.0, 3.0))))

    assert found(ClassifierFree) == {}
    caught(found(Unlike), "test_passes_that_agree_make_what_they_agree_on", "add up to 1", "not_affine")
    caught(found(More), "test_evaluations_are_what_a_level_asks_for_at_most", "3 passes", "2 evaluations declared")
    caught(found(Together), "test_items_of_a_batch_do_not_meet", "each item by itself")


# objectives


class Shared(FlowMatching):
    """One loss for the whole batch."""

    def loss(self, prediction: AV[Tensor], target: AV[Tensor], mask: AV[Tensor] = AV()) -> AV[Tensor]:
        return FlowMatching.loss(self, prediction, target, mask).map(lambda loss: loss.mean().expand(len(loss)))


class Unmasked(FlowMatching):
    def loss(self, prediction: AV[Tensor], target: AV[Tensor], mask: AV[Tensor] = AV()) -> AV[Tensor]:
        return FlowMatching.loss(self, prediction, target)


class Lucky(FlowMatching):
    def sample_sigma(self, generator: Generator, batch: int) -> AV[Tensor]:
        return AV(torch.rand(batch), torch.rand(batch))


def test_objectives() -> None:
    def found(kind: type[FlowMatching]) -> dict[str, str]:
        return failures(ObjectiveContract, component(lambda config: kind(AV(0.85, 0.15))))

    assert found(FlowMatching) == {}
    caught(found(Shared), "test_items_of_a_batch_do_not_meet", "in a batch than alone")
    caught(found(Unmasked), "test_what_the_mask_leaves_out_does_not_count", "leave them out of the mean")
    caught(found(Lucky), "test_levels_come_from_the_generator", "torch.Generator")


# attention


class AllKeys(ScaledDotProduct):
    """Reads padding."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None = None) -> Tensor:
        return ScaledDotProduct.__call__(self, query, key, value, None)


class Unscaled(ScaledDotProduct):
    def __call__(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None = None) -> Tensor:
        return ScaledDotProduct.__call__(self, query * query.shape[-1] ** 0.5, key, value, lengths)


def test_attentions() -> None:
    assert failures(AttentionContract, component(lambda config: ScaledDotProduct())) == {}
    found = failures(AttentionContract, component(lambda config: AllKeys()))
    caught(found, "test_keys_past_the_length_are_not_read", "length 1")
    assert (
        "1 / sqrt(d)"
        in failures(AttentionContract, component(lambda config: Unscaled()))["test_it_is_softmax_attention"]
    )


# checkpoint formats


def test_checkpoint_formats() -> None:
    def found(*rules: Rule, anchor: str = "net.towers.video.enter.weight", only: str = "") -> dict[str, str]:
        made = CheckpointFormat("example", KeyMap(rules), (anchor,))
        return failures(CheckpointFormatContract, component(lambda config: made), (only,) if only else ())

    towers, layers = Rule("net.towers.{r}", "towers.{r}"), Rule("net.layers.{r}", "layers.{r}")
    assert found(towers, layers) == {}
    check = "test_names_go_there_and_back"
    caught(found(towers, only=check), check, "no rule knows ['layers.0")
    halved = replace(layers, to_ours=lambda x: x / 2)
    caught(found(towers, halved), "test_tensors_go_there_and_back", "has to undo to_ours")
    caught(found(towers, layers, anchor="else"), "test_it_recognises_its_own_files_and_no_other", "anchors ('else',)")


# backbones


class OneLevelBlock(ReferenceBlock):
    """Takes the last noise level for all tokens."""

    def modulation(self, noise: NoiseConditioning) -> Any:
        last = NoiseConditioning(noise.embedding[:, -1:], noise.projection[:, -1:], (sum(noise.spans),))
        return super().modulation(last)


class MeanBlock(ReferenceBlock):
    """Its feed-forward network sees the mean of all tokens."""

    def feed_forward(self, x: Tensor, mod: Any) -> Tensor:
        return super().feed_forward(x, mod) + 0.1 * x.mean(dim=1, keepdim=True)


def tower(block: type[ReferenceBlock]) -> dict[str, str]:
    class Tower(ReferenceTower):
        def block(self, index: int) -> ReferenceBlock:
            return block(self.width, self.heads, self.precision)

    def build(config: Any, *, modality: Modality, channels: int, text_width: int, precision: Precision) -> Tower:
        return Tower(modality, channels, text_width, width=24, heads=2, depth=2, precision=precision)

    with torch.device("meta"):
        keys = tuple(block(24, 2, Precision()).state_dict())
    return failures(BackboneContract, component(build), keys=keys)


def test_backbones() -> None:
    assert tower(ReferenceBlock) == {}
    caught(tower(MeanBlock), "test_tokens_past_the_length_are_not_read", "token by token")
    caught(tower(OneLevelBlock), "test_each_span_has_its_own_level", "by_span")
