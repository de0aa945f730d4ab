"""Means over a few seeds and their 95 % intervals, by Student's t distribution. Plain Python.

With three seeds the interval of a mean is 2.5 standard deviations wide on either side: differences that it cannot tell
from zero may well be there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds. low, high: its 95 % interval; None for a single seed."""

    mean: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.high is None else self.high - self.mean

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def within(self, bound: float) -> bool:
        """Whether the whole interval lies within ``bound`` of zero."""
        return self.low is not None and self.high is not None and -bound < self.low and self.high < bound


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of one number a seed, with its interval. ValueError for none."""
    if not values:
        raise ValueError("there is no mean of nothing")
    mean, count = fmean(values), len(values)
    if count == 1:
        return Estimate(mean, None, None, 1)
    half = t_quantile(0.5 + CONFIDENCE / 2, count - 1) * stdev(values) / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half, count)


def t_distribution(t: float, freedom: int) -> float:
    """P(T <= t) of Student's t distribution with a whole number of degrees of freedom, by its finite sums.

    Abramowitz and Stegun 26.7.3 and 26.7.4: A = P(|T| <= t), theta = atan(t / sqrt(freedom)).
    """
    theta = math.atan(abs(t) / math.sqrt(freedom))
    cosine, sine = math.cos(theta), math.sin(theta)
    odd = freedom % 2 == 1
    term, total = (cosine if odd else 1.0), 0.0
    for i in range(3 if odd else 2, freedom + 1, 2):
        total += term
        term *= cosine**2 * (i - 1) / i
    inside = (theta + sine * total) * 2 / math.pi if odd else sine * total
    return 0.5 + math.copysign(inside, t) / 2


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """The t that a share ``probability`` lies below, by bisection; 4.303 for 0.975 and two degrees of freedom."""
    low, high = -1.0, 1.0
    while t_distribution(low, freedom) > probability:
        low *= 2
    while t_distribution(high, freedom) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_distribution(middle, freedom) < probability else (low, middle)
    return (low + high) / 2
