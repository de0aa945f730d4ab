"""Distances of distributions, in float64.

Shape legend: n, m items of two sets; d width of an embedding; c classes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

IS_PARTS = 10
IS_SEED = 2020
"""Into how many parts, and by which order, av-benchmark divides a set for its Inception Score."""


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Frechet distance of the Gaussians that have the means and covariances of (n, d) and (m, d), n and m at least 2.

    |mean - mean|^2 + tr A + tr B - 2 tr (A B)^(1/2), of unbiased covariances A, B. With A = X'X and B = Y'Y the nonzero
    eigenvalues of A B are the squared singular values of X Y', so the last trace is their sum: no square root is taken
    of a matrix that is singular or nearly so, as covariances of fewer items than dimensions are, and a set of n items
    costs an n x n decomposition, not d x d.
    """
    x, y = _spread(first), _spread(second)
    apart = (first.double().mean(dim=0) - second.double().mean(dim=0)).square().sum()
    common = torch.linalg.svdvals(x @ y.T).sum()
    return max(0.0, float(apart + x.square().sum() + y.square().sum() - 2 * common))


def _spread(items: Tensor) -> Tensor:
    """X of at most d rows, such that X'X is the covariance of the items."""
    centred = (items.double() - items.double().mean(dim=0)) / math.sqrt(len(items) - 1)
    return centred if len(items) <= items.shape[1] else torch.linalg.qr(centred, mode="r").R


def distance_of_two(first: Tensor, second: Tensor) -> float:
    """What Verse-Bench's tool calls the Frechet distance of one embedding (d,) from another: the square of their
    distance, and of the difference of the spreads of their *components*.

    The covariance of one item is not defined. NumPy before 2.2 took a single row for d observations of one variable,
    even where it was told that it was one of d variables (numpy/numpy issue 27658), and gave their variance. Compared
    with the tool's arithmetic under NumPy 1.26.4 and SciPy 1.13.1: 1.9229143 for both. Under NumPy 2.2 and later it
    has no number.
    """
    x, y = first.double(), second.double()
    return float((x - y).square().sum() + (x.std() - y.std()).square())


def inception_score(logits: Tensor) -> float:
    """Of (n, c): e to the mean divergence of an item's classes from the set's; from 1, where all items sound alike, to
    c, where each class is sure and all are equally frequent."""
    log_p = logits.double().log_softmax(dim=1)
    log_set = log_p.logsumexp(dim=0) - math.log(len(log_p))
    return max(1.0, math.exp(float((log_p.exp() * (log_p - log_set)).sum(dim=1).mean())))


def inception_score_in_parts(logits: Tensor) -> float:
    """Of (n, c), n at least 10: the mean of the scores of ten parts, in the order that av-benchmark draws."""
    count = len(logits)
    order = torch.from_numpy(np.random.RandomState(IS_SEED).permutation(count))
    edges = [part * count // IS_PARTS for part in range(IS_PARTS + 1)]
    parts = [order[edges[i] : edges[i + 1]] for i in range(IS_PARTS)]
    return sum(inception_score(logits[part]) for part in parts) / IS_PARTS


def divergence(truth: Tensor, made: Tensor, added: float = 0.0) -> float:
    """Kullback-Leibler divergence of the classes of logits (c,), from what was made to the truth: KL(truth || made).

    added: to each probability of what was made, as some tools do; sums of such are no distributions, and the value may
           be below zero by up to c times that
    """
    log_true = truth.double().log_softmax(dim=0)
    log_made = made.double().log_softmax(dim=0)
    if added:
        log_made = (log_made.exp() + added).log()
    found = float((log_true.exp() * (log_true - log_made)).sum())
    return found if added else max(0.0, found)
