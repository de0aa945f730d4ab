"""What decides which clips a prepared dataset holds, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from ovikit.types import Clip


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a filter finds of a clip.

    scores: numbers by name, each with its unit in the name (``volume_db``); kept whatever the verdict is
    why:    why the clip is left out, in words; None: it stays
    """

    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    why: str | None = None


@runtime_checkable
class Filter(Protocol):
    """Judges each clip by itself, in processes of its own. Deterministic."""

    def judge(self, clip: Clip) -> Verdict: ...

    def fingerprint(self) -> str:
        """Changes whenever a verdict would: name, version and options."""
        ...


@runtime_checkable
class Comparing(Protocol):
    """Judges clips by each other."""

    def signature(self, clip: Clip) -> str:
        """What is kept of a clip to compare it by."""
        ...

    def repeats(self, signatures: Sequence[str]) -> list[int | None]:
        """For each clip, in the order of the dataset, the place of an earlier clip that it repeats; None: of none. The
        earlier clip is one that stays."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever a signature or a verdict would: name, version and options."""
        ...


@runtime_checkable
class Captioner(Protocol):
    """Gives each clip its prompt."""

    def caption(self, clip: Clip, file: Path) -> str | None:
        """The prompt of a clip that was cut from ``file``; None where there is none to be had, which leaves the clip
        out. The clip's own ``prompt`` is empty. UserError for a caption file that cannot be read."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever a caption would, but for the files beside the clips."""
        ...
