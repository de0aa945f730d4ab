"""What an evaluator and a prompt set are. Implement the methods; there is nothing to inherit from.

An evaluator reads decoded clips, as a viewer would see and hear them; it never sees latents.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """In place of a number that cannot be had, and why. Never counted as a score."""

    reason: str


class Evaluator(Protocol):
    """Metrics that are computed from one pass over a clip.

    version: of the features; a cached feature of another version is not used
    """

    metrics: tuple[MetricSpec, ...]
    version: str

    def features(self, clip: Clip) -> dict[str, Any]:
        """Plain JSON data from one decoded clip: the expensive part, cached per file."""
        ...

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        """One entry per metric. ``video`` and ``audio`` are the features of the clip whose picture and of the clip
        whose sound is judged: the same clip normally, two when chance is measured by exchanging sounds."""
        ...


@runtime_checkable
class Viewing(Protocol):
    """An evaluator that says in which form it wants clips. Others get them at the recipe's size and sample rate, or as
    the file has them where there is no recipe."""

    view: View
