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
SILENT, STILL = Pass("silent", "prompt", anchored=("audio",)), Pass("still", "prompt", anchored=("video",))
BOTH = Pass("nothing at all", "negative", Perturbation(skip_layers=(0,)), anchored=("video", "audio"))


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ANCHORS = AV(drawn(1, 3, 3, 2, 2, seed=7), drawn(1, 5, 5, seed=8))


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
    [
        (PROMPT,),
        (PROMPT, SKIPPED),
        (PROMPT, SKIPPED, ALONE),
        (PROMPT, LIKE_PROMPT, SKIPPED, ALONE),
        (SILENT,),
        (PROMPT, SILENT),
        (PROMPT, LIKE_PROMPT, SKIPPED, ALONE, SILENT, STILL, BOTH),
    ],
    ids=lambda passes: f"{len(passes)} passes",
)
def test_one_batch_gives_what_the_passes_give_in_turn(
    model: JointModel, passes: tuple[Pass, ...], clean: AV[int], cache: bool
) -> None:
    x, told = AV(drawn(CLIPS, 3, 3, 2, 2, seed=5), drawn(CLIPS, 5, 5, seed=6)), AV(0.7, 0.4)
    bound = [
        BoundNetwork(model, contexts(model, cache), GRIDS, torch.float64, clean, batched, ANCHORS)
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
    network = BoundNetwork(model, contexts(model, True), GRIDS, torch.float64, anchors=ANCHORS)
    found = list(network(x, AV(0.7, 0.4), (PROMPT, SKIPPED, ALONE, LIKE_PROMPT, SILENT, STILL, BOTH)).values())
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


@pytest.mark.parametrize("batched", [False, True], ids=["in turn", "as one batch"])
@pytest.mark.parametrize("clean", [AV(), AV(video=1)], ids=["", "first frame"])
def test_an_anchored_pass_is_the_models_answer_to_the_anchor_at_level_0(
    model: JointModel, batched: bool, clean: AV[int]
) -> None:
    x, told = AV(drawn(CLIPS, 3, 3, 2, 2, seed=5), drawn(CLIPS, 5, 5, seed=6)), AV(0.7, 0.4)
    found = BoundNetwork(model, contexts(model, True), GRIDS, torch.float64, clean, batched, ANCHORS)(
        x, told, (PROMPT, SILENT, STILL)
    )
    wide = ANCHORS.map(lambda anchor: anchor.expand(CLIPS, *anchor.shape[1:]))
    for run, shown, levels in (
        (SILENT, AV(x.video, wide.audio), (0.7, 0.0)),
        (STILL, AV(wide.video, x.audio), (0.0, 0.4)),
    ):
        sigma = AV(*(torch.full((CLIPS,), level, dtype=torch.float64) for level in levels))
        expected = model(shown, sigma, contexts(model, True)["prompt"], GRIDS, clean_steps=clean)
        for modality, value in expected.items():
            torch.testing.assert_close(found[run.name][modality], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batched", [False, True], ids=["in turn", "as one batch"])
def test_an_anchored_pass_does_not_see_the_latents_that_it_exchanges(model: JointModel, batched: bool) -> None:
    network = BoundNetwork(model, contexts(model, True), GRIDS, torch.float64, batched=batched, anchors=ANCHORS)
    video = drawn(CLIPS, 3, 3, 2, 2, seed=5)
    one, other = (network(AV(video, drawn(CLIPS, 5, 5, seed=seed)), AV(0.7, 0.4), (PROMPT, SILENT)) for seed in (6, 9))
    assert torch.equal(one["silent"]["video"], other["silent"]["video"])
    assert not torch.allclose(one["prompt"]["video"], other["prompt"]["video"], atol=1e-3)


def test_an_anchor_may_be_of_one_clip_or_of_all(model: JointModel) -> None:
    x = AV(drawn(CLIPS, 3, 3, 2, 2, seed=5), drawn(CLIPS, 5, 5, seed=6))
    wide = ANCHORS.map(lambda anchor: anchor.repeat(CLIPS, *(1,) * (anchor.ndim - 1)))
    text = contexts(model, True)
    one, all_ = (
        BoundNetwork(model, text, GRIDS, torch.float64, anchors=anchors).evaluate(x, AV(0.7, 0.4), SILENT)
        for anchors in (ANCHORS, wide)
    )
    assert torch.equal(one["video"], all_["video"])


def test_a_pass_whose_anchor_is_not_there_is_refused(model: JointModel) -> None:
    x = AV(drawn(CLIPS, 3, 3, 2, 2, seed=5), drawn(CLIPS, 5, 5, seed=6))
    network = BoundNetwork(model, contexts(model, True), GRIDS, torch.float64, anchors=AV(ANCHORS.video))
    with pytest.raises(ValueError, match="pass 'silent' is anchored in audio latents, and none were given"):
        network(x, AV(0.7, 0.4), (PROMPT, SILENT))


def test_a_lone_modality_has_nothing_to_exchange(model: JointModel) -> None:
    text = contexts(model, True)
    x, grids = AV(drawn(CLIPS, 3, 3, 2, 2, seed=5)), AV(GRIDS.video)
    found = BoundNetwork(model, text, grids, torch.float64)(x, AV(0.7), (PROMPT, SILENT))
    assert torch.equal(found["prompt"]["video"], found["silent"]["video"])
