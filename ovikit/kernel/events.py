"""What observers are told: frozen, plain values, no tensors.

Every event names the hook that carries it. Events are sent by the process of rank 0 only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

Command = Literal["train", "generate", "eval"]


@dataclass(frozen=True, slots=True)
class RecipeValidated:
    """A recipe was read and every slot of it is filled. ``digest``: hex sha256 of the resolved recipe."""

    hook: ClassVar[str] = "ovikit_recipe_validated"
    name: str
    digest: str
    path: Path


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A command begins to write into the folder ``run``."""

    hook: ClassVar[str] = "ovikit_run_started"
    command: Command
    run: Path
    recipe: str
    digest: str


@dataclass(frozen=True, slots=True)
class ClipFinished:
    """One clip lies complete at ``path``. ``clip``: its id; ``duration_s``: how long it took to make."""

    hook: ClassVar[str] = "ovikit_clip_finished"
    command: Command
    run: Path
    clip: str
    path: Path
    prompt: str
    seed: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A command ended well. ``results``: its headline numbers by name."""

    hook: ClassVar[str] = "ovikit_run_finished"
    command: Command
    run: Path
    duration_s: float
    results: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class RunFailed:
    """A command stopped before its end. ``error``: what the user is told."""

    hook: ClassVar[str] = "ovikit_run_failed"
    command: Command
    run: Path
    duration_s: float
    error: str


Event = RecipeValidated | RunStarted | ClipFinished | RunFinished | RunFailed
