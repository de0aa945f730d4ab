"""The contract of overall scores: numbers of metrics, or reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ovikit.evaluation.protocols import Overall, Unscored
from ovikit.testing.contract import Contract, global_generators_unused


class OverallContract(Contract):
    """Subclass it and name the component.

    means:   values of the metrics that it combines
    changed: options, each of which changes the version
    """

    kind = "overall"
    means: ClassVar[Mapping[str, float]] = {}
    changed: ClassVar[Mapping[str, Any]] = {}

    def _scores(self, means: Mapping[str, float]) -> dict[str, float | Unscored]:
        judge: Overall = self.build()
        return dict(judge.combine(means))

    def test_all_metrics_give_numbers(self) -> None:
        """Where every metric has a number, so has every score."""
        assert self.means, "means is empty; give a value for each metric that it combines"
        scores = self._scores(self.means)
        assert scores, "it gives no scores"
        for name, score in scores.items():
            assert isinstance(score, float), f"{name} is {score!r}, though all metrics have numbers"
            assert math.isfinite(score), f"{name} is {score}; give Unscored(reason) where there is no number"

    def test_what_is_missing_never_ends_in_an_error(self) -> None:
        """Without any one metric, and without all, the same scores are finite numbers or have reasons."""
        names = list(self._scores(self.means))
        for left in ({}, *({k: v for k, v in self.means.items() if k != out} for out in self.means)):
            scores = self._scores(left)
            assert list(scores) == names, f"with {sorted(left)} the scores are {sorted(scores)}, not {sorted(names)}"
            for name, score in scores.items():
                told = score.reason if isinstance(score, Unscored) else math.isfinite(score)
                assert told, f"with {sorted(left)}, {name} is {score!r}: no finite number, and no reason"

    def test_other_metrics_play_no_part(self) -> None:
        """What it does not combine does not change it, nor does the order."""
        more = {"another_metric": 0.5, **dict(reversed(self.means.items()))}
        assert self._scores(more) == self._scores(self.means), "a metric that is not in means changes the scores"

    def test_the_version_tells_options_apart(self) -> None:
        """Results of other options cannot be compared: their version differs."""
        own: str = self.build().version
        assert own, "its version is empty"
        assert own == self.build().version, "two of the same options have different versions"
        for name, value in self.changed.items():
            assert self.build({name: value}).version != own, f"with {name}={value!r} the version is the same"

    def test_global_random_numbers_are_left_alone(self) -> None:
        """Combining moves no global generator."""
        with global_generators_unused(f"the overall score '{self.found().name}'"):
            self._scores(self.means)
