"""MMAudio's autoencoder and BigVGAN as diffusers has them, with what the 16 kHz release does otherwise.

Import this late: diffusers takes seconds. Both are without weight norm; ``weight_norm.py`` puts it in and takes it out.

Shape legend: b batch, c channels, n steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import MMAudioVAE, MMAudioVocoder
from jaxtyping import Float
from torch import Tensor, nn

from ovikit.data.mel import HOP, N_FFT, RATE_HZ

RATES, KERNELS = (4, 4, 2, 2, 2, 2), (8, 8, 4, 4, 4, 4)
"""Upsampling of the vocoder's stages, 256 samples for a mel frame, and widths of their kernels."""
BLOCK_KERNELS, BLOCK_DILATIONS = (3, 7, 11), ((1, 3, 5), (1, 3, 5), (1, 3, 5))


def autoencoder(bands: int, channels: int, hidden_channels: int) -> nn.Module:
    """MMAudio's autoencoder of log-mel spectrograms: ``encode`` gives mean and log-variance, ``decode`` a log-mel."""
    return MMAudioVAE(
        mel_bins=bands,
        latent_channels=channels,
        hidden_channels=hidden_channels,
        sample_rate=RATE_HZ,
        n_fft=N_FFT,
        hop_length=HOP,
    ).vae


class TanhConv(nn.Conv1d):
    """A convolution and a tanh: the end of BigVGAN's first version, where diffusers has its second (a clamp)."""

    def forward(self, input: Float[Tensor, "b c n"]) -> Float[Tensor, "b 1 n"]:
        return torch.tanh(super().forward(input))


def vocoder(
    bands: int,
    channels: int,
    rates: Sequence[int] = RATES,
    kernels: Sequence[int] = KERNELS,
    block_kernels: Sequence[int] = BLOCK_KERNELS,
    block_dilations: Sequence[Sequence[int]] = BLOCK_DILATIONS,
) -> nn.Module:
    """BigVGAN: log-mel (b, bands, n) to a waveform (b, 1, 256 n)."""
    made = MMAudioVocoder(bands, channels, rates, kernels, block_kernels, block_dilations)
    last = made.conv_post
    made.conv_post = TanhConv(last.in_channels, last.out_channels, last.kernel_size, padding=last.padding)
    return made
