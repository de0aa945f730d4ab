"""Terms of the published guidances, and what all of them keep to, on random velocities."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from guidances_kit import (
    BATCH,
    CFG,
    COMPONENTS,
    EVERYTHING,
    MODIFIER_OPTIONS,
    SIGMA,
    TERM_OPTIONS,
    assert_close,
    assert_same,
    composed,
    each,
    each_modifier,
    each_term,
    of,
    pair,
    part,
    said,
    single,
    usual,
)
from torch import Tensor

from ovikit.numerics.evaluations import count_evaluations
from ovikit.numerics.guidance import ClassifierFree
from ovikit.numerics.schedule import DecoupledSchedule, ShiftedSchedule, Window
from ovikit.numerics.solver.heun import Heun
from ovikit.numerics.solver.res_2s import Res2S
from ovikit.numerics.solver.unipc import UniPC
from ovikit.types import AV, MODALITIES, Modality, Perturbation
from ovikit_guidances import options as o
from ovikit_guidances.compose import compose
from ovikit_guidances.guided import Guided


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_option_is_explained(name: str) -> None:
    for option, field in COMPONENTS[name].config.model_fields.items():
        assert field.description, f"{name}.{option} has no description"


def test_the_cfg_term_has_the_bits_of_the_built_in_guidance() -> None:
    built_in = ClassifierFree(AV(4.0, 2.5), skip_layers=(1, 2))
    mine = composed(part("cfg", **CFG, skip_layers=[2, 1]))
    velocities = {"prompt": pair(0), "negative": pair(1), "negative, without layers 1 2": pair(1)}
    assert [run.perturbation for run in mine.passes(SIGMA)] == [run.perturbation for run in built_in.passes(SIGMA)]
    assert_same(mine.combine(velocities, pair(9), SIGMA), built_in.combine(velocities, pair(9), SIGMA))


@pytest.mark.parametrize(
    ("name", "perturbation"),
    [
        ("skip-layer", Perturbation(skip_layers=(1, 3))),
        ("stg", Perturbation(skip_self=(2,))),
        ("modality-isolating", Perturbation(cut_fusion=True)),
    ],
)
def test_a_term_pushes_away_from_the_prompts_own_pass_perturbed(name: str, perturbation: Perturbation) -> None:
    guidance = single(name, **TERM_OPTIONS[name])
    prompt, other = guidance.passes(SIGMA)
    assert (prompt.name, prompt.conditioning, prompt.perturbation) == ("prompt", "prompt", Perturbation())
    assert (other.conditioning, other.perturbation, other.anchored) == ("prompt", perturbation, ())
    velocities = said(guidance)
    expected = {
        m: velocities["prompt"][m] + TERM_OPTIONS[name][m] * (velocities["prompt"][m] - velocities[other.name][m])
        for m in MODALITIES
    }
    assert_close(of(guidance), AV.of(expected))


def test_sync_cfg_pushes_each_modality_away_from_the_pass_in_which_nothing_happens_in_the_other() -> None:
    guidance = single("sync-cfg", **TERM_OPTIONS["sync-cfg"])
    prompt, *others = guidance.passes(SIGMA)
    assert [run.anchored for run in others] == [("audio",), ("video",)]
    silent, still = (run.name for run in others)
    assert all((run.conditioning, run.perturbation) == ("prompt", Perturbation()) for run in others)
    velocities = said(guidance)
    video, audio = velocities[prompt.name]["video"], velocities[prompt.name]["audio"]
    expected = AV(
        video + 1.5 * (video - velocities[silent]["video"]), audio + 2.5 * (audio - velocities[still]["audio"])
    )
    assert_close(guidance.combine(velocities, pair(9), SIGMA), expected)


@each_term
def test_cfg_beside_a_term_adds_up(name: str) -> None:
    both, alone, cfg = usual(name), single(name, **TERM_OPTIONS[name]), composed(part("cfg", **CFG))
    prompt = pair(0)
    total = of(alone).zip(of(cfg), lambda a, b: a + b).zip(prompt, lambda sums, p: sums - p)
    assert_close(of(both), total)
    assert both.evaluations == alone.evaluations + 1


@each_term
def test_a_neutral_scale_gives_the_prompts_pass_and_costs_nothing(name: str) -> None:
    neutral = single(name, **{**TERM_OPTIONS[name], "video": 0.0, "audio": 0.0})
    assert [run.name for run in neutral.passes(SIGMA)] == ["prompt"]
    assert neutral.evaluations == 1
    assert_same(of(neutral), pair(0))
    one = single(name, **{**TERM_OPTIONS[name], "video": 0.0})
    assert torch.equal(of(one)["video"], pair(0)["video"])
    assert not torch.equal(of(one)["audio"], pair(0)["audio"])
    assert one.evaluations == len(one.passes(SIGMA)) == 2


@each_modifier
def test_modifiers_of_a_cfg_that_does_nothing_do_nothing(name: str) -> None:
    guidance = single(name, **MODIFIER_OPTIONS[name], cfg={"video": 1.0, "audio": 1.0})
    assert guidance.evaluations == len(guidance.passes(SIGMA)) == 1
    assert_same(of(guidance), pair(0))


def test_terms_that_read_one_pass_share_it() -> None:
    once = compose([o.SkipLayer(layers=(1, 3), video=1.5, audio=2.0)])
    twice = compose(
        [o.SkipLayer(layers=(1, 3), video=1.0, audio=0.5), o.SkipLayer(layers=(3, 1, 1), video=0.5, audio=1.5)]
    )
    assert twice.passes(SIGMA) == once.passes(SIGMA)
    assert twice.evaluations == once.evaluations == 2
    assert_close(of(twice), of(once))


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("name", ["modality-isolating", "sync-cfg"])
def test_without_the_other_modality_there_is_nothing_to_isolate(name: str, modality: Modality) -> None:
    sigma = AV.of({modality: 0.5})
    guidance = single(name, **TERM_OPTIONS[name])
    assert [run.name for run in guidance.passes(sigma)] == ["prompt"]
    assert_same(of(guidance, sigma), AV.of({modality: pair(0)[modality]}))


@pytest.mark.parametrize("name", ["skip-layer", "stg", *MODIFIER_OPTIONS])
@pytest.mark.parametrize("modality", MODALITIES)
def test_a_lone_modality_is_guided_as_in_the_pair(name: str, modality: Modality) -> None:
    guidance, sigma = usual(name), AV.of({modality: SIGMA[modality]})
    assert_same(of(guidance, sigma), AV.of({modality: of(guidance)[modality]}))


@each
def test_a_modality_that_is_finished_asks_for_nothing(name: str) -> None:
    guidance = usual(name)
    assert [run.name for run in guidance.passes(AV(0.0, 0.0))] == ["prompt"]
    assert_same(of(guidance, AV(0.0, 0.0)), pair(0))
    for value in of(guidance, AV(0.0, 0.5)).values():
        assert bool(torch.isfinite(value).all())


everything = pytest.mark.parametrize("guidance", EVERYTHING.values(), ids=EVERYTHING)


@everything
def test_items_of_a_batch_do_not_know_each_other(guidance: Guided) -> None:
    whole = of(guidance)
    for i in range(BATCH):

        def cut(pair: AV[Tensor], i: int = i) -> AV[Tensor]:
            return pair.map(lambda value: value[i : i + 1])

        velocities = {name: cut(velocity) for name, velocity in said(guidance).items()}
        assert_close(guidance.combine(velocities, cut(pair(99)), SIGMA), cut(whole))


@everything
def test_nothing_random_is_drawn_and_nothing_is_changed(guidance: Guided) -> None:
    velocities, x, state = said(guidance), pair(99), torch.get_rng_state()
    guidance.combine(velocities, x, SIGMA)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(x, pair(99))
    for name, velocity in said(guidance).items():
        assert_same(velocities[name], velocity)


@everything
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_velocities_keep_their_dtype(guidance: Guided, dtype: torch.dtype) -> None:
    close = of(guidance)
    for modality, value in of(guidance, dtype=dtype).items():
        assert value.dtype == dtype
        error = (value.double() - close[modality]).abs().max() / close[modality].abs().max()
        assert error < {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]


@everything
def test_no_level_asks_for_more_than_the_declared_evaluations(guidance: Guided) -> None:
    levels = [0.0, 0.05, 0.15, 0.3, 0.6, 0.75, 0.85, 0.95, 1.0]
    counts = [len(guidance.passes(AV(a, b))) for a, b in itertools.product(levels, levels)]
    assert max(counts) == guidance.evaluations
    assert min(counts) == 1
    for a, b in itertools.product(levels, levels):
        names = [run.name for run in guidance.passes(AV(a, b))]
        assert names[0] == "prompt"
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_a_run_costs_what_the_formulas_say(steps: int) -> None:
    def count(solver: Any, guidance: Guided, modalities: tuple[Modality, ...] = MODALITIES) -> int:
        return count_evaluations(ShiftedSchedule(), solver, guidance, steps, modalities)

    assert count(UniPC(), single("stg", layers=[1], cfg=CFG)) == 3 * steps
    assert count(UniPC(), EVERYTHING["sync-cfg"]) == 4 * steps
    assert count(UniPC(), EVERYTHING["sync-cfg"], modalities=("audio",)) == 2 * steps  # only cfg is left
    assert count(Heun(), EVERYTHING["apg"]) == 2 * (2 * steps - 1)
    assert count(Res2S(), EVERYTHING["modality-isolating"]) == 3 * (2 * steps - 1)
    levels = ShiftedSchedule().sigmas(steps)["video"][:-1].tolist()
    inside = sum(0.2 <= level <= 0.8 for level in levels)
    limited = single("interval", video=[0.2, 0.8], audio=[0.2, 0.8], cfg=CFG)
    assert count(UniPC(), limited) == steps + inside
    assert count(Heun(), limited) == (2 * steps - 1) + inside + sum(0.2 <= level <= 0.8 for level in levels[1:])
    still = single("cfg-zero-star", zero_above=0.8, cfg=CFG)
    assert count(UniPC(), still) == steps + sum(level <= 0.8 for level in levels)


def test_a_cascade_does_not_anchor_what_nobody_hears_any_more() -> None:
    """While the video is made, both anchored passes are run; when it is finished, silence is of no use to it."""
    cascade = DecoupledSchedule(AV(Window(5.0, 0.0, 0.5), Window(5.0, 0.5, 1.0)))
    guidance = single("sync-cfg")
    assert count_evaluations(cascade, UniPC(), guidance, 10, MODALITIES) == 5 * 3 + 5 * 2
    assert count_evaluations(cascade, Heun(), guidance, 10, MODALITIES) == 9 * 3 + 9 * 2
