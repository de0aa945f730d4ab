"""Who speaks when: stretches of speech (Silero VAD) by the voice that they are in.

Voices are told apart by the encoder that the package resemblyzer carries (Wan et al. 2018, arXiv 1710.10467), whose
own code needs librosa. A speaker is expected to pause for a fifth of a second before another begins.

Shape legend: n samples, t frames of 10 ms, m mels, w width of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovikit.evaluation.needs import device, network
from ovikit.evaluation.protocols import Need
from ovikit_versebench.mel import slaney_filters
from ovikit_versebench.speech.hearing import SOUND_HZ
from ovikit_versebench.speech.packages import carried, home
from ovikit_versebench.speech.presence import speech_probabilities

SPEECH = 0.5
PAUSE_S, LEAST_S, MARGIN_S = 0.2, 0.25, 0.05
LONG_S = 0.7
"""Shorter stretches have no voice of their own: they are the speaker's whom they are most like."""
WINDOW, HOP, MELS = 400, 160, 40
FRAMES, STEP = 160, 40
"""Frames that the encoder hears at once, and from one time to the next."""
LOUD = 10 ** (-30 / 20)
"""Root mean square that quieter sounds are brought to."""
WIDTH = 256


@dataclass(frozen=True, slots=True)
class Stretch:
    """Samples ``start`` to ``stop``, in which one speaker speaks; speakers are numbered as they come."""

    start: int
    stop: int
    speaker: int


class VoiceEncoder(nn.Module):
    """(b, t, m) mel power to (b, w) of length 1, none of it negative. The names are the published file's."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(MELS, WIDTH, 3, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, mel: Tensor) -> Tensor:
        return F.normalize(self.linear(self.lstm(mel)[1][0][-1]).relu(), dim=-1)


def need_encoder() -> Need:
    """The package that carries the encoder."""
    return carried("resemblyzer", "Apache-2.0", "https://github.com/resemble-ai/Resemblyzer")


@cache
def _encoder() -> VoiceEncoder:
    """Once in a process. Scale and bias of the loss that it was trained by are left out."""
    file = home("resemblyzer") / "pretrained.pt"
    return network(
        VoiceEncoder,
        file,
        within="model_state",
        named=lambda state: {name: one for name, one in state.items() if not name.startswith("similarity_")},
    )


@torch.inference_mode()
def voice(sound: Tensor) -> Tensor:
    """(w,) of length 1, of somebody's speech (n,) at 16 kHz: mean over windows of 1.6 s, every 0.4 s."""
    mel = spectrum(sound)
    if len(mel) < FRAMES:
        mel = mel.repeat(-(-FRAMES // len(mel)), 1)[:FRAMES]
    windows = mel.unfold(0, FRAMES, STEP).transpose(1, 2).contiguous()
    return F.normalize(_encoder()(windows.to(device())).mean(dim=0), dim=-1).cpu()


def spectrum(sound: Tensor) -> Tensor:
    """(t, m) mel power of (n,), not its logarithm."""
    level = float(sound.double().square().mean().sqrt())
    louder = sound.double() * max(1.0, LOUD / max(level, 1e-9))
    bell = torch.hann_window(WINDOW, dtype=torch.float64)
    power = torch.stft(louder, WINDOW, HOP, window=bell, pad_mode="constant", return_complex=True).abs().square()
    return (power.T @ slaney_filters(SOUND_HZ, WINDOW, MELS, 0, SOUND_HZ / 2)).float()


def turns(sound: Tensor, least: float) -> list[Stretch]:
    """Who speaks when in (n,) at 16 kHz, in order; what one speaker says in a row is one turn. least: cosine from which
    on two voices are one speaker's, as the mean over their stretches."""
    parts = stretches(sound)
    if not parts:
        return []
    voices = torch.stack([voice(sound[a:b]) for a, b in parts])
    long = [b - a >= LONG_S * SOUND_HZ for a, b in parts]
    found: list[Stretch] = []
    for (start, stop), speaker in zip(parts, speakers(voices, long, least), strict=True):
        if found and found[-1].speaker == speaker:
            start = found.pop().start
        found.append(Stretch(start, stop, speaker))
    return found


def stretches(sound: Tensor) -> list[tuple[int, int]]:
    """Where somebody speaks, without pauses of ``PAUSE_S`` or more, with a margin at either end."""
    probabilities, step_s = speech_probabilities(sound)
    runs: list[list[int]] = []
    for k, one in enumerate(probabilities):
        if one < SPEECH:
            continue
        if runs and (k - runs[-1][1]) * step_s < PAUSE_S:
            runs[-1][1] = k + 1
        else:
            runs.append([k, k + 1])
    step, margin = round(step_s * SOUND_HZ), round(MARGIN_S * SOUND_HZ)
    return [
        (max(0, a * step - margin), min(len(sound), b * step + margin)) for a, b in runs if (b - a) * step_s >= LEAST_S
    ]


def speakers(voices: Tensor, long: list[bool], least: float) -> list[int]:
    """The speaker of each of (n, w) voices, numbered as they come. Groups of the long ones are joined, the most alike
    first, while the mean cosine between two is ``least`` or more; then each short one goes where it is most alike."""
    own = [k for k, one in enumerate(long) if one] or list(range(len(voices)))
    alike: Any = (voices @ voices.T).tolist()
    groups = [[k] for k in own]

    def mean(one: list[int], other: list[int]) -> float:
        return sum(alike[i][j] for i in one for j in other) / (len(one) * len(other))

    while len(groups) > 1:
        likeness, i, j = max((mean(groups[i], groups[j]), -i, -j) for j in range(len(groups)) for i in range(j))
        if likeness < least:
            break
        groups[-i] += groups.pop(-j)
    whose = {k: g for g, group in enumerate(groups) for k in group}
    for k in range(len(voices)):
        if k not in whose:
            whose[k] = max(range(len(groups)), key=lambda g, k=k: mean([k], list(groups[g])))
    order = {g: n for n, g in enumerate(dict.fromkeys(whose[k] for k in range(len(voices))))}
    return [order[whose[k]] for k in range(len(voices))]
