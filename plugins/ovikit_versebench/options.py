"""The options of the evaluators and prompt sets. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, field_validator

from ovikit.kernel.component import Config

Share = Annotated[float, Field(ge=0, le=1)]


class SoundSignalConfig(Config):
    """Options of ``sound-signal``."""

    clipped_from: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Magnitude, of full scale, from which on a sample counts as clipped."""
    silent_below_db: float = -50.0
    """Volume in decibels below full scale that counts as silence, in windows of 50 ms."""


class PictureSignalConfig(Config):
    """Options of ``picture-signal``."""

    frozen_below: Share = 0.001
    """Mean change of brightness (0 to 1) from one frame to the next that counts as none."""
    black_below: Share = 0.06
    """Brightness (0 to 1) that 98 of 100 pixels of a black frame do not exceed."""


class MotionConfig(Config):
    """Options of ``motion``."""

    every_s: PositiveFloat = 0.25
    """Seconds between the pairs of neighbouring frames that are compared."""


class AgreementConfig(Config):
    """Options of ``agreement``."""

    within_s: Annotated[float, Field(gt=0, le=5)] = 1.0
    """Largest offset that is looked for, to either side."""
    least: Share = 0.6
    """Least correlation, at the best offset, of clips whose offset is told: among so many offsets one fits somewhat by
    chance."""


class VerseBenchConfig(Config):
    """Options of ``verse-bench``."""

    path: str = Field(min_length=1)
    """Folder of the set, with set1, set2, set3; starts from the current folder."""
    subsets: tuple[str, ...] = Field(("set1", "set2", "set3"), min_length=1, strict=False)
    """The folders that are read."""
    wording: Literal["tagged", "plain"] = "tagged"
    """How one prompt is made of what is to be seen, said and heard: in the format of the released Ovi model, with <S>
    and <AUDCAP>, or in plain words."""


class PromptTableConfig(Config):
    """Options of ``prompt-table``."""

    path: str = Field(min_length=1)
    """A .csv, .tsv, .jsonl or .txt file; starts from the current folder."""
    prompt: str | None = None
    """Column of the prompt; null: text_prompt or prompt."""
    id: str = "id"
    """Column of the item's name, which is that of its clip."""
    number: str = "{:05d}"
    """Names items without one by their row, as in sample_{:04d}."""
    image: str = "image_path"
    """Column of the first frame's file."""
    video: str = "video_path"
    """Column of the ground truth's file, below the table's folder."""

    @field_validator("number")
    @classmethod
    def _numbers(cls, number: str) -> str:
        try:
            named = {number.format(row) for row in range(3)}
        except (ValueError, IndexError, KeyError):
            named = set[str]()
        if len(named) != 3:
            raise ValueError("should have one number in braces, as sample_{:04d} has")
        return number


NAMES = ("AS", "ID", "FD", "KL", "CS", "CE", "CU", "PC", "PQ", "WER", "LSE-C", "AV-A")
"""Verse-Bench's metrics, as its overall score calls them."""


class VerseBenchOverallConfig(Config):
    """Options of ``verse-bench-overall``."""

    rules: Literal["fixed", "official"] = "fixed"
    """official: as the tool of commit 5645a09, where a missing metric may score best; fixed: no number of what has
    none, and without FD and PC."""
    metrics: dict[str, str]
    """Which metric of the suite each of AS, ID, FD, KL, CS, CE, CU, PC, PQ, WER, LSE-C, AV-A is."""

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: dict[str, str]) -> dict[str, str]:
        strange = sorted(set(metrics) - set(NAMES))
        if strange:
            raise ValueError(f"has no {', '.join(strange)}; there are {', '.join(NAMES)}")
        return metrics
