"""Memory plans on a CUDA device: the same latents bit for bit, whatever of copying and computing is late."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ovikit.networks.init import initialise
from ovikit.networks.joint import JointModel
from ovikit.numerics.guidance import NEGATIVE, PROMPT
from ovikit.numerics.sample import draw_noise, sample
from ovikit.recipe.build import build_codecs, build_conditioner, build_model, build_sampling
from ovikit.recipe.load import load_recipe
from ovikit.recipe.models import Recipe
from ovikit.runtime.passes import BoundNetwork
from ovikit.runtime.placement import Placement
from ovikit.runtime.plan import PLANS, SLOTS, choose_for
from ovikit.runtime.streaming import LayerStream, weights_of
from ovikit.types import AV, Text

pytestmark = pytest.mark.gpu
TINY = Path(__file__).parents[2] / "recipes" / "tiny" / "ovi.yaml"
DEPTH = 8
SHAPE = (
    "sampling.steps=3",
    "sampling.guidance={type: cfg, video: 4.0, audio: 3.0, skip_layers: [3]}",
    "model.precision.dtype=bfloat16",
    *(
        f"model.{modality}.{key}={value}"
        for modality in ("video", "audio")
        for key, value in {"width": 512, "heads": 8, "feed_forward_width": 2048, "depth": DEPTH}.items()
    ),
)
BOUNDS = {"int8": 0.03, "fp8": 0.12}
LATE = 20_000_000
"""Cycles that a stream sleeps: some hundredths of a second, far longer than a copy or a layer here."""


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe(TINY, [*SHAPE, *overrides])


def filled(model: JointModel, placement: Placement) -> JointModel:
    """The model with every weight random, also those that training starts at zero, each in its place."""
    from ovikit.checkpoints.load import place_all

    model.to_empty(device="cpu")
    chance = torch.Generator().manual_seed(0)
    initialise(model, chance)
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.02 * torch.randn(one.shape, generator=chance))
    place_all(model, placement.place)
    return model.eval()


class Case:
    """A model under a plan, and its texts."""

    def __init__(self, *overrides: str) -> None:
        self.recipe = recipe_of(*overrides)
        self.codecs, self.conditioner = build_codecs(self.recipe), build_conditioner(self.recipe)
        self.chosen = choose_for(self.recipe, self.codecs, self.conditioner, "cuda")
        self.placement = Placement(self.chosen, "cuda")
        self.model = filled(build_model(self.recipe, self.codecs, self.conditioner, "meta"), self.placement)

    def network(self) -> BoundNetwork:
        texts = {PROMPT: self.text("a red ball"), NEGATIVE: self.text("noise")}
        contexts = {name: self.model.embed_text(AV(text, text), cache=True) for name, text in texts.items()}
        grids = self.codecs.map(lambda codec: codec.grid())
        return BoundNetwork(self.model, contexts, grids, self.chosen.dtype, batched=self.chosen.batched)

    def text(self, prompt: str) -> Text:
        return self.conditioner.encode([prompt]).to("cuda", self.chosen.dtype)

    def noise(self) -> AV[Tensor]:
        return draw_noise(self.codecs.map(lambda codec: (1, *codec.shape())), 7).map(lambda x: x.cuda())

    def sampled(self) -> AV[Tensor]:
        """Latents; the network has to be placed."""
        parts = build_sampling(self.recipe)
        return sample(self.network(), self.noise(), parts.schedule, parts.solver, parts.guidance, parts.steps)

    def latents(self) -> AV[Tensor]:
        """Latents, on the host."""
        with torch.inference_mode(), self.placement.network(self.model):
            return self.sampled().map(lambda x: x.cpu())


def equal(one: AV[Tensor], other: AV[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def apart(one: AV[Tensor], other: AV[Tensor]) -> float:
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(one.values(), other.values(), strict=True))


@pytest.mark.parametrize("guidance", ["in-turn", "batched"])
@pytest.mark.parametrize("quantization", ["none", "int8", "fp8"])
def test_every_plan_gives_the_same_latents(quantization: str, guidance: str) -> None:
    if quantization != "none":
        pytest.importorskip("torchao")
    same = f"model.quantization={quantization}", f"runtime.guidance={guidance}"
    made = {}
    for plan in PLANS:
        case = Case(*same, f"runtime.memory.plan={plan}")
        made[plan] = case.latents()
        assert equal(case.latents(), made[plan]), f"{plan} does not come back to where it was"
    assert all(torch.isfinite(x).all() for x in made["full"].values())
    assert equal(made["offload-components"], made["full"])
    assert equal(made["stream-layers"], made["full"])


@pytest.mark.parametrize("late", ["compute", "copies", "both"])
def test_no_layer_computes_with_the_weights_of_another(late: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compute stream sleeps within each layer, so that copies ahead run into layers at work; or the copy stream
    before each copy, so that layers are there before their weights."""
    expected = Case("runtime.guidance=in-turn", "runtime.memory.plan=full").latents()
    case = Case("runtime.guidance=in-turn", "runtime.memory.plan=stream-layers", "sampling.steps=3")
    visit, fetch = LayerStream.visit, LayerStream._fetch

    @contextmanager
    def slow_visit(self: LayerStream, i: int) -> Iterator[None]:
        with visit(self, i):
            if late != "copies":
                torch.cuda._sleep(LATE)
            yield

    def slow_fetch(self: LayerStream, i: int, slot: object) -> None:
        if late != "compute":
            assert self._side is not None
            with torch.cuda.stream(self._side):
                torch.cuda._sleep(LATE)
        fetch(self, i, slot)  # type: ignore[arg-type]

    monkeypatch.setattr(LayerStream, "visit", slow_visit)
    monkeypatch.setattr(LayerStream, "_fetch", slow_fetch)
    assert equal(case.latents(), expected)


def test_the_host_waits_for_nothing_while_layers_are_streamed() -> None:
    case = Case("runtime.memory.plan=stream-layers")
    with torch.inference_mode(), case.placement.network(case.model):
        network, noise = case.network(), case.noise()
        guidance = build_sampling(case.recipe).guidance
        passes = guidance.passes(AV(0.5, 0.5))
        network(noise, AV(0.5, 0.5), passes)
        torch.cuda.set_sync_debug_mode("error")
        try:
            network(noise, AV(0.4, 0.4), passes)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_layers_lie_in_pinned_memory_and_a_few_on_the_device() -> None:
    case = Case("runtime.memory.plan=stream-layers")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with torch.inference_mode(), case.placement.network(case.model):
        case.sampled()
        assert all(one.is_pinned() for layer in case.model.layers for one in layer.parameters())
        assert all(one.is_cuda for one in case.model.towers.parameters())
        with case.model.visit(2):
            assert all(one.is_cuda for one in case.model.layers[2].parameters())
    layer = max(sum(one.nbytes for one in layer.parameters()) for layer in case.model.layers)
    towers = sum(one.nbytes for one in case.model.towers.parameters())
    assert not any(one.is_cuda for one in case.model.parameters())
    assert torch.cuda.memory_allocated() - before < layer
    peak = case.placement.report()[-1].peak_bytes
    assert before + SLOTS * layer + towers <= peak < before + (SLOTS + 2) * layer + towers + 50_000_000


def test_offloading_takes_the_network_off_the_device() -> None:
    case = Case("runtime.memory.plan=offload-components")
    with torch.inference_mode(), case.placement.network(case.model):
        assert all(table[name].is_cuda for table, name in weights_of(case.model))
    assert not any(one.is_cuda for one in case.model.parameters())


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_velocities_in_8_bits_are_off_by_no_more_than_stated(quantization: str) -> None:
    """With float8 products where the device has them."""
    pytest.importorskip("torchao")

    def velocity(chosen: str) -> AV[Tensor]:
        case = Case(f"model.quantization={chosen}", "runtime.memory.plan=full")
        with torch.inference_mode(), case.placement.network(case.model):
            passes = build_sampling(case.recipe).guidance.passes(AV(0.7, 0.7))[:1]
            found = case.network()(case.noise(), AV(0.7, 0.7), passes)
        return next(iter(found.values())).map(lambda x: x.float())

    assert 0 < apart(velocity(quantization), velocity("none")) < BOUNDS[quantization]


@pytest.mark.slow
@pytest.mark.unchecked_shapes
@pytest.mark.parametrize("plan", ["full", "stream-layers"])
def test_compiled_layers_agree(plan: str, caplog: pytest.LogCaptureFixture) -> None:
    same = "runtime.guidance=in-turn", f"runtime.memory.plan={plan}"
    expected = Case(*same).latents()
    found = Case(*same, "runtime.compile=true").latents()
    assert not [one for one in caplog.records if one.name == "ovikit.runtime.compile"]
    assert apart(found, expected) < 0.05
