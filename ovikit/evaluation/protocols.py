"""What an evaluator and a prompt set are. Implement the methods; there is nothing to inherit from.

An evaluator reads decoded clips, as a viewer would see and hear them; it never sees latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from ovikit.generate.media import View
from ovikit.types import Clip


@dataclass(frozen=True, slots=True)
class PromptItem:
    """One prompt of a set.

    id:    unique within the set; also the name of the clip's file
    truth: what is known of the clip that the prompt describes, plain JSON values
    image: file of the clip's first frame, where it is given
    """

    id: str
    prompt: str
    truth: Mapping[str, Any] = field(default_factory=dict)
    image: Path | None = None


class PromptSet(Protocol):
    """Prompts in a fixed order: the same item for the same index every time."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> PromptItem: ...

    def reference(self, index: int) -> Clip | None:
        """The ground-truth clip of a prompt, from which the ceiling is measured; None where there is none."""
        ...


@runtime_checkable
class OnDisk(Protocol):
    """A prompt set of files. Its ground truth is measured as it lies there, where clips come without a recipe."""

    def fingerprint(self) -> str:
        """sha256 (hex) of the prompts and of their files."""
        ...

    def reference_file(self, index: int) -> Path | None:
        """The media file with the ground truth of a prompt; None where there is none."""
        ...


Direction = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One number that an evaluator gives.

    direction: whether more or less of it is better; neither: it describes a clip and does not judge it
    range:     lowest and highest possible value; infinities allowed
    version:   changes whenever the same clip would score differently
    """

    name: str
    direction: Direction
    unit: str
    range: tuple[float, float]
    version: str
    summary: str


@dataclass(frozen=True, slots=True)
class Unscored:
    """In place of a number that cannot be had, and why. Never counted as a score.

    asked: False where the metric has nothing to say of such an item, as a speech error of a prompt without speech; it
           then does not count against the metric's coverage
    """

    reason: str
    asked: bool = True


@dataclass(frozen=True, slots=True)
class Part:
    """What an item adds to a metric of the whole set, such as a Frechet distance. Plain data."""

    data: Any


Score = float | Unscored | Part


@dataclass(frozen=True, slots=True)
class Need:
    """Weights, or a package, that an evaluator cannot do without.

    name:    the asset, as it is looked for in OVIKIT_ASSETS; or the package
    licence: under which it is published
    source:  where it is published
    missing: what to do about it where it is not here; None: it is
    """

    name: str
    licence: str
    source: str
    missing: str | None = None


class Evaluator(Protocol):
    """Metrics that are computed from one pass over a clip.

    version: of the features; a cached feature of another version is not used
    """

    metrics: tuple[MetricSpec, ...]
    version: str

    def features(self, clip: Clip) -> dict[str, Any]:
        """Plain JSON data from one decoded clip: the expensive part, cached per file."""
        ...

    def score(self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem) -> Mapping[str, Score]:
        """One entry per metric. ``video`` and ``audio`` are the features of the clip whose picture and of the clip
        whose sound is judged: the same clip normally, two when chance is measured by exchanging sounds."""
        ...


@runtime_checkable
class Viewing(Protocol):
    """An evaluator that says in which form it wants clips. Others get them at the recipe's size and sample rate, or as
    the file has them where there is no recipe."""

    view: View


@runtime_checkable
class Needing(Protocol):
    """An evaluator that cannot do without weights or packages. Where one is missing, its metrics are unscored, and the
    rest of the suite goes on."""

    needs: tuple[Need, ...]


@runtime_checkable
class Selecting(Protocol):
    """An evaluator that is not about every item."""

    def leaves_out(self, item: PromptItem) -> str | None:
        """Why it has nothing to say of an item, whatever its clip; None: it has."""
        ...


@runtime_checkable
class SelectingByMetric(Protocol):
    """An evaluator of which some metrics are not about every item, as a distance from ground truth that only some of
    the items have."""

    def metric_leaves_out(self, metric: str, item: PromptItem) -> str | None:
        """Why one metric has nothing to say of an item, whatever its clip; None: it has."""
        ...


@runtime_checkable
class Costly(Protocol):
    """An evaluator whose ``score`` takes long, as a network's that compares picture and sound."""

    exchanges: int
    """In how many ways clips' sounds are exchanged at most to measure its chance."""


@runtime_checkable
class Comparing(Protocol):
    """An evaluator that also sees the ground truth. It is asked this in place of ``score``."""

    def compare(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], truth: Mapping[str, Any] | Unscored, item: PromptItem
    ) -> Mapping[str, Score]:
        """As ``score``. truth: features of the ground-truth clip, or why there are none."""
        ...


@runtime_checkable
class Pooling(Protocol):
    """An evaluator with metrics of the whole set, which are no means over items: its ``score`` gives a ``Part`` for
    them."""

    def pool(self, name: str, parts: Sequence[Any]) -> float | Unscored:
        """The metric ``name`` of a set from the data of its items' parts, in any order, at least one."""
        ...


class Overall(Protocol):
    """One score of a suite's metrics, and the scores of its parts.

    version: changes whenever the same metrics would give another score
    """

    version: str

    def combine(self, means: Mapping[str, float]) -> Mapping[str, float | Unscored]:
        """The scores by name, the total first. means: each metric that has a number; a suite may lack any."""
        ...
