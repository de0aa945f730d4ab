"""A recipe to running parts: what is built, from which seed, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_kit import kit_installed, write_recipe

from ovikit.checkpoints.load import write_tensors
from ovikit.errors import UserError
from ovikit.kernel.kinds import KINDS
from ovikit.kernel.manager import installed_catalog
from ovikit.networks.joint import JointModel
from ovikit.recipe import build
from ovikit.recipe.load import load_recipe
from ovikit.recipe.models import Recipe


@pytest.fixture(autouse=True)
def _kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with kit_installed(monkeypatch):
        yield


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    return load_recipe(write_recipe(folder), overrides)


def model_of(recipe: Recipe, device: str = "cpu") -> JointModel:
    return build.build_model(recipe, build.build_codecs(recipe), build.build_conditioner(recipe), device)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_weights_are_a_function_of_the_recipes_seed(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = model_of(recipe_of(tmp_path)).state_dict()
    torch.manual_seed(2)
    assert same(first, model_of(recipe_of(tmp_path)).state_dict())
    assert not same(first, model_of(recipe_of(tmp_path, "model.seed=1")).state_dict())
    assert all(torch.isfinite(value).all() for value in first.values())


def test_building_does_not_touch_the_global_generator(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    model_of(recipe_of(tmp_path))
    assert torch.equal(torch.get_rng_state(), before)


def test_on_meta_there_are_shapes_and_no_storage(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    meta, real = model_of(recipe, "meta").state_dict(), model_of(recipe).state_dict()
    assert all(value.device.type == "meta" for value in meta.values())
    assert {name: value.shape for name, value in meta.items()} == {name: value.shape for name, value in real.items()}


def test_one_tower_has_one_codec_and_no_fusion(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "model.audio=null", "model.fusion.type=none", "training.stage=video")
    assert build.build_codecs(recipe).modalities == ("video",)
    model = model_of(recipe)
    assert model.modalities == ("video",)
    assert all(layer.fusion is None for layer in model.layers)


def test_a_checkpoint_takes_the_place_of_the_seed(tmp_path: Path) -> None:
    weights = model_of(recipe_of(tmp_path)).state_dict()
    write_tensors(tmp_path / "w.safetensors", weights, {})
    recipe = recipe_of(
        tmp_path, "model.seed=5", "model.checkpoint.type=ovikit", f"model.checkpoint.path={tmp_path}/w.safetensors"
    )
    loaded = model_of(recipe)
    assert same(loaded.state_dict(), weights)
    assert not any(value.is_meta for value in [*loaded.parameters(), *loaded.buffers()])


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    weights = model_of(recipe_of(tmp_path, "model.video.depth=1", "model.audio.depth=1")).state_dict()
    write_tensors(tmp_path / "w.safetensors", weights, {})
    recipe = recipe_of(tmp_path, f"model.checkpoint={{type: ovikit, path: {tmp_path}/w.safetensors}}")
    with pytest.raises(UserError, match="these weights are not of this model"):
        model_of(recipe)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no asset 'nothing\.bin'"):
        model_of(recipe_of(tmp_path, "model.checkpoint={type: ovikit, path: nothing.bin}"))


def test_sampling_is_what_the_recipe_says(tmp_path: Path) -> None:
    sampling = build.build_sampling(
        recipe_of(
            tmp_path, "sampling.steps=7", "sampling.seed=3", "sampling.negative.audio=hiss", "sampling.solver.type=heun"
        )
    )
    assert (sampling.steps, sampling.seed, sampling.negative.video, sampling.negative.audio) == (7, 3, "", "hiss")
    assert sampling.solver.order == 2
    assert sampling.schedule.sigmas(7)["video"].shape == (8,)


def test_the_clips_form_reaches_codecs_and_dataset(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "clip.duration_s=1.0")
    clip = build.clip_spec(recipe)
    assert (clip.frames, clip.samples) == (8, 16000)
    found = build.build_dataset(recipe)[0]
    assert found.video is not None
    assert found.video.shape == (8, 8, 8, 3)


def test_a_recipe_without_training_says_so(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "training=null")
    with pytest.raises(UserError, match=r"kit\.yaml: recipe 'kit' has no training section"):
        build.build_dataset(recipe)


def test_a_component_is_built_with_the_keywords_of_its_kind(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"a codec is built with \('clip', 'assets'\), not \(\)"):
        build.build_slot(recipe_of(tmp_path).model.codecs.video)  # type: ignore[arg-type]


def test_every_built_in_without_required_options_and_context_builds() -> None:
    built = 0
    for one in installed_catalog():
        options = one.component.config.model_fields.values()
        if one.plugin.name == "builtins" and not KINDS[one.kind].keywords and not any(o.is_required() for o in options):
            try:
                made = one.component.build(one.component.config())
            except UserError as error:
                if "pip install 'ovikit[" not in str(error):  # what it needs is not installed here, and it says so
                    raise
                continue
            assert made is not None
            built += 1
    assert built >= 8


def test_what_a_component_refuses_is_told_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(config: object, **keywords: object) -> None:
        raise ValueError("a height of 31 cannot be cut into blocks of 8")

    slot = recipe_of(tmp_path).model.codecs.video
    assert slot is not None
    one = installed_catalog().find("codec", slot.type)
    monkeypatch.setitem(
        installed_catalog()._by_kind["codec"], slot.type, replace(one, component=replace(one.component, build=refuses))
    )
    with pytest.raises(UserError, match=f"codec '{slot.type}': a height of 31 cannot be cut into blocks of 8"):
        build.build_codecs(recipe_of(tmp_path))
