"""What a network computes in which number format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Precision:
    """A policy, and the format of weights and matrix products. For formats of 32 bits and more both policies are one.

    dtype:  of weights, matrix products and attention
    policy: ``official`` rounds every result to ``dtype``, where the released code does; ``clean`` keeps what lies
            between the matrix products in float32: the residual stream, norms, modulation, time embedding and head
    """

    dtype: torch.dtype = torch.float32
    policy: Literal["clean", "official"] = "clean"

    @property
    def mixed(self) -> bool:
        """Whether two formats meet: short matrix products, and float32 between them."""
        return self._short and self.policy == "clean"

    @property
    def rounds_each(self) -> bool:
        """Whether every product and every sum is rounded by itself, rather than once for all that can be fused."""
        return self._short and self.policy == "official"

    @property
    def _short(self) -> bool:
        return self.dtype.itemsize < 4

    # Where the formats do not meet, nothing is cast: a model may then be moved to another format as a whole.

    def wide(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """``x`` in the format of what lies between the matrix products."""
        return x.float() if self.mixed else x

    def narrow(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """``x`` in the format of the matrix products."""
        return x.to(self.dtype) if self.mixed else x

    def scaled(
        self, add: Float[Tensor, "*#any"], x: Float[Tensor, "*#any"], by: Float[Tensor, "*#any"]
    ) -> Float[Tensor, "*any"]:
        """add + x * by, between the matrix products."""
        return add + x * by if self.rounds_each else torch.addcmul(add, x, by)

    def linear(self, linear: nn.Linear, x: Float[Tensor, "*any i"]) -> Float[Tensor, "*any o"]:
        """A matrix product in the wide format: for few rows on which all tokens depend, and for the output."""
        if not self.mixed:
            return linear(x)
        return F.linear(x.float(), linear.weight.float(), None if linear.bias is None else linear.bias.float())

    def layer_norm(self, norm: nn.LayerNorm, x: Float[Tensor, "*any w"]) -> Float[Tensor, "*any w"]:
        """The norm of the residual stream; its statistics are float32 at least under either policy."""
        if not self.mixed:
            return norm(x)
        affine = (None if one is None else one.float() for one in (norm.weight, norm.bias))
        return F.layer_norm(x, norm.normalized_shape, *affine, norm.eps)

    def rms_norm(self, x: Float[Tensor, "*any w"], eps: float, weight: Float[Tensor, " w"]) -> Float[Tensor, "*any w"]:
        """``x`` over its root mean square, times ``weight``; the statistics are float32 at least."""
        if not self.rounds_each:
            return F.rms_norm(x, x.shape[-1:], weight, eps)
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


FLOAT32 = Precision()


@runtime_checkable
class Precise(Protocol):
    """A module that keeps to a precision: whoever compiles it has to keep its roundings."""

    precision: Precision
