"""What the reference plugin registers: Ovi's towers, fusion, positions, codecs, conditioner, checkpoint format and
commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt, model_validator

from ovikit.kernel.component import Component, Config, NoOptions
from ovikit.kernel.fusion_options import FusionConfig, fused_layers
from ovikit.kernel.hookspecs import hookimpl
from ovikit_ovi.audio.component import COMPONENT as MMAUDIO
from ovikit_ovi.text.component import COMPONENT as UMT5
from ovikit_ovi.video.component import COMPONENT as WAN_VAE

if TYPE_CHECKING:
    import typer
    from torch import nn

    from ovikit.checkpoints.format import CheckpointFormat
    from ovikit.networks.precision import Precision
    from ovikit.networks.protocols import Attend
    from ovikit.types import AV, Modality
    from ovikit_ovi.positions import IndexPositions
    from ovikit_ovi.tower import OviTower


class WanTowerConfig(Config):
    """Options of ``wan-tower``; the defaults are the released model's."""

    width: int = Field(3072, gt=0)
    """Width of the tokens."""
    feed_forward_width: int = Field(14336, gt=0)
    """Hidden width of the feed-forward networks."""
    heads: int = Field(24, gt=0)
    """Attention heads; they divide the width into even head widths."""
    depth: int = Field(30, gt=0)
    """Number of blocks."""
    text_length: int = Field(512, gt=0)
    """Context tokens: shorter prompts are padded with zeros to this many, longer ones cut."""
    frequency_width: int = Field(256, gt=0, multiple_of=2)
    """Channels of the sinusoidal time embedding."""
    patch: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 2, 2)
    """Latent steps, rows and columns of one video token; an audio token is always one latent step."""
    eps: float = Field(1e-6, gt=0)
    """Added to the variance in every norm."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> WanTowerConfig:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width} into even head widths")
        return self


class OviFusionConfig(FusionConfig):
    """Options of Ovi's fusion."""

    init_scale: float = Field(0.1, ge=0)
    """Factor on the usual initial weights of the fusion's keys and values: a tenth in the paper."""


class ScaledAudioConfig(Config):
    """Options of ``scaled-audio``."""

    ratio: float = Field(0.19676, gt=0)
    """By what the audio index is multiplied: video latents per audio latent; 31 / ((121 / 24) x 31.25) as released."""
    theta: float = Field(10000.0, gt=1)
    """Base of the rotation frequencies."""


class NativeConfig(Config):
    """Options of ``native``."""

    theta: float = Field(10000.0, gt=1)
    """Base of the rotation frequencies."""


def _tower(
    config: WanTowerConfig, *, modality: Modality, channels: int, text_width: int, precision: Precision
) -> OviTower:
    from ovikit_ovi.tower import OviTower

    return OviTower(
        modality,
        channels,
        text_width,
        width=config.width,
        feed_forward_width=config.feed_forward_width,
        heads=config.heads,
        depth=config.depth,
        text_length=config.text_length,
        frequency_width=config.frequency_width,
        patch=config.patch,
        eps=config.eps,
        precision=precision,
    )


def _fusion(
    config: OviFusionConfig, *, depth: int, width: AV[int], heads: AV[int], attend: Attend, precision: Precision
) -> Sequence[nn.Module | None]:
    from ovikit.networks.exchange import Exchange
    from ovikit_ovi.fusion import ovi_fusion

    exchange = Exchange(config.direction, config.update)
    layers = fused_layers(config.layers, depth)
    return ovi_fusion(depth, width, heads, attend, config.init_scale, precision, exchange, layers)


def _scaled_audio(config: ScaledAudioConfig) -> IndexPositions:
    from ovikit_ovi.positions import IndexPositions

    return IndexPositions(config.ratio, config.theta)


def _native(config: NativeConfig) -> IndexPositions:
    from ovikit_ovi.positions import IndexPositions

    return IndexPositions(1.0, config.theta)


def _format(config: NoOptions) -> CheckpointFormat:
    from ovikit_ovi.formats import ovi_format

    return ovi_format()


def _wan_format(config: NoOptions) -> CheckpointFormat:
    from ovikit_ovi.weights.wan import wan_format

    return wan_format()


@hookimpl
def ovikit_register_backbones() -> Sequence[Component]:
    return (Component("wan-tower", WanTowerConfig, _tower, "Wan-style diffusion transformer, as both towers of Ovi"),)


@hookimpl
def ovikit_register_fusions() -> Sequence[Component]:
    return (Component("ovi", OviFusionConfig, _fusion, "other modality read inside the context attention (Ovi)"),)


@hookimpl
def ovikit_register_positions() -> Sequence[Component]:
    return (
        Component("scaled-audio", ScaledAudioConfig, _scaled_audio, "audio index multiplied by a ratio (Ovi)"),
        Component("native", NativeConfig, _native, "each modality counts its own tokens: Ovi without scaling"),
    )


@hookimpl
def ovikit_register_codecs() -> Sequence[Component]:
    return (WAN_VAE, MMAUDIO)


@hookimpl
def ovikit_register_conditioners() -> Sequence[Component]:
    return (UMT5,)


@hookimpl
def ovikit_register_checkpoint_formats() -> Sequence[Component]:
    return (
        Component("ovi", NoOptions, _format, "names of the released Ovi fusion checkpoints"),
        Component("wan", NoOptions, _wan_format, "names of Wan2.2 TI2V-5B's transformer: the video tower alone"),
    )


@hookimpl
def ovikit_detect_checkpoint(keys: frozenset[str]) -> str | None:
    from ovikit_ovi.formats import ovi_format
    from ovikit_ovi.weights.wan import wan_format

    return next((one.name for one in (ovi_format(), wan_format()) if one.recognises(keys)), None)


@hookimpl
def ovikit_register_commands(cli: typer.Typer) -> None:
    from ovikit_ovi.parity.command import parity
    from ovikit_ovi.text.command import add_commands as add_prompt_commands
    from ovikit_ovi.weights.command import add_commands as add_weights_commands

    cli.command()(parity)
    add_prompt_commands(cli)
    add_weights_commands(cli)
