"""Heun's method (the explicit trapezoidal rule): an Euler step, then the mean of the velocities at both ends.

x' = x_s + h v(x_s, sigma_s),   x_t = x_s + h (v(x_s, sigma_s) + v(x', sigma_t)) / 2,   h = sigma_t - sigma_s

A step to sigma 0 is an Euler step, as in EDM (arXiv 2206.00364, Algorithm 1): latents at sigma 0 hold no trace of the
noise, and the velocity there need not be the limit of those before it. The error of that step is of second order, and
made once. A modality whose level does not change has no use for a second evaluation either.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ovikit.numerics.protocols import Field
from ovikit.numerics.solver.euler import euler_step
from ovikit.types import AV


@dataclass(frozen=True, slots=True)
class Heun:
    """Second order, two evaluations per step and one in the step to sigma 0, no history."""

    order = 2

    def init(self, x: AV[Tensor]) -> None:
        """None: there is nothing to remember."""

    def step(
        self, field: Field, x: AV[Tensor], sigma: AV[float], next_sigma: AV[float], state: None
    ) -> tuple[AV[Tensor], None]:
        first = field(x, sigma)
        guess = euler_step(x, first, sigma, next_sigma, "float64")
        if all(next_sigma[modality] in (0, sigma[modality]) for modality in first.modalities):
            return guess, None  # nobody has a use for the velocity at the end
        second = field(guess, next_sigma)
        mean = AV[Tensor].of({m: v if next_sigma[m] == 0 else (v + second[m]) / 2 for m, v in first.items()})
        return euler_step(x, mean, sigma, next_sigma, "float64"), None
