"""Classifier-free guidance: its formula per modality, its passes, and what they cost."""

from __future__ import annotations

import torch
from torch import Tensor

from ovikit.numerics.guidance import ClassifierFree
from ovikit.types import AV, Perturbation

SIGMA = AV(0.5, 0.5)


def pair(seed: int) -> AV[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return AV(torch.randn(2, 3, 4, 1, 1, generator=generator), torch.randn(2, 5, 6, generator=generator))


def test_each_modality_is_guided_by_its_own_scale() -> None:
    prompt, negative = pair(0), pair(1)
    guided = ClassifierFree(AV(4.0, 3.0)).combine({"prompt": prompt, "negative": negative}, pair(2), SIGMA)
    for modality, scale in (("video", 4.0), ("audio", 3.0)):
        positive, other = prompt[modality], negative[modality]
        torch.testing.assert_close(guided[modality], other + scale * (positive - other))


def test_scale_zero_gives_the_negative_pass_and_scale_one_the_prompt() -> None:
    prompt, negative = pair(0), pair(1)
    guided = ClassifierFree(AV(0.0, 1.0)).combine({"prompt": prompt, "negative": negative}, pair(2), SIGMA)
    assert torch.equal(guided["video"], negative["video"])
    torch.testing.assert_close(guided["audio"], prompt["audio"])


def test_layers_are_skipped_in_the_negative_pass_only() -> None:
    guidance = ClassifierFree(AV(4.0, 3.0), skip_layers=(1, 11))
    prompt, negative = guidance.passes(SIGMA)
    assert (prompt.name, prompt.conditioning, prompt.perturbation) == ("prompt", "prompt", Perturbation())
    assert negative.conditioning == "negative"
    assert negative.perturbation == Perturbation(skip_layers=(1, 11))


def test_evaluations_are_the_passes_that_are_made() -> None:
    for scales in (AV(1.0, 1.0), AV(1.0, 3.0), AV(4.0, 3.0), AV(audio=1.0)):
        guidance = ClassifierFree(scales, skip_layers=(2,))
        assert guidance.evaluations == len(guidance.passes(SIGMA))
    assert ClassifierFree(AV(1.0, 1.0)).evaluations == 1
    assert ClassifierFree(AV(1.0, 3.0)).evaluations == 2


def test_without_guidance_the_prompt_pass_is_the_velocity() -> None:
    prompt = pair(0)
    assert ClassifierFree(AV(1.0, 1.0)).combine({"prompt": prompt}, pair(2), SIGMA) is prompt


def test_a_lone_modality_is_guided_as_in_the_pair() -> None:
    prompt, negative, guidance = pair(0), pair(1), ClassifierFree(AV(4.0, 3.0))
    both = guidance.combine({"prompt": prompt, "negative": negative}, pair(2), SIGMA)
    alone = guidance.combine({"prompt": AV(audio=prompt.audio), "negative": AV(audio=negative.audio)}, pair(2), SIGMA)
    assert alone.video is None
    assert torch.equal(alone["audio"], both["audio"])
