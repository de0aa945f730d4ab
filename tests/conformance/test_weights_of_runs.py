"""``ovikit weights convert`` of a run: what was trained in full, in the official layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import official_kit as kit
import pytest
import torch
from official_clips import clips, write_clips
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from ovikit.checkpoints.state import read_state
from ovikit.cli import build_app
from ovikit.errors import UserError
from ovikit.layout import LOCK, WEIGHTS
from ovikit.recipe.build import build_codecs, build_conditioner, build_model, find_assets
from ovikit.recipe.load import load_recipe
from ovikit.recipe.lock import write_lock
from ovikit.recipe.models import Recipe
from ovikit.training.run import train
from ovikit_ovi.formats import ovi_format
from ovikit_ovi.weights.check import check_folder
from ovikit_ovi.weights.convert import convert_run

JOINT = "Ovi/model.safetensors"
TRAINING = (
    "{objective: {type: flow-matching}, data: {type: folder, path: CLIPS}, batch_size: 2, optimizer: {learning_rate:"
    " 1e-2}, ema: {decay: 0.9}, trainer: {max_steps: 4, accelerator: cpu, checkpoint_every_steps: 2}}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.make_folder(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    home = write_clips(tmp_path_factory.mktemp("recipe"))
    return load_recipe(kit.write_recipe(home / "tiny.yaml", training=TRAINING.replace("CLIPS", str(home))), ())


@pytest.fixture(scope="module")
def run(recipe: Recipe, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("runs") / "full"
    assert train(recipe, home, assets=find_assets(folder)).step == 4
    return home


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(build_app(), [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def _state(recipe: Recipe, folder: Path) -> dict[str, Tensor]:
    """Of the model that a recipe makes with the weights of a folder."""
    assets = find_assets(folder)
    codecs, conditioner = build_codecs(recipe, assets), build_conditioner(recipe, assets)
    return build_model(recipe, codecs, conditioner, assets=assets).state_dict()


def test_what_was_trained_is_a_released_file(recipe: Recipe, run: Path, folder: Path, tmp_path: Path) -> None:
    """Official names, every tensor and its value; and with the other files of the release beside it, the same clips."""
    told = _run("weights", "convert", run, tmp_path / "mine", "--to", "official")
    assert f"wrote {tmp_path / 'mine' / JOINT}" in told
    written, metadata = read_state(tmp_path / "mine" / JOINT)
    assert {name: tuple(one.shape) for name, one in written.items()} == kit.joint_shapes()
    assert metadata["format"] == "pt"
    assert (metadata["ovikit.digest"], metadata["ovikit.step"]) == (recipe.digest, "4")
    shutil.copytree(folder, tmp_path / "mine", ignore=shutil.ignore_patterns("Ovi"), dirs_exist_ok=True)
    assert check_folder(tmp_path / "mine").runnable() == ("720x720_5s",)
    trained, base = load_file(run / WEIGHTS), _state(recipe, folder)
    again = _state(recipe, tmp_path / "mine")
    assert all(torch.equal(again[name], one) for name, one in trained.items())
    assert not all(torch.equal(base[name], one) for name, one in trained.items())
    for name, source, weights in (("run", run, folder), ("file", recipe.source, tmp_path / "mine")):
        _run("generate", source, "--weights", weights, "--prompt", "noise", "--seed", 3, "--out", tmp_path / name)
    assert clips(tmp_path / "run") == clips(tmp_path / "file")


def test_a_checkpoint_in_half_the_size(run: Path, tmp_path: Path) -> None:
    options = ("--to", "official", "--checkpoint", "step-000002")
    _run("weights", "convert", run, tmp_path / "a", *options)
    _run("weights", "convert", run, tmp_path / "b", *options, "--dtype", "bfloat16")
    whole, half = (load_file(tmp_path / name / JOINT) for name in "ab")
    assert all(torch.equal(half[name], one.bfloat16()) for name, one in whole.items())
    last = official(load_file(run / WEIGHTS))
    assert not all(torch.equal(last[name], one) for name, one in whole.items())


def official(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return ovi_format().keymap.to_official(tensors)


def test_into_our_own_layout_and_back(run: Path, tmp_path: Path) -> None:
    _run("weights", "convert", run, tmp_path / "own", "--to", "ovikit", "--variant", "960x960_5s")
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["ovi-960x960-5s.safetensors", "ovikit.json"]
    _run("weights", "convert", tmp_path / "own", tmp_path / "back", "--to", "official")
    assert read_state(tmp_path / "back/Ovi/model_960x960.safetensors")[1]["format"] == "pt"
    found, expected = load_file(tmp_path / "back/Ovi/model_960x960.safetensors"), official(load_file(run / WEIGHTS))
    assert found.keys() == expected.keys()
    assert all(torch.equal(one, expected[name]) for name, one in found.items())


def test_what_is_no_joint_model_is_refused(recipe: Recipe, run: Path, folder: Path, tmp_path: Path) -> None:
    assert recipe.source is not None
    adapters = load_recipe(recipe.source, ("training.lora={rank: {video: 1, audio: 1, fusion: 1}}",))
    train(adapters, tmp_path / "lora", assets=find_assets(folder))
    with pytest.raises(UserError, match=r"(?s)this run trained adapters.*ovikit lora merge"):
        convert_run(tmp_path / "lora", tmp_path / "out", "official")
    shutil.copytree(run, tmp_path / "spoilt")
    tensors = load_file(run / WEIGHTS)
    save_file({name: one for name, one in tensors.items() if "fusion" not in name}, tmp_path / "spoilt" / WEIGHTS)
    with pytest.raises(UserError, match=r"what it trained is not of the official layout: .* tensors missing"):
        convert_run(tmp_path / "spoilt", tmp_path / "out", "official")
    other = load_recipe(recipe.source, ("model.checkpoint.path=elsewhere.safetensors",))
    write_lock(other, tmp_path / "spoilt" / LOCK, checkpoint_sha256="")
    with pytest.raises(UserError, match=r"(?s)does not follow from the run's recipe.*--variant"):
        convert_run(tmp_path / "spoilt", tmp_path / "out", "official")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="not the folder of a run"):
        _run("weights", "convert", folder, tmp_path / "out", "--to", "ovikit", "--dtype", "bfloat16")
