"""What the networks hear: the log-mel spectra of Synchformer, and the cepstral coefficients (MFCC) of SyncNet."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovikit_versebench.mel import htk_edges, htk_filters

SOUND_HZ = 16000
WINDOW, HOP = 400, 160
"""Samples: 25 ms and 10 ms."""

MEL_FFT = 1024
MEL_MEAN, MEL_STD = -4.2677393, 4.5689974
"""Of AST's spectra over AudioSet."""

CEPSTRA, FILTERS, FFT, LIFTER, EMPHASIS = 13, 26, 512, 22, 0.97
"""The defaults of python_speech_features 0.6."""


def log_mel(segments: Tensor, mels: int, frames: int) -> Tensor:
    """(s, mels, frames) from segments of sound (s, samples) at 16 kHz, as AST was trained on: power, HTK's mel scale,
    natural logarithm. What a segment is too short for is zero before it is normalised, as in Synchformer's code."""
    window = torch.hann_window(WINDOW, device=segments.device)
    power = torch.stft(
        segments, MEL_FFT, HOP, WINDOW, window, center=True, pad_mode="reflect", return_complex=True
    ).abs().square()  # fmt: skip
    logarithm = (htk_filters(SOUND_HZ, MEL_FFT, mels, 0.0, SOUND_HZ / 2).T.to(power) @ power + 1e-6).log()[..., :frames]
    padded = torch.nn.functional.pad(logarithm, (0, frames - logarithm.shape[-1]))
    return (padded - MEL_MEAN) / (2 * MEL_STD)


def mfcc(sound: Tensor) -> NDArray[np.float64]:
    """(frames, 13) cepstral coefficients of (samples,) in [-1, 1], every 10 ms: those of python_speech_features 0.6 for
    the sound as 16-bit integers, as SyncNet reads it. The first is the logarithm of a frame's energy."""
    samples = np.clip(np.round(sound.double().numpy() * 32768), -32768, 32767)
    steep = np.append(samples[:1], samples[1:] - EMPHASIS * samples[:-1])
    count = 1 + max(0, math.ceil((len(steep) - WINDOW) / HOP))
    padded = np.pad(steep, (0, (count - 1) * HOP + WINDOW - len(steep)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.square(np.abs(np.fft.rfft(frames, FFT))) / FFT
    energy, bands = _above_zero(power.sum(axis=1)), _above_zero(power @ _bins().T)
    cepstra = np.log(bands) @ _cosines().T
    cepstra[:, 0] = np.log(energy)
    return cepstra


def _above_zero(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(values == 0, np.finfo(float).eps, values)


@cache
def _bins() -> NDArray[np.float64]:
    """(26, 257) triangles between whole bins of the spectrum."""
    edges = np.floor((FFT + 1) * htk_edges(FILTERS, 0.0, SOUND_HZ / 2).numpy() / SOUND_HZ)
    places = np.arange(FFT // 2 + 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # neighbouring edges may be one bin
        up = (places - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
        down = (edges[2:, None] - places) / (edges[2:] - edges[1:-1])[:, None]
    rising = (places >= edges[:-2, None]) & (places < edges[1:-1, None])
    falling = (places >= edges[1:-1, None]) & (places < edges[2:, None])
    return np.where(rising, up, np.where(falling, down, 0.0))


@cache
def _cosines() -> NDArray[np.float64]:
    """(13, 26) the orthonormal cosine transform, each coefficient with its lifter."""
    order, place = np.arange(CEPSTRA)[:, None], np.arange(FILTERS)
    cosines = math.sqrt(2 / FILTERS) * np.cos(np.pi * order * (place + 0.5) / FILTERS)
    cosines[0] /= math.sqrt(2)
    return cosines * (1 + LIFTER / 2 * np.sin(np.pi * order / LIFTER))
