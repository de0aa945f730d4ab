"""The weights of the audio codec: two files, read when they are needed, shared by codecs of several clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from ovikit.checkpoints.assets import Assets
from ovikit.checkpoints.load import in_our_names, load_into, without_values
from ovikit.checkpoints.state import read_header, read_state
from ovikit.errors import UserError
from ovikit.extras import require
from ovikit.networks.peak import PeakBytes
from ovikit_ovi.audio.keymap import GENERATOR, SPELLING, VAE, VOCODER
from ovikit_ovi.audio.weight_norm import with_filters_of_length_one, with_weight_norm, without_weight_norm


@dataclass(frozen=True, slots=True)
class Sizes:
    """The widths of the two networks.

    channels:         of a latent
    bands:            of the mel spectrogram
    hidden_channels:  of the autoencoder's outermost level
    vocoder_channels: of the vocoder's first layer
    """

    channels: int
    bands: int
    hidden_channels: int
    vocoder_channels: int


@dataclass(frozen=True, slots=True)
class Networks:
    """Both networks with their weights.

    autoencoder: ``encode`` and ``decode`` between log-mels and latents
    vocoder:     log-mels to waveforms
    """

    autoencoder: nn.Module
    vocoder: nn.Module

    def to(self, device: torch.device | str) -> Networks:
        return Networks(self.autoencoder.to(device), self.vocoder.to(device))


def stored_autoencoder(sizes: Sizes) -> nn.Module:
    """The autoencoder on the meta device, with the names and shapes of its file."""
    require("diffusers.models.autoencoders.autoencoder_mmaudio", "ovi")
    from ovikit_ovi.audio.networks import autoencoder

    with torch.device("meta"):
        return autoencoder(sizes.bands, sizes.channels, sizes.hidden_channels)


def stored_vocoder(sizes: Sizes) -> nn.Module:
    """The vocoder on the meta device, with the names and shapes of its file: weight norm and all."""
    require("diffusers.models.autoencoders.mmaudio_vocoder", "ovi")
    from ovikit_ovi.audio.networks import vocoder

    with torch.device("meta"):
        return with_weight_norm(vocoder(sizes.bands, sizes.vocoder_channels))


def fill_autoencoder(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> nn.Module:
    """What ``stored_autoencoder`` made with its weights, every one and no other, as it computes with them.
    UserError where they do not fit; ``where`` names their source in it."""
    load_into(model, in_our_names(tensors, VAE, where), where)
    return with_filters_of_length_one(model).requires_grad_(False).eval()


def fill_vocoder(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> nn.Module:
    """As ``fill_autoencoder``, the vocoder; its weight norm may be in either spelling."""
    try:
        ours = SPELLING.to_ours(in_our_names(tensors, VOCODER, where))
    except ValueError as error:
        raise UserError(f"it has a weight in both spellings of weight norm ({error})", where) from error
    load_into(model, ours, where)
    return without_weight_norm(model).requires_grad_(False).eval()


class AudioWeights:
    """Both networks of the codec, on the device that they were last loaded to, or not in memory at all.

    vae, vocoder: names of their files in ``assets``
    dtype:        of the autoencoder; the vocoder is always float32
    """

    def __init__(self, assets: Assets, *, vae: str, vocoder: str, sizes: Sizes, dtype: torch.dtype) -> None:
        self.sizes, self.dtype = sizes, dtype
        self._assets, self._vae, self._vocoder = assets, vae, vocoder
        self._networks: Networks | None = None
        self._device = torch.device("cpu")

    @property
    def networks(self) -> Networks:
        """Both networks. RuntimeError before ``load``."""
        if self._networks is None:
            raise RuntimeError("the mmaudio codec has no weights yet: load() comes first")
        return self._networks

    @property
    def device(self) -> torch.device:
        """Where the networks were last loaded to."""
        return self._device

    def load(self, device: torch.device | str) -> None:
        networks = self._read() if self._networks is None else self._networks
        self._networks, self._device = networks.to(device), torch.device(device)

    def unload(self) -> None:
        self._networks = None

    def _read(self) -> Networks:
        paths = self._assets.path(self._vae), self._assets.path(self._vocoder)
        return self._filled(read_state(paths[0])[0], read_state(paths[1], GENERATOR)[0])

    def check(self) -> None:
        """UserError where ``load`` would find a file that is damaged or does not fit; no tensor is read."""
        paths = self._assets.path(self._vae), self._assets.path(self._vocoder)
        self._filled(without_values(read_header(paths[0])), without_values(read_header(paths[1], GENERATOR)))

    def _filled(self, autoencoder: Mapping[str, Tensor], vocoder: Mapping[str, Tensor]) -> Networks:
        """Both networks with these tensors, which are read before diffusers, which takes seconds."""
        where = [str(self._assets.path(name)) for name in (self._vae, self._vocoder)]
        first = fill_autoencoder(stored_autoencoder(self.sizes), autoencoder, where[0])
        return Networks(first.to(self.dtype), fill_vocoder(stored_vocoder(self.sizes), vocoder, where[1]))

    def weight_bytes(self) -> int:
        """Bytes of both networks in memory, from the architecture alone."""
        models = _empty_networks(self.sizes, self.dtype)
        states = (models.autoencoder.state_dict(), models.vocoder.state_dict())
        return sum(one.numel() * one.element_size() for state in states for one in state.values())

    def decode_bytes(self, steps: int) -> int:
        """What decoding ``steps`` latents takes besides the weights, from the architecture alone."""
        return _decode_bytes(self.sizes, self.dtype, steps)

    def fingerprint(self) -> str:
        """Changes with the content of the two files and with the dtype. UserError where they are not to be found."""
        digests = (self._assets.digest(name)[:16] for name in (self._vae, self._vocoder))
        return "/".join((str(self.dtype).removeprefix("torch."), *digests))


@cache
def _empty_networks(sizes: Sizes, dtype: torch.dtype) -> Networks:
    """Both networks as they compute, on the meta device."""
    return Networks(nn.Module.to(stored_autoencoder(sizes), dtype), without_weight_norm(stored_vocoder(sizes)))


@cache
@torch.no_grad()
def _decode_bytes(sizes: Sizes, dtype: torch.dtype, steps: int) -> int:
    models = _empty_networks(sizes, dtype)
    latents = torch.empty(1, sizes.channels, steps, dtype=dtype, device="meta")
    with PeakBytes() as counted:
        models.vocoder(models.autoencoder.decode(latents).float(), return_dict=False)
    return counted.peak
