"""What is made of the difference between the prompt's pass and another one, before its scale.

Shape legend: b items; latents are (b, c, t, y, x) or (b, c, t). Norms and products are per item and modality.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ovikit.numerics.guidance import NEGATIVE
from ovikit_guidances.terms import Push


class Difference(NamedTuple):
    """``guided = start + scale * change`` is the guided velocity of a scale that is 1 where it does nothing."""

    start: Float[Tensor, "b ..."]
    change: Float[Tensor, "b ..."]


class Differ(Protocol):
    def __call__(
        self,
        prompt: Float[Tensor, "b ..."],
        other: Float[Tensor, "b ..."],
        x: Float[Tensor, "b ..."],
        sigma: float,
        push: Push,
    ) -> Difference: ...


@dataclass(frozen=True, slots=True)
class Plain:
    """The difference as it is."""

    def __call__(
        self,
        prompt: Float[Tensor, "b ..."],
        other: Float[Tensor, "b ..."],
        x: Float[Tensor, "b ..."],
        sigma: float,
        push: Push,
    ) -> Difference:
        return Difference(other, prompt - other)


@dataclass(frozen=True, slots=True)
class Projected:
    """Adaptive projected guidance (arXiv 2410.02416), without its momentum, which would need a state.

    The difference of the predicted data is ``-sigma`` times that of the velocities, so both have the same parallel part
    along the prompt's data, and sigma cancels out of all but the threshold.

    eta:       share of the parallel part that is kept
    threshold: largest root mean square of the difference of the data; longer ones are shortened to it
    """

    eta: float = 0.0
    threshold: float | None = None

    def __call__(
        self,
        prompt: Float[Tensor, "b ..."],
        other: Float[Tensor, "b ..."],
        x: Float[Tensor, "b ..."],
        sigma: float,
        push: Push,
    ) -> Difference:
        change = _wide(prompt - other)
        if self.threshold is not None:
            rms = sigma * per_item(change, change).div(change[0].numel()).sqrt()
            change = change * (self.threshold / _divisor(rms)).clamp(max=1)
        data = _wide(x) - sigma * _wide(prompt)
        parallel = per_item(change, data) / _divisor(per_item(data, data)) * data
        kept = (change - (1 - self.eta) * parallel).to(prompt.dtype)
        return Difference(prompt - kept, kept)


@dataclass(frozen=True, slots=True)
class ZeroStar:
    """CFG-Zero* (arXiv 2503.18886): the negative pass times s* = <prompt, negative> / |negative|^2, with which it lies
    nearest to the prompt's. Passes that read the prompt are left as they are: they are near to it."""

    def __call__(
        self,
        prompt: Float[Tensor, "b ..."],
        other: Float[Tensor, "b ..."],
        x: Float[Tensor, "b ..."],
        sigma: float,
        push: Push,
    ) -> Difference:
        if push.run.conditioning != NEGATIVE:
            return Difference(other, prompt - other)
        scaled = best_scale(prompt, other).to(other.dtype) * other
        return Difference(scaled, prompt - scaled)


def best_scale(prompt: Float[Tensor, "b ..."], other: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """The s of each item for which |prompt - s other| is smallest; 0 where other is 0."""
    wide = _wide(other)
    return per_item(_wide(prompt), wide) / _divisor(per_item(wide, wide))


def rescaled(guided: Float[Tensor, "b ..."], prompt: Float[Tensor, "b ..."], phi: float) -> Float[Tensor, "b ..."]:
    """``guided`` on the way, phi, to the standard deviation that the prompt's velocity has (arXiv 2305.08891,
    section 3.4)."""
    wide = _wide(guided)
    factor = _spread(_wide(prompt)) / _divisor(_spread(wide))
    return (wide * (phi * factor + (1 - phi))).to(guided.dtype)


def per_item(a: Float[Tensor, "b ..."], b: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """The inner product of each item, (b, 1, ...)."""
    return (a * b).flatten(1).sum(dim=1).view(-1, *(1,) * (a.ndim - 1))


def _spread(a: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    return a.flatten(1).std(dim=1, correction=0).view(-1, *(1,) * (a.ndim - 1))


def _wide(a: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """In float32 or better: sums over a clip need it."""
    return a.to(torch.promote_types(a.dtype, torch.float32))


def _divisor(a: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """What is not negative, kept from 0."""
    return a.clamp(min=torch.finfo(a.dtype).tiny)
