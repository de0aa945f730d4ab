"""Ovi's model under every memory plan: the same latents bit for bit; in 8 bits, latents within a stated bound."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ovikit.checkpoints.load import write_tensors
from ovikit.checkpoints.state import read_state
from ovikit.numerics.guidance import NEGATIVE, PROMPT
from ovikit.numerics.sample import draw_noise, sample
from ovikit.recipe.build import build_codecs, build_conditioner, build_model, build_sampling, fill_model
from ovikit.recipe.load import load_recipe
from ovikit.runtime.passes import BoundNetwork
from ovikit.runtime.placement import Phase, Placement
from ovikit.runtime.plan import PLANS, choose_for
from ovikit.runtime.quantize import covers
from ovikit.types import AV
from ovikit_ovi.formats import ovi_format

TINY = Path(__file__).parents[2] / "recipes" / "tiny" / "ovi.yaml"
SHAPE = (
    "sampling.steps=3",
    "sampling.guidance={type: cfg, video: 4.0, audio: 3.0, skip_layers: [1]}",
    "model.video.depth=5",
    "model.audio.depth=4",
    "clip.duration_s=1.0",
)
BOUNDS = {"int8": 0.02, "fp8": 0.08}
"""Relative error of a velocity with random weights; measured are 0.010 and 0.049."""


def parts(*overrides: str):
    recipe = load_recipe(TINY, [*SHAPE, *overrides])
    return recipe, build_codecs(recipe), build_conditioner(recipe)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with every weight random, also those that training starts at zero."""
    path, chance = tmp_path_factory.mktemp("weights") / "w.safetensors", torch.Generator().manual_seed(0)
    tensors = build_model(*parts()).state_dict()
    write_tensors(path, {n: x + 0.05 * torch.randn(x.shape, generator=chance) for n, x in tensors.items()}, {})
    return path


def latents(weights: Path, *overrides: str) -> tuple[AV[Tensor], tuple[Phase, ...]]:
    """What a run makes, twice over so that plans have to come back to where they were; and its report."""
    recipe, codecs, conditioner = parts(*overrides)
    chosen, sampling = choose_for(recipe, codecs, conditioner, "cpu"), build_sampling(recipe)
    placement = Placement(chosen, "cpu")
    with placement.text(conditioner):
        texts = {PROMPT: conditioner.encode(["a red ball"]), NEGATIVE: conditioner.encode(["noise"])}
    model = build_model(recipe, codecs, conditioner, "meta").eval()
    names = list(model.state_dict())
    fill_model(model, recipe, weights=weights, place=placement.place)
    made: list[AV[Tensor]] = []
    for _ in range(2):
        with torch.inference_mode(), placement.network(model):
            contexts = {name: model.embed_text(AV(text, text), cache=True) for name, text in texts.items()}
            grids = codecs.map(lambda codec: codec.grid())
            network = BoundNetwork(model, contexts, grids, chosen.dtype, batched=chosen.batched)
            noise = draw_noise(codecs.map(lambda codec: (1, *codec.shape())), 7)
            made.append(sample(network, noise, sampling.schedule, sampling.solver, sampling.guidance, sampling.steps))
        with placement.codec(codecs["video"]):
            codecs["video"].decode(made[-1]["video"])
        assert list(model.state_dict()) == names
    assert equal(*made)
    return made[0], placement.report()


def equal(one: AV[Tensor], other: AV[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def apart(one: AV[Tensor], other: AV[Tensor]) -> float:
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(one.values(), other.values(), strict=True))


@pytest.mark.parametrize("guidance", ["in-turn", "batched"])
@pytest.mark.parametrize("quantization", ["none", "int8", "fp8"])
def test_every_plan_gives_the_same_latents(weights: Path, quantization: str, guidance: str) -> None:
    if quantization != "none":
        pytest.importorskip("torchao")
    same = f"model.quantization={quantization}", f"runtime.guidance={guidance}"
    made = [latents(weights, *same, f"runtime.memory.plan={plan}")[0] for plan in PLANS]
    assert equal(made[0], made[1])
    assert equal(made[0], made[2])


def test_the_report_tells_each_phase(weights: Path) -> None:
    _, report = latents(weights, "runtime.memory.plan=stream-layers")
    assert [(phase.name, phase.entered) for phase in report] == [("text", 1), ("network", 2), ("video codec", 2)]
    assert all(phase.seconds >= 0 and phase.peak_bytes > 10_000_000 for phase in report)


@cache
def _velocity(path: Path, quantization: str) -> AV[Tensor]:
    recipe, codecs, conditioner = parts(f"model.quantization={quantization}")
    placement = Placement(choose_for(recipe, codecs, conditioner, "cpu"), "cpu")
    model = build_model(recipe, codecs, conditioner, "meta").eval()
    fill_model(model, recipe, weights=path, place=placement.place)
    quantised = [name for name, value in model.state_dict().items() if type(value) is not Tensor]
    wanted = [name for name, value in model.state_dict().items() if covers(name, value.shape)]
    assert quantised == ([] if quantization == "none" else wanted)
    assert len(wanted) > 60
    text, sigma = conditioner.encode(["a red ball"]), torch.tensor([0.7], dtype=torch.float64)
    noise = draw_noise(codecs.map(lambda codec: (1, *codec.shape())), 7)
    with torch.no_grad():
        contexts = model.embed_text(AV(text, text), cache=True)
        return model(noise, AV(sigma, sigma), contexts, codecs.map(lambda codec: codec.grid()))


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_velocities_in_8_bits_are_off_by_no_more_than_stated(weights: Path, quantization: str) -> None:
    pytest.importorskip("torchao")
    error = apart(_velocity(weights, quantization), _velocity(weights, "none"))
    assert 0 < error < BOUNDS[quantization]


@pytest.mark.parametrize("scaled", [False, True])
def test_a_float8_file_in_official_names_is_read_as_it_is(weights: Path, tmp_path: Path, scaled: bool) -> None:
    """Every tensor in float8, as a plain cast leaves them; or only the large matrices, each with its scale."""
    pytest.importorskip("torchao")
    ours, _ = read_state(weights)
    stored: dict[str, Tensor] = {}
    meant: dict[str, Tensor] = {}
    for name, official in ((name, ovi_format().keymap.official(name)) for name in ours):
        large = covers(name, ours[name].shape)
        scale = ours[name].abs().max() / 448 if scaled and large else torch.ones(())
        values = (ours[name] / scale).to(torch.float8_e4m3fn) if large or not scaled else ours[name]
        stored[official], meant[name] = values, values.float() * scale
        if scaled and large:
            stored[f"{official}_scale"] = scale
    write_tensors(tmp_path / "fp8.safetensors", stored, {})
    for quantization in ("none", "fp8"):
        recipe, codecs, conditioner = parts(f"model.quantization={quantization}")
        placement = Placement(choose_for(recipe, codecs, conditioner, "cpu"), "cpu")
        model = build_model(recipe, codecs, conditioner, "meta")
        fill_model(model, recipe, weights=tmp_path / "fp8.safetensors", place=placement.place)
        for name, value in model.state_dict().items():
            plain = value if type(value) is Tensor else value.dequantize()
            assert torch.equal(plain, meant[name]), name
