"""The Wan2.2 autoencoder: its sizes, its empty module, its weights once they are read, and the memory that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from ovikit.checkpoints.assets import Assets
from ovikit.checkpoints.load import in_our_names, load_into, without_values
from ovikit.checkpoints.state import read_header, read_state
from ovikit.extras import require
from ovikit_ovi.video.keymap import wan_vae_format

PATCH = 2
"""Pixels of one input cell, on each axis: the released autoencoder folds 2 x 2 pixels into channels."""
COLOURS = 3


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes of an autoencoder.

    encoder_width, decoder_width: channels at full resolution
    width_factors: of the stages, finest first; each but the last halves the resolution
    time_halved:   which of those also halve the frame rate
    blocks:        residual blocks per stage of the encoder; the decoder's have one more
    mean, std:     of the latents, per channel
    """

    encoder_width: int
    decoder_width: int
    width_factors: tuple[int, ...]
    time_halved: tuple[bool, ...]
    blocks: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def encoder_features(self) -> int:
        """Channels of the encoder's features where its two stages meet."""
        return self.encoder_width * self.width_factors[-1]

    @property
    def decoder_features(self) -> int:
        """As ``encoder_features``, the decoder's."""
        return self.decoder_width * self.width_factors[-1]

    @property
    def cell_px(self) -> int:
        """Pixels of a latent, on each axis."""
        return PATCH * 2 ** len(self.time_halved)

    @property
    def decode_reach(self) -> int:
        """How many latent cells beyond itself a pixel depends on through the decoder's resampling stages: each
        convolution reaches one sample further at its own resolution, which doubles from stage to stage."""
        halvings = len(self.time_halved)
        in_stages = sum(2 * (self.blocks + 1) / 2**i for i in range(halvings + 1))
        return ceil(in_stages + sum(1 / 2 ** (i + 1) for i in range(halvings)) + 1 / 2**halvings)

    @property
    def encode_reach(self) -> int:
        """As ``decode_reach``, of a feature at the latents' resolution on pixels, through the encoder's stages."""
        halvings = len(self.time_halved)
        in_stages = sum(2 * self.blocks / 2**i for i in range(halvings + 1))
        return ceil(in_stages + sum(2 / 2 ** (i + 1) for i in range(halvings)) + 1 / 2**halvings)

    @property
    def step_frames(self) -> int:
        """Frames of a latent step, but for the first one, which is a single frame."""
        return 2 ** sum(self.time_halved)


def empty_vae(architecture: Architecture, dtype: torch.dtype) -> nn.Module:
    """diffusers' ``AutoencoderKLWan`` on the meta device. UserError where diffusers is not installed."""
    made: Any = require("diffusers.models.autoencoders.autoencoder_kl_wan", "ovi").AutoencoderKLWan
    colours = COLOURS * PATCH**2
    with torch.device("meta"), _refusing_sizes():
        vae = made(
            base_dim=architecture.encoder_width,
            decoder_base_dim=architecture.decoder_width,
            z_dim=architecture.channels,
            dim_mult=list(architecture.width_factors),
            num_res_blocks=architecture.blocks,
            temperal_downsample=list(architecture.time_halved),
            is_residual=True,
            in_channels=colours,
            out_channels=colours,
            patch_size=PATCH,
            scale_factor_temporal=architecture.step_frames,
            scale_factor_spatial=architecture.cell_px,
        )
    return nn.Module.to(vae, dtype).requires_grad_(False).eval()  # diffusers' own ``to`` warns of a change of dtype


@contextmanager
def _refusing_sizes() -> Iterator[None]:
    """ValueError where diffusers asserts that the widths of stages are multiples of each other."""
    try:
        yield
    except AssertionError as error:
        raise ValueError("the width factors of these stages do not go together") from error


class VideoWeights:
    """The autoencoder on the device that it was last loaded to, or not in memory at all.

    name: of its file in ``assets``: ``Wan2.2_VAE.pth``, or a safetensors with the names of the module
    """

    def __init__(self, assets: Assets, name: str, architecture: Architecture, dtype: torch.dtype) -> None:
        self.architecture, self.dtype = architecture, dtype
        self._assets, self._name = assets, name
        self._vae: nn.Module | None = None
        self._device = torch.device("cpu")

    @property
    def vae(self) -> Any:
        """The autoencoder. RuntimeError before ``load``."""
        if self._vae is None:
            raise RuntimeError("the wan-vae codec has no weights yet: load() comes first")
        return self._vae

    @property
    def device(self) -> torch.device:
        """Where the autoencoder was last loaded to."""
        return self._device

    def load(self, device: torch.device | str) -> None:
        if self._vae is None:
            path = self._assets.path(self._name)
            self.put(read_state(path)[0], str(path))
        self._vae, self._device = nn.Module.to(self.vae, device), torch.device(device)

    def check(self) -> None:
        """UserError where ``load`` would find a file that is damaged or does not fit; no tensor is read."""
        path = self._assets.path(self._name)
        self._filled(without_values(read_header(path)), str(path))

    def put(self, tensors: dict[str, Tensor], where: str) -> None:
        """Takes weights in the released names, or in ours, every one and no other. UserError where they do not fit;
        ``where`` names their source in it."""
        self._vae, self._device = self._filled(tensors, where).requires_grad_(False), torch.device("cpu")

    def _filled(self, tensors: dict[str, Tensor], where: str) -> nn.Module:
        vae = empty_vae(self.architecture, self.dtype)
        named = vae.state_dict()
        if 2 * sum(name in named for name in tensors) < len(tensors):  # a damaged file of ours is still one of ours
            tensors = in_our_names(tensors, wan_vae_format(self.architecture.blocks), where)
        load_into(vae, tensors, where)
        return vae

    def unload(self) -> None:
        self._vae = None

    def digest(self) -> str:
        """sha256 (hex) of the file. UserError where it is not to be found."""
        return self._assets.digest(self._name)

    def weight_bytes(self) -> int:
        """Bytes of the autoencoder in memory, from the architecture alone."""
        return _weight_bytes(self.architecture, self.dtype)


@cache
def _weight_bytes(architecture: Architecture, dtype: torch.dtype) -> int:
    return sum(one.numel() * one.element_size() for one in empty_vae(architecture, dtype).state_dict().values())
