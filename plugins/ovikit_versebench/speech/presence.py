"""For how much of the time somebody speaks, by Silero's voice activity detector, which its package carries."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ovikit.evaluation.protocols import MetricSpec, Need, PromptItem, Unscored
from ovikit.generate.media import View
from ovikit.types import Clip
from ovikit_versebench.speech.packages import carried, home, told

VERSION = "2"
SOUND_HZ, STEP = 16000, 512


class SpeechPresence:
    """The share of steps of 32 ms in which there is speech."""

    view = View(sample_rate_hz=SOUND_HZ, modalities=("audio",))

    def __init__(self, least: float) -> None:
        self.needs = (need(),)
        self._least = least
        self.version = f"{VERSION}/{told('silero-vad')}"
        self.metrics = (
            MetricSpec(
                "speech_share", "neither", "", (0.0, 1.0), f"{self.version}/{least}",
                f"share of the time in which there is speech, with a probability of {least:g} or more",
            ),
        )  # fmt: skip

    def features(self, clip: Clip) -> dict[str, Any]:
        if clip.audio is None or len(clip.audio) < STEP:
            return {"why": "no sound" if clip.audio is None or len(clip.audio) == 0 else "it is shorter than 32 ms"}
        if not bool(torch.isfinite(clip.audio).all()):
            return {"why": "the sound has NaN or Inf"}
        probabilities, _ = speech_probabilities(clip.audio)
        return {"why": None, "speech": [round(one, 4) for one in probabilities]}

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        if audio["why"] is not None:
            return {"speech_share": Unscored(audio["why"])}
        steps = audio["speech"]
        return {"speech_share": sum(one >= self._least for one in steps) / len(steps)}


def need() -> Need:
    """The package that carries the network."""
    return carried("silero_vad", "MIT", "https://github.com/snakers4/silero-vad")


@torch.inference_mode()
def speech_probabilities(sound: Tensor) -> tuple[list[float], float]:
    """The probability that somebody speaks in each step of (samples,) at 16 kHz, the last one filled with silence; and
    the seconds of a step."""
    network = _network()
    network.reset_states()
    steps = torch.nn.functional.pad(sound, (0, -len(sound) % STEP)).view(-1, STEP)
    return [float(network(step, SOUND_HZ)) for step in steps], STEP / SOUND_HZ


@cache
def _network() -> Any:
    """Once in a process. What it remembers of a sound is forgotten before each."""
    return torch.jit.load(str(home("silero_vad") / "data" / "silero_vad.jit")).eval()
