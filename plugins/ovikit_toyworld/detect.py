"""What an eye and an ear find in a decoded clip: when it lights up, when a tone starts, its colour, its pitch.

The detectors know the world's colours and pitches but nothing of the clip's truth, and the ear never sees the picture.

Shape legend: f frames, y x pixels, s samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ovikit_toyworld.story import COLOURS, PITCH_HZ

Array = NDArray[np.float64]

_LUMA = np.array([0.299, 0.587, 0.114])
_HUES = np.array([0.0, 125.0, 225.0])
_GAP_S = 0.25
"""Two onsets of one clip lie further apart than this; the world's lie 0.45 s apart."""
_SHARE = 0.35
"""An onset rises at least this much of the clip's largest rise."""
_EARLY_S = 0.006
"""A window of 20 ms is half as loud (as a square root) this long before the tone's start; measured on the world."""


def rises(curve: Array, rate_hz: float, reach_s: float, least: float) -> list[float]:
    """Times in samples of ``curve``, fractional, at which it climbs sharply: where it is half way up.

    reach_s: a climb lasts no longer than this, before and after
    least:   smaller climbs are no onsets, whatever the others are
    """
    reach = max(1, round(reach_s * rate_hz))
    before = np.concatenate([np.full(reach, curve[0]), curve[:-reach]])
    after = np.concatenate([curve[reach - 1 :], np.full(reach - 1, curve[-1])])
    climb = after - before
    found: list[float] = []
    taken: list[int] = []
    for at in np.argsort(-climb, kind="stable"):
        if climb[at] < max(least, _SHARE * climb.max()):
            break
        if all(abs(int(at) - other) >= _GAP_S * rate_hz for other in taken):
            taken.append(int(at))
            found.append(_half_way(curve, max(int(at) - reach, 0), min(int(at) + reach, len(curve) - 1)))
    return sorted(found)


def _half_way(curve: Array, start: int, end: int) -> float:
    """Where the curve, between its lowest point in start..end and the highest one after it, is half way up."""
    low = start + int(np.argmin(curve[start : end + 1]))
    high = low + int(np.argmax(curve[low : end + 1]))
    half = 0.5 * (curve[low] + curve[high])
    for i in range(low, high):
        if curve[i] <= half <= curve[i + 1] and curve[i + 1] > curve[i]:
            return i + float((half - curve[i]) / (curve[i + 1] - curve[i]))
    return float(high)


def brightness(video: NDArray[np.uint8]) -> Array:
    """(f,) mean luma of frames (f, y, x, 3), 0 to 1."""
    return (video.reshape(len(video), -1, 3).mean(1, dtype=np.float64) @ _LUMA) / 255.0


def visual_onsets(video: NDArray[np.uint8], frame_rate_hz: float) -> list[float]:
    """Seconds at which the picture lights up."""
    # A frame is shown from its own time on: a step between frames i - 1 and i is half way at i - 1/2, and happens at i.
    return [(at + 0.5) / frame_rate_hz for at in rises(brightness(video), frame_rate_hz, 0.085, 0.03)]


def loudness(audio: Array, rate_hz: int) -> tuple[Array, float]:
    """Square root of the level in windows of 20 ms, and how many windows a second: one every 5 ms."""
    hop = rate_hz // 200
    power = np.concatenate([np.zeros(2 * hop), audio**2, np.zeros(2 * hop)])
    summed = np.concatenate([[0.0], np.cumsum(power)])
    starts = np.arange(0, len(audio), hop)
    level = np.sqrt(np.maximum(summed[starts + 4 * hop] - summed[starts], 0.0) / (4 * hop))
    return np.sqrt(level), rate_hz / hop


def audio_onsets(audio: Array, rate_hz: int) -> list[float]:
    """Seconds at which a sound starts. Window i is centred on its own time."""
    curve, rate = loudness(audio, rate_hz)
    return [at / rate + _EARLY_S for at in rises(curve, rate, 0.06, 0.1)]


def colour_of(video: NDArray[np.uint8]) -> str | None:
    """The ball's colour, from the most colourful pixels of the clip; None if there is hardly any colour."""
    sparse = max(1, min(video.shape[1:3]) // 64)
    pixels = video[:, ::sparse, ::sparse].reshape(-1, 3).astype(np.int16)
    chroma = pixels.max(1) - pixels.min(1)
    if not chroma.any():
        return None
    bound = np.partition(chroma, -len(chroma) // 50)[-len(chroma) // 50]
    red, green, blue = pixels[chroma >= max(bound, 1)].mean(0) / 255.0
    x, y = red - 0.5 * (green + blue), np.sqrt(0.75) * (green - blue)
    if np.hypot(x, y) < 0.12:
        return None
    apart = np.abs((np.degrees(np.arctan2(y, x)) - _HUES + 180.0) % 360.0 - 180.0)
    return COLOURS[int(np.argmin(apart))] if apart.min() < 55.0 else None


def pitch_of(audio: Array, rate_hz: int, onsets_s: Sequence[float]) -> tuple[float, int | None] | None:
    """Frequency in Hz of the strongest partial after the onsets, and the index of the world's pitch within a third of
    an octave of it, if one is; None if there is no onset to listen to."""
    length = round(0.25 * rate_hz)
    power = np.zeros(length // 2 + 1)
    for onset in onsets_s:
        start = max(0, round((onset + 0.01) * rate_hz))
        piece = audio[start : start + length]
        power += np.abs(np.fft.rfft(piece * np.hanning(max(len(piece), 1)), n=length)) ** 2
    if power.max() <= 1e-6:
        return None
    hertz = float(np.argmax(power) * rate_hz / length)
    octaves = np.abs(np.log2(max(hertz, 1.0) / np.asarray(PITCH_HZ)))
    return hertz, int(np.argmin(octaves)) if octaves.min() < 1 / 3 else None
