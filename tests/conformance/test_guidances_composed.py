"""Guidances composed of parts: presets, order, what has no meaning, and how a recipe's mistakes are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from guidances_kit import (
    CFG,
    MODIFIER_OPTIONS,
    SIGMA,
    TERM_OPTIONS,
    assert_close,
    assert_same,
    composed,
    dot,
    each,
    of,
    pair,
    part,
    said,
    single,
    usual,
)
from pydantic import ValidationError

from ovikit.errors import UserError
from ovikit.recipe.load import load_recipe
from ovikit.types import AV

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny" / "ovi.yaml"


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
