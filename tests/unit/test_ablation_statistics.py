"""Intervals over seeds: Student's t distribution against its tables, and the coverage that it promises."""

from __future__ import annotations

import math
import random

import pytest

from ovikit.ablation.statistics import Estimate, estimate, t_distribution, t_quantile

# Published tables of the two-sided 95 % and 99 % points.
TABLE = {1: (12.706, 63.657), 2: (4.303, 9.925), 3: (3.182, 5.841), 4: (2.776, 4.604), 9: (2.262, 3.250)}


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_are_those_of_the_tables(freedom: int) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(TABLE[freedom][0], abs=6e-4)
    assert t_quantile(0.995, freedom) == pytest.approx(TABLE[freedom][1], abs=6e-4)


@pytest.mark.parametrize("t", [-3.0, -0.4, 0.0, 0.7, 5.0])
def test_one_and_two_degrees_of_freedom_have_closed_forms(t: float) -> None:
    assert t_distribution(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-14)
    assert t_distribution(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-14)


@pytest.mark.parametrize("freedom", range(1, 12))
def test_the_quantile_inverts_the_distribution(freedom: int) -> None:
    for probability in (0.01, 0.3, 0.5, 0.9, 0.999):
        assert t_distribution(t_quantile(probability, freedom), freedom) == pytest.approx(probability, abs=1e-12)


def test_the_interval_of_three_numbers_by_hand() -> None:
    found = estimate([1.0, 2.0, 6.0])
    half = TABLE[2][0] * math.sqrt(7.0) / math.sqrt(3)  # their variance is 7
    assert found.mean == 3.0
    assert found.half == pytest.approx(half, rel=1e-3)
    assert found.low == pytest.approx(3.0 - half, rel=1e-2)


def test_one_seed_has_no_interval_and_nothing_has_no_mean() -> None:
    assert estimate([0.4]) == Estimate(0.4, None, None, 1)
    assert not estimate([0.4]).excludes_zero
    assert not estimate([0.0]).within(1.0)
    with pytest.raises(ValueError, match="no mean of nothing"):
        estimate([])


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_covers_the_mean_as_often_as_it_says(seeds: int) -> None:
    draw, trials = random.Random(7), 4000
    found = [estimate([draw.gauss(0.3, 2.0) for _ in range(seeds)]) for _ in range(trials)]
    covered = sum(one.low < 0.3 < one.high for one in found if one.low is not None and one.high is not None)
    assert covered / trials == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / trials))


def test_what_an_interval_says_of_zero() -> None:
    assert Estimate(1.0, 0.1, 1.9, 3).excludes_zero
    assert Estimate(-1.0, -1.9, -0.1, 3).excludes_zero
    assert not Estimate(1.0, -0.1, 2.1, 3).excludes_zero
    assert Estimate(0.0, -0.04, 0.04, 3).within(0.05)
    assert not Estimate(0.03, -0.01, 0.07, 3).within(0.05)
