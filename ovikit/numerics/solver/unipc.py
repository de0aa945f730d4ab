"""UniPC of order 2 with B2(h), data prediction: arXiv 2302.04867, Algorithms 1 and 2, as released.

With m the data predictions, h = lambda_t - lambda_s, r = (lambda_r - lambda_s) / h for the step before at r, and
B = e^-h - 1:

    predict   x_t = (sigma_t / sigma_s) x_s - alpha_t B (m_s + 1/2 (m_r - m_s) / r)                          (UniP-2)
    correct   x_t = (sigma_t / sigma_s) x_s - alpha_t B (m_s + rho_r (m_r - m_s) / r + rho_t (m_t - m_s))    (UniC-2)

where rho solves  rho_r + rho_t = b_1,  r rho_r + rho_t = b_2  and, for k = -h,

    b_1 = (B / k - 1) / B,     b_2 = 2 ((B / k - 1) / k - 1/2) / B

The correction of a step needs m_t, so it is made at the start of the next one and costs no evaluation. Without history
(the first step) both are of order one: no m_r, and rho_t = 1/2. The step to sigma 0 is of order one too, and is never
corrected. From sigma 1, lambda is -inf, and so is r in the step after: rho_r = 0 and rho_t = b_1 are the limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ovikit.numerics.protocols import Field
from ovikit.numerics.solver.coefficients import Leap, Precision, each_modality, rounded
from ovikit.types import AV


@dataclass(frozen=True, slots=True)
class Point:
    """A level that was passed: its sigma, and the data that was predicted there."""

    sigma: float
    data: Tensor


@dataclass(frozen=True, slots=True)
class UniPCState:
    """What one modality remembers.

    x:    the corrected latents of the last level; None before the first step
    last: that level; before: the one before it
    """

    x: Tensor | None = None
    last: Point | None = None
    before: Point | None = None


@dataclass(frozen=True, slots=True)
class UniPC:
    """Order 2, one evaluation per step. The corrector makes it of order 3 within (0, 1), the step to 0 of order 2.

    coefficients: the scalars are worked out in this precision; float32 gives the released code's bits
    """

    coefficients: Precision = "float64"
    order = 2

    def init(self, x: AV[Tensor]) -> AV[UniPCState]:
        return x.map(lambda _: UniPCState())

    def step(
        self, field: Field, x: AV[Tensor], sigma: AV[float], next_sigma: AV[float], state: AV[UniPCState]
    ) -> tuple[AV[Tensor], AV[UniPCState]]:
        return each_modality(x, field(x, sigma), sigma, next_sigma, state, self._advance)

    def _advance(
        self, x: Tensor, velocity: Tensor, sigma: float, next_sigma: float, state: UniPCState
    ) -> tuple[Tensor, UniPCState]:
        here = Point(sigma, x - rounded(sigma, self.coefficients) * velocity)
        if state.x is not None and state.last is not None:
            x = self._correct(state.x, state.last, state.before, here)
        before = state.last if next_sigma > 0 else None
        moved = self._predict(x, here, before, next_sigma)
        return moved, UniPCState(x, here, state.last)

    def _predict(self, x: Tensor, here: Point, before: Point | None, next_sigma: float) -> Tensor:
        leap = Leap.between(here.sigma, next_sigma, self.coefficients)
        gain = float((1 - leap.end) * torch.expm1(-leap.width))
        moved = leap.keep * x - gain * here.data
        if before is not None:
            moved = moved - gain * (0.5 * ((before.data - here.data) / float(leap.ratio(before.sigma))))
        return moved

    def _correct(self, x: Tensor, last: Point, before: Point | None, here: Point) -> Tensor:
        leap = Leap.between(last.sigma, here.sigma, self.coefficients)
        gain = float((1 - leap.end) * torch.expm1(-leap.width))
        change = here.data - last.data
        if before is None:
            correction = 0.5 * change
        else:
            ratio = leap.ratio(before.sigma)
            weight_before, weight_here = corrector_weights(leap.width, ratio)
            correction = weight_before * ((before.data - last.data) / float(ratio)) + weight_here * change
        return leap.keep * x - gain * last.data - gain * correction


def corrector_weights(width: Tensor, ratio: Tensor) -> tuple[float, float]:
    """(rho_r, rho_t) of UniC-2 for a step of ``width`` h in log-SNR and the earlier level at ``ratio`` r."""
    k = -width
    growth = torch.expm1(k)
    first = growth / k - 1
    b = torch.stack([first / growth, (first / k - 0.5) * 2 / growth])
    if torch.isinf(ratio):
        return 0.0, float(b[0])
    one = torch.ones_like(ratio)
    matrix = torch.stack([torch.stack([one, one]), torch.stack([ratio, one])])
    rho = cast(Tensor, torch.linalg.solve(matrix, b))  # pyright: ignore[reportUnknownMemberType]
    return float(rho[0]), float(rho[1])
