"""Recognisers of speech: a sound to its text."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

from torch import Tensor

from ovikit.evaluation.protocols import Need

SOUND_HZ = 16000
LEAST_S = 0.3
QUIETEST = 1e-3
_QUIET, _STEP = SOUND_HZ // 10, SOUND_HZ // 100


class Recogniser(Protocol):
    """needs:   of weights and packages
    version: tells recognisers and their weights apart
    """

    needs: tuple[Need, ...]
    version: str

    def __call__(self, sound: Tensor) -> str:
        """What is said in (samples,) at 16 kHz; the same for the same sound, whatever was heard before."""
        ...

    def not_known(self, said: str) -> str | None:
        """Why it cannot tell whether something is said; None: it can."""
        ...


def pieces(sound: Tensor, most: int) -> list[Tensor]:
    """A sound in parts of at most ``most`` samples, which are a second at least, cut where it is quietest within an
    eighth of that of where they would be alike."""
    if len(sound) <= most:
        return [sound]
    near = most // 8
    count = -(-len(sound) // (most - 2 * near))
    cuts = [0]
    for k in range(1, count):
        low = k * len(sound) // count - near
        power = sound[low : low + 2 * near].square().unfold(0, _QUIET, _STEP).mean(dim=-1)
        cuts.append(low + int(power.argmin()) * _STEP + _QUIET // 2)
    return [sound[a:b] for a, b in pairwise([*cuts, len(sound)])]


def why_unheard(sound: Tensor | None) -> str | None:
    """Why there is nothing to hear in (samples,) at 16 kHz; None: there is."""
    if sound is None or len(sound) == 0:
        return "no sound"
    if len(sound) < LEAST_S * SOUND_HZ:
        return f"it is shorter than {LEAST_S:g} s"
    if not bool(sound.isfinite().all()):
        return "the sound has NaN or Inf"
    return "the sound is silent" if float(sound.abs().max()) < QUIETEST else None
