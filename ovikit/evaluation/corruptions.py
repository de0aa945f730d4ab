"""Ways in which a clip gets worse, by known amounts: what metrics are tried on.

Shape legend: f frames, h w rows and columns, n samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ovikit.types import Clip

Spoil = Callable[[Clip, float], Clip]


@dataclass(frozen=True, slots=True)
class Corruption:
    """A way to spoil a clip.

    grades: from the mildest to the worst, in ``unit``
    """

    name: str
    unit: str
    grades: tuple[float, ...]
    spoil: Spoil
    summary: str

    def __call__(self, clip: Clip, grade: float) -> Clip:
        return self.spoil(clip, grade)


def _heard(change: Callable[[Tensor, int, float], Tensor]) -> Spoil:
    """Of the sound alone: (n,) samples, their rate and the grade to (n,) samples."""

    def spoil(clip: Clip, grade: float) -> Clip:
        return clip if clip.audio is None else replace(clip, audio=change(clip.audio, clip.sample_rate_hz, grade))

    return spoil


def _seen(change: Callable[[Tensor, float], Tensor]) -> Spoil:
    """Of the picture alone: (f, h, w, 3) pixels and the grade to as many."""

    def spoil(clip: Clip, grade: float) -> Clip:
        return clip if clip.video is None else replace(clip, video=change(clip.video, grade))

    return spoil


def _late(audio: Tensor, rate_hz: int, ms: float) -> Tensor:
    shift = min(round(ms / 1000 * rate_hz), len(audio))
    return torch.cat((audio.new_zeros(shift), audio[: len(audio) - shift]))


def _noisy(audio: Tensor, rate_hz: int, snr_db: float) -> Tensor:
    noise = torch.randn(len(audio), generator=torch.Generator().manual_seed(0))
    power = float(audio.double().square().mean())
    return audio + math.sqrt(power / 10 ** (snr_db / 10)) * noise


def _clipped(audio: Tensor, rate_hz: int, gain_db: float) -> Tensor:
    peak = float(audio.abs().max())
    return audio if peak == 0 else (audio / peak * 10 ** (gain_db / 20)).clamp(-1, 1)


def _muffled(audio: Tensor, rate_hz: int, most_hz: float) -> Tensor:
    spectrum = torch.fft.rfft(audio.double())
    spectrum[torch.fft.rfftfreq(len(audio), 1 / rate_hz) > most_hz] = 0
    return torch.fft.irfft(spectrum, len(audio)).float()


def _backwards(audio: Tensor, rate_hz: int, percent: float) -> Tensor:
    """The end runs backwards: the same voice, as loud, and none of the words."""
    kept = len(audio) - round(percent / 100 * len(audio))
    return torch.cat((audio[:kept], audio[kept:].flip(0)))


def _silenced(audio: Tensor, rate_hz: int, percent: float) -> Tensor:
    kept = audio.clone()
    kept[len(audio) - round(percent / 100 * len(audio)) :] = 0
    return kept


def _dropped(video: Tensor, percent: float) -> Tensor:
    """Evenly spaced frames are replaced by the last one that is kept."""
    places = torch.arange(len(video))
    share = percent / 100
    lost = ((places + 1) * share).floor() > (places * share).floor()
    lost[0] = False
    return video[torch.where(lost, 0, places).cummax(0).values]


def _frozen(video: Tensor, percent: float) -> Tensor:
    last = max(0, len(video) - 1 - round(percent / 100 * len(video)))
    return video[torch.arange(len(video)).clamp_max(last)]


def _blurred(video: Tensor, permille: float) -> Tensor:
    """By a bell whose standard deviation is that share of the height."""
    sigma = permille / 1000 * video.shape[1]
    reach = math.ceil(3 * sigma)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    bell = (bell / bell.sum())[None, None]

    def blur(frame: Tensor) -> Tensor:
        x = F.pad(frame.permute(2, 0, 1)[:, None].float(), (reach,) * 4, mode="replicate")
        x = F.conv2d(F.conv2d(x, bell[..., None, :]), bell[..., None])
        return x[:, 0].permute(1, 2, 0).round().to(torch.uint8)

    return torch.stack([blur(frame) for frame in video])


def _flickering(video: Tensor, percent: float) -> Tensor:
    """Every other frame is darker by that share."""
    factor = torch.ones(len(video))
    factor[1::2] -= percent / 100
    return (video.float() * factor[:, None, None, None]).round().to(torch.uint8)


def _blacked_out(video: Tensor, percent: float) -> Tensor:
    kept = video.clone()
    kept[len(video) - round(percent / 100 * len(video)) :] = 0
    return kept


CORRUPTIONS = (
    Corruption("sound late", "ms", (40, 80, 160, 400, 800), _heard(_late), "the sound starts later"),
    Corruption("noise", "dB below the sound", (30, 20, 10, 0), _heard(_noisy), "white noise is added"),
    Corruption("clipping", "dB too loud", (6, 12, 24, 36), _heard(_clipped), "the sound is cut off at full scale"),
    Corruption("muffled", "Hz at most", (8000, 4000, 2000, 1000), _heard(_muffled), "high frequencies are taken away"),
    Corruption("wrong words", "% of it", (25, 50, 75, 100), _heard(_backwards), "the end of the sound runs backwards"),
    Corruption("silenced", "% of it", (10, 25, 50, 90), _heard(_silenced), "the end is silent"),
    Corruption("frames dropped", "% of them", (10, 25, 50, 75), _seen(_dropped), "frames are shown longer instead"),
    Corruption("frozen", "% of it", (10, 25, 50, 90), _seen(_frozen), "the end is one picture"),
    Corruption("blurred", "thousandths of the height", (2, 5, 10, 20), _seen(_blurred), "the picture is blurred"),
    Corruption("flicker", "% darker", (5, 10, 20, 40), _seen(_flickering), "every other frame is darker"),
    Corruption("blacked out", "% of it", (10, 25, 50, 90), _seen(_blacked_out), "the end is black"),
)
