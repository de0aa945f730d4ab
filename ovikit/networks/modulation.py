"""What blocks and fusions share beside attention: a norm, and shifts, scales and gates by noise level.

Shape legend: b batch, n tokens, w width, s noise levels of a clip (1, or 2 with a clean start).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from ovikit.networks.precision import Precision


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, computed in float32 at least."""

    def __init__(self, width: int, eps: float, precision: Precision) -> None:
        super().__init__()
        self.eps, self.precision = eps, precision
        self.weight = nn.Parameter(torch.empty(width))

    def init_weights(self, generator: Generator) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Float[Tensor, "*any w"]) -> Float[Tensor, "*any w"]:
        return self.precision.rms_norm(x, self.eps, self.weight)


def by_span(
    function: Callable[[Tensor, Tensor, Tensor], Tensor],
    values: tuple[Float[Tensor, "b s w"], ...],
    spans: tuple[int, ...],
    *tokens: Float[Tensor, "b n w"],
) -> Float[Tensor, "b n w"]:
    """``function`` of each span's tokens and values: nothing is ever repeated per token."""
    if len(spans) == 1:
        return function(*tokens, *values)
    cut = [one.split(spans, dim=1) for one in tokens] + [one.split(1, dim=1) for one in values]
    return torch.cat([function(*parts) for parts in zip(*cut, strict=True)], dim=1)


def modulated(
    x: Float[Tensor, "b n w"],
    shift: Float[Tensor, "b s w"],
    scale: Float[Tensor, "b s w"],
    spans: tuple[int, ...],
    precision: Precision,
) -> Float[Tensor, "b n w"]:
    """Tokens times (1 + scale) plus shift."""
    return by_span(lambda part, add, by: precision.scaled(add, part, 1 + by), (shift, scale), spans, x)


def gated(
    x: Float[Tensor, "b n w"],
    update: Float[Tensor, "b n w"],
    gate: Float[Tensor, "b s w"],
    spans: tuple[int, ...],
    precision: Precision,
) -> Float[Tensor, "b n w"]:
    """Tokens plus gate times update."""
    return by_span(precision.scaled, (gate,), spans, x, update)
