"""Heun's method (the explicit trapezoidal rule): an Euler step, then the mean of the velocities at both ends.

x' = x_s + h v(x_s, sigma_s),   x_t = x_s + h (v(x_s, sigma_s) + v(x', sigma_t)) / 2,   h = sigma_t - sigma_s
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ovikit.numerics.protocols import Field
from ovikit.numerics.solver.euler import euler_step
from ovikit.types import AV


@dataclass(frozen=True, slots=True)
class Heun:
    """Second order, two evaluations per step, no history. The last step also evaluates at sigma 0."""

    order = 2

    def init(self, x: AV[Tensor]) -> None:
        """None: there is nothing to remember."""

    def step(
        self, field: Field, x: AV[Tensor], sigma: AV[float], next_sigma: AV[float], state: None
    ) -> tuple[AV[Tensor], None]:
        first = field(x, sigma)
        second = field(euler_step(x, first, sigma, next_sigma, "float64"), next_sigma)
        mean = first.zip(second, lambda start, end: (start + end) / 2)
        return euler_step(x, mean, sigma, next_sigma, "float64"), None
