"""What the evaluators that listen have in common: sounds that cannot be judged, levels, numbers for the cache."""

from __future__ import annotations

from torch import Tensor, isfinite
from torch.nn import functional as F

from ovikit.types import Clip

QUIETEST = 1e-4
"""Magnitude below which a sound is none."""
LEAST_S = 0.5
PEAK = 10 ** (-1 / 20)
"""-1 dBFS."""


def why_unheard(clip: Clip, quietest: float | None = QUIETEST, least_s: float = LEAST_S) -> str | None:
    """Why nothing can be said of a clip's sound; None: something can. quietest: None where silence is judged, too."""
    sound = clip.audio
    if sound is None or sound.numel() == 0:
        return "no sound"
    if len(sound) < least_s * clip.sample_rate_hz:
        return f"the sound lasts {len(sound) / clip.sample_rate_hz:.2f} s, less than {least_s:g} s"
    if not bool(isfinite(sound).all()):
        return "the sound has NaN or Inf"
    if quietest is not None and float(sound.abs().max()) <= quietest:
        return "the sound is silent"
    return None


def at_peak(sound: Tensor) -> Tensor:
    """A sound that is not silent, brought to a peak of -1 dBFS."""
    return sound * (PEAK / sound.abs().max())


def padded(sound: Tensor, length: int) -> Tensor:
    """(..., length) of a sound that is no longer, with silence behind it."""
    return F.pad(sound, (0, length - sound.shape[-1]))


def plain(values: Tensor) -> list[float]:
    """Numbers for the cache, as exact as float32."""
    return [float(f"{value:.9g}") for value in values.float().tolist()]
