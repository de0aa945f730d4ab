"""The ``mmaudio`` codec as recipes name it: its options, how it is built, and the licence of its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ovikit.kernel.component import Component, Config

if TYPE_CHECKING:
    from ovikit.checkpoints.assets import Assets
    from ovikit.types import ClipSpec
    from ovikit_ovi.audio.codec import MMAudioCodec

VAE_FILE = "MMAudio/ext_weights/v1-16.pth"
VOCODER_FILE = "MMAudio/ext_weights/best_netG.pt"
LICENCE = "MMAudio's weights are CC-BY-NC: not for commercial use, and to be credited (github.com/hkchengrex/MMAudio)"
"""What to tell a user of ``VAE_FILE`` and ``VOCODER_FILE``."""


class MMAudioConfig(Config):
    """Options of ``mmaudio``; the defaults are the released model's."""

    vae: str = VAE_FILE
    """The autoencoder's weights in the weights folder."""
    vocoder: str = VOCODER_FILE
    """The vocoder's weights in the weights folder."""
    steps: int | None = Field(None, gt=0)
    """Latents of a clip; null: the whole ones of 512 samples that its duration holds. Released: 157 and 314."""
    channels: int = Field(20, gt=0)
    """Channels of a latent."""
    bands: int = Field(80, gt=0)
    """Bands of the mel spectrogram."""
    hidden_channels: int = Field(384, gt=0)
    """Width of the autoencoder's outermost level."""
    vocoder_channels: int = Field(1536, gt=0, multiple_of=64)
    """Width of the vocoder's first layer, halved by each of its six stages."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the autoencoder; the spectrogram and the vocoder are always float32."""


def _build(config: MMAudioConfig, *, clip: ClipSpec, assets: Assets) -> MMAudioCodec:
    import torch

    from ovikit_ovi.audio.codec import MMAudioCodec
    from ovikit_ovi.audio.weights import AudioWeights, Sizes

    weights = AudioWeights(
        assets,
        vae=config.vae,
        vocoder=config.vocoder,
        sizes=Sizes(config.channels, config.bands, config.hidden_channels, config.vocoder_channels),
        dtype={"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype],
    )
    return MMAudioCodec(clip, weights, steps=config.steps)


COMPONENT = Component("mmaudio", MMAudioConfig, _build, "audio: MMAudio's 16 kHz autoencoder and BigVGAN vocoder (Ovi)")
