"""The joint model on a CUDA device: the CPU's numbers, eager and compiled, and no wait for the device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ovikit.networks.attention import sdpa
from ovikit.networks.init import initialise
from ovikit.networks.joint import JointModel
from ovikit.networks.precision import Precision
from ovikit.numerics.guidance import NEGATIVE, PROMPT, ClassifierFree
from ovikit.runtime.compile import compile_layers
from ovikit.runtime.passes import BoundNetwork
from ovikit.types import AV, Text, TokenGrid
from ovikit_ovi.fusion import ovi_fusion
from ovikit_ovi.positions import IndexPositions
from ovikit_ovi.tower import OviTower

pytestmark = [pytest.mark.gpu, pytest.mark.unchecked_shapes]
WIDTH, HEADS, DEPTH = 256, 2, 4
GRIDS = AV(video=TokenGrid.uniform("video", (5, 16, 16), 0.25), audio=TokenGrid.uniform("audio", (33, 1, 1), 0.03))


def build(precision: Precision, device: str) -> JointModel:
    options = {"width": WIDTH, "feed_forward_width": 512, "heads": HEADS, "depth": DEPTH, "text_length": 32}
    towers = AV(
        OviTower("video", 8, 48, precision=precision, **options),
        OviTower("audio", 6, 48, precision=precision, **options),
    )
    fusion = ovi_fusion(DEPTH, AV(WIDTH, WIDTH), AV(HEADS, HEADS), sdpa, precision=precision)
    model = JointModel(towers, fusion, IndexPositions(0.4), sdpa)
    generator = torch.Generator().manual_seed(0)
    initialise(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
            parameter.copy_(parameter.bfloat16())
    return model.to(device, precision.dtype).eval()


def bound(model: JointModel, dtype: torch.dtype, device: str, batched: bool = False) -> tuple[BoundNetwork, AV[Tensor]]:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16().double()

    latents = AV(drawn(1, 8, 5, 16, 16), drawn(1, 6, 33))
    texts = {name: Text(drawn(1, 9, 48), torch.tensor([9])).to(device, dtype) for name in (PROMPT, NEGATIVE)}
    contexts = {name: model.embed_text(AV(text, text), cache=True) for name, text in texts.items()}
    return BoundNetwork(model, contexts, GRIDS, dtype, AV(video=1), batched), latents.map(lambda x: x.to(device))


def guided(network: BoundNetwork, latents: AV[Tensor]) -> AV[Tensor]:
    guidance, told = ClassifierFree(AV(4.0, 3.0), skip_layers=(1,)), AV(0.6, 0.6)
    return guidance.combine(network(latents, told, guidance.passes(told)), latents, told)


def error(found: AV[Tensor], expected: AV[Tensor]) -> float:
    return max(
        float((a.double().cpu() - b).norm() / b.norm()) for a, b in zip(found.values(), expected.values(), strict=True)
    )


@torch.no_grad()
@pytest.mark.parametrize("batched", [False, True], ids=["in turn", "batched"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    ("precision", "most"),
    [(Precision(), 1e-4), (Precision(torch.bfloat16), 4e-2), (Precision(torch.bfloat16, "official"), 8e-2)],
    ids=["float32", "clean", "official"],
)
def test_a_guided_step_is_that_of_the_cpu_in_float64(
    precision: Precision, most: float, compiled: bool, batched: bool
) -> None:
    expected = guided(*bound(build(Precision(torch.float64), "cpu"), torch.float64, "cpu"))
    model = build(precision, "cuda")
    torch._dynamo.reset()
    if compiled:
        compile_layers(model)
    network, latents = bound(model, precision.dtype, "cuda", batched)
    found = guided(network, latents)
    assert not compiled or all("forward" in vars(layer) for layer in model.layers), "fell back to eager layers"
    assert error(found, expected) < most
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = guided(network, latents)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert error(again, found.map(lambda x: x.double().cpu())) < most
