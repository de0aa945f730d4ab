"""The mathematics of what changes guidance: projection, scaling, rescaling, intervals."""

from __future__ import annotations

import itertools

import pytest
import torch
from guidances_kit import (
    BATCH,
    CFG,
    SIGMA,
    TERM_OPTIONS,
    assert_close,
    assert_same,
    composed,
    dot,
    of,
    pair,
    part,
    single,
)
from torch import Tensor

from ovikit.types import AV, Modality
from ovikit_guidances.differences import Projected, ZeroStar, best_scale
from ovikit_guidances.terms import negative


def data_of(velocity: Tensor, modality: Modality) -> Tensor:
    return pair(99)[modality] - SIGMA[modality] * velocity


def test_apg_that_keeps_everything_is_cfg() -> None:
    assert_close(of(single("apg", eta=1.0, cfg=CFG)), of(composed(part("cfg", **CFG))))
    assert_close(of(single("apg", eta=1.0, threshold=1e6, cfg=CFG)), of(composed(part("cfg", **CFG))))


def test_what_apg_adds_without_the_parallel_part_is_orthogonal_to_the_prompts_data() -> None:
    plain, found = of(composed(part("cfg", **CFG))), of(single("apg", eta=0.0, cfg=CFG))
    for modality, prompt in pair(0).items():
        data = data_of(prompt, modality)
        added = data_of(found[modality], modality) - data
        assert bool((dot(added, data).abs() < 1e-12 * dot(data, data)).all())
        assert bool((dot(data_of(plain[modality], modality) - data, data).abs() > 1e-2).all())
        # what was left out is parallel
        missing = plain[modality] - found[modality]
        cosine = dot(missing, data) / (dot(missing, missing) * dot(data, data)).sqrt()
        torch.testing.assert_close(cosine.abs(), torch.ones_like(cosine), rtol=0, atol=1e-12)


def test_apg_is_linear_in_eta() -> None:
    none, half, whole = (of(single("apg", eta=eta, cfg=CFG)) for eta in (0.0, 0.5, 1.0))
    assert_close(half, none.zip(whole, lambda a, b: (a + b) / 2))


def test_apg_shortens_differences_that_are_too_long_and_no_others() -> None:
    push, sigma, limit = negative(AV(4.0, 4.0), ()), 0.6, 0.5
    prompt, x = pair(0)["video"], pair(99)["video"]
    factors = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64).view(3, 1, 1, 1, 1)
    other = prompt + factors * pair(1)["video"]
    _, change = Projected(1.0, limit)(prompt, other, x, sigma, push)
    rms = sigma * (dot(change, change) / change[0].numel()).sqrt()
    raw = sigma * (dot(prompt - other, prompt - other) / change[0].numel()).sqrt()
    torch.testing.assert_close(rms, raw.clamp(max=limit))
    assert [bool(value) for value in raw > limit] == [False, True, True]


@pytest.mark.parametrize("differ", [Projected(0.0, 0.5), ZeroStar()], ids=["apg", "cfg-zero-star"])
def test_degenerate_passes_give_finite_velocities(differ: Projected | ZeroStar) -> None:
    push, zero, prompt = negative(AV(4.0, 4.0), ()), torch.zeros_like(pair(0)["audio"]), pair(0)["audio"]
    for one, other, x, sigma in itertools.product((zero, prompt), (zero, prompt), (zero, prompt), (0.0, 1.0)):
        for value in differ(one, other, x, sigma, push):
            assert bool(torch.isfinite(value).all())


def test_s_star_brings_the_negative_pass_nearest_to_the_prompts() -> None:
    for modality, prompt in pair(0).items():
        other = pair(1)[modality]
        best = best_scale(prompt, other)
        assert best.shape[0] == BATCH

        def apart(scale: Tensor, prompt: Tensor = prompt, other: Tensor = other) -> Tensor:
            return (prompt - scale * other).flatten(1).norm(dim=1)

        assert all(bool((apart(best) < apart(best + step)).all()) for step in (-1e-3, 1e-3, -1.0, 1.0))
        assert bool((dot(prompt - best * other, other).abs() < 1e-12).all())


def test_cfg_zero_star_is_cfg_with_the_scaled_negative_pass() -> None:
    found = of(single("cfg-zero-star", cfg=CFG))
    for modality, prompt in pair(0).items():
        other = pair(1)[modality]
        scaled = best_scale(prompt, other) * other
        expected = (1 - CFG[modality]) * scaled + CFG[modality] * prompt
        torch.testing.assert_close(found[modality], expected, rtol=1e-12, atol=1e-12)


def test_cfg_zero_star_leaves_passes_that_read_the_prompt_as_they_are() -> None:
    skipping = part("skip-layer", **TERM_OPTIONS["skip-layer"])
    both = of(composed(part("cfg", **CFG), skipping, part("cfg-zero-star")))
    star, skip = of(single("cfg-zero-star", cfg=CFG)), of(composed(skipping))
    assert_close(both, star.zip(skip, lambda a, b: a + b).zip(pair(0), lambda sums, p: sums - p))


def test_above_its_level_cfg_zero_star_stands_still() -> None:
    guidance = single("cfg-zero-star", zero_above=0.5, cfg=CFG)
    found = of(guidance)
    assert torch.equal(found["video"], torch.zeros_like(found["video"]))  # 0.6
    assert torch.equal(found["audio"], of(single("cfg-zero-star", cfg=CFG))["audio"])  # 0.3
    assert len(guidance.passes(AV(0.9, 0.9))) == 1
    assert len(guidance.passes(AV(0.5, 0.5))) == 2


def test_rescale_gives_the_prompts_deviation_back() -> None:
    def deviation(value: Tensor) -> Tensor:
        return value.flatten(1).std(dim=1)

    plain, whole, part_way = (
        of(composed(part("cfg", **CFG))),
        *(of(single("rescale", phi=phi, cfg=CFG)) for phi in (1.0, 0.3)),
    )
    assert_same(of(single("rescale", phi=0.0, cfg=CFG)), plain)
    for modality, prompt in pair(0).items():
        torch.testing.assert_close(deviation(whole[modality]), deviation(prompt), rtol=1e-12, atol=0)
        assert bool((deviation(plain[modality]) > 1.5 * deviation(prompt)).all())
    assert_close(part_way, plain.zip(whole, lambda a, b: 0.7 * a + 0.3 * b))


def test_outside_of_its_interval_guidance_is_the_prompts_pass_and_costs_nothing() -> None:
    guidance = single("interval", video=[0.2, 0.8], audio=[0.1, 0.5], cfg=CFG)
    plain = composed(part("cfg", **CFG))
    for level, passes in ((0.9, 1), (0.8, 2), (0.5, 2), (0.2, 2), (0.1, 2), (0.05, 1)):
        sigma = AV(level, level)
        assert len(guidance.passes(sigma)) == passes
        found, inside = of(guidance, sigma), AV(0.2 <= level <= 0.8, 0.1 <= level <= 0.5)
        for modality, value in found.items():
            assert torch.equal(value, (of(plain, sigma) if inside[modality] else pair(0))[modality])
    assert guidance.evaluations == 2


def test_interval_spares_the_passes_of_one_modality() -> None:
    guidance = composed(part("sync-cfg"), part("interval", video=[0.5, 1.0], audio=[0.0, 0.4]))
    assert [run.anchored for run in guidance.passes(AV(0.7, 0.7))] == [(), ("audio",)]
    assert [run.anchored for run in guidance.passes(AV(0.3, 0.3))] == [(), ("video",)]
    assert [run.anchored for run in guidance.passes(AV(0.45, 0.45))] == [()]
    assert guidance.evaluations == len(guidance.passes(AV(0.7, 0.3))) == 3
