"""``ovikit weights init-from-wan``: the video tower is Wan's, to the bit and in what it computes."""

from __future__ import annotations

import json
from pathlib import Path

import official_kit as kit
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from ovikit.checkpoints.load import load_into
from ovikit.checkpoints.state import read_state
from ovikit.cli import build_app
from ovikit.errors import UserError
from ovikit.networks.joint import JointModel
from ovikit.recipe.build import build_codecs, build_conditioner, build_model, load_weights
from ovikit.recipe.load import load_recipe
from ovikit.recipe.models import Recipe
from ovikit.recipe.training import Initial
from ovikit.training.initial import fill_parts
from ovikit.training.parameters import part_of
from ovikit.types import AV, Perturbation, Text
from ovikit_ovi.weights.wan import init_from_wan

START = ["model.checkpoint=null"]
ALONE = ["model.checkpoint=null", "model.audio=null", "model.codecs.audio=null", "model.fusion.type=none"]


def wan_names(joint: dict[str, Tensor]) -> dict[str, Tensor]:
    """The video tower of an official joint model as Wan publishes its transformer."""
    made = {}
    for name, one in joint.items():
        if name.startswith("video_model.") and "fusion" not in name:
            made[name.removeprefix("video_model.").replace(".modulation.modulation", ".modulation")] = one
    return made


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """Wan's transformer, float32 as published."""
    return {name: one.float() for name, one in wan_names(kit.joint_tensors(7)).items()}


@pytest.fixture
def wan(tensors: dict[str, Tensor], tmp_path: Path) -> Path:
    """Wan's folder: two shards and their index."""
    folder, names = tmp_path / "Wan2.2-TI2V-5B", list(tensors)
    folder.mkdir()
    parts = (names[: len(names) // 2], names[len(names) // 2 :])
    where = {}
    for i, part in enumerate(parts, start=1):
        file = f"diffusion_pytorch_model-0000{i}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return folder


def _recipe(tmp_path: Path, *overrides: str) -> Recipe:
    return load_recipe(kit.write_recipe(tmp_path / "tiny.yaml"), list(overrides or START))


def _model(recipe: Recipe, weights: Path) -> JointModel:
    model = build_model(recipe, build_codecs(recipe), build_conditioner(recipe))
    load_weights(model, weights)
    return model


def _run(model: JointModel, recipe: Recipe, modality: tuple[str, ...], perturbation: Perturbation) -> AV[Tensor]:
    codecs, generator = build_codecs(recipe), torch.Generator().manual_seed(3)
    text = Text(torch.randn(2, 5, 32, generator=generator), torch.tensor([5, 3]))
    latents = AV.of({m: torch.randn(2, *codecs[m].shape(), generator=generator) for m in modality})
    sigma = latents.map(lambda one: torch.tensor([0.3, 0.9]))
    context = model.embed_text(latents.map(lambda one: text), cache=False)
    grids = AV.of({m: codecs[m].grid() for m in modality})
    with torch.no_grad():
        return model(latents, sigma, context, grids, perturbation=perturbation)


def test_the_towers_alone_compute_what_they_did(wan: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    """A tower alone, filled by the test's own names, against the one in the joint model with the fusion cut."""
    recipe, alone = _recipe(tmp_path), _recipe(tmp_path, *ALONE)
    init_from_wan(recipe, wan, tmp_path / "start.safetensors")
    joint = _model(recipe, tmp_path / "start.safetensors")
    tower = build_model(alone, build_codecs(alone), build_conditioner(alone))
    ours = {}
    for name, one in tensors.items():
        if name.startswith("blocks."):
            _, i, rest = name.split(".", 2)
            rest = rest.replace("cross_attn.", "context_attn.").replace("norm3.", "context_norm.")
            ours[f"layers.{i}.blocks.video.{'modulation_bias' if rest == 'modulation' else rest}"] = one
        else:
            ours[f"towers.video.{name}"] = one
    load_into(tower, ours, "wan")
    before = _run(tower, alone, ("video",), Perturbation())
    after = _run(joint, recipe, ("video", "audio"), Perturbation(cut_fusion=True))
    torch.testing.assert_close(after["video"], before["video"], rtol=0, atol=1e-6)
    fused = _run(joint, recipe, ("video", "audio"), Perturbation())
    assert (fused["video"] - after["video"]).abs().max() > 1e-3


def test_every_tensor_is_somebodys(wan: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    recipe, output = _recipe(tmp_path), tmp_path / "start.safetensors"
    told = init_from_wan(recipe, wan, output)
    found, metadata = read_state(output)
    assert sum(told.values()) == len(found)
    assert next(iter(told.values())) == len(tensors)
    video = {name: one for name, one in found.items() if name.startswith("towers.video") or ".blocks.video." in name}
    assert len(video) == len(tensors)
    assert sorted(float(one.sum()) for one in video.values()) == sorted(float(one.sum()) for one in tensors.values())
    assert all(torch.isfinite(one).all() for one in found.values())
    origin = json.loads(metadata["origin"])
    assert sorted(origin["sha256"]) == sorted(path.name for path in wan.glob("*.safetensors"))
    assert metadata["digest"] == recipe.digest


def test_the_same_seed_draws_the_same_and_the_fusion_at_its_scale(wan: Path, tmp_path: Path) -> None:
    for name, overrides in (("a", START), ("b", START), ("c", [*START, "model.seed=5"])):
        init_from_wan(_recipe(tmp_path, *overrides), wan, tmp_path / f"{name}.safetensors")
    a, b, c = (load_file(tmp_path / f"{name}.safetensors") for name in "abc")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert all(torch.equal(a[name], b[name]) for name in a)
    key, query = "layers.0.fusion.reads.video.k.weight", "layers.0.blocks.audio.self_attn.q.weight"
    assert not torch.equal(a[key], c[key])
    # Xavier's bound for a square matrix is sqrt(3 / width); the fusion starts at a tenth of it.
    assert a[query].abs().max() == pytest.approx((3 / 48) ** 0.5, rel=0.01)
    assert a[key].abs().max() == pytest.approx(0.1 * (3 / 48) ** 0.5, rel=0.01)


@pytest.mark.parametrize("names", ["official", "ours"])
def test_an_audio_tower_from_a_file(wan: Path, tmp_path: Path, names: str) -> None:
    recipe, joint = _recipe(tmp_path), kit.joint_tensors(11)
    audio = tmp_path / "audio.safetensors"
    kit.write_joint_weights(audio, joint)
    if names == "ours":
        init_from_wan(recipe, wan, tmp_path / "first.safetensors", audio)
        audio = tmp_path / "first.safetensors"
    told = init_from_wan(recipe, wan, tmp_path / "start.safetensors", audio)
    found = load_file(tmp_path / "start.safetensors")
    here = found["towers.audio.patch_embedding.2.w1.weight"]
    assert torch.equal(here, joint["audio_model.patch_embedding.2.w1.weight"].float())
    assert told["seed 0"] == sum(".fusion." in name for name in found)


def test_number_format_of_the_recipe(wan: Path, tmp_path: Path) -> None:
    init_from_wan(_recipe(tmp_path, *START, "model.precision.dtype=bfloat16"), wan, tmp_path / "start.safetensors")
    found = load_file(tmp_path / "start.safetensors")
    assert found["towers.video.patch_embedding.weight"].dtype == torch.bfloat16


def test_the_command_says_what_came_from_where(wan: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    recipe, output = kit.write_recipe(tmp_path / "tiny.yaml"), tmp_path / "start.safetensors"
    arguments = ["weights", "init-from-wan", str(wan), str(output), "--recipe", str(recipe), "-o", START[0]]
    result = CliRunner().invoke(build_app(), arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert f"{len(tensors)} tensors from {wan}" in result.output
    assert output.is_file()


def test_no_file_is_overwritten_least_of_all_the_one_that_is_read(wan: Path, tmp_path: Path) -> None:
    recipe, source = _recipe(tmp_path), wan / "diffusion_pytorch_model-00001-of-00002.safetensors"
    before = source.read_bytes()
    for output, message in ((source, "there already"), (wan, "there already"), (tmp_path / "a.pth", "a .safetensors")):
        with pytest.raises(UserError, match=message):
            init_from_wan(recipe, wan, output)
    assert source.read_bytes() == before


# What does not fit


def _refused(tmp_path: Path, wan: Path, told: str, *overrides: str, audio: Path | None = None) -> None:
    with pytest.raises(UserError, match=told):
        init_from_wan(_recipe(tmp_path, *overrides), wan, tmp_path / "start.safetensors", audio)
    assert not list(tmp_path.glob("*start*"))


def test_a_tensor_too_few_or_too_many(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    less = {name: one for name, one in tensors.items() if name != "head.modulation"}
    save_file(less, tmp_path / "less.safetensors")
    _refused(tmp_path, tmp_path / "less.safetensors", "1 tensors missing: towers.video.head.modulation")
    save_file(tensors | {"img_emb.proj.weight": torch.zeros(2)}, tmp_path / "more.safetensors")
    _refused(tmp_path, tmp_path / "more.safetensors", "1 tensors not in the model: towers.video.img_emb.proj.weight")


def test_another_size(wan: Path, tmp_path: Path) -> None:
    _refused(tmp_path, wan, "of another shape", *START, "model.video.width=96", "model.video.heads=4")
    _refused(tmp_path, wan, "tensors missing", *START, "model.video.depth=4", "model.audio.depth=4")


def test_what_is_not_wans(tmp_path: Path) -> None:
    kit.write_joint_weights(tmp_path / "joint.safetensors", kit.joint_tensors())
    _refused(tmp_path, tmp_path / "joint.safetensors", "this is not Wan's transformer")
    (tmp_path / "empty").mkdir()
    _refused(tmp_path, tmp_path / "empty", "there is neither")


def test_a_missing_shard(wan: Path, tmp_path: Path) -> None:
    (wan / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    _refused(tmp_path, wan, "no such weights file")


def test_an_audio_file_without_the_tower(wan: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "audio.safetensors")
    _refused(tmp_path, wan, "not the recipe's audio tower", audio=tmp_path / "audio.safetensors")


def test_a_model_without_sound(wan: Path, tmp_path: Path) -> None:
    _refused(tmp_path, wan, "a video and an audio tower", *ALONE)


def test_training_starts_its_video_tower_from_the_same_tensors(wan: Path, tmp_path: Path) -> None:
    recipe = _recipe(tmp_path)
    init_from_wan(recipe, wan, tmp_path / "start.safetensors")
    model = build_model(recipe, build_codecs(recipe), build_conditioner(recipe))
    before = {name: one.clone() for name, one in model.state_dict().items()}
    fill_parts(model, (Initial(part="video", path=str(wan)),))
    started = load_file(tmp_path / "start.safetensors")
    for name, one in model.state_dict().items():
        assert torch.equal(one, (started if part_of(name) == "video" else before)[name]), name
