"""Audio codec without training: the log-mel spectrogram, two frames per latent, low cosine coefficients kept.

Shape legend: b batch, s samples, n mel frames, m bands, t latent steps, c channels.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from ovikit.data.mel import BANDS, HOP, RATE_HZ, log_mel, waveform_of
from ovikit.networks.protocols import Progress
from ovikit.types import ClipSpec, Modality, TokenGrid
from ovikit_toyworld.transforms import dct_matrix, zone

VERSION = "1"
FRAMES = 2
STEP_SAMPLES = FRAMES * HOP
"""Samples per latent: 512, that is 31.25 latents a second, as Ovi's."""


class MelDct:
    """Waveforms (b, s) in [-1, 1] at 16 kHz to latents (b, c, t) and back. ValueError at another rate.

    Levels below ``floor`` (log10 of the mel magnitude) are raised to it: nobody hears what goes on down there.
    """

    modality: Modality = "audio"

    def __init__(self, clip: ClipSpec, *, channels: int, floor: float, emphasis: float, iterations: int) -> None:
        if clip.sample_rate_hz != RATE_HZ:
            raise ValueError(f"mel-dct works at {RATE_HZ} Hz, not {clip.sample_rate_hz}")
        self.clip, self.channels, self.floor, self.emphasis, self.iterations = (
            clip,
            channels,
            floor,
            emphasis,
            iterations,
        )
        self.zone = zone("mel-dct", channels, emphasis)

    def for_clip(self, clip: ClipSpec) -> MelDct:
        return MelDct(
            clip, channels=self.channels, floor=self.floor, emphasis=self.emphasis, iterations=self.iterations
        )

    def shape(self) -> tuple[int, int]:
        return self.channels, self.clip.samples // STEP_SAMPLES

    def grid(self) -> TokenGrid:
        return TokenGrid.uniform("audio", (self.shape()[1], 1, 1), STEP_SAMPLES / RATE_HZ)

    def encode(self, samples: Tensor) -> Tensor:
        """Latents (b, c, t) of waveforms (b, s)."""
        return self.zone.forward(self.coefficients(samples)).transpose(1, 2).contiguous()

    def coefficients(self, samples: Tensor) -> Tensor:
        """(b, t, k): cosine coefficients of every pair of mel frames, flattened over (time, band)."""
        frames = self.shape()[1] * FRAMES
        mel = log_mel(samples)[..., :frames].clamp(min=self.floor) - self.floor
        pairs = rearrange(mel, "b m (t f) -> b t f m", f=FRAMES)
        out = torch.einsum("btfm,km,gf->btgk", pairs, dct_matrix(BANDS, BANDS), dct_matrix(FRAMES, FRAMES))
        return out.flatten(-2)

    def decode_mel(self, latents: Tensor) -> Tensor:
        """(b, m, n) log-mel of latents (b, c, t), not below the floor."""
        out = self.zone.inverse(latents.float().transpose(1, 2), FRAMES * BANDS).unflatten(-1, (FRAMES, BANDS))
        out = torch.einsum("btgk,km,gf->btfm", out, dct_matrix(BANDS, BANDS), dct_matrix(FRAMES, FRAMES))
        return rearrange(out, "b t f m -> b m (t f)").clamp(min=0.0) + self.floor

    def decode(self, latents: Tensor, progress: Progress | None = None) -> Tensor:
        """Waveforms (b, s) in [-1, 1] of latents (b, c, t)."""
        return waveform_of(self.decode_mel(latents), self.clip.samples, self.iterations, silence=self.floor)

    def fingerprint(self) -> str:
        options = f"{self.channels}/{self.floor}/{self.emphasis}/{self.iterations}"
        return f"mel-dct/{VERSION}/{options}/{self.zone.digest()}"
