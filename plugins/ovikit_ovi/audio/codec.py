"""The ``mmaudio`` codec: waveforms at 16 kHz to the latents of MMAudio's autoencoder, and back through its vocoder.

Shape legend: b batch, s samples, c channels, t latent steps, m mel bands, n mel frames (2 t).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F

from ovikit.data.mel import HOP, RATE_HZ, log_mel
from ovikit.errors import UserError
from ovikit.networks.protocols import Progress
from ovikit.types import ClipSpec, Modality, TokenGrid
from ovikit_ovi.audio.component import LICENCE
from ovikit_ovi.audio.weights import AudioWeights

VERSION = "1"
FRAMES = 2
"""Mel frames per latent."""
STEP_SAMPLES = FRAMES * HOP
"""Samples per latent: 512, that is 31.25 latents a second."""


class MMAudioCodec:
    """Waveforms (b, s) in [-1, 1] at 16 kHz to latents (b, c, t) and back.

    A clip has ``steps`` latents, by default as many whole ones as its duration holds. They decode to 512 samples
    each, cut or padded with zeros at the end to the clip's samples: 157 latents of a released 5 s clip lack the last
    283 samples of its 121 frames, 314 of a 10 s clip have 101 too many.

    Encoding is deterministic: the mean of the autoencoder's distribution. Items of a batch go through the networks one
    by one, so that memory does not grow with the batch and an item's result does not depend on the others.

    UserError for clips at another sample rate, without room for a latent, or more than a latent apart from ``steps``.
    """

    modality: Modality = "audio"

    def __init__(self, clip: ClipSpec, weights: AudioWeights, *, steps: int | None = None) -> None:
        if clip.sample_rate_hz != RATE_HZ:
            raise UserError(
                f"this codec works at {RATE_HZ} Hz and the clips are at {clip.sample_rate_hz} Hz",
                "codec 'mmaudio'",
                f"set clip.sample_rate_hz to {RATE_HZ}",
            )
        self.clip, self.weights = clip, weights
        self.channels = weights.sizes.channels
        self.steps = clip.samples // STEP_SAMPLES if steps is None else steps
        if self.steps < 1 or abs(self.steps * STEP_SAMPLES - clip.samples) > STEP_SAMPLES:
            raise UserError(
                f"{self.steps} latents are {self.steps * STEP_SAMPLES / RATE_HZ:g} s of sound and a clip is"
                f" {clip.duration_s:g} s",
                "codec 'mmaudio'",
                f"a latent is {STEP_SAMPLES / RATE_HZ:g} s: change steps or the clip's duration",
            )

    def for_clip(self, clip: ClipSpec) -> MMAudioCodec:
        """This codec for other clips, weights shared. Where they last as long, it has as many latents; where they do
        not, as many as the duration holds."""
        return MMAudioCodec(clip, self.weights, steps=self.steps if clip.samples == self.clip.samples else None)

    def shape(self) -> tuple[int, int]:
        return self.channels, self.steps

    def grid(self) -> TokenGrid:
        return TokenGrid.uniform("audio", (self.steps, 1, 1), STEP_SAMPLES / RATE_HZ)

    @torch.no_grad()
    def encode(self, samples: Float32[Tensor, "b s"]) -> Float32[Tensor, "b c t"]:
        """Latents of waveforms, which are padded with zeros where they are shorter than the latents.

        UserError for NaN and infinity.
        """
        _refuse_unfinite(samples, "the sound holds", "check the file that it was read from")
        networks = self.weights.networks
        short = max(self.steps * STEP_SAMPLES - samples.shape[1], 0)
        mel = log_mel(F.pad(samples.to(self.weights.device), (0, short)), self.weights.sizes.bands)
        mel = mel[..., : self.steps * FRAMES].to(self.weights.dtype)
        means = [networks.autoencoder.encode(one)[:, : self.channels] for one in mel.split(1)]
        return torch.cat(means).float()

    @torch.no_grad()
    def decode_mel(self, latents: Float[Tensor, "b c t"]) -> Float32[Tensor, "b m n"]:
        """Log10-mels of latents."""
        moved = latents.to(self.weights.device, self.weights.dtype)
        return torch.cat([self.weights.networks.autoencoder.decode(one) for one in moved.split(1)]).float()

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c t"], progress: Progress | None = None) -> Float32[Tensor, "b s"]:
        """Waveforms in [-1, 1] of latents of whole clips, of exactly their samples. UserError for NaN and infinity."""
        if tuple(latents.shape[1:]) != self.shape():
            raise ValueError(f"latents of {tuple(latents.shape[1:])} were given for clips of {self.shape()}")
        _refuse_unfinite(latents, "the audio latents hold", "the numbers overflowed on the way: try another precision")
        networks, waves = self.weights.networks, []
        for done, one in enumerate(latents.split(1), start=1):
            (wave,) = networks.vocoder(self.decode_mel(one), return_dict=False)
            waves.append(wave[:, 0])
            if progress is not None:
                progress(done, len(latents))
        whole = torch.cat(waves)
        _refuse_unfinite(
            whole, "the decoded sound holds", "the weights of 'mmaudio' may be damaged: ovikit weights check"
        )
        missing = max(self.clip.samples - whole.shape[1], 0)
        return F.pad(whole, (0, missing))[:, : self.clip.samples]

    def fingerprint(self) -> str:
        return f"mmaudio/{VERSION}/{self.steps}/{self.weights.fingerprint()}"

    def load(self, device: torch.device | str, progress: Progress | None = None) -> None:
        self.weights.load(device)

    def check(self) -> None:
        self.weights.check()

    def unload(self) -> None:
        self.weights.unload()

    def weight_bytes(self) -> int:
        return self.weights.weight_bytes()

    def decode_bytes(self) -> int:
        """What decoding a clip takes besides the weights; items of a batch are decoded one by one."""
        return self.weights.decode_bytes(self.steps)

    def terms(self) -> str:
        return LICENCE


def _refuse_unfinite(values: Tensor, what: str, hint: str) -> None:
    if not bool(values.isfinite().all()):
        raise UserError(f"{what} NaN or infinity", "codec 'mmaudio'", hint)
