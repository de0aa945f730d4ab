"""The spectra that the networks were trained on: mel filters of three kinds, written from their definitions.

Compared with librosa 0.11 (Slaney's scale to 1e-16, HTK's to 2e-14), with torchaudio 2.11 (Kaldi's to 1.3e-5, which is
its float32), with kaldi-native-fbank 1.23.0 (``kaldi_log_mel`` of 80 mels to 2e-4) and, in
tests/conformance/test_mel_filters.py, with transformers.

Shape legend: b sounds, n samples, t frames, m mels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

_SLANEY_HZ, _SLANEY_MEL = 1000.0, 15.0
_SLANEY_STEP = math.log(6.4) / 27
KALDI_EMPHASIS = 0.97


def _slaney_mel(hz: Tensor) -> Tensor:
    """Linear below 1 kHz, 3 mel for 200 Hz, and logarithmic above (Auditory Toolbox)."""
    above = _SLANEY_MEL + (hz.clamp_min(_SLANEY_HZ) / _SLANEY_HZ).log() / _SLANEY_STEP
    return torch.where(hz < _SLANEY_HZ, hz * _SLANEY_MEL / _SLANEY_HZ, above)


def _slaney_hz(mel: Tensor) -> Tensor:
    above = _SLANEY_HZ * ((mel - _SLANEY_MEL) * _SLANEY_STEP).exp()
    return torch.where(mel < _SLANEY_MEL, mel * _SLANEY_HZ / _SLANEY_MEL, above)


def _htk_mel(hz: Tensor) -> Tensor:
    return 1127.0 * (1 + hz / 700).log()


def _htk_hz(mel: Tensor) -> Tensor:
    return 700 * ((mel / 1127.0).exp() - 1)


@cache
def slaney_filters(rate_hz: int, window: int, count: int, low_hz: float, high_hz: float) -> Tensor:
    """(window / 2 + 1, count) triangles on Slaney's scale, each of the same area, float64."""
    places, edges = _bins(rate_hz, window), _edges(_slaney_mel, _slaney_hz, count, low_hz, high_hz)
    return _triangles(places, edges) * 2 / (edges[2:] - edges[:-2])


@cache
def htk_filters(rate_hz: int, window: int, count: int, low_hz: float, high_hz: float) -> Tensor:
    """(window / 2 + 1, count) triangles on HTK's scale, each of height 1, float64."""
    return _triangles(_bins(rate_hz, window), _edges(_htk_mel, _htk_hz, count, low_hz, high_hz))


@cache
def kaldi_filters(rate_hz: int, window: int, count: int, low_hz: float, high_hz: float) -> Tensor:
    """(window / 2 + 1, count) filters that are triangles in mel, not in Hz, each of height 1; nothing of the highest
    frequency; float64."""
    edges = _edges(_htk_mel, lambda mel: mel, count, low_hz, high_hz)
    found = _triangles(_htk_mel(_bins(rate_hz, window)), edges)
    found[-1] = 0
    return found


def htk_edges(count: int, low_hz: float, high_hz: float) -> Tensor:
    """(count + 2,) Hz: where ``count`` triangles on HTK's scale begin, are 1 and end, float64."""
    return _edges(_htk_mel, _htk_hz, count, low_hz, high_hz)


def kaldi_log_mel(
    sounds: Tensor,
    rate_hz: int,
    mels: int,
    bell: Literal["hann", "hamming"] = "hann",
    low_hz: float = 20.0,
    high_hz: float | None = None,
) -> Tensor:
    """(b, t, m) of (b, n): Kaldi's ``fbank`` without dither, windows of 25 ms every 10 ms, of whole windows only.

    Each window is taken without its mean, and its samples without 0.97 of the one before; natural logarithm of the
    power. A network trained on 16-bit integers wants ``sounds`` times 32768. high_hz: half the rate unless said.
    t is 0 of a sound that is shorter than a window.
    """
    window, hop = rate_hz // 40, rate_hz // 100
    size = 1 << (window - 1).bit_length()
    filters = kaldi_filters(rate_hz, size, mels, low_hz, rate_hz / 2 if high_hz is None else high_hz)
    if sounds.shape[1] < window:
        return sounds.new_zeros(len(sounds), 0, mels)
    frames = sounds.unfold(1, window, hop)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    frames = frames - KALDI_EMPHASIS * F.pad(frames, (1, 0), mode="replicate")[..., :-1]
    form = torch.hann_window if bell == "hann" else torch.hamming_window
    shaped = frames * form(window, periodic=False, dtype=sounds.dtype, device=sounds.device)
    power = torch.fft.rfft(shaped, size).abs().square()
    return (power @ filters.to(power)).clamp_min(torch.finfo(torch.float32).eps).log()


def _bins(rate_hz: int, window: int) -> Tensor:
    return torch.arange(window // 2 + 1, dtype=torch.float64) * rate_hz / window


def _edges(
    mel: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor], count: int, low_hz: float, high_hz: float
) -> Tensor:
    low, high = mel(torch.tensor([low_hz, high_hz], dtype=torch.float64))
    return back(low + (high - low) * torch.linspace(0, 1, count + 2, dtype=torch.float64))


def _triangles(places: Tensor, edges: Tensor) -> Tensor:
    """(places, filters): filter i rises from edge i to 1 at edge i + 1 and falls to edge i + 2."""
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    up = (places[:, None] - low) / (middle - low)
    down = (high - places[:, None]) / (high - middle)
    return torch.minimum(up, down).clamp_min(0)


def decibels(power: Tensor) -> Tensor:
    """Of power, 0 dB is 1; nothing below -100."""
    return 10 * power.clamp_min(1e-10).log10()
