"""Whether what is seen changes when what is heard does: changes of picture and sound as two curves over time.

Shape legend: n steps of 10 ms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovikit.data.levels import brightness
from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.generate.media import View
from ovikit.types import Clip

VERSION = "1"
STEP_HZ = 100
SOUND_HZ = 16000
WINDOW = 512
FLOOR = 1e-3
"""Magnitude below which a sound is as good as none; full scale is 1."""
SMOOTH_S = 0.04
"""Standard deviation of the bell that both curves are smoothed with: a frame of most clips."""
AROUND_S = 1.0
"""Time over which a curve's mean is taken away: what goes on for longer is no event."""
STILL = 1e-4
"""Change of brightness from frame to frame that is none."""
LEAST_S = 1.0
"""Shortest overlap of two curves that is compared."""

Curve = NDArray[np.float64]


class Agreement:
    """Correlation of how much the picture changes with how much the sound rises, and the offset at which it is best.

    It sees events: a ball that bounces, a door that shuts. It does not see speech: there clips are no better than with
    each other's sound (docs/evaluation.md).
    """

    version = VERSION
    view = View(longest_px=256, sample_rate_hz=SOUND_HZ)

    def __init__(self, within_s: float, least: float) -> None:
        self._within_s, self._least = within_s, least
        version, most = f"{VERSION}/{within_s}/{least}", 1000.0 * within_s
        self.metrics = (
            MetricSpec(
                "av_correlation", "higher", "", (-1.0, 1.0), VERSION,
                "correlation of the picture's changes with the sound's rises, as they lie in the file",
            ),
            MetricSpec(
                "av_offset_ms", "lower", "ms", (0.0, most), version,
                f"magnitude of the offset, within {within_s:g} s, at which the correlation is largest",
            ),
            MetricSpec(
                "av_late_ms", "neither", "ms", (-most, most), version, "the same, signed: positive where sound is late"
            ),
        )  # fmt: skip

    def features(self, clip: Clip) -> dict[str, Any]:
        seen, heard = _seen(clip), _heard(clip)
        return {
            "unseen": seen if isinstance(seen, str) else None,
            "unheard": heard if isinstance(heard, str) else None,
            "seen": None if isinstance(seen, str) else [round(float(x), 6) for x in seen],
            "heard": None if isinstance(heard, str) else [round(float(x), 6) for x in heard],
        }

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        why = video["unseen"] or audio["unheard"]
        if why:
            return {metric.name: Unscored(why) for metric in self.metrics}
        seen, heard = np.asarray(video["seen"]), np.asarray(audio["heard"])
        most = round(self._within_s * STEP_HZ)
        found = correlations(seen, heard, most)
        now = float(found[most])
        if math.isnan(now):
            short = Unscored(
                f"picture and sound overlap by less than {LEAST_S:g} s, or one of them does not change then"
            )
            return {metric.name: short for metric in self.metrics}
        late = int(np.nanargmax(found)) - most
        if found[late + most] < self._least:
            no = Unscored(f"picture and sound go together at no offset: the best correlation is below {self._least:g}")
            return {"av_correlation": now, "av_offset_ms": no, "av_late_ms": no}
        late_ms = 1000.0 * late / STEP_HZ
        return {"av_correlation": now, "av_offset_ms": abs(late_ms), "av_late_ms": late_ms}


def correlations(seen: Curve, heard: Curve, most: int) -> Curve:
    """(2 most + 1,) Pearson's correlation of two curves where the second is from ``most`` steps early to ``most`` steps
    late; NaN where too little is left of them, or one is flat."""
    found = np.full(2 * most + 1, np.nan)
    for late in range(-most, most + 1):
        first, second = (seen, heard[late:]) if late >= 0 else (seen[-late:], heard)
        size = min(len(first), len(second))
        if size < LEAST_S * STEP_HZ:
            continue
        a, b = first[:size], second[:size]
        norm = (a @ a - a.sum() ** 2 / size) * (b @ b - b.sum() ** 2 / size)
        if norm > 1e-18:
            found[late + most] = np.clip((a @ b - a.sum() * b.sum() / size) / np.sqrt(norm), -1.0, 1.0)
    return found


def _seen(clip: Clip) -> Curve | str:
    """(n,) how much the picture changes; or why there is no telling."""
    if clip.video is None or len(clip.video) < 2:
        return "no picture that could move"
    grey = brightness(clip.video)
    changes = (grey[1:] - grey[:-1]).abs().mean(dim=(1, 2)).double().numpy()
    if float(changes.max()) < STILL:
        return "the picture does not move"
    # a frame's change is where it comes on screen
    times = np.arange(1, len(grey)) / clip.frame_rate_hz
    steps = round(len(grey) / clip.frame_rate_hz * STEP_HZ)
    curve = np.zeros(steps)
    # The root, so that a cut does not outweigh everything else.
    np.add.at(curve, np.clip(np.round(times * STEP_HZ).astype(int), 0, steps - 1), np.sqrt(changes))
    return _smoothed(curve)


def _heard(clip: Clip) -> Curve | str:
    """(n,) how much the sound rises, over all frequencies; or why there is no telling."""
    if clip.audio is None or clip.audio.numel() < WINDOW:
        return "no sound"
    if not bool(torch.isfinite(clip.audio).all()):
        return "the sound has NaN or Inf"
    if float(clip.audio.abs().max()) < FLOOR:
        return "the sound is silent"
    flux = _flux(clip.audio, clip.sample_rate_hz)
    return _smoothed(flux.numpy())


def _flux(sound: Tensor, rate_hz: int) -> Tensor:
    """(n,) the rise of the logarithmic spectrum from one step to the next, summed over frequencies."""
    hop = rate_hz // STEP_HZ
    window = torch.hann_window(WINDOW, dtype=torch.float64)
    spectrum = torch.stft(sound.double(), WINDOW, hop, window=window, center=True, return_complex=True).abs()
    level = (spectrum / (FLOOR * float(window.sum()) / 2)).clamp_min(1).log()
    return (level[:, 1:] - level[:, :-1]).clamp_min(0).sum(dim=0)


def _smoothed(curve: Curve) -> Curve:
    reach = round(4 * SMOOTH_S * STEP_HZ)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (SMOOTH_S * STEP_HZ)) ** 2)
    if len(curve) <= 2 * reach:
        return curve
    smooth = np.convolve(curve, bell / bell.sum(), mode="same")
    half = round(AROUND_S * STEP_HZ / 2)
    mean = np.convolve(np.pad(smooth, half, mode="edge"), np.full(2 * half + 1, 1 / (2 * half + 1)), mode="valid")
    return smooth - mean
