"""Parts of a model that start from the weights of another run: those weights and no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_kit import kit_installed, write_recipe

from ovikit.errors import UserError
from ovikit.files import sha256_of
from ovikit.recipe import build
from ovikit.recipe.document import read_yaml
from ovikit.recipe.load import load_recipe
from ovikit.recipe.models import Recipe
from ovikit.recipe.training import Initial
from ovikit.training.initial import fill_parts
from ovikit.training.parameters import part_of
from ovikit.training.run import train


@pytest.fixture(autouse=True)
def _kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with kit_installed(monkeypatch):
        yield


def drawn(recipe: Recipe) -> dict[str, torch.Tensor]:
    return build.build_model(recipe, build.build_codecs(recipe), build.build_conditioner(recipe)).state_dict()


def stage_one(folder: Path) -> Path:
    alone = ("model.video=null", "model.codecs.video=null", "model.fusion.type=none", "training.stage=audio")
    result = train(load_recipe(write_recipe(folder), (*alone, "training.trainer.max_steps=2")), folder / "audio")
    assert result.weights is not None
    return folder / "audio"


def test_a_joint_model_starts_with_the_tower_of_stage_one(tmp_path: Path) -> None:
    run = stage_one(tmp_path)
    path = write_recipe(tmp_path, "  batch_size: 3", f"  initial: [{{part: audio, path: {run}}}]\n  batch_size: 3")
    recipe = load_recipe(path, ())
    model = build.build_model(recipe, build.build_codecs(recipe), build.build_conditioner(recipe))
    assert recipe.training is not None
    fill_parts(model, recipe.training.initial)
    learned, own = load_file(run / "weights.safetensors"), drawn(recipe)
    assert any(not torch.equal(learned[name], own[name]) for name in learned)
    for name, value in model.state_dict().items():
        assert torch.equal(value, learned[name] if part_of(name) == "audio" else own[name]), name

    still = ("training.optimizer.learning_rate=1e-12", "training.optimizer.weight_decay=0", "training.ema=null")
    frozen = load_recipe(path, still)
    found = train(frozen, tmp_path / "joint").weights
    assert found is not None
    for name, value in load_file(found).items():
        assert torch.allclose(value, learned[name] if part_of(name) == "audio" else own[name], atol=1e-9), name
    kept = read_yaml(tmp_path / "joint/recipe.lock.yaml").data["lock"]["initial_sha256"]
    assert kept == {str(run): sha256_of(run / "weights.safetensors")}


def test_files_that_are_not_of_the_part_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), ())
    model = build.build_model(recipe, build.build_codecs(recipe), build.build_conditioner(recipe), "meta")
    whole = drawn(recipe)

    def refused(tensors: dict[str, torch.Tensor], part: str, match: str) -> None:
        save_file(tensors, tmp_path / "some.safetensors")
        with pytest.raises(UserError, match=match):
            fill_parts(model, (Initial(part=part, path=str(tmp_path / "some.safetensors")),))  # type: ignore[arg-type]
        assert all(value.is_meta for value in model.state_dict().values())

    audio = {name: one for name, one in whole.items() if part_of(name) == "audio"}
    refused(audio, "video", "holds nothing of video")
    first = next(iter(audio))
    refused({name: one for name, one in audio.items() if name != first}, "audio", f"missing: {first}")
    refused(audio | {first: torch.zeros(1)}, "audio", "of another shape")
    refused(audio | {"towers.audio.more": torch.zeros(1)}, "audio", "not in the model: towers.audio.more")
    with pytest.raises(UserError, match="no such weights file"):
        fill_parts(model, (Initial(part="audio", path=str(tmp_path / "nothing")),))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.lock.yaml").write_text("{}")
    with pytest.raises(UserError, match="has not ended"):
        fill_parts(model, (Initial(part="audio", path=str(tmp_path / "run")),))


def test_a_part_is_named_once(tmp_path: Path) -> None:
    twice = "  initial: [{part: audio, path: a}, {part: audio, path: b}]\n  batch_size: 3"
    with pytest.raises(UserError, match="the audio part is named twice"):
        load_recipe(write_recipe(tmp_path, "  batch_size: 3", twice), ())
