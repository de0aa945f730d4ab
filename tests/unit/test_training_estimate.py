"""What a step of training takes, against real tensors and what can be counted by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training_kit import kit_installed, write_recipe

from ovikit.commands.plan_training import training_figures
from ovikit.networks.joint import JointModel
from ovikit.networks.peak import PeakBytes
from ovikit.recipe import build
from ovikit.recipe.load import load_recipe
from ovikit.recipe.models import Recipe
from ovikit.runtime.training_estimate import CountedAttend, Kept, TrainingEstimate, estimate_training
from ovikit.types import AV, Text


@pytest.fixture(autouse=True)
def _kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with kit_installed(monkeypatch):
        yield


def model_of(recipe: Recipe, device: str) -> tuple[JointModel, CountedAttend]:
    attend = CountedAttend()
    spread = build.Spread(build.ONE_PROCESS.partition, lambda _: attend)
    parts = build.build_codecs(recipe), build.build_conditioner(recipe)
    return build.build_model(recipe, *parts, device, spread), attend


def of(recipe: Recipe, model: JointModel, attend: CountedAttend, clips: int) -> TrainingEstimate:
    codecs, width = build.build_codecs(recipe), build.build_conditioner(recipe).width
    shapes, grids = codecs.map(lambda codec: codec.shape()), codecs.map(lambda codec: codec.grid())
    return estimate_training(model, attend, shapes, grids, width, clips)


def test_activations_are_those_of_a_real_step(tmp_path: Path) -> None:
    """The same step on real tensors, with a gradient that is dropped as soon as it is made."""
    recipe = load_recipe(write_recipe(tmp_path), ())
    found = of(recipe, *model_of(recipe, "meta"), 3)
    model, _ = model_of(recipe, "cpu")
    codecs, width = build.build_codecs(recipe), build.build_conditioner(recipe).width
    grids = codecs.map(lambda codec: codec.grid())
    text = Text(torch.zeros(3, 1, width), torch.ones(3, dtype=torch.int64))
    latents = codecs.map(lambda codec: torch.zeros(3, *codec.shape()))
    sigma = codecs.map(lambda _: torch.zeros(3, dtype=torch.float64))
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda one: setattr(one, "grad", None))
    with PeakBytes() as counted:
        context = model.embed_text(AV(text, text), cache=False)
        out = model(latents, sigma, context, grids)
        torch.stack([one.float().square().mean() for one in out.values()]).sum().backward()
    assert counted.peak == pytest.approx(found.activations[False], rel=0.02)


def test_checkpointing_spares_activations_and_costs_a_forward(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), ())
    model, attend = model_of(recipe, "meta")
    found = of(recipe, model, attend, 2)
    assert found.activations[True] < found.activations[False]
    forward, learned = found.flops[True] - found.flops[False], found.flops[False]
    assert 2.5 * forward < learned < 3.5 * forward  # a product has two in its backward
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("towers.video.out"))
    least = of(recipe, model, attend, 2)
    assert least.activations[False] < found.activations[False] / 2  # what no gradient passes through keeps nothing
    assert least.flops[False] < 1.2 * forward


def test_devices_share_all_but_activations(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), ())
    model, attend = model_of(recipe, "meta")
    one = of(recipe, model, attend, 1)
    total = sum(p.numel() for p in model.parameters())
    assert (one.trained, one.frozen) == (total, 0)
    kept = Kept(trained=4, frozen=2, computed=2, optimizer=8, average=4)
    alone, shared = (one.per_device("fsdp", n, True, kept) for n in (1, 4))
    assert alone == one.per_device("ddp", 4, True, kept)
    assert alone == {
        "weights": 4 * total, "gradients": 4 * total, "optimizer": 8 * total, "average": 4 * total,
        "copies": 2 * total, "activations": one.activations[True],
    }  # fmt: skip
    for name in ("weights", "gradients", "optimizer", "average"):
        assert shared[name] == alone[name] // 4
    assert shared["activations"] == alone["activations"]
    layer = max(sum(sizes) for sizes in one.layers)
    assert shared["gathered"] == 2 * (2 * layer + sum(one.outside)) + 4 * layer


def test_devices_that_share_tokens_share_activations_and_work(tmp_path: Path) -> None:
    whole, half = (
        training_figures(load_recipe(write_recipe(tmp_path), (f"training.trainer.sequence={n}",))) for n in (1, 2)
    )
    assert whole is not None
    assert half is not None
    for kept in ("kept", "checkpointed"):
        # embeddings and heads are everyone's
        assert 0.5 < half["activation_bytes"][kept] / whole["activation_bytes"][kept] < 0.8
        assert 0.5 < half["flops"][kept] / whole["flops"][kept] < 0.8
    assert half["trained"] == whole["trained"]
    assert {row["devices"] for row in whole["devices"]} == {1, 2, 4, 8, 16, 64}
    assert {(row["sharing"], row["devices"]) for row in half["devices"]} >= {("ddp", 2), ("fsdp", 2), ("fsdp", 64)}
    three = training_figures(load_recipe(write_recipe(tmp_path), ("training.trainer.sequence=3",)))
    assert three is not None
    assert {row["devices"] for row in three["devices"]} == {3, 6, 12, 24, 48, 192}


def test_plan_tells_of_training_what_the_recipe_says(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    told = training_figures(load_recipe(path, ()))
    mixed = training_figures(load_recipe(path, ("training.trainer.precision=bf16-mixed",)))
    assert told is not None
    assert mixed is not None
    one, other = told["devices"][0]["bytes"], mixed["devices"][0]["bytes"]
    assert one["weights"] == other["weights"] == 4 * told["trained"]
    assert one["copies"] == 0
    assert other["copies"] == 2 * told["trained"]
    assert other["activations"] < one["activations"]
