"""A log-mel spectrogram at 16 kHz, and a waveform back from one by Griffin-Lim.

The settings are those of Ovi's audio branch. Frame i is centred on sample 256 i + 128: two frames cover the 512 samples
of one audio latent, evenly.

Shape legend: b batch, s samples, n mel frames, m bands, q frequencies of the short-time transform.
Source: released code of MMAudio's and Ovi's 16 kHz audio branch; ``tests/parity/golden/mel.safetensors``.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F

RATE_HZ, N_FFT, HOP, BANDS, TOP_HZ = 16000, 1024, 256, 80, 8000.0
SILENCE = -4.5
"""What the released code gives for digital silence: log10 of sqrt(1e-9)."""


def hertz_to_mel(hertz: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
    """Slaney's scale: linear below 1 kHz, logarithmic above."""
    above = 15.0 + 27.0 * torch.log(hertz.clamp(min=1e-6) / 1000.0) / torch.log(torch.tensor(6.4, dtype=hertz.dtype))
    return torch.where(hertz < 1000.0, hertz * 3.0 / 200.0, above)


def mel_to_hertz(mel: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
    """Inverse of ``hertz_to_mel``."""
    above = 1000.0 * torch.exp((mel - 15.0) * torch.log(torch.tensor(6.4, dtype=mel.dtype)) / 27.0)
    return torch.where(mel < 15.0, mel * 200.0 / 3.0, above)


@cache
def filterbank(bands: int = BANDS) -> Float32[Tensor, "{bands} q"]:
    """Triangles even on the mel scale, each of area 2 Hz / Hz (Slaney's normalisation)."""
    frequencies = torch.linspace(0.0, RATE_HZ / 2, N_FFT // 2 + 1, dtype=torch.float64)
    top = hertz_to_mel(torch.tensor(TOP_HZ, dtype=torch.float64))
    edges = mel_to_hertz(torch.linspace(0.0, float(top), bands + 2, dtype=torch.float64))
    width = edges.diff()
    rising = (frequencies[None] - edges[:-2, None]) / width[:-1, None]
    falling = (edges[2:, None] - frequencies[None]) / width[1:, None]
    triangles = torch.minimum(rising, falling).clamp(min=0.0)
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).float()


@cache
def _inverse_filterbank() -> Tensor:
    """(q, m) float32: pseudo-inverse of the filterbank."""
    return torch.linalg.pinv(filterbank().double()).float()


@cache
def _window() -> Tensor:
    return torch.hann_window(N_FFT)


def log_mel(waveform: Float[Tensor, "b s"], bands: int = BANDS) -> Float[Tensor, "b {bands} n"]:
    """log10 of the mel magnitudes of a waveform at 16 kHz, in its dtype and on its device; n = s // 256.

    What lies beyond [-1, 1] is cut off, as in the released code. The waveform is longer than 384 samples.
    """
    pad = (N_FFT - HOP) // 2
    padded = F.pad(waveform.clamp(-1.0, 1.0)[:, None], (pad, pad), mode="reflect")[:, 0]
    spectrum = torch.stft(padded, N_FFT, HOP, window=_window().to(padded), center=False, return_complex=True)
    magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)
    return torch.log10((filterbank(bands).to(padded) @ magnitude).clamp(min=1e-5))


def waveform_of(
    log10_mel: Float32[Tensor, "b m n"],
    samples: int,
    iterations: int = 32,
    momentum: float = 0.99,
    silence: float = SILENCE,
) -> Float32[Tensor, "b {samples}"]:
    """A sound in [-1, 1] whose log-mel is close to the given one.

    silence: the level that stands for no sound at all

    Fast Griffin-Lim (Perraudin, Balazs and Soendergaard 2013) from phases that are the same every time.
    """
    magnitude = (_inverse_filterbank() @ (10.0 ** log10_mel.clamp(max=2.0) - 10.0**silence)).clamp(min=0.0)
    batch, _, frames = magnitude.shape
    generator = torch.Generator().manual_seed(0)
    phase = 2 * torch.pi * torch.rand(magnitude.shape[1:], generator=generator)
    angles = torch.polar(torch.ones_like(phase), phase).expand(batch, -1, -1)
    # The frames are centred on 256 i + 128, a centred transform's on 256 i: it runs on the sound less 128 samples.
    length = HOP * (frames - 1) + HOP // 2
    previous = torch.zeros_like(angles)
    for _ in range(iterations):
        wave = torch.istft(magnitude * angles, N_FFT, HOP, window=_window(), length=length)
        rebuilt = torch.stft(wave, N_FFT, HOP, window=_window(), return_complex=True, pad_mode="constant")[..., :frames]
        sought = rebuilt + momentum * (rebuilt - previous)
        angles = sought / sought.abs().clamp(min=1e-9)
        previous = rebuilt
    wave = torch.istft(magnitude * angles, N_FFT, HOP, window=_window(), length=length)
    wave = F.pad(wave, (HOP // 2, max(samples - length - HOP // 2, 0)))
    return wave[:, :samples].clamp(-1.0, 1.0)
