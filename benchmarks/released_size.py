"""The released architecture with random weights and inputs, for benchmarks. Needs torch and einops, and no recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ovikit.networks.attention import ScaledDotProduct
from ovikit.networks.joint import JointModel
from ovikit.networks.precision import Precision
from ovikit.networks.protocols import Attend
from ovikit.numerics.guidance import NEGATIVE, PROMPT, ClassifierFree
from ovikit.runtime.passes import BoundNetwork
from ovikit.types import AV, Text, TokenGrid
from ovikit_ovi.fusion import ovi_fusion
from ovikit_ovi.positions import IndexPositions
from ovikit_ovi.tower import OviTower


@dataclass(frozen=True)
class Architecture:
    """Of both towers alike."""

    width: int
    feed_forward_width: int
    heads: int
    depth: int
    text_length: int
    text_width: int
    skipped: int


OVI = Architecture(3072, 14336, 24, 30, 512, 4096, 11)
TINY = Architecture(96, 256, 4, 3, 16, 32, 1)


@dataclass(frozen=True)
class Size:
    """A clip: video latents (t, y, x), audio latents t."""

    video: tuple[int, int, int]
    audio: int
    architecture: Architecture = OVI


SIZES = {
    "704": Size((31, 44, 44), 157),
    "960": Size((31, 60, 60), 157),
    "960-10s": Size((61, 60, 60), 314),
    "tiny": Size((5, 8, 8), 26, TINY),
}
CLIPS = {"704": "704 x 704 x 121", "960": "960 x 960 x 121", "960-10s": "960 x 960 x 241", "tiny": "tiny"}


def on_meta(size: Size, attend: Attend, precision: Precision, tower: type[OviTower] = OviTower) -> JointModel:
    """The model without weights."""
    shape = size.architecture
    options = {
        "width": shape.width, "feed_forward_width": shape.feed_forward_width, "heads": shape.heads,
        "depth": shape.depth, "text_length": shape.text_length,
    }  # fmt: skip
    with torch.device("meta"):
        towers = AV(
            tower("video", 48, shape.text_width, precision=precision, **options),
            tower("audio", 20, shape.text_width, precision=precision, **options),
        )
        both = AV(shape.width, shape.width), AV(shape.heads, shape.heads)
        fusion = ovi_fusion(shape.depth, *both, attend, precision=precision)
        model = JointModel(towers, fusion, IndexPositions(0.19676), attend)
    return model.to(precision.dtype).eval()


@torch.no_grad()
def draw_weights(model: nn.Module, device: torch.device) -> None:
    """Random weights of about the size that training leaves, drawn where they stay."""
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "modulation" not in name:
            weight.normal_(std=(weight[0].numel()) ** -0.5, generator=generator)
        else:
            weight.normal_(std=0.02, generator=generator)
            if "norm" in name and name.endswith("weight"):
                weight.add_(1)


def inputs(size: Size, device: torch.device, dtype: torch.dtype) -> tuple[AV[Tensor], AV[TokenGrid], list[Text]]:
    """Latents, their grids, and the texts of a prompt and a negative prompt."""
    generator = None if device.type == "meta" else torch.Generator(device).manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float32)

    latents = AV(drawn(1, 48, *size.video), drawn(1, 20, size.audio))
    grids = AV(TokenGrid.uniform("video", size.video, 4 / 24), TokenGrid.uniform("audio", (size.audio, 1, 1), 0.032))
    shape = size.architecture
    lengths = (shape.text_length // 2, shape.text_length // 8)
    return latents, grids, [Text(drawn(1, n, shape.text_width).to(dtype), torch.full((1,), n)) for n in lengths]


def guided_step(model: JointModel, size: Size, device: torch.device, dtype: torch.dtype, batched: bool) -> Callable:
    """A function that computes the guided velocity of one step."""
    latents, grids, texts = inputs(size, device, dtype)
    contexts = {
        name: model.embed_text(AV(text, text), cache=True) for name, text in zip((PROMPT, NEGATIVE), texts, strict=True)
    }
    network = BoundNetwork(model, contexts, grids, dtype, batched=batched)
    guidance = ClassifierFree(AV(4.0, 3.0), skip_layers=(size.architecture.skipped,))
    told = AV(0.5, 0.5)
    return lambda: guidance.combine(network(latents, told, guidance.passes(told)), latents, told)


@cache
def flops_of_step(size: Size) -> int:
    """Of products and attention in a guided step."""
    model = on_meta(size, ScaledDotProduct(), Precision())
    step = guided_step(model, size, torch.device("meta"), torch.float32, batched=False)
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def tokens_of(size: Size) -> int:
    t, y, x = size.video
    return t * (y // 2) * (x // 2) + size.audio
