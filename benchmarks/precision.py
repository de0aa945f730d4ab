"""How far the velocity of bfloat16 models is from that of the same weights in float64, by what is kept in float32.

    PYTHONPATH=.:plugins python benchmarks/precision.py --width 384

As many layers as the released model has, random weights that are bfloat16 numbers, one evaluation; the figures are
norms of the difference over norms of the velocity.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from released_size import Architecture, Size, draw_weights, inputs, on_meta
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from ovikit.networks.attention import sdpa
from ovikit.networks.joint import JointModel
from ovikit.networks.precision import Precision
from ovikit.types import AV, Text
from ovikit_ovi.tower import OviBlock, OviTower


def rounded(x: Tensor) -> Tensor:
    return x.bfloat16().float()


class TimeRounded(Precision):
    """Clean, but for time embedding and projection."""

    def linear(self, linear: nn.Linear, x: Tensor) -> Tensor:
        return Precision.linear(self, linear, x) if x.shape[1] > 2 else linear(x.bfloat16()).float()


class HeadRounded(Precision):
    """Clean, but for the output's product."""

    def linear(self, linear: nn.Linear, x: Tensor) -> Tensor:
        return Precision.linear(self, linear, x) if x.shape[1] <= 2 else linear(x.bfloat16()).float()


class NormRounded(Precision):
    """Clean, but for norms, which are rounded before they are modulated."""

    def layer_norm(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return rounded(Precision.layer_norm(self, norm, x))


class QueriesRoundedTwice(Precision):
    """Clean, but for the norms of queries and keys, which are rounded before their weight."""

    def rms_norm(self, x: Tensor, eps: float, weight: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], None, eps) * weight


class StreamRounded(OviBlock):
    """A block whose residual stream is rounded after every stage."""

    def self_merge(self, *arguments) -> Tensor:
        return rounded(super().self_merge(*arguments))

    def context_merge(self, *arguments) -> Tensor:
        return rounded(super().context_merge(*arguments))

    def feed_forward(self, *arguments) -> Tensor:
        return rounded(super().feed_forward(*arguments))


class RoundedTower(OviTower):
    def block(self, index: int) -> OviBlock:
        return StreamRounded(self.width, self.feed_forward_width, self.heads, self.eps, self.precision)


@dataclass(frozen=True)
class Case:
    name: str
    precision: Precision
    tower: type[OviTower] = OviTower


def cases() -> list[Case]:
    short = torch.bfloat16
    return [
        Case("float32", Precision()),
        Case("clean", Precision(short)),
        Case("clean, residual stream in bfloat16", Precision(short), RoundedTower),
        Case("clean, time embedding in bfloat16", TimeRounded(short)),
        Case("clean, norms rounded before modulation", NormRounded(short)),
        Case("clean, output's product in bfloat16", HeadRounded(short)),
        Case("clean, query and key norms rounded before their weight", QueriesRoundedTwice(short)),
        Case("official", Precision(short, "official")),
    ]


def evaluate(model: JointModel, size: Size, dtype: torch.dtype) -> AV[Tensor]:
    latents, grids, texts = inputs(size, torch.device("cpu"), torch.float32)
    text = Text(texts[0].tokens.bfloat16().to(dtype), texts[0].lengths)
    sigma = torch.full((1,), 0.637, dtype=torch.float64)
    with torch.no_grad():
        context = model.embed_text(AV(text, text), cache=True)
        return model(latents.map(lambda x: x.bfloat16().to(dtype)), AV(sigma, sigma), context, grids)


def errors(width: int, tell: Callable[[str, AV[float]], None]) -> None:
    """Tells each case's error."""
    size = Size((5, 12, 12), 26, Architecture(width, width * 14 // 3, max(width // 64, 1), 30, 32, 64, 11))
    exact = on_meta(size, sdpa, Precision(torch.float64))
    draw_weights(exact, torch.device("cpu"))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        for name, weight in exact.named_parameters():
            if "modulation" in name:  # gates as large as those of trained models
                weight.normal_(std=3 * weight.shape[-1] ** -0.5, generator=generator)
            weight.copy_(weight.bfloat16())
    expected = evaluate(exact, size, torch.float64)
    for case in cases():
        model = on_meta(size, sdpa, case.precision, case.tower)
        dtype = case.precision.dtype
        model.load_state_dict({name: value.to(dtype) for name, value in exact.state_dict().items()}, assign=True)
        found = evaluate(model, size, dtype)
        tell(case.name, found.zip(expected, lambda a, b: float((a.double() - b).norm() / b.norm())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=384, help="of the towers; a multiple of 64")
    arguments = parser.parse_args()
    table = Table("numbers", "video", "audio", title=f"30 layers of width {arguments.width}")
    errors(arguments.width, lambda name, one: table.add_row(name, f"{one['video']:.1e}", f"{one['audio']:.1e}"))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
