"""DPM-Solver++(2M): the data prediction, carried on linearly in log-SNR.

    D   = data_s + (data_s - data_r) / (2 r),     r = (lambda_s - lambda_r) / (lambda_t - lambda_s)
    x_t = (sigma_t / sigma_s) x_s - alpha_t (e^-h - 1) D

arXiv 2211.01095, Algorithm 2 (data_r: the prediction of the step before). First order at the start, where there is no
history, and in the step to sigma 0, where h is infinite: as released.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ovikit.numerics.protocols import Field
from ovikit.numerics.solver.coefficients import Leap, Precision, each_modality, rounded
from ovikit.types import AV


@dataclass(frozen=True, slots=True)
class DpmState:
    """The data prediction of the step before and its sigma; None before the first step."""

    data: Tensor | None = None
    sigma: float = 1.0


@dataclass(frozen=True, slots=True)
class DpmPlusPlus2M:
    """Second order, one evaluation per step.

    coefficients: the scalars are worked out in this precision; float32 gives the released code's bits
    """

    coefficients: Precision = "float64"
    order = 2

    def init(self, x: AV[Tensor]) -> AV[DpmState]:
        return x.map(lambda _: DpmState())

    def step(
        self, field: Field, x: AV[Tensor], sigma: AV[float], next_sigma: AV[float], state: AV[DpmState]
    ) -> tuple[AV[Tensor], AV[DpmState]]:
        return each_modality(x, field(x, sigma), sigma, next_sigma, state, self._advance)

    def _advance(
        self, x: Tensor, velocity: Tensor, sigma: float, next_sigma: float, state: DpmState
    ) -> tuple[Tensor, DpmState]:
        data = x - rounded(sigma, self.coefficients) * velocity
        leap = Leap.between(sigma, next_sigma, self.coefficients)
        gain = float((1 - leap.end) * (torch.exp(-leap.width) - 1))
        moved = leap.keep * x - gain * data
        if state.data is not None and next_sigma > 0:
            slope = float(1 / -leap.ratio(state.sigma)) * (data - state.data)
            moved = moved - 0.5 * gain * slope
        return moved, DpmState(data, sigma)
