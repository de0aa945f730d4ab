"""PANNs' Cnn14 (Kong et al. 2020), with the names of the published files.

Read for it: pytorch/models.py of qiuqiangkong/audioset_tagging_cnn and torchlibrosa 0.1.0, whose Fourier and mel
matrices are among the weights. Compared with panns-inference 0.1.1 at full size and random weights, for both rates:
the same names, the same numbers to the bit; the matrices that are made here agree with torchlibrosa's to 5e-7.

Shape legend: b sounds, n samples, t frames, k frequencies, m mels, c classes, w width of the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovikit_versebench.mel import decibels, slaney_filters

MELS = 64
LOWEST_HZ = 50.0


@dataclass(frozen=True, slots=True)
class Front:
    """The spectrum that a network was trained on: samples of a window and from one to the next, highest frequency."""

    rate_hz: int
    window: int
    hop: int
    highest_hz: float


FRONTS = {16000: Front(16000, 512, 160, 8000.0), 32000: Front(32000, 1024, 320, 14000.0)}
WIDTHS = (64, 128, 256, 512, 1024, 2048)
CLASSES = 527
LEAST_FRAMES = 2 ** (len(WIDTHS) - 1)


class Cnn14(nn.Module):
    """Six pairs of convolutions over a logarithmic mel spectrum, then the mean and the maximum over time.

    Returns (b, w) embeddings and (b, c) logits of (b, n), of which there are 32 frames at least.
    """

    def __init__(self, front: Front, widths: Sequence[int] = WIDTHS, classes: int = CLASSES) -> None:
        super().__init__()
        self._pad = front.window // 2
        self.spectrogram_extractor = nn.ModuleDict({"stft": _Fourier(front.window, front.hop)})
        self.logmel_extractor = _Mel(front)
        self.bn0 = nn.BatchNorm2d(MELS)
        for i, (before, after) in enumerate(zip((1, *widths), widths, strict=False), start=1):
            self.add_module(f"conv_block{i}", _Pair(before, after))
        self._blocks = [f"conv_block{i}" for i in range(1, len(widths) + 1)]
        self.fc1 = nn.Linear(widths[-1], widths[-1])
        self.fc_audioset = nn.Linear(widths[-1], classes)

    def forward(self, sounds: Tensor) -> tuple[Tensor, Tensor]:
        x = F.pad(sounds[:, None], (self._pad, self._pad), mode="reflect")
        power = self.spectrogram_extractor["stft"](x)
        x = self.bn0(decibels(self.logmel_extractor(power)).transpose(1, 2)[..., None])  # (b, m, t, 1)
        x = x.permute(0, 3, 2, 1)
        for name in self._blocks:
            x = self.get_submodule(name)(x)
            # the last block keeps its resolution
            x = x if name == self._blocks[-1] else F.avg_pool2d(x, 2)
        x = x.mean(dim=3)
        embedding = self.fc1(x.amax(dim=2) + x.mean(dim=2)).relu()
        return embedding, self.fc_audioset(embedding)


class _Fourier(nn.Module):
    """(b, t, k) power of the windows of (b, 1, n), by two convolutions."""

    def __init__(self, window: int, hop: int) -> None:
        super().__init__()
        for name in ("conv_real", "conv_imag"):
            self.add_module(name, nn.Conv1d(1, window // 2 + 1, window, stride=hop, bias=False))
        # By way of the position within the period: the sine of a large argument would be less exact.
        turns = torch.outer(torch.arange(window // 2 + 1), torch.arange(window)) % window * (2 * math.pi / window)
        bell = torch.hann_window(window, dtype=torch.float64)
        with torch.no_grad():
            self.get_parameter("conv_real.weight").copy_((turns.double().cos() * bell)[:, None])
            self.get_parameter("conv_imag.weight").copy_((-turns.double().sin() * bell)[:, None])

    def forward(self, x: Tensor) -> Tensor:
        real, imaginary = self.get_submodule("conv_real")(x), self.get_submodule("conv_imag")(x)
        return (real.square() + imaginary.square()).transpose(1, 2)


class _Mel(nn.Module):
    """(b, t, m) of (b, t, k)."""

    def __init__(self, front: Front) -> None:
        super().__init__()
        filters = slaney_filters(front.rate_hz, front.window, MELS, LOWEST_HZ, front.highest_hz)
        self.melW = nn.Parameter(filters.float())

    def forward(self, power: Tensor) -> Tensor:
        return power @ self.melW


class _Pair(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()


_MADE_ANEW = np.empty(0).__reduce__()[0]
NUMPY_ARRAYS = [
    _MADE_ANEW, (_MADE_ANEW, "numpy.core.multiarray._reconstruct"), np.ndarray, np.dtype, np.dtypes.Int64DType,
]  # fmt: skip
"""What the published file for 16 kHz has beside the weights: the state of a sampler, arrays of integers, which run no
code when they are read. NumPy 1, which wrote them, had another name for what makes them anew."""
