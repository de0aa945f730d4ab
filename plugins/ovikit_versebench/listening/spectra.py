"""The spectra that the networks were trained on: mel filters of three kinds, written from their definitions.

Compared with librosa 0.11 (Slaney's scale to 1e-16, HTK's to 2e-14), with torchaudio 2.11 (Kaldi's to 1.3e-5, which is
its float32) and, in tests/conformance/test_listening_networks.py, with transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_SLANEY_HZ, _SLANEY_MEL = 1000.0, 15.0
_SLANEY_STEP = math.log(6.4) / 27


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


def slaney_filters(rate_hz: int, window: int, count: int, low_hz: float, high_hz: float) -> Tensor:
    """(window / 2 + 1, count) triangles on Slaney's scale, each of the same area, float64."""
    places, edges = _bins(rate_hz, window), _edges(_slaney_mel, _slaney_hz, count, low_hz, high_hz)
    return _triangles(places, edges) * 2 / (edges[2:] - edges[:-2])


def htk_filters(rate_hz: int, window: int, count: int, low_hz: float, high_hz: float) -> Tensor:
    """(window / 2 + 1, count) triangles on HTK's scale, each of height 1, float64."""
    return _triangles(_bins(rate_hz, window), _edges(_htk_mel, _htk_hz, count, low_hz, high_hz))


def kaldi_filters(rate_hz: int, window: int, count: int, low_hz: float, high_hz: float) -> Tensor:
    """(window / 2 + 1, count) filters that are triangles in mel, not in Hz, each of height 1; nothing of the highest
    frequency; float64."""
    edges = _edges(_htk_mel, lambda mel: mel, count, low_hz, high_hz)
    found = _triangles(_htk_mel(_bins(rate_hz, window)), edges)
    found[-1] = 0
    return found


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
