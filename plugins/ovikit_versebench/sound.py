"""What a sound is as a signal: loudness, peaks, clipping, silence, bandwidth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.error import BlockingIOError as NothingYet
from av.error import EOFError as Over
from av.filter import Graph
from torch import Tensor

from ovikit.data.levels import FLOOR_DB, silent_share
from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.generate.media import View
from ovikit.types import Clip

VERSION = "1"
GATE_LUFS = -70.0
"""The absolute gate of ITU-R BS.1770: what is quieter is not part of a programme."""
BLOCK_S = 0.4
PIECE = 4096
WINDOW = 2048
BELOW_PEAK_DB = 60.0
QUIETEST = 1e-3


class SoundSignal:
    """Numbers of the sound alone, of the mono mix at the file's own rate."""

    version = VERSION
    view = View(modalities=("audio",))

    def __init__(self, clipped_from: float, silent_below_db: float) -> None:
        self._clipped_from, self._silent_below_db = clipped_from, silent_below_db
        self.metrics = (
            MetricSpec(
                "loudness_lufs", "neither", "LUFS", (GATE_LUFS, 20.0), VERSION,
                "integrated loudness (ITU-R BS.1770, EBU R 128) of the mono mix",
            ),
            MetricSpec(
                "true_peak_dbtp", "neither", "dBTP", (FLOOR_DB, 60.0), VERSION,
                "true peak (ITU-R BS.1770) of the mono mix",
            ),
            MetricSpec(
                "clipped_share", "lower", "", (0.0, 1.0), f"{VERSION}/{clipped_from}",
                f"share of samples whose magnitude is {clipped_from:g} of full scale or more",
            ),
            MetricSpec(
                "silent_share", "lower", "", (0.0, 1.0), f"{VERSION}/{silent_below_db}",
                f"share of windows of 50 ms below {silent_below_db:g} dBFS",
            ),
            MetricSpec(
                "bandwidth_hz", "higher", "Hz", (0.0, math.inf), VERSION,
                f"highest frequency whose mean power is within {BELOW_PEAK_DB:g} dB of the strongest",
            ),
        )  # fmt: skip

    def features(self, clip: Clip) -> dict[str, Any]:
        if clip.audio is None or clip.audio.numel() == 0:
            return {"why": "no sound"}
        if not bool(torch.isfinite(clip.audio).all()):
            return {"why": "the sound has NaN or Inf"}
        sound, rate = clip.audio, clip.sample_rate_hz
        silent = float(sound.abs().max()) < QUIETEST
        loudness, peak = loudness_of(sound, rate)
        return {
            "why": None,
            "seconds": len(sound) / rate,
            "loudness_lufs": loudness,
            "true_peak_dbtp": peak,
            "clipped_share": float((sound.abs() >= self._clipped_from).double().mean()),
            "silent_share": silent_share(sound, rate, self._silent_below_db),
            "bandwidth_hz": None if silent else bandwidth_hz(sound, rate),
        }

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        if audio["why"] is not None:
            return {metric.name: Unscored(audio["why"]) for metric in self.metrics}
        found: dict[str, float | Unscored] = {metric.name: audio[metric.name] for metric in self.metrics}
        if audio["loudness_lufs"] is None:
            short = audio["seconds"] < BLOCK_S
            found["loudness_lufs"] = Unscored(
                "the sound is shorter than 400 ms" if short else "the sound is silent, below -70 LUFS"
            )
        if audio["bandwidth_hz"] is None:
            found["bandwidth_hz"] = Unscored("the sound is silent")
        return found


def loudness_of(sound: Tensor, rate_hz: int) -> tuple[float | None, float]:
    """(LUFS, dBTP) of (samples,) by FFmpeg's meter; None where everything is below the gate."""
    graph = Graph()
    source = graph.add_abuffer(sample_rate=rate_hz, format="fltp", layout="mono", time_base=f"1/{rate_hz}")  # type: ignore[arg-type]  # a fraction or its text
    meter, sink = graph.add("ebur128", "metadata=1:peak=true"), graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    samples, told = np.ascontiguousarray(sound.numpy(), dtype=np.float32), {}
    for start in range(0, len(samples), PIECE):
        piece = AudioFrame.from_ndarray(samples[None, start : start + PIECE], format="fltp", layout="mono")
        piece.sample_rate, piece.pts = rate_hz, start
        source.push(piece)
        told = _latest(sink) or told
    source.push(None)
    told = _latest(sink) or told
    loudness = float(told.get("lavfi.r128.I", GATE_LUFS))
    peak = float(told.get("lavfi.r128.true_peak", 0.0))
    return None if loudness <= GATE_LUFS else loudness, max(FLOOR_DB, 20 * math.log10(peak)) if peak > 0 else FLOOR_DB


def _latest(sink: Any) -> dict[str, str]:
    """What the last frame that is ready says; nothing where none is."""
    told: dict[str, str] = {}
    while True:
        try:
            told = dict(sink.pull().metadata)
        except (NothingYet, Over):
            return told


def bandwidth_hz(sound: Tensor, rate_hz: int) -> float:
    """The highest frequency whose mean power over time is at most ``BELOW_PEAK_DB`` below that of the strongest."""
    window = torch.hann_window(WINDOW, dtype=torch.float64)
    padded = torch.nn.functional.pad(sound.double(), (0, max(0, WINDOW - len(sound))))
    power = torch.stft(padded, WINDOW, WINDOW // 2, window=window, center=False, return_complex=True).abs().square()
    mean = power.mean(dim=-1)
    within = (mean >= mean.max() * 10 ** (-BELOW_PEAK_DB / 10)).nonzero()
    return float(within[-1]) * rate_hz / WINDOW
