"""The cepstral coefficients that SyncNet was trained on: those of python_speech_features 0.6 with its defaults."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16000
STEP_S = 0.01
_WINDOW, _STEP, _FFT, _FILTERS, _COEFFICIENTS, _LIFTER, _EMPHASIS = 400, 160, 512, 26, 13, 22, 0.97
_TINY = np.finfo(np.float64).eps


def mfcc(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """(windows, 13): one window of 25 ms every 10 ms, the last padded with zeros; the first coefficient is the log of
    the window's energy. ``samples`` at 16 kHz, in the range of 16-bit integers."""
    emphasised = np.append(samples[:1], samples[1:] - _EMPHASIS * samples[:-1])
    count = 1 + max(0, -(-(len(emphasised) - _WINDOW) // _STEP))
    padded = np.pad(emphasised, (0, max(0, (count - 1) * _STEP + _WINDOW - len(emphasised))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_STEP][:count]
    power = np.abs(np.fft.rfft(windows, _FFT)) ** 2 / _FFT
    energy = power.sum(axis=1)
    bands = np.log(_positive(power @ _filters().T))
    found = (bands @ _cosines().T)[:, :_COEFFICIENTS]
    found *= 1 + _LIFTER / 2 * np.sin(np.pi * np.arange(_COEFFICIENTS) / _LIFTER)
    found[:, 0] = np.log(_positive(energy))
    return found


def _positive(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x == 0, _TINY, x)


def _filters() -> NDArray[np.float64]:
    """(26, 257): triangles, evenly spaced in mel from 0 to 8 kHz, with corners on whole bins."""
    mel = np.linspace(0, 2595 * np.log10(1 + RATE_HZ / 2 / 700), _FILTERS + 2)
    corner = np.floor((_FFT + 1) * 700 * (10 ** (mel / 2595) - 1) / RATE_HZ)
    bins = np.arange(_FFT // 2 + 1)
    low, top, high = corner[:-2, None], corner[1:-1, None], corner[2:, None]
    rising, falling = (bins - low) / np.maximum(top - low, 1), (high - bins) / np.maximum(high - top, 1)
    return np.where((bins >= low) & (bins < top), rising, np.where((bins >= top) & (bins < high), falling, 0.0))


def _cosines() -> NDArray[np.float64]:
    """The orthonormal DCT-II of 26 bands."""
    k = np.arange(_FILTERS)
    table = np.cos(np.pi * k[:, None] * (2 * k + 1) / (2 * _FILTERS)) * np.sqrt(2 / _FILTERS)
    table[0] /= np.sqrt(2)
    return table
