"""The overall score of Verse-Bench: metrics brought to [0, 1], four parts, one total.

official: as calculate_metrics.py of the tool's commit 5645a09 has it. A metric without a number enters as -999, which
          is the worst score where more is better and the **best** where less is.
fixed:    the same bounds and weights, of magnitudes and means that are what they are called; without FD and PC, whose
          values have no bounds, and no better direction, of their own; no number where a metric has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Literal

from ovikit.errors import listed
from ovikit.evaluation.protocols import Unscored

VERSION = "1"
MISSING = -999.0
BOUNDS: dict[str, tuple[float, float]] = {
    "AS": (0, 1), "ID": (0, 1), "FD": (3, 0), "KL": (4, 0), "CS": (0, 1), "CE": (1, 10), "CU": (1, 10), "PC": (10, 1),
    "PQ": (1, 10), "WER": (1, 0), "LSE-C": (0, 10), "AV-A": (1, 0),
}  # fmt: skip
"""The values that count as the worst and as the best."""
PARTS: dict[str, tuple[str, ...]] = {
    "video": ("AS", "ID"), "audio": ("FD", "KL", "CS", "CE", "CU", "PC", "PQ"), "other": ("WER", "LSE-C"),
}  # fmt: skip
WEIGHTS = {"joint": 0.5, "video": 0.2, "audio": 0.2, "other": 0.1}
WITHOUT = ("FD", "PC")

Rules = Literal["fixed", "official"]


class VerseBenchOverall:
    """``overall`` and its parts ``joint``, ``video``, ``audio``, ``other``, each from 0 to 1, more is better.

    metrics: which metric of the suite each of the tool's is
    """

    def __init__(self, rules: Rules, metrics: Mapping[str, str]) -> None:
        self._official, self._metrics = rules == "official", dict(metrics)
        named = ",".join(f"{name}={metric}" for name, metric in sorted(metrics.items()))
        self.version = f"{VERSION}/{rules}/{named}"

    def combine(self, means: Mapping[str, float]) -> dict[str, float | Unscored]:
        values = {name: means[metric] for name, metric in self._metrics.items() if metric in means}
        parts: dict[str, float | Unscored] = {"joint": self._part(("CS", "AV-A"), values, _harmonic)}
        for part, names in PARTS.items():
            used = names if self._official else tuple(name for name in names if name not in WITHOUT)
            parts[part] = self._part(used, values, fmean)
        numbers = {part: score for part, score in parts.items() if not isinstance(score, Unscored)}
        lacking = [part for part in WEIGHTS if part not in numbers]
        total = (
            Unscored(f"there is no score of {listed(lacking)}")
            if lacking
            else sum(weight * numbers[part] for part, weight in WEIGHTS.items())
        )
        return {"overall": total, **parts}

    def _part(
        self, names: Sequence[str], values: Mapping[str, float], mean: Callable[[Sequence[float]], float]
    ) -> float | Unscored:
        lacking = [name for name in names if name not in values]
        if lacking and not self._official:
            return Unscored(f"there is no number of {listed(lacking)}")
        return mean([normalised(name, values.get(name, MISSING)) for name in names])


def normalised(name: str, value: float) -> float:
    """A metric's value on the way from the worst (0) to the best (1), and no further."""
    worst, best = BOUNDS[name]
    return min(1.0, max(0.0, (value - worst) / (best - worst)))


def _harmonic(values: Sequence[float]) -> float:
    """Harmonic mean of two; 0 where both are."""
    one, other = values
    return 0.0 if one + other == 0 else 2 * one * other / (one + other)
