"""What a recipe takes, against what can be counted by hand or measured on real tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training_kit import WIDTH, kit_installed, write_recipe

from ovikit.commands.plan import figures
from ovikit.networks.joint import WHOLE
from ovikit.recipe import build
from ovikit.recipe.load import load_recipe
from ovikit.recipe.models import Recipe
from ovikit.runtime.estimate import Estimate, decode_bytes, estimate
from ovikit.types import AV


@pytest.fixture(autouse=True)
def _kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with kit_installed(monkeypatch):
        yield


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    return load_recipe(write_recipe(folder), overrides)


def of(recipe: Recipe, clips: int = 1) -> Estimate:
    return estimate(recipe, build.build_codecs(recipe), build.build_conditioner(recipe), clips)


def test_weights_are_those_of_the_model(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    model = build.build_model(recipe, build.build_codecs(recipe), build.build_conditioner(recipe))
    found = of(recipe)
    assert found.network == sum(4 * one.numel() for one in model.parameters())
    assert found.layers == tuple(sum(4 * one.numel() for one in layer.parameters()) for layer in model.layers)
    assert sum(part.parameters or 0 for part in found.parts.values()) == sum(p.numel() for p in model.parameters())
    assert of(recipe_of(tmp_path, "model.precision.dtype=bfloat16")).network == found.network // 2


def test_texts_and_activations_grow_with_the_clips(tmp_path: Path) -> None:
    one, three = of(recipe_of(tmp_path)), of(recipe_of(tmp_path), 3)
    assert three.contexts == 3 * one.contexts
    # the tokens' rotations are the same for all clips
    assert 2.5 * one.activations < three.activations <= 3 * one.activations
    assert three.forward_flops == 3 * one.forward_flops


def test_flops_are_those_of_the_matrix_products(tmp_path: Path) -> None:
    found = of(recipe_of(tmp_path))
    codecs = build.build_codecs(recipe_of(tmp_path))
    total = 0
    for modality, tokens in found.tokens.items():
        layer = 3 * WIDTH * WIDTH + 3 * WIDTH * WIDTH + WIDTH * WIDTH  # self, query of the text, feed-forward
        attention = 2 * tokens * WIDTH + 2 * 1 * WIDTH  # over the tokens, over one token of text
        per_token = 2 * codecs[modality].channels * WIDTH + 2 * (layer + attention)
        levels = WIDTH + 2 * (WIDTH * WIDTH)  # of the noise level, and of each layer from it
        total += 2 * (tokens * per_token + levels + 2 * WIDTH * WIDTH)  # the fusion hears one mean token a layer
    assert found.forward_flops == total


@pytest.mark.parametrize(("solver", "guidance", "forwards"), [("euler", 4.0, 8), ("euler", 1.0, 4), ("heun", 4.0, 14)])
def test_evaluations_are_those_of_solver_and_guidance(
    tmp_path: Path, solver: str, guidance: float, forwards: int
) -> None:
    recipe = recipe_of(
        tmp_path, "sampling.steps=4", f"sampling.solver.type={solver}",
        f"sampling.guidance={{type: cfg, video: {guidance}, audio: {guidance}}}",
    )  # fmt: skip
    assert of(recipe).forwards == forwards
    assert of(recipe).passes == (1 if guidance == 1.0 else 2)


def test_processes_share_tokens_and_passes(tmp_path: Path) -> None:
    one, two = of(recipe_of(tmp_path)), of(recipe_of(tmp_path, "runtime.parallel={sequence: 2, guidance: 2}"))
    assert two.activations == -(-one.activations // 2)
    assert (one.passes, two.passes) == (2, 1)


def test_a_codec_that_knows_says_what_decoding_takes(tmp_path: Path) -> None:
    class Knows:
        modality = "video"

        def decode_bytes(self) -> int:
            return 12345

    recipe = recipe_of(tmp_path)
    form, codecs = build.clip_spec(recipe), build.build_codecs(recipe)
    assert decode_bytes(Knows(), form) == 12345  # type: ignore[arg-type]
    assert decode_bytes(codecs["audio"], form) == 16 * form.samples


def test_activations_are_what_a_real_forward_takes(tmp_path: Path) -> None:
    """Counted by PyTorch's profiler on the CPU, with an attention that has no workspace of its own."""
    recipe = recipe_of(tmp_path, "clip.duration_s=2.0", "clip.height_px=64", "clip.width_px=64")
    codecs, conditioner = build.build_codecs(recipe), build.build_conditioner(recipe)
    plain = build.Spread(WHOLE, lambda _: lambda query, key, value, lengths: query.contiguous() + 1)
    model = build.build_model(recipe, codecs, conditioner, "cpu", plain)
    text = conditioner.encode(["a"])
    sigma, grids = torch.tensor([0.5], dtype=torch.float64), codecs.map(lambda codec: codec.grid())
    latents = codecs.map(lambda codec: torch.zeros(1, *codec.shape()))
    with torch.no_grad():
        contexts = model.embed_text(AV(text, text), cache=True)
        model(latents, AV(sigma, sigma), contexts, grids)  # what is made once and kept
        with torch.profiler.profile(profile_memory=True, record_shapes=False) as profile:
            model(latents, AV(sigma, sigma), contexts, grids)
    now = most = 0
    events = [one for one in profile.profiler.kineto_results.events() if one.name() == "[memory]"]  # type: ignore[union-attr]
    for event in sorted(events, key=lambda one: one.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    assert most <= of(recipe).activations <= 1.2 * most


def test_the_command_gives_plain_values(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "sampling.steps=3")
    told = figures(recipe, clips=1, flops_per_s=1e6, budget_gb=0.5)
    assert told["flops"]["denoising"] == 6 * told["flops"]["forward"]
    assert told["seconds"]["forward"] == told["flops"]["forward"] / 1e6
    assert [card["gb"] for card in told["cards"]] == [0.5, 24, 40, 80]
    assert {card["plan"] for card in told["cards"]} == {"full"}
    assert list(told["peaks"]) == ["full", "offload-components", "stream-layers"]
