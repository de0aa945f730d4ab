"""Adapters on a small model in the official layout: trained, resumed, read by other tools, merged."""

from __future__ import annotations

import json
from pathlib import Path

import official_kit as kit
import pytest
import torch
from official_clips import write_clips
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from ovikit.checkpoints.assets import Assets
from ovikit.checkpoints.load import on_host
from ovikit.checkpoints.lora import Merging, read_adapters
from ovikit.cli import build_app
from ovikit.errors import UserError
from ovikit.generate.source import find_source
from ovikit.networks.joint import JointModel
from ovikit.networks.lora import LoraLinear, adapted_layers, is_adapter
from ovikit.recipe.build import (
    build_codecs,
    build_conditioner,
    build_model,
    fill_model,
    find_assets,
    load_adapters,
    load_weights,
)
from ovikit.recipe.load import load_recipe
from ovikit.recipe.models import Recipe
from ovikit.training.parameters import adapt, part_of, select_trained
from ovikit.training.run import train
from ovikit.types import AV, Text

TRAINING = (
    "{objective: {type: flow-matching}, data: {type: folder, path: CLIPS}, batch_size: 2, text_dropout: 0.1,"
    " lora: {rank: {video: 2, audio: 3, fusion: 4}, alpha: 4}, ema: {decay: 0.9},"
    " optimizer: {learning_rate: 1e-2}, trainer: {max_steps: 4, accelerator: cpu, checkpoint_every_steps: 2}}"
)
ADAPTERS = 3 * 2 * (4 + 4 + 2)
"""Layers, towers; self and context attention, and the keys and values of the fusion."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.make_folder(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Of a run on three clips of noise and a tone, in files."""
    home = write_clips(tmp_path_factory.mktemp("recipe"))
    return load_recipe(kit.write_recipe(home / "tiny.yaml", training=TRAINING.replace("CLIPS", str(home))), ())


@pytest.fixture(scope="module")
def run(recipe: Recipe, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("runs") / "lora"
    assert train(recipe, home, assets=find_assets(folder)).step == 4
    return home


def model_of(recipe: Recipe, folder: Path, device: str = "cpu") -> JointModel:
    assets = find_assets(folder)
    return build_model(recipe, build_codecs(recipe, assets), build_conditioner(recipe, assets), device, assets=assets)


def output(model: nn.Module, recipe: Recipe) -> AV[Tensor]:
    """The velocities of some latents, in float64."""
    codecs = build_codecs(recipe, Assets())
    generator = torch.Generator().manual_seed(3)
    width = build_conditioner(recipe, Assets()).width
    text = Text(torch.randn(2, 5, width, generator=generator).double(), torch.tensor([5, 3]))
    latents = codecs.map(lambda codec: torch.randn(2, *codec.shape(), generator=generator).double())
    sigma, grids = latents.map(lambda _: torch.tensor([0.3, 0.9]).double()), codecs.map(lambda codec: codec.grid())
    assert isinstance(model, JointModel)
    with torch.no_grad():
        return model(latents, sigma, model.embed_text(AV(text, text), cache=False), grids)


def assert_equal(one: AV[Tensor], other: AV[Tensor], tolerance: float) -> None:
    for modality, value in one.items():
        assert (value - other[modality]).abs().max() <= tolerance * value.abs().max(), modality


def test_new_adapters_change_nothing_and_nothing_else_is_trained(recipe: Recipe, folder: Path) -> None:
    model = model_of(recipe, folder).double()
    before = output(model, recipe)
    assert recipe.training is not None
    assert recipe.training.lora is not None
    names = adapt(model, recipe.training.lora, 5)
    assert len(names) == ADAPTERS
    assert_equal(before, output(model, recipe), 0.0)
    select_trained(model, "joint", ())
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if is_adapter(name)
    }
    for name, layer in adapted_layers(model):
        assert layer.lora_A.out_features == {"video": 2, "audio": 3, "fusion": 4}[part_of(name)]
        assert layer.lora_A.weight.abs().max() <= layer.in_features**-0.5
        assert layer.scale == 4 / layer.lora_A.out_features
    select_trained(model, "audio", ())
    assert {part_of(name) for name, p in model.named_parameters() if p.requires_grad} == {"audio"}


def test_the_gradient_of_an_adapter_is_that_of_its_share_of_the_weight() -> None:
    base = nn.Linear(5, 7).double()
    layer = LoraLinear(base, 3, 6.0)
    layer.draw(torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.lora_B.weight.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    whole = (base.weight + 2.0 * layer.lora_B.weight @ layer.lora_A.weight).detach().requires_grad_()
    torch.testing.assert_close(layer(x), x @ whole.T + base.bias, rtol=0, atol=1e-13)
    layer(x).square().sum().backward()
    (x @ whole.T + base.bias).square().sum().backward()
    assert whole.grad is not None
    torch.testing.assert_close(layer.lora_B.weight.grad, 2.0 * whole.grad @ layer.lora_A.weight.T, rtol=1e-12, atol=0)
    torch.testing.assert_close(layer.lora_A.weight.grad, 2.0 * layer.lora_B.weight.T @ whole.grad, rtol=1e-12, atol=0)


def test_a_run_keeps_its_adapters_and_nothing_else(run: Path) -> None:
    tensors = load_file(run / "lora.safetensors")
    assert len(tensors) == 2 * ADAPTERS
    assert all(map(is_adapter, tensors))
    assert any(value.abs().max() > 0 for name, value in tensors.items() if "lora_B" in name)
    state = torch.load(run / "checkpoints/step-000002.ckpt", weights_only=True)["state_dict"]
    assert len(state) == 2 * ADAPTERS
    assert not (run / "weights.safetensors").exists()


def test_an_interrupted_run_goes_on_exactly(
    recipe: Recipe, folder: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ovikit.training.module import JointTraining

    real = JointTraining.losses

    def losses(self: JointTraining, batch):
        if batch.step == 3:
            raise RuntimeError("power cut")
        return real(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(JointTraining, "losses", losses)
        with pytest.raises(RuntimeError, match="power cut"):
            train(recipe, tmp_path / "parts", assets=find_assets(folder))
    train(recipe, tmp_path / "parts", resume=True, assets=find_assets(folder))
    whole, parts = load_file(run / "lora.safetensors"), load_file(tmp_path / "parts/lora.safetensors")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def adapted(recipe: Recipe, folder: Path, run: Path) -> JointModel:
    """The base in float64 with the run's adapters beside its weights."""
    model = model_of(recipe, folder)
    assert recipe.training is not None
    assert recipe.training.lora is not None
    adapt(model, recipe.training.lora, 0)
    missing, unexpected = model.load_state_dict(load_file(run / "lora.safetensors"), strict=False)
    assert not unexpected
    assert not any(map(is_adapter, missing))
    return model.double()


def test_merged_weights_compute_what_base_and_adapters_do(
    recipe: Recipe, folder: Path, run: Path, tmp_path: Path
) -> None:
    wanted = output(adapted(recipe, folder, run), recipe)
    plain = output(model_of(recipe, folder).double(), recipe)
    assert any((wanted[m] - plain[m]).abs().max() > 1e-3 * plain[m].abs().max() for m in wanted.modalities)

    model = model_of(recipe, folder, "meta").double()
    merging = Merging(
        lambda name, tensor, scale=None: on_host(name, tensor, scale),
        [load_adapters(model, run / "lora.safetensors")],
    )
    wide = kit.joint_tensors()
    save_file({name: one.double() for name, one in wide.items()}, tmp_path / "wide.safetensors")
    load_weights(model, tmp_path / "wide.safetensors", merging)
    assert len(merging.used) == ADAPTERS
    assert_equal(wanted, output(model, recipe), 1e-6)  # the adapters themselves are float32

    command = ["lora", "merge", str(run), "--weights", str(folder), "--out", str(tmp_path / "merged.safetensors")]
    done = CliRunner().invoke(build_app(), command, catch_exceptions=False)
    assert f"{ADAPTERS} weights of model.safetensors changed" in done.stdout
    merged = load_file(tmp_path / "merged.safetensors")
    assert merged.keys() == wide.keys()
    adapters = load_adapters(model, run / "lora.safetensors").layers
    changed = [name for name in merged if not torch.equal(merged[name], wide[name])]
    assert 0 < len(changed) <= ADAPTERS
    for name, value in merged.items():
        assert value.dtype == wide[name].dtype
    name = "layers.1.blocks.audio.self_attn.q"
    official = "audio_model.blocks.1.self_attn.q.weight"
    assert torch.equal(merged[official], (wide[official].float() + adapters[name].delta()).to(torch.bfloat16))
    again = model_of(recipe, folder, "meta")
    load_weights(again, tmp_path / "merged.safetensors")
    with pytest.raises(UserError, match="there already"):
        CliRunner().invoke(build_app(), command, catch_exceptions=False)


def test_a_base_kept_in_bfloat16_is_the_same_base(recipe: Recipe, folder: Path, tmp_path: Path) -> None:
    """The released weights are bfloat16, and steps compute in it: nothing is lost."""
    assert recipe.source is not None
    found = []
    for frozen in ("float32", "bfloat16"):
        options = ("training.trainer.precision=bf16-mixed", "training.trainer.max_steps=2", f"training.frozen={frozen}")
        result = train(load_recipe(recipe.source, options), tmp_path / frozen, assets=find_assets(folder))
        assert result.weights is not None
        found.append(load_file(result.weights))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    with pytest.raises(UserError, match=r"needs trainer\.precision bf16-mixed, not 32-true"):
        load_recipe(recipe.source, ("training.frozen=bfloat16",))


class Official(nn.Module):
    """The layers that adapters are for, under official names, for PEFT to adapt."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, value in tensors.items():
            *path, layer, leaf = name.split(".")
            if leaf != "weight" or layer not in ("q", "k", "v", "o", "k_fusion", "v_fusion"):
                continue
            owner: nn.Module = self
            for piece in path:
                if piece not in owner._modules:
                    owner.add_module(piece, nn.Module())
                owner = owner.get_submodule(piece)
            linear = nn.Linear(value.shape[1], value.shape[0], bias=False)
            linear.weight = nn.Parameter(value.double())
            owner.add_module(layer, linear)

    def forward(self, layer: str, x: Tensor) -> Tensor:
        return self.get_submodule(layer)(x)


def test_peft_reads_what_is_exported(recipe: Recipe, folder: Path, run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(build_app(), ["lora", "export", str(run), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    base = Official(kit.joint_tensors())
    peft = PeftModel.from_pretrained(base, str(tmp_path / "out")).double()
    model = model_of(recipe, folder, "meta")
    adapters = load_adapters(model, run / "lora.safetensors").layers
    wide = kit.joint_tensors()
    pairs = {
        "video_model.blocks.0.self_attn.q": "layers.0.blocks.video.self_attn.q",
        "audio_model.blocks.2.cross_attn.o": "layers.2.blocks.audio.context_attn.o",
        "audio_model.blocks.1.cross_attn.k_fusion": "layers.1.fusion.reads.audio.k",
    }
    for official, ours in pairs.items():
        x = torch.randn(3, 48, generator=torch.Generator().manual_seed(1)).double()
        wanted = x @ (wide[f"{official}.weight"].double() + adapters[ours].delta().double()).T
        torch.testing.assert_close(peft(official, x), wanted, rtol=1e-6, atol=1e-8)
    back = load_adapters(model, tmp_path / "out").layers
    assert back.keys() == adapters.keys()
    for name, one in adapters.items():
        assert torch.equal(back[name].delta(), one.delta())


def test_spellings_of_other_tools_are_read(recipe: Recipe, folder: Path, tmp_path: Path) -> None:
    model = model_of(recipe, folder, "meta")
    down, up = torch.randn(2, 48), torch.randn(48, 2)
    layer = "diffusion_model.video_model.blocks.1.cross_attn.v"
    told = {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up, f"{layer}.alpha": torch.tensor(1.0)}
    save_file(told, tmp_path / "other.safetensors")
    found = load_adapters(model, tmp_path / "other.safetensors", 0.5).layers
    assert list(found) == ["layers.1.blocks.video.context_attn.v"]
    torch.testing.assert_close(found["layers.1.blocks.video.context_attn.v"].delta(), 0.5 * (1 / 2) * up @ down)


def spoilt(tensors: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    first = next(name for name in tensors if "lora_A" in name)
    if how == "unknown":
        return {**tensors, "somebody.elses.lora_A.weight": tensors[first].clone()}
    if how == "half":
        return {name: one for name, one in tensors.items() if name != first}
    if how == "shape":
        return {**tensors, first: tensors[first][:, :-1].contiguous()}
    return {**tensors, first: tensors[first] * torch.nan}


@pytest.mark.parametrize(
    ("how", "match"),
    [("unknown", "belong to no layer"), ("half", "lacks one of its two"), ("shape", "does not fit"), ("nan", "NaN")],
)
def test_bad_files_are_refused(recipe: Recipe, folder: Path, run: Path, tmp_path: Path, how: str, match: str) -> None:
    save_file(spoilt(load_file(run / "lora.safetensors"), how), tmp_path / "bad.safetensors", {"alpha": "4"})
    with pytest.raises(UserError, match=match):
        load_adapters(model_of(recipe, folder, "meta"), tmp_path / "bad.safetensors")


def test_sources_know_their_adapters(recipe: Recipe, folder: Path, run: Path) -> None:
    """A run of adapters generates with its base, the adapters added on the way; the digest tells of both."""
    found = find_source(run, weights=folder)
    assert found.adapters == ((run / "lora.safetensors", 1.0),)
    twice = find_source(run, weights=folder, adapters=[(run / "lora.safetensors", 0.5)])
    assert len({found.digest(), twice.digest(), found.assets.digest_of(found.network())}) == 3
    model = model_of(recipe, folder, "meta")
    fill_model(model, recipe, assets=found.assets, place=found.placing(model, on_host))
    assert_equal(output(adapted(recipe, folder, run), recipe), output(model.double(), recipe), 1e-5)


def test_info_says_what_is_in_a_file(run: Path) -> None:
    done = CliRunner().invoke(build_app(), ["lora", "info", str(run / "lora.safetensors")])
    assert done.exit_code == 0, done.output
    assert f"{ADAPTERS} adapters (24 of rank 2, 24 of rank 3, 12 of rank 4)" in done.stdout
    assert json.loads(read_metadata_alpha(run)) == 4.0


def read_metadata_alpha(run: Path) -> str:
    layers = {"layers.0.blocks.video.self_attn.q": (48, 48)}
    tensors = load_file(run / "lora.safetensors")
    some = {name: one for name, one in tensors.items() if name.startswith("layers.0.blocks.video.self_attn.q.")}
    path = run / "one.safetensors"
    save_file(some, path, {"alpha": "4.0"})
    return read_adapters(path, layers).metadata["alpha"]


def test_a_recipe_without_base_or_with_two_is_refused(tmp_path: Path) -> None:
    path = kit.write_recipe(tmp_path / "tiny.yaml", training=TRAINING)
    with pytest.raises(UserError, match=r"needs weights to adapt"):
        load_recipe(path, ("model.checkpoint=null",))
    with pytest.raises(UserError, match="every rank is 0"):
        load_recipe(path, tuple(f"training.lora.rank.{part}=0" for part in ("video", "audio", "fusion")))
    bad = load_recipe(path, ("training.lora.targets=['*.nothing']",))
    assert bad.training is not None
    assert bad.training.lora is not None
    with pytest.raises(UserError, match=r"'\*\.nothing' matches no linear layer"):
        adapt(nn.Sequential(nn.Linear(2, 2)), bad.training.lora, 0)
