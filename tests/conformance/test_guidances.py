"""The mathematics of the published guidances, on random velocities."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ovikit.errors import UserError
from ovikit.kernel.component import Component
from ovikit.numerics.evaluations import count_evaluations
from ovikit.numerics.guidance import ClassifierFree
from ovikit.numerics.schedule import DecoupledSchedule, ShiftedSchedule, Window
from ovikit.numerics.solver.heun import Heun
from ovikit.numerics.solver.res_2s import Res2S
from ovikit.numerics.solver.unipc import UniPC
from ovikit.recipe.load import load_recipe
from ovikit.types import AV, MODALITIES, Modality, Perturbation
from ovikit_guidances import options as o
from ovikit_guidances.compose import compose
from ovikit_guidances.differences import Projected, ZeroStar, best_scale
from ovikit_guidances.guided import Guided
from ovikit_guidances.plugin import ovikit_register_guidances
from ovikit_guidances.terms import negative

COMPONENTS: dict[str, Component] = {one.name: one for one in ovikit_register_guidances()}
RECIPE = Path(__file__).parents[2] / "recipes" / "tiny" / "ovi.yaml"
SIGMA = AV(0.6, 0.3)
BATCH = 3
CFG = {"video": 4.0, "audio": 2.5}
TERM_OPTIONS: dict[str, dict[str, Any]] = {
    "skip-layer": {"layers": [3, 1], "video": 1.5, "audio": 0.5},
    "stg": {"layers": [2], "video": 1.2, "audio": 0.7},
    "modality-isolating": {"video": 2.0, "audio": 3.0},
    "sync-cfg": {"video": 1.5, "audio": 2.5},
}
MODIFIER_OPTIONS: dict[str, dict[str, Any]] = {
    "apg": {"eta": 0.25, "threshold": 0.4},
    "cfg-zero-star": {"zero_above": 0.9},
    "rescale": {"phi": 0.6},
    "interval": {"video": [0.2, 0.8], "audio": [0.1, 0.7]},
}
each_term = pytest.mark.parametrize("name", TERM_OPTIONS)
each_modifier = pytest.mark.parametrize("name", MODIFIER_OPTIONS)
each = pytest.mark.parametrize("name", [*TERM_OPTIONS, *MODIFIER_OPTIONS])


def pair(seed: int, dtype: torch.dtype = torch.float64) -> AV[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return AV(
        torch.randn(BATCH, 3, 4, 2, 2, generator=generator, dtype=torch.float64).to(dtype),
        torch.randn(BATCH, 5, 6, generator=generator, dtype=torch.float64).to(dtype),
    )


def single(name: str, **options: Any) -> Guided:
    component = COMPONENTS[name]
    return component.build(component.config.model_validate_json(json.dumps(options)))


def composed(*parts: dict[str, Any]) -> Guided:
    return single("composed", parts=list(parts))


def part(name: str, **options: Any) -> dict[str, Any]:
    return {"part": name, **options}


def usual(name: str) -> Guided:
    """The component with the options of this file; modifiers act on cfg."""
    return single(name, **(TERM_OPTIONS | MODIFIER_OPTIONS)[name], cfg=CFG)


def said(guidance: Guided | ClassifierFree, sigma: AV[float] = SIGMA, **options: Any) -> dict[str, AV[Tensor]]:
    """A velocity for each pass that the guidance asks for; of one pass always the same."""
    seeds = {"prompt": 0, "negative": 1}
    found = {}
    for run in guidance.passes(sigma):
        seed = seeds.get(run.name, sum(map(ord, run.name)))
        found[run.name] = AV.of({m: pair(seed, **options)[m] for m in sigma.modalities})
    return found


def of(guidance: Guided | ClassifierFree, sigma: AV[float] = SIGMA, **options: Any) -> AV[Tensor]:
    x = AV.of({m: pair(99)[m] for m in sigma.modalities})
    return guidance.combine(said(guidance, sigma, **options), x, sigma)


def assert_same(found: AV[Tensor], expected: AV[Tensor]) -> None:
    """Bit for bit."""
    assert found.modalities == expected.modalities
    for modality, value in found.items():
        assert torch.equal(value, expected[modality])


def assert_close(found: AV[Tensor], expected: AV[Tensor]) -> None:
    assert found.modalities == expected.modalities
    for modality, value in found.items():
        torch.testing.assert_close(value, expected[modality], rtol=1e-12, atol=1e-12)


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_option_is_explained(name: str) -> None:
    for option, field in COMPONENTS[name].config.model_fields.items():
        assert field.description, f"{name}.{option} has no description"


# Terms


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


# Modifiers


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


# Composition


@each
def test_composed_of_one_part_is_the_component_bit_for_bit(name: str) -> None:
    options = (TERM_OPTIONS | MODIFIER_OPTIONS)[name]
    assert_same(of(composed(part("cfg", **CFG), part(name, **options))), of(usual(name)))
    assert composed(part("cfg", **CFG), part(name, **options)) == usual(name)
    if name in TERM_OPTIONS:
        assert_same(of(composed(part(name, **options))), of(single(name, **options)))


def test_modifiers_act_in_the_documented_order() -> None:
    sigma = AV(0.6, 0.9)  # the audio lies outside of its interval
    guidance = composed(
        part("rescale", phi=1.0), part("interval", audio=[0.0, 0.5]), part("apg", eta=0.2),
        part("stg", layers=[2], video=1.2), part("cfg", **CFG),
    )  # fmt: skip
    velocities, x = said(guidance, sigma), pair(99)
    prompt, total = velocities["prompt"]["video"], velocities["prompt"]["video"]
    data = x["video"] - sigma["video"] * prompt
    for name, weight in (("negative", 3.0), ("prompt, without self-attention in 2", 1.2)):
        change = prompt - velocities[name]["video"]
        along = (dot(change, data) / dot(data, data)).view(-1, 1, 1, 1, 1) * data
        total = total + weight * (change - 0.8 * along)
    total = total * (prompt.flatten(1).std(1) / total.flatten(1).std(1)).view(-1, 1, 1, 1, 1)
    assert_close(guidance.combine(velocities, x, sigma), AV(total, velocities["prompt"]["audio"]))


def test_the_order_in_which_parts_are_written_makes_no_difference() -> None:
    parts = [part("cfg", **CFG), *(part(name, **options) for name, options in TERM_OPTIONS.items()), part("rescale")]
    whole = composed(*parts)
    assert whole.evaluations == len(whole.passes(SIGMA)) == 7
    assert composed(*reversed(parts)) == whole
    assert_same(of(composed(*parts[3:], *parts[:3])), of(whole))


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([], "there are no parts"),
        ([part("apg")], "'apg' has no term to act on"),
        ([part("rescale"), part("interval")], "'rescale' has no term to act on"),
        ([part("cfg"), part("rescale"), part("rescale", phi=0.2)], "'rescale' is there twice"),
        ([part("cfg"), part("apg"), part("cfg-zero-star")], "'apg' and 'cfg-zero-star' both change"),
        ([part("sync-cfg"), part("cfg-zero-star")], "only 'cfg' has"),
        ([part("cfg"), part("cfg", video=2.0)], "'cfg' is there twice with the same pass"),
        ([part("stg", layers=[1, 2]), part("stg", layers=[2, 1])], "'stg' is there twice with the same pass"),
        ([part("sync-cfg"), part("sync-cfg")], "'sync-cfg' is there twice"),
        ([part("cfg"), part("interval", video=[0.6, 0.5])], "the video's interval is \\[low, high\\]"),
    ],
)
def test_parts_that_mean_nothing_together_are_refused_with_the_reason(parts: list[Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        composed(*parts)


def test_terms_of_one_kind_with_other_layers_are_two_terms() -> None:
    guidance = composed(part("stg", layers=[1]), part("stg", layers=[2]), part("cfg"), part("cfg", skip_layers=[1]))
    assert guidance.evaluations == len(guidance.passes(SIGMA)) == 5


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ("[{part: cfg, vdeo: 4.0}]", "sampling.guidance.parts.0.vdeo: unknown key; there are: audio, part"),
        ("[{part: cfg}, {part: stg, layers: [a]}]", "sampling.guidance.parts.1.layers.0: should be a valid integer"),
        ("[{part: stg}]", "sampling.guidance.parts.0.layers: is missing"),
        ("[{part: cgf}]", "sampling.guidance.parts.0: part should be one of 'cfg', 'skip-layer'"),
        ("[{video: 2.0}]", "sampling.guidance.parts.0: part is missing"),
        ("[3]", "sampling.guidance.parts.0: should be a mapping, not 3"),
        ("3", "sampling.guidance.parts: should be a list, not 3"),
        ("[{part: rescale}]", "sampling.guidance: 'rescale' has no term to act on"),
    ],
)
def test_a_recipes_mistakes_are_told_with_their_place(parts: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(RECIPE, [f"sampling.guidance={{type: composed, parts: {parts}}}"])
    assert told in str(caught.value)


# All of them

EVERYTHING: Mapping[str, Guided] = {
    **{name: usual(name) for name in (*TERM_OPTIONS, *MODIFIER_OPTIONS)},
    "composed": composed(
        part("cfg", **CFG), *(part(name, **options) for name, options in TERM_OPTIONS.items()),
        *(part(name, **options) for name, options in MODIFIER_OPTIONS.items() if name != "cfg-zero-star"),
    ),
}  # fmt: skip
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


# Evaluations of a run


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
