"""What this plugin registers: the published positional schemes beside Ovi's. Torch-free until one is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from ovikit.kernel.component import Component, Config
from ovikit.kernel.hookspecs import hookimpl

if TYPE_CHECKING:
    from ovikit_positions.schemes import Interleaved, ScaledVideo, Seconds, SelfOnly

_RELEASED = 0.19676
"""Video latents per audio latent of the released Ovi: 31 / ((121 / 24) x 31.25)."""


class ScaledVideoConfig(Config):
    """Options of ``scaled-video``."""

    ratio: float = Field(1 / _RELEASED, gt=0, allow_inf_nan=False)
    """By what the video's step is multiplied: audio tokens per video step; by default the inverse of Ovi's ratio."""
    first_step_shift: float = Field(0.0, ge=0, lt=1)
    """Video steps subtracted from every step but the first, which holds one frame of a causal codec where the others
    hold four: 0.75 puts each step at the time of its first frame."""
    theta: float = Field(10000.0, gt=1, allow_inf_nan=False)
    """Base of the rotation frequencies."""


class SecondsConfig(Config):
    """Options of ``seconds``."""

    per_second: float = Field(6.0, gt=0, allow_inf_nan=False)
    """By what the seconds are multiplied; by default as Wan's index counts: 24 frames a second, 4 a step."""
    theta: float = Field(10000.0, gt=1, allow_inf_nan=False)
    """Base of the rotation frequencies."""


class InterleavedConfig(Config):
    """Options of ``interleaved``."""

    ratio: float = Field(_RELEASED, gt=0, allow_inf_nan=False)
    """By what the audio index is multiplied: video latents per audio latent."""
    offset: int = Field(-1, lt=0)
    """Row and column of every audio token; negative, where no picture has any."""
    theta: float = Field(10000.0, gt=1, allow_inf_nan=False)
    """Base of the rotation frequencies."""


class SelfOnlyConfig(Config):
    """Options of ``none``."""

    theta: float = Field(10000.0, gt=1, allow_inf_nan=False)
    """Base of the rotation frequencies."""


def _scaled_video(config: ScaledVideoConfig) -> ScaledVideo:
    from ovikit_positions.schemes import ScaledVideo

    return ScaledVideo(config.ratio, config.first_step_shift, config.theta)


def _seconds(config: SecondsConfig) -> Seconds:
    from ovikit_positions.schemes import Seconds

    return Seconds(config.per_second, config.theta)


def _interleaved(config: InterleavedConfig) -> Interleaved:
    from ovikit_positions.schemes import Interleaved

    return Interleaved(config.ratio, config.offset, config.theta)


def _none(config: SelfOnlyConfig) -> SelfOnly:
    from ovikit_positions.schemes import SelfOnly

    return SelfOnly(config.theta)


@hookimpl
def ovikit_register_positions() -> Sequence[Component]:
    return (
        Component("scaled-video", ScaledVideoConfig, _scaled_video, "video step counted in audio tokens (MOVA)"),
        Component("seconds", SecondsConfig, _seconds, "middle of each token in seconds; fusion turns by time (LTX-2)"),
        Component("interleaved", InterleavedConfig, _interleaved, "one time axis, no shared place (JavisDiT++)"),
        Component("none", SelfOnlyConfig, _none, "native within a modality, no rotation in the fusion"),
    )
