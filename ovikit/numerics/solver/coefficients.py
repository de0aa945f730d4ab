"""The scalars of the solvers that step in log-SNR, and what the solvers of a pair share.

With alpha = 1 - sigma and lambda = log(alpha / sigma), the path x = alpha data + sigma noise has the exact solution

    x_t = (sigma_t / sigma_s) x_s + sigma_t  integral from lambda_s to lambda_t of  e^lambda data(lambda) dlambda   (1)

(DPM-Solver++, arXiv 2211.01095, Eq. 8). With constant data it is, for h = lambda_t - lambda_s,

    x_t = (sigma_t / sigma_s) x_s - alpha_t (e^-h - 1) data                                                         (2)

which is finite at both ends: sigma_s = 1 has lambda_s = -inf and sigma_t = 0 has lambda_t = inf, so h = inf and
e^-h = 0. Scalars are worked out on the CPU as 0-dimensional tensors, in float64 or, to give the released code's
bits, float32, and handed out as Python floats: no step waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from ovikit.types import AV, Modality

Precision = Literal["float64", "float32"]
S = TypeVar("S")


def scalar(value: float, precision: Precision) -> Tensor:
    """``value`` as a 0-dimensional CPU tensor, rounded to the precision."""
    return torch.tensor(value, dtype=torch.float32 if precision == "float32" else torch.float64, device="cpu")


def rounded(value: float, precision: Precision) -> float:
    return float(scalar(value, precision))


def log_snr(sigma: Tensor) -> Tensor:
    """lambda = log((1 - sigma) / sigma); -inf at sigma 1, inf at sigma 0."""
    return torch.log(1 - sigma) - torch.log(sigma)


@dataclass(frozen=True, slots=True)
class Leap:
    """A step from ``start`` to ``end`` in log-SNR: ``width`` h, and ``keep`` = sigma_t / sigma_s of Eq. (2)."""

    end: Tensor
    width: Tensor
    keep: float
    start_log_snr: Tensor

    @classmethod
    def between(cls, sigma: float, next_sigma: float, precision: Precision) -> Leap:
        start, end = scalar(sigma, precision), scalar(next_sigma, precision)
        before = log_snr(start)
        return cls(end, log_snr(end) - before, float(end / start), before)

    def ratio(self, earlier_sigma: float) -> Tensor:
        """(lambda_earlier - lambda_s) / h: negative; -inf when the earlier level was 1, whose history then weighs
        nothing."""
        earlier = scalar(earlier_sigma, "float32" if self.width.dtype == torch.float32 else "float64")
        return (log_snr(earlier) - self.start_log_snr) / self.width


def each_modality(
    x: AV[Tensor],
    velocity: AV[Tensor],
    sigma: AV[float],
    next_sigma: AV[float],
    state: AV[S],
    advance: Callable[[Tensor, Tensor, float, float, S], tuple[Tensor, S]],
) -> tuple[AV[Tensor], AV[S]]:
    """The pair moved by ``advance(x, velocity, sigma, next_sigma, state)``, one modality after the other.

    The arithmetic runs in the dtype of x. A modality whose level does not change is left as it is (log-SNR solvers
    could not even write the step 0 -> 0 down).
    """
    moved: dict[Modality, Tensor] = {}
    states: dict[Modality, S] = {}
    for modality, value in x.items():
        before, after = sigma[modality], next_sigma[modality]
        moved[modality], states[modality] = value, state[modality]
        if before != after:
            speed = velocity[modality].to(value.dtype)
            moved[modality], states[modality] = advance(value, speed, before, after, state[modality])
    return AV[Tensor].of(moved), AV[S].of(states)
