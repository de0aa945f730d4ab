"""Per-item scores to numbers with intervals, the same whether one process scored the items or several.

Shape legend: n items, r = 4000 bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from ovikit.evaluation.protocols import Unscored

RESAMPLES = 4000
POOL_RESAMPLES = 200
"""A metric of the whole set is computed anew for each."""
BOOTSTRAP_SEED = 20250
CONFIDENCE = 0.95
_REASON_BYTES = 240

Interval = tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """The mean of the items that could be scored, and which could not.

    value:    None where no item was scored
    interval: 95 %, by bootstrap over items; None below two scored items
    scores:   of the scored items, by index
    unscored: reason of each other item that the metric is about, by index
    unasked:  reason of each item that it has nothing to say of
    pooled:   items that a metric of the whole set was computed from; it has no scores of items
    """

    value: float | None
    interval: Interval | None
    scores: Mapping[int, float] = field(default_factory=dict)
    unscored: Mapping[int, str] = field(default_factory=dict)
    unasked: Mapping[int, str] = field(default_factory=dict)
    pooled: int = 0

    @property
    def scored(self) -> int:
        """Items that the value comes from."""
        return self.pooled or len(self.scores)


class ItemScores(Metric):
    """One metric over the items of a prompt set, kept item by item until the end.

    Every process may score its share: the states are concatenated across processes, put in the order of the items,
    and an item that two processes scored (a sampler that pads the last batch) counts once.
    """

    full_state_update = False
    index: list[Tensor]
    score: list[Tensor]
    reason: list[Tensor]
    asked: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("index", "score", "reason", "asked"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, index: int, score: float | Unscored) -> None:
        """Takes the score of item ``index``. ValueError for a score that is not finite: that is for Unscored to say."""
        unscored = isinstance(score, Unscored)
        value = float("nan") if isinstance(score, Unscored) else float(score)
        if not unscored and not np.isfinite(value):
            raise ValueError(f"item {index} was scored {value}")
        # Only tensors travel between processes: a reason is a row of bytes.
        text = (score.reason if isinstance(score, Unscored) else "").encode()[:_REASON_BYTES]
        row = torch.zeros(1, _REASON_BYTES, dtype=torch.uint8, device=self.device)
        row[0, : len(text)] = torch.tensor(list(text), dtype=torch.uint8)
        self.index.append(torch.tensor([index], device=self.device))
        self.score.append(torch.tensor([value], dtype=torch.float64, device=self.device))
        self.reason.append(row)
        asked = score.asked if isinstance(score, Unscored) else True
        self.asked.append(torch.tensor([asked], device=self.device))

    def compute(self) -> Tensor:
        """The mean over the scored items of all processes, a float64 scalar; NaN where there are none."""
        value = self._summarised().value
        return torch.tensor(float("nan") if value is None else value, dtype=torch.float64)

    def summary(self) -> Summary:
        """The mean over the items of all processes, with its interval, the scores and the reasons."""
        with self.sync_context():
            return self._summarised()

    def _summarised(self) -> Summary:
        states = (self.index, self.score, self.reason, self.asked)
        index, score, reason, asked = (_joined(state).cpu().numpy() for state in states)
        scores: dict[int, float] = {}
        unscored: dict[int, str] = {}
        unasked: dict[int, str] = {}
        for row in np.argsort(index, kind="stable"):
            item = int(index[row])
            if np.isnan(score[row]):
                why = bytes(reason[row]).rstrip(b"\0").decode(errors="ignore")
                (unscored if asked[row] else unasked)[item] = why
            else:
                scores[item] = float(score[row])
        return summarise(scores, unscored, unasked)


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """A state as one tensor: a list before processes were synchronised, a tensor after."""
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else torch.empty(0)


def summarise(
    scores: Mapping[int, float], unscored: Mapping[int, str], unasked: Mapping[int, str] | None = None
) -> Summary:
    """The summary of per-item scores."""
    values = np.array([scores[item] for item in sorted(scores)])
    if not len(values):
        return Summary(None, None, scores, unscored, unasked or {})
    return Summary(float(values.mean()), bootstrap_interval(values), scores, unscored, unasked or {})


def pooled(
    parts: Mapping[int, Any],
    pool: Callable[[Sequence[Any]], float | Unscored],
    unscored: Mapping[int, str],
    unasked: Mapping[int, str],
) -> Summary:
    """The summary of a metric of the whole set: ``pool`` of the parts that its items add, by index.

    Its interval is centred: a sample drawn with repetitions spreads less than the set does, which moves a Frechet
    distance, so the resampled values tell how far they scatter and not where the value lies.
    """
    order = sorted(parts)
    value = pool([parts[item] for item in order]) if order else Unscored("no item could be scored")
    if isinstance(value, Unscored):
        return Summary(None, None, {}, {**unscored, **dict.fromkeys(order, value.reason)}, unasked)
    drawn = _resampled(len(order), POOL_RESAMPLES) if len(order) > 1 else ()
    again = [pool([parts[order[i]] for i in row]) for row in drawn]
    numbers = np.array([one for one in again if not isinstance(one, Unscored)])
    interval = None
    if len(numbers) > 1:
        low, high = _interval(numbers - numbers.mean())
        interval = value + low, value + high
    return Summary(value, interval, {}, unscored, unasked, len(order))


def _resampled(count: int, times: int = RESAMPLES) -> NDArray[np.int64]:
    """(times, count) indices drawn with replacement: the same ones for the same count."""
    return np.random.default_rng(BOOTSTRAP_SEED).integers(0, count, size=(times, count))


def _interval(statistics: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(statistics, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def bootstrap_interval(values: NDArray[np.float64]) -> Interval | None:
    """95 % percentile interval of the mean of ``values`` (n,), resampling items; None below two items."""
    if len(values) < 2:
        return None
    return _interval(values[_resampled(len(values))].mean(axis=1))


def gain_over(value: Summary, chance: Summary) -> tuple[float, Interval] | None:
    """Mean difference from chance and its interval, paired by item; None below two items scored in both."""
    both = sorted(set(value.scores) & set(chance.scores))
    if len(both) < 2:
        return None
    differences = np.array([value.scores[item] - chance.scores[item] for item in both])
    interval = bootstrap_interval(differences)
    assert interval is not None
    return float(differences.mean()), interval


def share_of_way(value: Summary, chance: Summary, ceiling: Summary) -> tuple[float, Interval | None] | None:
    """How far ``value`` lies on the way from chance (0) to ceiling (1), and the interval over jointly resampled items.

    None where one of the three is unknown or where chance and ceiling coincide.
    """
    if value.value is None or chance.value is None or ceiling.value is None:
        return None
    way = ceiling.value - chance.value
    if abs(way) < 1e-9:
        return None
    share = (value.value - chance.value) / way
    items = sorted(set(value.scores) & set(chance.scores) & set(ceiling.scores))
    if len(items) < 2:
        return share, None
    rows = np.array([[one.scores[item] for item in items] for one in (value, chance, ceiling)])
    got, low, high = (row[_resampled(len(items))].mean(axis=1) for row in rows)
    ways = high - low
    valid = np.abs(ways) > 1e-9
    return share, _interval((got[valid] - low[valid]) / ways[valid]) if valid.any() else None


def derangements(count: int, number: int, seed: int) -> NDArray[np.int64]:
    """(number, count): permutations that leave nothing in its place; none where ``count`` is below two.

    Each is a shift along a random cycle through all items.
    """
    if count < 2:
        return np.zeros((0, count), dtype=np.int64)
    random = np.random.default_rng(seed)
    rows = np.empty((number, count), dtype=np.int64)
    for row in rows:
        cycle = random.permutation(count)
        row[cycle] = np.roll(cycle, int(random.integers(1, count)))
    return rows
