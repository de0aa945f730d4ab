"""What each tower reads of a prompt: all of it, unless the conditioner parts prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ovikit.networks.protocols import Conditioner, Splitting
from ovikit.types import AV

T = TypeVar("T")
U = TypeVar("U")


def texts_of(conditioner: Conditioner, prompt: str) -> AV[str]:
    """The text of each tower. Needs no weights."""
    return conditioner.split(prompt) if isinstance(conditioner, Splitting) else AV(prompt, prompt)


def each(pair: AV[T], function: Callable[[T], U]) -> AV[U]:
    """``pair.map(function)``, but once where both towers read the very same thing, so that they go on doing so."""
    if pair.video is None or pair.video is not pair.audio:
        return pair.map(function)
    both = function(pair.video)
    return AV(both, both)
