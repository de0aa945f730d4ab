"""The published guidances on a tiny Ovi: whole runs, passes in turn and as one batch, anchors from the codecs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ovikit.errors import UserError
from ovikit.evaluation.protocols import PromptItem
from ovikit.generate.batch import ClipMaker, SizedCodecs
from ovikit.generate.jobs import Job, Shape
from ovikit.generate.orders import passes_of
from ovikit.generate.run import Generated, find_source, generate
from ovikit.generate.texts import TextCache, Texts
from ovikit.kernel.manager import installed_catalog
from ovikit.layout import LOCK, WEIGHTS
from ovikit.networks.joint import JointModel
from ovikit.recipe.build import build_codecs, build_conditioner, build_model, build_sampling, clip_spec
from ovikit.recipe.load import load_recipe
from ovikit.recipe.lock import write_lock
from ovikit.recipe.models import Recipe
from ovikit.types import AV, MODALITIES

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny" / "ovi.yaml"
TOWER = (
    "{type: wan-tower, width: 48, feed_forward_width: 40, heads: 2, depth: 2, text_length: 16, frequency_width: 16, "
    "patch: [1, 1, 1]}"
)
SMALL = [
    "sampling.steps=3",
    f"model.video={TOWER}",
    f"model.audio={TOWER}",
    "sampling.negative={video: 'A blue ball', audio: 'A low tone'}",
    "clip.duration_s=1.0",
]
CFG = "cfg: {video: 2.0, audio: 2.5}"
GUIDANCES = {
    "skip-layer": f"{{type: skip-layer, layers: [1], {CFG}}}",
    "stg": f"{{type: stg, layers: [1], {CFG}}}",
    "modality-isolating": f"{{type: modality-isolating, {CFG}}}",
    "sync-cfg": f"{{type: sync-cfg, {CFG}}}",
    "apg": f"{{type: apg, threshold: 0.3, {CFG}}}",
    "cfg-zero-star": f"{{type: cfg-zero-star, {CFG}}}",
    "rescale": f"{{type: rescale, {CFG}}}",
    "interval": f"{{type: interval, video: [0.0, 0.9], audio: [0.0, 0.95], {CFG}}}",
    "composed": "{type: composed, parts: [{part: cfg, video: 2.0, audio: 2.5}, {part: sync-cfg}, {part: apg}, "
    "{part: modality-isolating}, {part: stg, layers: [0]}, {part: interval, video: [0.0, 0.95]}, {part: rescale}]}",
}
PROMPTS = ("A red ball flashes", "A green ball flashes")


def recipe_of(guidance: str, *overrides: str) -> Recipe:
    return load_recipe(RECIPE, [*SMALL, f"sampling.guidance={guidance}", *overrides])


def shaken(recipe: Recipe) -> JointModel:
    """The recipe's network with every weight random: heads and gates, too, which are drawn as zeros."""
    model = build_model(recipe, build_codecs(recipe), build_conditioner(recipe))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def kit() -> tuple[JointModel, SizedCodecs, Texts]:
    recipe = recipe_of("{type: cfg}")
    texts = TextCache().of(build_conditioner(recipe))
    texts.encode([*PROMPTS, "A blue ball", "A low tone"])
    return shaken(recipe), SizedCodecs(build_codecs(recipe), clip_spec(recipe)), texts


def clips(kit: tuple[JointModel, SizedCodecs, Texts], guidance: str, batched: bool, *overrides: str) -> AV[Tensor]:
    model, codecs, texts = kit
    sampling, size = build_sampling(recipe_of(guidance, *overrides)), (64, 64)
    asked = {m for run in passes_of(sampling, model.modalities) for m in run.anchored}
    anchors = {size: AV.of({m: codecs.anchor(m, size) for m in MODALITIES if m in asked})}
    maker = ClipMaker(model, codecs, texts, sampling, torch.float64, batched=batched, anchors=anchors)
    jobs = [Job(str(i), str(i), text, AV(text, text), i, Shape(size)) for i, text in enumerate(PROMPTS)]
    return maker.latents(jobs, {})


@pytest.fixture(scope="module")
def plain(kit) -> AV[Tensor]:
    return clips(kit, "{type: cfg, video: 2.0, audio: 2.5}", False)


@pytest.mark.parametrize("name", GUIDANCES)
def test_each_guidance_samples_finite_clips_of_its_own(kit, plain: AV[Tensor], name: str) -> None:
    in_turn, batched = (clips(kit, GUIDANCES[name], batched) for batched in (False, True))
    for modality, value in in_turn.items():
        assert bool(torch.isfinite(value).all())
        assert float((value - plain[modality]).abs().max()) > 1e-4 * float(plain[modality].abs().max())
        # the latents are float32 around a float64 network
        torch.testing.assert_close(batched[modality], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", installed_catalog().of("solver"))
def test_everything_at_once_is_finite_under_every_solver(kit, solver: str) -> None:
    """In a run in which a modality waits, both move, and one is finished."""
    windows = "sampling.schedule={type: decoupled, video: {end: 0.75}, audio: {begin: 0.25}, start: 0.999}"
    overrides = f"sampling.solver={{type: {solver}}}", windows, "sampling.steps=4"
    for value in clips(kit, GUIDANCES["composed"], True, *overrides).values():
        assert bool(torch.isfinite(value).all())


def test_anchors_are_a_grey_picture_and_silence(kit) -> None:
    codecs = kit[1]
    for size in ((64, 64), (64, 128)):
        for modality, codec in codecs.of(size).items():
            anchor = codecs.anchor(modality, size)
            assert anchor.shape == (1, *codec.shape())
            heard = codec.decode(anchor)
            assert float(heard.abs().max()) < 0.02
            # nothing happens: all steps are alike
            torch.testing.assert_close(anchor, anchor[:, :, :1].expand_as(anchor), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose weights were drawn, not trained."""
    folder = tmp_path_factory.mktemp("run")
    recipe = recipe_of("{type: cfg}")
    write_lock(recipe, folder / LOCK)
    tensors = {name: value.float() for name, value in shaken(recipe).state_dict().items()}
    save_file(tensors, folder / WEIGHTS, {"digest": recipe.digest, "step": "0"})
    return folder


def made(run: Path, folder: Path, guidance: str, **options: Any) -> Generated:
    source = find_source(run, [f"sampling.guidance={guidance}", "sampling.steps=2"])
    items = [PromptItem(f"{i}", text) for i, text in enumerate(PROMPTS)]
    return generate(source, items, folder, batch_size=2, **options)


def test_anchors_are_made_where_guidance_asks_for_them_and_only_there(run: Path, tmp_path: Path) -> None:
    done = made(run, tmp_path / "sync", GUIDANCES["sync-cfg"], size=(64, 128))
    assert len(done.made) == len(PROMPTS)
    assert "anchors" in done.phases
    assert "anchors" not in made(run, tmp_path / "apg", GUIDANCES["apg"]).phases
    never = "{type: composed, parts: [{part: sync-cfg}, {part: interval, video: [0.0, 0.01], audio: [0.0, 0.01]}]}"
    assert "anchors" not in made(run, tmp_path / "never", never).phases


def test_layers_that_are_not_there_are_refused_whatever_the_level_of_their_pass(run: Path, tmp_path: Path) -> None:
    late = "{type: composed, parts: [{part: stg, layers: [9]}, {part: interval, video: [0, 0.9], audio: [0, 0.9]}]}"
    with pytest.raises(UserError, match=r"sampling\.guidance: there is no layer 9: the model has 2"):
        made(run, tmp_path, late)
