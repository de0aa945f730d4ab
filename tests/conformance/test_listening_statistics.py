"""The statistics of sounds' metrics by closed forms, and against torchmetrics and SciPy."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from listening_kit import normal
from torch import Tensor, nn
from torchmetrics import KLDivergence
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore

from ovikit_versebench.listening.statistics import (
    distance_of_two,
    divergence,
    frechet_distance,
    inception_score,
    inception_score_in_parts,
)

# Frechet distance.


def with_moments(mean: Tensor, deviations: Tensor, count: int = 40) -> Tensor:
    """(count, d) items that have exactly this mean and these deviations, and no correlations."""
    x = normal(count, len(mean), seed=3)
    x = torch.linalg.qr(x - x.mean(dim=0)).Q * math.sqrt(count - 1)
    return x * deviations + mean


def test_frechet_distance_of_known_gaussians() -> None:
    first, second = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 1.0, 0.5]).double()
    here, there = torch.zeros(3).double(), torch.tensor([1.0, -2.0, 2.0]).double()
    found = frechet_distance(with_moments(here, first), with_moments(there, second, count=25))
    assert found == pytest.approx(9 + (4 + 1 + 0), abs=1e-9)
    turned = torch.linalg.qr(normal(3, 3, seed=8)).Q
    again = frechet_distance(with_moments(here, first) @ turned, with_moments(there, second, count=25) @ turned)
    assert again == pytest.approx(found, abs=1e-9)


def test_frechet_distance_of_correlated_gaussians_in_two_dimensions() -> None:
    """tr (A B)^(1/2) of 2 x 2 matrices is (tr A B + 2 (det A B)^(1/2))^(1/2)."""
    x, y = normal(50, 2) @ normal(2, 2, seed=1), normal(60, 2, seed=2) @ normal(2, 2, seed=3)
    a, b = torch.cov(x.T), torch.cov(y.T)
    both = a @ b
    common = torch.sqrt(both.trace() + 2 * torch.linalg.det(both).sqrt())
    expected = (x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * common
    assert frechet_distance(x, y) == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(100, 80, 8), (30, 20, 8), (12, 40, 16), (5, 6, 32)])
def test_frechet_distance_is_that_of_torchmetrics(n: int, m: int, d: int) -> None:
    class Given(nn.Module):
        num_features = d

        def forward(self, x: Tensor) -> Tensor:
            return x

    metric = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    x, y = normal(n, d) @ normal(d, d, seed=1), normal(m, d, seed=2) + 0.5
    metric.update(x, real=True)
    metric.update(y, real=False)
    # where covariances are singular, its roots of eigenvalues near zero are off by up to 1e-8 each
    assert frechet_distance(x, y) == pytest.approx(float(metric.compute()), rel=1e-6, abs=1e-5)


def test_frechet_distance_is_that_of_scipys_root() -> None:
    """As the tools compute it; scipy is no dependency."""
    linalg = pytest.importorskip("scipy.linalg")
    for n, m, d in ((100, 80, 8), (300, 400, 64)):
        x, y = normal(n, d) @ normal(d, d, seed=1), normal(m, d, seed=2) + 0.5
        a, b = np.cov(x.T.numpy()), np.cov(y.T.numpy())
        root = np.trace(linalg.sqrtm(a @ b).real)
        mean = float((x.mean(0) - y.mean(0)).square().sum())
        assert frechet_distance(x, y) == pytest.approx(mean + np.trace(a) + np.trace(b) - 2 * root, rel=1e-6)


def test_frechet_distance_of_fewer_items_than_dimensions_is_exact() -> None:
    """Sets of a few items in many dimensions: nothing to nothing, a shift to its square, in either order."""
    x = normal(5, 512)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 0.5) == pytest.approx(512 * 0.25, abs=1e-9)
    y = normal(7, 512, seed=1)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), abs=1e-9)
    # padding with dimensions in which nothing varies changes nothing, on whichever way it is computed
    few = normal(40, 4, seed=5), normal(30, 4, seed=6)
    wide = [torch.cat([one, torch.zeros(len(one), 60).double()], dim=1) for one in few]
    assert frechet_distance(*few) == pytest.approx(frechet_distance(*wide), abs=1e-9)


# Inception Score.


@pytest.mark.parametrize("kinds", [2, 5, 12])
def test_inception_score_counts_kinds(kinds: int) -> None:
    sure = 200 * torch.eye(kinds)
    assert inception_score(sure) == pytest.approx(kinds)
    assert inception_score(sure.repeat(3, 1)) == pytest.approx(kinds)
    assert inception_score(sure[:1].repeat(7, 1)) == pytest.approx(1)
    assert inception_score(torch.zeros(9, kinds)) == pytest.approx(1)


def test_inception_score_by_hand() -> None:
    """Two sounds of two kinds, of 3/4 and 1/4, and the other way round; the set has 1/2 of each."""
    logits = torch.tensor([[3.0, 1.0], [1.0, 3.0]]).log()
    expected = math.exp(0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert inception_score(logits) == pytest.approx(expected)


def test_inception_score_is_that_of_torchmetrics_and_in_parts_that_of_av_benchmark() -> None:
    logits = 3 * normal(57, 12)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
        metric = InceptionScore(feature=nn.Identity(), splits=1)
        metric.update(logits)
        assert inception_score(logits) == pytest.approx(float(metric.compute()[0]))
    order = np.random.RandomState(2020).permutation(57)
    p = logits.softmax(dim=1).numpy()[order]
    scores = []
    for i in range(10):
        part = p[i * 57 // 10 : (i + 1) * 57 // 10]
        scores.append(np.exp((part * np.log(part / part.mean(axis=0))).sum(axis=1).mean()))
    assert inception_score_in_parts(logits) == pytest.approx(np.mean(scores))
    assert inception_score_in_parts(logits) < inception_score(logits)


# Divergence.


def test_divergence_by_hand_in_both_directions() -> None:
    true, made = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert divergence(true, made) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert divergence(made, true) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    added = 0.5 * math.log(0.5 / 0.35) + 0.5 * math.log(0.5 / 0.85)
    assert divergence(true, made, added=0.1) == pytest.approx(added)
    assert divergence(true, true) == 0
    # Verse-Bench's tool: a kind that the generated sound certainly is not costs log 1e6, not infinity
    never = torch.tensor([1000.0, 0.0])
    assert divergence(torch.tensor([0.0, 1000.0]), never, added=1e-6) == pytest.approx(math.log(1e6))
    assert divergence(torch.tensor([0.0, 1000.0]), never) == pytest.approx(1000)
    assert divergence(true, true, added=1e-6) == pytest.approx(-2e-6, rel=1e-3)


def test_divergence_is_that_of_torchmetrics() -> None:
    true, made = 2 * normal(20, 12), 2 * normal(20, 12, seed=1)
    metric = KLDivergence(log_prob=True)
    metric.update(true.log_softmax(1), made.log_softmax(1))
    ours = [divergence(*pair) for pair in zip(true, made, strict=True)]
    assert np.mean(ours) == pytest.approx(float(metric.compute()))


def test_the_tools_distance_of_one_clip_from_one_clip() -> None:
    """Its arithmetic by hand, as NumPy before 2.2 read a single row: one variable, observed as often as it is wide."""
    first, second = (one / one.norm() for one in (normal(512), normal(512, seed=1) + 0.3))
    a, b = (np.atleast_2d(np.cov(one.numpy())) for one in (first, second))
    apart = first - second
    expected = float(apart @ apart) + np.trace(a) + np.trace(b) - 2 * math.sqrt(float((a @ b)[0, 0]))
    assert distance_of_two(first, second) == pytest.approx(expected, abs=1e-12)
    assert distance_of_two(first, second) == pytest.approx(2 - 2 * float(first @ second), abs=1e-4)
    assert distance_of_two(first, first) == 0
