"""RES-2S: the exponential Runge-Kutta method of second order with two stages, data prediction, in log-SNR.

With h = lambda_t - lambda_s, alpha = 1 - sigma, and the data predictions d_s at the start and d_m at a stage that lies
c h further on (phi_1(z) = (e^z - 1) / z, phi_2(z) = (phi_1(z) - 1) / z):

    x_m = (sigma_m / sigma_s) x_s + (1 - sigma_m / sigma_s) d_s                                            (stage)
    x_t = (sigma_t / sigma_s) x_s + alpha_t h phi_1(-h) d_s + (1 / c) alpha_t h phi_2(-h) (d_m - d_s)      (step)

(Hochbruck & Ostermann, "Exponential integrators", 2010; as a sampler, RES: arXiv 2308.02157.) Both lines are
exact for constant data; ``alpha_t h phi_1(-h)`` is ``1 - sigma_t / sigma_s``, and ``alpha_t h phi_2(-h)`` is
``alpha_t - (1 - sigma_t / sigma_s) / h``. The order is two for every c.

Where the stage lies. c = 1/2, halfway in log-SNR, as usual. From sigma 1 that does not exist: lambda_s = -inf. But with
u = (1 - sigma) / sigma = e^lambda and y = x / sigma, Eq. 1 of ``coefficients`` reads

    y_t = y_s + integral from u_s to u_t of data du,     that is,     dy / du = data,

which is smooth at sigma 1, where u = 0. The midpoint rule for it is y_m = y_s + (u_t / 2) d_s, y_t = y_s + u_t d_m:

    u_m = u_t / 2,     x_m = sigma_m x_s + (1 - sigma_m) d_s,     x_t = sigma_t x_s + (1 - sigma_t) d_m,

second order too. This is the limit of the two lines above for h -> inf, if the stage stays at u_t / 2: then
c = 1 - log(2) / h -> 1 and (1 / c) alpha_t h phi_2(-h) -> alpha_t. With c = 1/2 the stage would slip to sigma 1 in long
steps from near there (the first one of a grid that starts at 0.999), and the second evaluation would be lost. So
u_m = max(sqrt(u_s u_t), u_t / 2): c is 1/2 in every step in which u grows less than fourfold, and a start at sigma 1 is
the limit of starts beside it.

The step to sigma 0, where h is infinite too, is of first order, as in DPM-Solver++: one evaluation. The error of that
step is of second order, and made once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ovikit.numerics.protocols import Field
from ovikit.types import AV


@dataclass(frozen=True, slots=True)
class Leg:
    """The scalars of one modality's step.

    middle: sigma of the stage
    keep:   sigma_t / sigma_s; to_middle: sigma_m / sigma_s
    turn:   the weight of (d_m - d_s); 0 where the stage is of no use to this modality
    """

    middle: float
    to_middle: float
    keep: float
    turn: float

    @classmethod
    def between(cls, sigma: float, next_sigma: float) -> Leg:
        """The step from one level to another; to itself it changes nothing."""
        if next_sigma == sigma:
            return cls(sigma, 1.0, 1.0, 0.0)
        if next_sigma == 0:  # whoever still has a stage sees this modality halfway
            return cls(sigma / 2, 0.5, 0.0, 0.0)
        start, end = (1 - sigma) / sigma, (1 - next_sigma) / next_sigma
        geometric = math.sqrt(start * end)
        middle = 1 / (1 + max(geometric, end / 2))
        width = math.inf if start == 0 else math.log(end / start)
        share = 0.5 if geometric >= end / 2 else 1 - math.log(2) / width
        keep = next_sigma / sigma
        return cls(middle, middle / sigma, keep, (1 - next_sigma - (1 - keep) / width) / share)


@dataclass(frozen=True, slots=True)
class Res2S:
    """Second order, two evaluations per step and one in the step to sigma 0, no history."""

    order = 2

    def init(self, x: AV[Tensor]) -> None:
        """None: there is nothing to remember."""

    def step(
        self, field: Field, x: AV[Tensor], sigma: AV[float], next_sigma: AV[float], state: None
    ) -> tuple[AV[Tensor], None]:
        legs = AV[Leg].of({m: Leg.between(sigma[m], next_sigma[m]) for m in x.modalities})
        data = _data(x, field(x, sigma), sigma)
        end = AV[Tensor].of({m: _towards(value, data[m], legs[m].keep) for m, value in x.items()})
        if all(leg.turn == 0 for leg in legs.values()):
            return end, None
        stage = AV[Tensor].of({m: _towards(value, data[m], legs[m].to_middle) for m, value in x.items()})
        middle = legs.map(lambda leg: leg.middle)
        later = _data(stage, field(stage, middle), middle)

        def turned(leg: Leg, value: Tensor, before: Tensor, after: Tensor) -> Tensor:
            return value if leg.turn == 0 else value + leg.turn * (after - before)

        return AV[Tensor].of({m: turned(legs[m], value, data[m], later[m]) for m, value in end.items()}), None


def _data(x: AV[Tensor], velocity: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
    """The data that the latents of each modality come from, in their dtype."""
    return AV[Tensor].of({m: value - sigma[m] * velocity[m].to(value.dtype) for m, value in x.items()})


def _towards(x: Tensor, data: Tensor, keep: float) -> Tensor:
    """The latents after a step of constant data, of which ``keep`` of the noise is left."""
    return x if keep == 1 else keep * x + (1 - keep) * data
