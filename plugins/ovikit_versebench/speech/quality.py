"""How natural speech sounds, as people would grade it from 1 to 5: DNSMOS (P.835 and P.808), by the models that the
package speechmos carries. Its own code needs librosa; this is the same computation without it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.generate.media import View
from ovikit.types import Clip
from ovikit_versebench.mel import slaney_filters
from ovikit_versebench.speech.hearing import SOUND_HZ, why_unheard
from ovikit_versebench.speech.packages import carried, home, quiet_session, runtime, told

VERSION = "2"
WINDOW_S = 9.01
WINDOW = 144_160
"""Samples that are graded at once. A shorter sound is repeated, of a longer one windows a second apart are graded."""
FRAME, HOP, BANDS = 321, 160, 120
GRADES = ("sig", "bak", "ovrl")
CURVES: dict[str, tuple[float, ...]] = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}
"""Polynomials, highest power first, that bring the network's grades to people's."""


class SpeechQuality:
    """Grades of the sound by itself; of items in which somebody speaks, where the set tells."""

    view = View(sample_rate_hz=SOUND_HZ, modalities=("audio",))

    def __init__(self) -> None:
        self.needs = (
            carried("speechmos", "MIT", "https://github.com/microsoft/DNS-Challenge"),
            runtime("onnxruntime", "MIT", "https://onnxruntime.ai"),
        )
        self.version = f"{VERSION}/{told('speechmos')}"
        words = {
            "dnsmos_p808": "overall quality (ITU-T P.808)", "dnsmos_ovrl": "overall quality (P.835)",
            "dnsmos_sig": "the voice (P.835)", "dnsmos_bak": "absence of background noise (P.835)",
        }  # fmt: skip
        self.metrics = tuple(
            MetricSpec(name, "higher", "MOS", (0.0, 6.0), self.version, f"predicted opinion of {what}, from 1 to 5")
            for name, what in words.items()
        )

    def leaves_out(self, item: PromptItem) -> str | None:
        return "nobody speaks in its prompt" if "speech" in item.truth and not item.truth["speech"] else None

    def features(self, clip: Clip) -> dict[str, Any]:
        if (why := why_unheard(clip.audio)) is not None or clip.audio is None:
            return {"why": why}
        found = self.grades(clip.audio.clamp(-1, 1).numpy())
        return {"why": None, **{name: round(value, 6) for name, value in found.items()}}

    def grades(self, sound: NDArray[np.float32]) -> dict[str, float]:
        """The four grades of (samples,) at 16 kHz, means over windows that start a second apart."""
        while len(sound) < WINDOW:
            sound = np.concatenate((sound, sound))
        rows: list[list[float]] = []
        for start in _starts(len(sound)):
            piece = sound[start : start + WINDOW]
            primary, p808 = _networks()
            raw = primary.run(None, {"input_1": piece[None].astype(np.float32)})[0][0]
            spectrum = decibels(torch.from_numpy(piece[:-HOP].copy())).numpy()
            overall = float(p808.run(None, {"input_1": spectrum[None].astype(np.float32)})[0][0][0])
            rows.append(
                [overall, *(float(np.polyval(CURVES[name], one)) for name, one in zip(GRADES, raw, strict=True))]
            )
        p808_mean, sig, bak, ovrl = np.mean(rows, axis=0)
        return {
            "dnsmos_p808": float(p808_mean),
            "dnsmos_ovrl": float(ovrl),
            "dnsmos_sig": float(sig),
            "dnsmos_bak": float(bak),
        }

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        if audio["why"] is not None:
            return {metric.name: Unscored(audio["why"]) for metric in self.metrics}
        return {metric.name: audio[metric.name] for metric in self.metrics}


def _starts(length: int) -> list[int]:
    """First samples of the windows that speechmos grades of ``length``, which are not all that fit: it counts whole
    seconds, so that 12.5 s have three; and where its product of seconds and rate falls short of a whole number, as
    from the 8th to the 24th window, it finds a sample missing and leaves the window out."""
    count = int(length // SOUND_HZ - WINDOW_S) + 1
    return [k * SOUND_HZ for k in range(count) if int((k + WINDOW_S) * SOUND_HZ) == k * SOUND_HZ + WINDOW]


@cache
def _networks() -> tuple[Any, Any]:
    """Of P.835 and of P.808, once in a process: reading them takes as long as grading with them."""
    place = home("speechmos") / "dnsmos_models"
    return quiet_session(place / "sig_bak_ovr.onnx"), quiet_session(place / "model_v8.onnx")


@cache
def _filterbank() -> Tensor:
    """(FRAME // 2 + 1, BANDS), Slaney's."""
    return slaney_filters(SOUND_HZ, FRAME, BANDS, 0.0, SOUND_HZ / 2)


def decibels(sound: Tensor) -> Tensor:
    """(frames, BANDS) of the mel power below its peak, in 40 dB, from 1 at the peak to -1."""
    window = torch.hann_window(FRAME, dtype=torch.float64)
    spectrum = torch.stft(
        sound.double(), FRAME, HOP, window=window, center=True, pad_mode="constant", return_complex=True
    ).abs().square()  # fmt: skip
    power = _filterbank().T @ spectrum
    level = 10 * power.clamp(min=1e-10).log10()
    below = level - 10 * torch.log10(power.max().clamp(min=1e-10))
    return ((below.clamp(min=float(below.max()) - 80) + 40) / 40).T
