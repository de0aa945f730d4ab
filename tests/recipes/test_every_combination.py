"""Every fusion with every positional scheme and every solver: one line of a recipe each, trained a step and sampled."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from pathlib import Path

import pytest
import torch
from ablation_kit import write_files
from torch import Tensor

from ovikit.ablation.cell import parameters_of
from ovikit.data.encoded import Encoded
from ovikit.kernel.manager import installed_catalog
from ovikit.networks.joint import JointModel
from ovikit.numerics.sample import draw_noise, sample
from ovikit.recipe import build
from ovikit.recipe.load import load_recipe
from ovikit.recipe.models import Recipe
from ovikit.recipe.training import Optimizer
from ovikit.runtime.passes import BoundNetwork
from ovikit.training.batches import Batch
from ovikit.training.display import training_table
from ovikit.training.draws import Choices
from ovikit.training.module import JointTraining
from ovikit.training.optimizer import AdamWCosine
from ovikit.training.watch import LossWatch
from ovikit.types import AV

FUSIONS = ("ovi", "none", "gated-residual", "bridge", "joint", "asymmetric-window", "global-local", "additive")
POSITIONS = ("scaled-audio", "native", "scaled-video", "seconds", "interleaved", "none")
SOLVERS = ("unipc", "dpmpp-2m", "euler", "heun", "res-2s")
WITHOUT_ANGLES = ("none", "additive")
"""Fusions in which nothing turns: schemes that differ between the modalities alone are one to them."""
ONE_TO_THEM = ({"native", "none"}, {"scaled-audio", "interleaved"})
PROMPTS = ("A small red ball flashes once on the left. Audio: one low tone.", "")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("combinations")).with_name("base.yaml")


@pytest.fixture(scope="module")
def trained(base: Path):
    """The recipe, the model after one training step, and its loss, of a fusion and a positional scheme."""

    @cache
    def of(fusion: str, positions: str) -> tuple[Recipe, JointModel, float]:
        recipe = load_recipe(base, (f"model.fusion={{type: {fusion}}}", f"model.positions={{type: {positions}}}"))
        model = build.build_model(recipe, build.build_codecs(recipe), build.build_conditioner(recipe))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():  # what starts at zero would hide what lies before it from a single step
            for parameter in model.parameters():
                if parameter.abs().max() == 0 and parameter.ndim > 1:
                    parameter.normal_(std=0.1, generator=generator)
        return recipe, model, _one_step(recipe, model)

    return of


def _one_step(recipe: Recipe, model: JointModel) -> float:
    codecs, conditioner = build.build_codecs(recipe), build.build_conditioner(recipe)
    module = JointTraining(
        model, build.build_objective(recipe), [codecs.map(lambda codec: codec.grid())],
        AdamWCosine(steps=2, **build.training_of(recipe).optimizer.to_dict()), LossWatch(["a", "b"]),
        seed=0, choices=Choices(), gradient_clip=None,
    )  # fmt: skip
    optimizer, _ = module.make_optimizer(model, fused=False)
    generator = torch.Generator().manual_seed(2)
    latents = codecs.map(lambda codec: torch.randn((2, *codec.shape()), generator=generator))
    text = conditioner.encode(PROMPTS)
    batch = Batch([0, 1], Encoded(latents, latents.map(lambda _: text)), conditioner.encode([""]))
    losses = module.losses(batch)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert untouched == []
    optimizer.step()
    return float(total.detach())


@torch.no_grad()
def _clip(recipe: Recipe, model: JointModel, solver: str) -> Tensor:
    """Latents of one clip, both modalities in a row."""
    codecs, conditioner = build.build_codecs(recipe), build.build_conditioner(recipe)
    parts = build.build_sampling(recipe)
    text = conditioner.encode(PROMPTS[:1])
    contexts = {"prompt": model.embed_text(AV(text, text), cache=True)}
    network = BoundNetwork(model, contexts, codecs.map(lambda codec: codec.grid()), torch.float32)
    noise = draw_noise(codecs.map(lambda codec: (1, *codec.shape())), seed=5, same_seed=False)
    integrator = installed_catalog().find("solver", solver).component
    latents = sample(
        network, noise, parts.schedule, integrator.build(integrator.config()), parts.guidance, steps=3
    )  # fmt: skip
    return torch.cat([latents["video"].flatten(), latents["audio"].flatten()])


def test_the_lists_are_what_is_installed() -> None:
    catalog = installed_catalog()
    ours = {one.name for one in catalog if one.kind == "fusion" and one.plugin.distribution == "ovikit"}
    assert ours == set(FUSIONS)
    assert {one.name for one in catalog if one.kind == "positions"} >= set(POSITIONS)
    assert {one.name for one in catalog if one.kind == "solver"} >= set(SOLVERS)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_it_trains_and_samples_with_every_positional_scheme_and_solver(trained, fusion: str) -> None:
    clips: dict[tuple[str, str], Tensor] = {}
    for positions in POSITIONS:
        recipe, model, loss = trained(fusion, positions)
        assert 0 < loss < 100
        for solver in SOLVERS:
            clips[positions, solver] = _clip(recipe, model, solver)
    assert all(bool(clip.isfinite().all()) for clip in clips.values())
    for (a, one), (b, other) in combinations(clips.items(), 2):
        apart = float((one - other).abs().max())
        if a[1] == b[1] and fusion in WITHOUT_ANGLES and {a[0], b[0]} in ONE_TO_THEM:
            assert apart < 1e-3, (fusion, a, b)
        else:
            assert apart > 1e-4, (fusion, a, b)


def test_fusions_differ_from_each_other(trained) -> None:
    clips = {fusion: _clip(*trained(fusion, "scaled-audio")[:2], "unipc") for fusion in FUSIONS}
    for (a, one), (b, other) in combinations(clips.items(), 2):
        assert float((one - other).abs().max()) > 1e-3, (a, b)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_parameters_that_are_told_are_those_of_the_model(trained, fusion: str) -> None:
    recipe, model, _ = trained(fusion, "scaled-audio")
    count = sum(parameter.numel() for parameter in model.parameters())
    towers = sum(parameter.numel() for parameter in trained("none", "scaled-audio")[1].parameters())
    told = parameters_of(recipe)
    assert (told["all"], told["fusion"]) == (count, count - towers)
    table = training_table(model, build.build_objective(recipe), ("video", "audio"), 8, Optimizer(learning_rate=1e-3))
    parts, numbers = (list(column.cells) for column in table.columns[:2])
    shown = {part: int(str(number).replace(",", "")) for part, number in zip(parts, numbers, strict=True)}
    assert shown.get("fusion", 0) == told["fusion"]
    assert shown["video"] + shown["audio"] + shown.get("fusion", 0) == shown["all"] == count
