"""What votes say: win rates, strengths, agreement, and what should make a reader careful.

Shape legend: p prompts, r bootstrap resamples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ovikit.errors import UserError
from ovikit.evaluation.metrics import BOOTSTRAP_SEED, Interval
from ovikit.extras import require
from ovikit.study.records import ASKED_OF, DIMENSIONS, Dimension, Vote

RESAMPLES = 4000
STRENGTH_RESAMPLES = 400
"""Strengths are fitted anew for each."""
OUTCOMES = ("win", "tie", "both_bad", "loss")
T = TypeVar("T")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Rate(_Record):
    """A share with its 95 % interval, by bootstrap over clusters."""

    value: float | None
    """null: nothing to take a share of."""
    interval: Interval | None
    """null: fewer than two clusters."""


class Duel(_Record):
    """How one model fares against another in one dimension."""

    dimension: Dimension
    model: str
    other: str
    votes: int
    prompts: int
    win: int
    tie: int
    both_bad: int
    loss: int
    with_ties: Rate
    """Win rate, in which a tie counts half for each, and so does *both bad*. Interval clustered by prompt."""
    without_ties: Rate
    """Win rate among the votes that prefer one. Interval clustered by prompt."""


class Strength(_Record):
    """Bradley-Terry: a model with twice the strength of another wins two of three votes against it."""

    dimension: Dimension
    model: str
    strength: float
    """Shares of 1 among the models."""
    interval: Interval | None
    """95 %, by bootstrap over prompts."""


class Agreement(_Record):
    """Krippendorff's alpha of raters who saw the same pair; 1 is agreement, 0 what chance gives."""

    dimension: Dimension
    alpha: float | None
    """null: no pair was seen by two raters, or all said the same."""
    pairs: int
    """That two raters or more saw."""


class Rater(_Record):
    """What a rater did, by the hash of who it is."""

    rater: str
    votes: int
    checks: int
    failed: int
    """Checks in which the spoiled side was not seen through."""
    left_out: bool


class Report(_Record):
    """The outcome of a study."""

    format: Literal[1] = 1
    study: str
    prompt_set: str
    models: tuple[str, ...]
    votes: int
    """Pairs that were voted on and count, each in all dimensions."""
    raters: tuple[Rater, ...]
    duels: tuple[Duel, ...]
    strengths: tuple[Strength, ...]
    agreement: tuple[Agreement, ...]
    left_wins: Rate
    """Share of the preferences that went to the left side; 0.5 where sides play no part. Clustered by rater."""


def analyse(votes: Sequence[Vote], keep_failed: bool = False) -> Report:
    """The report of votes. Raters who failed half of their checks or more are left out, unless ``keep_failed``.

    UserError where there is no vote to count, or there are votes of several studies.
    """
    votes = _once(votes)
    names = {(vote.study, vote.prompt_set) for vote in votes}
    if len(names) > 1:
        told = ", ".join(sorted({study for study, _ in names}))
        raise UserError(f"these votes are of several studies: {told}", hint="report on one at a time")
    raters = _raters(votes, keep_failed)
    out = {one.rater for one in raters if one.left_out}
    counted = [vote for vote in votes if vote.check is None and vote.rater not in out]
    if not counted:
        raise UserError("there is no vote to count yet")
    models = sorted({model for vote in counted for model in (vote.a, vote.b)})
    [(study, prompt_set)] = names
    return Report(
        study=study,
        prompt_set=prompt_set,
        models=tuple(models),
        votes=len({(vote.rater, vote.a_sha256, vote.b_sha256) for vote in counted}),
        raters=tuple(raters),
        duels=tuple(
            _duel(counted, dimension, *pair) for dimension in DIMENSIONS for pair in combinations(models, 2)
            if any(vote.dimension == dimension and {vote.a, vote.b} == set(pair) for vote in counted)
        ),
        strengths=tuple(one for dimension in DIMENSIONS for one in _strengths(counted, dimension, models)),
        agreement=tuple(_agreement(counted, dimension) for dimension in DIMENSIONS),
        left_wins=_left_wins(counted),
    )  # fmt: skip


def _once(votes: Sequence[Vote]) -> list[Vote]:
    """The first vote of each rater about each pair in each dimension: a line that comes again counts once."""
    found: dict[tuple[str, ...], Vote] = {}
    for vote in votes:
        clips = sorted((vote.a_sha256, vote.b_sha256))
        found.setdefault((vote.study, vote.rater, vote.dimension, vote.prompt, str(vote.check), *clips), vote)
    return list(found.values())


def seen_through(vote: Vote) -> bool | None:
    """Whether a check was passed; None for votes that test nothing. ``b`` is the spoiled side."""
    if vote.check is None or vote.dimension != ASKED_OF[vote.check]:
        return None
    return vote.winner == "a"


def _raters(votes: Sequence[Vote], keep_failed: bool) -> list[Rater]:
    found: list[Rater] = []
    for rater, own in sorted(_grouped(votes, lambda vote: vote.rater).items()):
        passed = [one for vote in own if (one := seen_through(vote)) is not None]
        failed = passed.count(False)
        judged = len({(vote.a_sha256, vote.b_sha256) for vote in own if vote.check is None})
        out = bool(passed) and 2 * failed >= len(passed) and not keep_failed
        found.append(Rater(rater=rater, votes=judged, checks=len(passed), failed=failed, left_out=out))
    return found


def _grouped(items: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    found: dict[Any, list[T]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return found


def outcome(vote: Vote, model: str) -> str:
    """What a vote is to one of its two models."""
    if vote.winner in ("tie", "both_bad"):
        return vote.winner
    return "win" if model == (vote.a if vote.winner == "a" else vote.b) else "loss"


def _duel(votes: Sequence[Vote], dimension: Dimension, model: str, other: str) -> Duel:
    own = [vote for vote in votes if vote.dimension == dimension and {vote.a, vote.b} == {model, other}]
    table = np.array(
        [
            [sum(outcome(vote, model) == name for vote in of_prompt) for name in OUTCOMES]
            for _, of_prompt in sorted(_grouped(own, lambda vote: vote.prompt).items())
        ]
    )
    win, tie, bad, loss = (int(count) for count in table.sum(axis=0))
    return Duel(
        dimension=dimension, model=model, other=other, votes=len(own), prompts=len(table),
        win=win, tie=tie, both_bad=bad, loss=loss,
        with_ties=rate(table @ [1, 0.5, 0.5, 0], table.sum(axis=1)),
        without_ties=rate(table[:, 0], table[:, 0] + table[:, 3]),
    )  # fmt: skip


def rate(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> Rate:
    """The share of ``parts`` (p,) in ``wholes`` (p,), summed over clusters.

    Its interval draws whole clusters: votes about one prompt, or by one rater, are no independent draws."""
    if not wholes.sum():
        return Rate(value=None, interval=None)
    value = float(parts.sum() / wholes.sum())
    if len(wholes) < 2:
        return Rate(value=value, interval=None)
    rows = np.random.default_rng(BOOTSTRAP_SEED).integers(0, len(wholes), size=(RESAMPLES, len(wholes)))
    sums = wholes[rows].sum(axis=1)
    shares = parts[rows].sum(axis=1)[sums > 0] / sums[sums > 0]
    return Rate(value=value, interval=_quantiles(shares))


def _quantiles(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _strengths(votes: Sequence[Vote], dimension: Dimension, models: Sequence[str]) -> list[Strength]:
    own = [vote for vote in votes if vote.dimension == dimension]
    prompts = sorted({vote.prompt for vote in own})
    place = {prompt: k for k, prompt in enumerate(prompts)}
    cluster = np.array([place[vote.prompt] for vote in own])
    fit = _fitter(own, models)
    values = fit(np.ones(len(own)))
    intervals: list[Interval | None] = [None] * len(models)
    if len(prompts) > 1:
        draws = np.random.default_rng(BOOTSTRAP_SEED).integers(0, len(prompts), size=(STRENGTH_RESAMPLES, len(prompts)))
        again = np.stack([fit(np.bincount(row, minlength=len(prompts))[cluster].astype(float)) for row in draws])
        intervals = [_quantiles(column) for column in again.T]
    return [
        Strength(dimension=dimension, model=model, strength=float(value), interval=interval)
        for model, value, interval in zip(models, values, intervals, strict=True)
    ]


def _fitter(votes: Sequence[Vote], models: Sequence[str]) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Bradley-Terry strengths of the models, from votes with weights; ties and *both bad* count half for each.

    Half a vote each way between all models keeps strengths finite where one never loses."""
    evalica = require("evalica", extra="study")
    names = {"a": evalica.Winner.X, "b": evalica.Winner.Y}
    pairs = list(combinations(models, 2))
    xs = [*(vote.a for vote in votes), *(a for a, _ in pairs)]
    ys = [*(vote.b for vote in votes), *(b for _, b in pairs)]
    winners = [*(names.get(vote.winner, evalica.Winner.Draw) for vote in votes), *(evalica.Winner.Draw for _ in pairs)]

    def fit(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        found = evalica.bradley_terry(
            xs, ys, winners, weights=[*weights.tolist(), *(1.0 for _ in pairs)], tolerance=1e-8, limit=1000
        ).scores
        values = np.array([found[model] for model in models])
        return values / values.sum()

    return fit


def _agreement(votes: Sequence[Vote], dimension: Dimension) -> Agreement:
    """Over the pairs as they are, whichever way round they stood."""
    codes: Mapping[str, float] = {"a": 0.0, "b": 1.0, "tie": 2.0, "both_bad": 3.0}
    units = _grouped(
        (vote for vote in votes if vote.dimension == dimension), lambda vote: (vote.prompt, vote.a, vote.b)
    )
    shared = {unit: own for unit, own in units.items() if len({vote.rater for vote in own}) > 1}
    said = {vote.winner for own in shared.values() for vote in own}
    if len(said) < 2:
        return Agreement(dimension=dimension, alpha=None, pairs=len(shared))
    pandas = require("pandas", extra="study")
    table = {unit: {vote.rater: codes[vote.winner] for vote in own} for unit, own in shared.items()}
    frame = pandas.DataFrame(table).sort_index()
    alpha = require("evalica", extra="study").alpha(frame, distance="nominal").alpha
    return Agreement(dimension=dimension, alpha=float(alpha), pairs=len(shared))


def _left_wins(votes: Sequence[Vote]) -> Rate:
    preferring = [vote for vote in votes if vote.winner in ("a", "b")]
    by_rater = [own for _, own in sorted(_grouped(preferring, lambda vote: vote.rater).items())]
    left = np.array([sum(vote.winner == vote.left for vote in own) for own in by_rater], dtype=float)
    return rate(left, np.array([len(own) for own in by_rater], dtype=float))
