"""The passes of a guided step: one after the other or as one batch, the velocities are the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ovikit.networks.attention import sdpa
from ovikit.networks.init import initialise
from ovikit.networks.joint import JointModel
from ovikit.numerics.protocols import Pass
from ovikit.runtime.passes import BoundNetwork
from ovikit.types import AV, Context, Perturbation, Text, TokenGrid
from ovikit_ovi.fusion import ovi_fusion
from ovikit_ovi.positions import IndexPositions
from ovikit_ovi.tower import OviTower

DEPTH, CLIPS = 3, 2
GRIDS = AV(video=TokenGrid.uniform("video", (3, 2, 2), 0.25), audio=TokenGrid.uniform("audio", (5, 1, 1), 0.1))
PROMPT = Pass("prompt", "prompt")
SKIPPED = Pass("negative", "negative", Perturbation(skip_layers=(1,)))
ALONE = Pass("alone", "prompt", Perturbation(cut_fusion=True, skip_self=(0, 2)))
LIKE_PROMPT = Pass("other text", "negative")


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def model() -> JointModel:
    options = {"width": 32, "feed_forward_width": 48, "heads": 2, "depth": DEPTH, "text_length": 6}
    towers = AV(
        OviTower("video", 3, 10, frequency_width=16, **options), OviTower("audio", 5, 10, frequency_width=16, **options)
    )
    built = JointModel(towers, ovi_fusion(DEPTH, AV(32, 32), AV(2, 2), sdpa), IndexPositions(0.4), sdpa)
    generator = torch.Generator().manual_seed(0)
    initialise(built, generator)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return built.double().eval().requires_grad_(False)


def contexts(model: JointModel, cache: bool) -> dict[str, AV[Context]]:
    texts = {name: Text(drawn(CLIPS, 4, 10, seed=i), torch.full((CLIPS,), 4)) for i, name in enumerate(("a", "b"))}
    return {
        "prompt": model.embed_text(AV(texts["a"], texts["a"]), cache),
        "negative": model.embed_text(AV(texts["b"], texts["a"]), cache),
    }


@pytest.mark.parametrize("cache", [True, False], ids=["cached text", "text"])
@pytest.mark.parametrize("clean", [AV(), AV(video=1)], ids=["", "first frame"])
@pytest.mark.parametrize(
    "passes",
    [(PROMPT,), (PROMPT, SKIPPED), (PROMPT, SKIPPED, ALONE), (PROMPT, LIKE_PROMPT, SKIPPED, ALONE)],
    ids=lambda passes: f"{len(passes)} passes",
)
def test_one_batch_gives_what_the_passes_give_in_turn(
    model: JointModel, passes: tuple[Pass, ...], clean: AV[int], cache: bool
) -> None:
    x, told = AV(drawn(CLIPS, 3, 3, 2, 2, seed=5), drawn(CLIPS, 5, 5, seed=6)), AV(0.7, 0.4)
    bound = [
        BoundNetwork(model, contexts(model, cache), GRIDS, torch.float64, clean, batched=batched)
        for batched in (False, True)
    ]
    for _ in range(2):  # the second call finds the texts of the first joined
        one_by_one, together = (network(x, told, passes) for network in bound)
        assert list(together) == list(one_by_one) == [run.name for run in passes]
        for name, velocity in one_by_one.items():
            for modality, value in velocity.items():
                torch.testing.assert_close(together[name][modality], value, rtol=1e-12, atol=1e-12)


def test_passes_differ_so_that_mixing_them_up_would_show(model: JointModel) -> None:
    x = AV(drawn(CLIPS, 3, 3, 2, 2, seed=5), drawn(CLIPS, 5, 5, seed=6))
    network = BoundNetwork(model, contexts(model, True), GRIDS, torch.float64)
    found = list(network(x, AV(0.7, 0.4), (PROMPT, SKIPPED, ALONE, LIKE_PROMPT)).values())
    for i, one in enumerate(found):
        for other in found[i + 1 :]:
            assert not torch.allclose(one["video"], other["video"], atol=1e-3)


def test_layers_that_all_passes_treat_alike_run_once(model: JointModel) -> None:
    """Skipping one layer in one pass costs that layer's batch, not the whole network's."""
    calls: list[int] = []
    handles = [
        layer.register_forward_pre_hook(
            lambda _module, args: calls.append(next(args[0].values()).tokens.shape[0])  # items in this call
        )
        for layer in model.layers
    ]
    x = AV(drawn(CLIPS, 3, 3, 2, 2, seed=5), drawn(CLIPS, 5, 5, seed=6))
    BoundNetwork(model, contexts(model, True), GRIDS, torch.float64, batched=True)(
        x, AV(0.7, 0.4), (PROMPT, LIKE_PROMPT, SKIPPED)
    )
    for handle in handles:
        handle.remove()
    assert calls == [3 * CLIPS, 2 * CLIPS, 3 * CLIPS]
