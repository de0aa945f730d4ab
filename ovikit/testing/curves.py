"""A velocity field whose curves are known, and what the contract of solvers measures with it.

dx / dsigma = (1 + x^2) cos(3 sigma) / 2,     x = tan(c + sin(3 sigma) / 6)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ovikit.numerics.protocols import Field, Solver
from ovikit.types import AV


def start() -> Tensor:
    """(7,) where curves start: a new tensor each time, for a broken solver may write into it."""
    return torch.linspace(-1, 1, 7, dtype=torch.float64)


def known_field(x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
    """The velocity at ``x``."""
    return x.zip(sigma, lambda value, level: 0.5 * (1 + value**2) * math.cos(3 * level))


def solution(start: Tensor, first: float, last: float) -> Tensor:
    """Where the curve through ``start`` at level ``first`` is at level ``last``."""
    return torch.tan(torch.atan(start) + (math.sin(3 * last) - math.sin(3 * first)) / 6)


def run(solver: Solver[Any], field: Field, x: AV[Tensor], levels: AV[list[float]]) -> AV[Tensor]:
    """Where a solver is after all steps between the levels."""
    state = solver.init(x)
    steps = len(next(levels.values())) - 1
    for i in range(steps):
        sigma = AV.of({m: level[i] for m, level in levels.items()})
        after = AV.of({m: level[i + 1] for m, level in levels.items()})
        x, state = solver.step(field, x, sigma, after, state)
    return x


def even(first: float, last: float, steps: int) -> list[float]:
    """Levels at even distances."""
    return [*(first + (last - first) * i / steps for i in range(steps)), last]


def shifted(steps: int, shift: float = 5.0, start: float = 1.0) -> list[float]:
    """Levels from ``start`` to 0 that lie denser near noise, as those of a sampling run do."""
    raw = even(start, 0.0, steps)
    return [shift * level / (1 + (shift - 1) * level) for level in raw]


def observed_order(solver: Solver[Any], first: float, last: float, steps: Sequence[int] = (64, 128, 256, 512)) -> float:
    """Minus the slope of log error over log steps, by least squares; infinite for a solver without error."""
    errors = [
        float(
            (run(solver, known_field, AV(start()), AV(even(first, last, n)))["video"] - solution(start(), first, last))
            .abs()
            .max()
        )
        for n in steps
    ]
    if max(errors) < 1e-13:
        return math.inf
    x = torch.tensor(steps, dtype=torch.float64).log()
    y = torch.tensor(errors, dtype=torch.float64).clamp(min=1e-300).log()
    return -float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
