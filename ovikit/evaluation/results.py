"""What ``results.json`` holds. ``results.schema.json`` beside this file is its JSON schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ovikit.errors import UserError
from ovikit.files import atomic_write_json

FORMAT: Literal[2] = 2
SCHEMA = Path(__file__).with_name("results.schema.json")
Interval = tuple[float, float]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class UnscoredItems(_Record):
    """Items without a number, and why."""

    reason: str
    count: int
    items: tuple[str, ...]


class Number(_Record):
    """A mean over items with its 95 % interval."""

    value: float | None
    """Mean over the scored items, or a number of the whole set; null: none was scored."""
    interval: Interval | None
    """95 %, bootstrap over items; null: fewer than two items were scored."""
    asked: int
    """Items that the metric is about."""
    scored: int
    """Those of them that have a number."""
    unscored: tuple[UnscoredItems, ...]


class Derived(_Record):
    """A number computed from others, with its 95 % interval over jointly resampled items."""

    value: float
    interval: Interval | None


class MetricResult(Number):
    """One metric: the measured number between what no agreement and what the truth would give."""

    evaluator: str
    direction: Literal["higher", "lower", "neither"]
    """Which way is better; neither: it describes clips and does not judge them."""
    unit: str
    range: tuple[float | None, float | None]
    """Lowest and highest possible value; null: unbounded."""
    version: str
    summary: str
    ceiling: Number | None
    """Of ground-truth clips through the same codecs and files; null: the prompts come without ground truth."""
    chance: Number | None
    """Of the same clips with their sounds (or pictures) exchanged; null: fewer than two clips."""
    exchanged: Literal["video", "audio"] | None
    """What chance exchanges between clips: the sound, but the picture for a metric that the sound does not change."""
    above_chance: Derived | None
    """Mean difference from chance, paired by item."""
    share: Derived | None
    """How far the value lies on the way from chance (0) to ceiling (1)."""


class ItemResult(_Record):
    """One prompt and what its clip scored."""

    id: str
    prompt: str
    scores: dict[str, float | None]
    reasons: dict[str, str]
    """Why, for each metric without a score, but for metrics of the whole set."""


class Named(_Record):
    """A document by name and digest."""

    name: str
    digest: str


class OverallResult(_Record):
    """One score of the metrics, and those of its parts. It has no interval: metrics differ in the items that they are
    about."""

    name: str
    version: str
    scores: dict[str, float | None]
    """The total first; null: there is none."""
    reasons: dict[str, str]
    """Why, for each without a number."""


class PromptFilesRecord(_Record):
    """The files that prompts were read from."""

    name: str
    revision: str | None
    licence: str | None
    source: str | None
    digest: str
    """sha256 of prompts and files."""
    whole: bool | None
    """Whether these are the published set's files; null: its hash is not known."""


class Results(_Record):
    """The outcome of a suite on a folder of clips."""

    format: Literal[2]
    suite: Named
    profile: str
    """Name and version of the metric definitions."""
    folder: str = ""
    """Name of the folder of the clips."""
    recipe: Named | None
    """What made the clips, a recipe or a cascade; null: they came without, of another model."""
    weights_sha256: str | None
    """Of the weights that made the clips, where their sidecars agree."""
    prompt_set: PromptFilesRecord | None
    """The files that the prompts are; null: they are no files."""
    prompts: int
    clips: int
    """Clips that were found for them."""
    extra_clips: tuple[str, ...]
    """Files in the folder that no prompt asks for: not scored."""
    exchanges: int
    """Ways of exchanging clips' sounds that chance is the mean of."""
    versions: dict[str, str]
    decoder: str
    metrics: dict[str, MetricResult]
    overall: OverallResult | None = None
    """One score of the metrics; null: the suite has none."""
    items: tuple[ItemResult, ...]

    @property
    def subject(self) -> str:
        """What was measured: the recipe's name, or the folder's."""
        return self.folder if self.recipe is None else self.recipe.name


def results_schema() -> dict[str, Any]:
    """The JSON schema of ``results.json``."""
    return Results.model_json_schema()


def write_results(results: Results, path: Path) -> None:
    """Writes the results, whole or not at all."""
    atomic_write_json(path, results.model_dump(mode="json"))


def read_results(path: Path) -> Results:
    """The results of a file. UserError where it is missing or not what this version writes."""
    try:
        return Results.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("there are no results", str(path)) from None
    except ValidationError as error:
        raise UserError(f"these are not results of this version: {error.errors()[0]['msg']}", str(path)) from error
