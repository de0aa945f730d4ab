"""The ``wan-vae`` codec as recipes name it: its options and how it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from ovikit.kernel.component import Component, Config

if TYPE_CHECKING:
    from ovikit.checkpoints.assets import Assets
    from ovikit.types import ClipSpec
    from ovikit_ovi.video.codec import WanVae

VAE_FILE = "Wan2.2-TI2V-5B/Wan2.2_VAE.pth"
WIDTH_FACTORS, TIME_HALVED = (1, 2, 4, 4), (False, True, True)
"""Widths of the stages, finest first, and which of the halvings between them also halve the frame rate."""
CELL_PX = 16
"""Pixels of a latent on each axis."""
EXACT_OVERLAP_PX = 416
"""Overlap with which tiles change nothing but rounding, with the released number of residual blocks."""

# fmt: off
LATENT_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)
LATENT_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)
# fmt: on
"""Mean and standard deviation of the latents' 48 channels over the data that the released autoencoder was made with."""


class WanVaeConfig(Config):
    """Options of ``wan-vae``; the defaults are the released model's."""

    weights: str = VAE_FILE
    """The autoencoder's weights in the weights folder."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of weights and activations; normalising the latents and blending tiles are always float32."""
    decode_gb: float | None = Field(None, gt=0)
    """Bound, in 10^9 bytes, on latents and activations in encoding and decoding: pictures that would take more are cut
    into tiles. Weights and the workspace of convolutions come on top. Null: no bound."""
    tile_px: int | None = Field(None, gt=0)
    """Side of a tile in pixels at most, in place of ``decode_gb``."""
    overlap_px: int | None = Field(None, ge=0)
    """Overlap of neighbouring tiles in pixels, at least; null: so much (416 for decoding, 320 for encoding) that tiles
    change nothing but rounding. Less is faster: 256 leaves errors of 1e-5, 128 of 1e-3 (see ``WanVae``)."""
    chunk_steps: int = Field(1, gt=0)
    """Latent steps that go through at once: more take more memory and change nothing but rounding."""
    encoder_width: int = Field(160, gt=0)
    """Channels of the encoder at full resolution."""
    decoder_width: int = Field(256, gt=0)
    """Channels of the decoder at full resolution."""
    blocks: int = Field(2, gt=0)
    """Residual blocks of each stage of the encoder; the decoder's have one more."""
    latent_mean: tuple[float, ...] | None = Field(None, min_length=1)
    """Mean of each latent channel; null: the released 48."""
    latent_std: tuple[float, ...] | None = Field(None, min_length=1)
    """Standard deviation of each latent channel; null: the released 48."""

    @model_validator(mode="after")
    def _fits(self) -> WanVaeConfig:
        if self.decode_gb is not None and self.tile_px is not None:
            raise ValueError("give decode_gb or tile_px, not both")
        for name, size in (("tile_px", self.tile_px), ("overlap_px", self.overlap_px)):
            if size is not None and size % CELL_PX:
                raise ValueError(f"{name} is {size}, which is not a multiple of the {CELL_PX} pixels of a latent")
        overlap_px = EXACT_OVERLAP_PX if self.overlap_px is None else self.overlap_px
        if self.tile_px is not None and self.tile_px <= overlap_px:
            raise ValueError(f"tiles of {self.tile_px} pixels cannot overlap by {overlap_px}: set overlap_px to less")
        if len(self.latent_mean or LATENT_MEAN) != len(self.latent_std or LATENT_STD):
            raise ValueError("latent_mean and latent_std have one value for each channel")
        if min(self.latent_std or LATENT_STD) <= 0:
            raise ValueError("latent_std has values above zero only")
        return self


def _build(config: WanVaeConfig, *, clip: ClipSpec, assets: Assets) -> WanVae:
    import torch

    from ovikit_ovi.video.codec import Limits, WanVae
    from ovikit_ovi.video.weights import Architecture, VideoWeights

    architecture = Architecture(
        encoder_width=config.encoder_width,
        decoder_width=config.decoder_width,
        width_factors=WIDTH_FACTORS,
        time_halved=TIME_HALVED,
        blocks=config.blocks,
        mean=config.latent_mean or LATENT_MEAN,
        std=config.latent_std or LATENT_STD,
    )
    limits = Limits(
        activation_bytes=None if config.decode_gb is None else config.decode_gb * 1e9,
        tile_px=config.tile_px,
        overlap_px=config.overlap_px,
        chunk_steps=config.chunk_steps,
    )
    # The released engine rounds the weights to bfloat16 (``vae_model_video.model.bfloat16()``); Wan2.2's wrapper around
    # them casts to its own type, float32 by default. What it computes so lies between the two that are offered here.
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]
    return WanVae(clip, VideoWeights(assets, config.weights, architecture, dtype), limits)


COMPONENT = Component("wan-vae", WanVaeConfig, _build, "video: the Wan2.2 autoencoder of TI2V-5B (Ovi)")
