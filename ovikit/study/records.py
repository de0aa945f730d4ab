"""What a study is, and what a vote is: the files ``study.json`` and ``votes.jsonl``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ovikit.errors import UserError

Dimension = Literal["audio", "video", "sync", "overall"]
DIMENSIONS: tuple[Dimension, ...] = ("audio", "video", "sync", "overall")
Winner = Literal["a", "b", "tie", "both_bad"]
Side = Literal["a", "b"]
Check = Literal["muted", "shifted"]
ASKED_OF: dict[Check, Dimension] = {"muted": "audio", "shifted": "sync"}
"""Where a rater who looks and listens prefers the whole side of a check."""
STUDY, CLIPS, VOTES_DB = "study.json", "clips", "votes.sqlite"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Shown(_Record):
    """A clip of a pair."""

    model: str
    sha256: str
    """Of the file that was given."""
    file: str
    """Name below ``clips``, which does not tell the model."""


class Pair(_Record):
    """Two clips of one prompt."""

    id: str
    prompt: str
    """Name of the prompt."""
    text: str
    """The prompt itself; empty where it is not known."""
    a: Shown
    b: Shown
    check: Check | None = None
    """An attention check: both are of one model, and ``b`` was spoiled in this way."""


class Study(_Record):
    """What raters are asked."""

    format: Literal[1] = 1
    name: str
    prompt_set: str
    """What the prompts are called."""
    models: tuple[str, ...]
    seed: int
    salt: str
    """Names of raters are hashed with it."""
    per_rater: int
    """Pairs that a rater is shown, without checks."""
    checks_per_rater: int
    pairs: tuple[Pair, ...]
    """Checks last."""

    @property
    def judged(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if pair.check is None)

    @property
    def checks(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if pair.check is not None)


class Vote(_Record):
    """One line of ``votes.jsonl``: what a rater said of a pair in one dimension."""

    study: str
    prompt_set: str
    prompt: str
    dimension: Dimension
    a: str
    b: str
    a_sha256: str
    b_sha256: str
    left: Side
    """Which stood on the left."""
    winner: Winner
    rater: str
    """Hashed."""
    seconds_a: float
    seconds_b: float
    """Seconds of each that were played."""
    time: float
    """Unix time, in seconds."""
    check: Check | None = None


def read_study(folder: Path) -> Study:
    """The study of a folder. UserError where there is none, or it is damaged."""
    path = folder / STUDY
    try:
        return Study.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("there is no study here", str(folder), "ovikit study new makes one") from None
    except (ValidationError, UnicodeDecodeError) as error:
        told = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "not text"
        raise UserError(f"this is not a study of this version: {told}", str(path)) from error


def read_votes(path: Path) -> list[Vote]:
    """The votes of a ``.jsonl`` file, ours or another tool's. UserError naming the first line that is none."""
    votes: list[Vote] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError("there are no votes", str(path)) from None
    except UnicodeDecodeError as error:
        raise UserError(f"it is not UTF-8 text (byte {error.start})", str(path)) from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            votes.append(Vote.model_validate_json(line))
        except ValidationError as error:
            first: Any = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the line"
            raise UserError(
                f"{where}: {first['msg']}", f"{path}:{number}", "each line is a vote, as docs/study.md has it"
            ) from None
    return votes
