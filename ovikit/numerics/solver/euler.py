"""Euler's method: x_t = x_s + (sigma_t - sigma_s) velocity(x_s, sigma_s)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ovikit.numerics.protocols import Field
from ovikit.numerics.solver.coefficients import Precision, scalar
from ovikit.types import AV


@dataclass(frozen=True, slots=True)
class Euler:
    """First order, one evaluation per step, no history.

    coefficients: the step is worked out in this precision; float32 gives the released code's bits
    """

    coefficients: Precision = "float64"
    order = 1

    def init(self, x: AV[Tensor]) -> None:
        """None: there is nothing to remember."""

    def step(
        self, field: Field, x: AV[Tensor], sigma: AV[float], next_sigma: AV[float], state: None
    ) -> tuple[AV[Tensor], None]:
        velocity = field(x, sigma)
        return euler_step(x, velocity, sigma, next_sigma, self.coefficients), None


def euler_step(
    x: AV[Tensor], velocity: AV[Tensor], sigma: AV[float], next_sigma: AV[float], precision: Precision
) -> AV[Tensor]:
    """``x + (next_sigma - sigma) velocity``, in the dtype of x; a modality whose level does not change stays."""

    def width(before: float, after: float) -> float:
        return float(scalar(after, precision) - scalar(before, precision))

    shift = velocity.zip(sigma.zip(next_sigma, width), lambda speed, h: (speed, h))
    return x.zip(shift, lambda value, step: value if step[1] == 0 else value + step[1] * step[0].to(value.dtype))
