"""``model.rotated``: whether the fusion and the text turn by the positions, in Ovi's model with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from ovikit.kernel.manager import installed_catalog
from ovikit.networks.attention import sdpa
from ovikit.networks.axes import axis_angles
from ovikit.networks.init import initialise
from ovikit.networks.joint import JointModel
from ovikit.networks.protocols import Positions
from ovikit.numerics.guidance import NEGATIVE, PROMPT, ClassifierFree
from ovikit.runtime.passes import BoundNetwork
from ovikit.types import AV, Rotated, Text, TokenGrid
from ovikit_ovi.fusion import ovi_fusion
from ovikit_ovi.tower import OviTower

WORDS, WIDTH, HEADS = 6, 40, 2
GRIDS = AV(video=TokenGrid.uniform("video", (4, 4, 4), 0.25), audio=TokenGrid.uniform("audio", (9, 1, 1), 0.1))
SCHEMES = ("native", "scaled-audio", "scaled-video", "seconds", "interleaved", "none")


def scheme(name: str) -> Positions:
    component = installed_catalog().find("positions", name).component
    return component.build(component.config())


@dataclass(frozen=True)
class Later:
    """A scheme in which all that ``which`` names is later by as much: by angles, so whatever its unit of time."""

    scheme: Positions
    by: float
    words: bool = True
    tokens: bool = True

    def angles(self, grid: TokenGrid, head_width: int, use: Any) -> Tensor:
        found = self.scheme.angles(grid, head_width, use)
        moved = self.words if grid.shape == (WORDS, 1, 1) else self.tokens
        times = torch.tensor([[self.by if moved else 0.0, 0.0, 0.0]], dtype=torch.float64)
        return found + axis_angles(times, head_width, 10000.0)


@dataclass(frozen=True)
class StillInFusion:
    """A scheme that turns nothing in the fusion."""

    scheme: Positions

    def angles(self, grid: TokenGrid, head_width: int, use: Any) -> Tensor:
        found = self.scheme.angles(grid, head_width, use)
        return torch.zeros_like(found) if use == "fusion" else found


def build(positions: Positions, rotated: Rotated = Rotated()) -> JointModel:
    """A tiny model, in which every weight is random and the same for all schemes."""
    options = {
        "width": WIDTH, "feed_forward_width": 48, "heads": HEADS, "depth": 2, "text_length": WORDS,
        "frequency_width": 16,
    }  # fmt: skip
    towers = AV(OviTower("video", 3, 10, **options), OviTower("audio", 5, 10, **options))
    fusion = ovi_fusion(2, AV(WIDTH, WIDTH), AV(HEADS, HEADS), sdpa, 1.0)
    model = JointModel(towers, fusion, positions, sdpa, rotated=rotated)
    generator = torch.Generator().manual_seed(0)
    initialise(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model.double().eval()


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def text(seed: int = 3) -> AV[Text]:
    one = Text(drawn(1, WORDS, 10, seed=seed), torch.tensor([WORDS]))
    return AV(one, one)


LATENTS = AV(video=drawn(1, 3, 4, 4, 4, seed=1), audio=drawn(1, 5, 9, seed=2))


@torch.no_grad()
def velocity(model: JointModel, cache: bool = True) -> AV[Tensor]:
    sigma = torch.tensor([0.4], dtype=torch.float64)
    return model(LATENTS, AV(sigma, sigma), model.embed_text(text(), cache), GRIDS)


def apart(first: AV[Tensor], second: AV[Tensor]) -> float:
    """The least over the modalities of the largest difference, relative to the values."""
    return min((first[m] - second[m]).abs().max().item() / first[m].abs().max().item() for m in ("video", "audio"))


def close(first: AV[Tensor], second: AV[Tensor]) -> bool:
    return all(torch.allclose(first[m], second[m], atol=1e-10, rtol=1e-10) for m in ("video", "audio"))


@pytest.mark.parametrize("name", SCHEMES)
def test_an_unrotated_fusion_leaves_the_self_attention_as_it_was(name: str) -> None:
    still = velocity(build(scheme(name), Rotated(fusion=False)))
    assert close(still, velocity(build(StillInFusion(scheme(name)))))
    assert (apart(still, velocity(build(scheme(name)))) > 1e-3) == (name != "none")


def test_native_positions_with_an_unrotated_fusion_are_the_scheme_none() -> None:
    still = velocity(build(scheme("native"), Rotated(fusion=False)))
    assert close(still, velocity(build(scheme("none"))))
    scaled = velocity(build(scheme("scaled-audio"), Rotated(fusion=False)))
    assert not torch.allclose(scaled["audio"], still["audio"], atol=1e-3)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_rotated_text_changes_the_output(name: str) -> None:
    turned = build(scheme(name), Rotated(text=True))
    assert apart(velocity(turned), velocity(build(scheme(name)))) > 1e-3


@pytest.mark.parametrize("name", SCHEMES)
def test_text_scores_see_only_the_distance_of_words_and_tokens(name: str) -> None:
    """All later by as much: nothing changes. Words or tokens alone: it does, and only where the text turns."""
    rotated = Rotated(text=True)
    here = velocity(build(scheme(name), rotated))
    assert close(here, velocity(build(Later(scheme(name), 3.7), rotated)))
    assert apart(here, velocity(build(Later(scheme(name), 3.7, tokens=False), rotated))) > 1e-3
    assert apart(here, velocity(build(Later(scheme(name), 3.7, words=False), rotated))) > 1e-3
    still = velocity(build(scheme(name)))
    assert close(still, velocity(build(Later(scheme(name), 3.7, tokens=False))))


@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize("name", SCHEMES)
def test_cached_words_give_the_same(name: str, fusion: bool) -> None:
    model = build(scheme(name), Rotated(fusion=fusion, text=True))
    assert close(velocity(model, cache=True), velocity(model, cache=False))


@pytest.mark.parametrize("name", SCHEMES)
def test_passes_as_one_batch_are_those_in_turn(name: str) -> None:
    model, guidance = build(scheme(name), Rotated(text=True)), ClassifierFree(AV(4.0, 3.0), skip_layers=(1,))
    contexts = {PROMPT: model.embed_text(text(), cache=True), NEGATIVE: model.embed_text(text(7), cache=True)}
    with torch.no_grad():
        found = [
            BoundNetwork(model, contexts, GRIDS, torch.float64, batched=batched)(
                LATENTS, AV(0.4, 0.4), guidance.passes(AV(0.4, 0.4))
            )
            for batched in (False, True)
        ]
    assert found[0].keys() == found[1].keys() == {PROMPT, NEGATIVE}
    assert all(close(found[0][one], found[1][one]) for one in found[0])
    assert apart(found[0][PROMPT], found[0][NEGATIVE]) > 1e-3
