"""The attention components that ship inside ovikit. Torch-free until one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ovikit.kernel.component import Component, Config

if TYPE_CHECKING:
    from ovikit.networks.protocols import Attend


class SdpaConfig(Config):
    """Options of ``sdpa``."""

    backend: Literal["auto", "flash", "cudnn", "efficient", "math"] = "auto"
    """PyTorch's kernels on CUDA; ``auto`` is the best of the device: cuDNN's, then flash, from Hopper on."""


class FlashConfig(Config):
    """Options of ``flash-attn``."""

    version: Literal["auto", "2", "3"] = "auto"
    """Of the package; ``auto``: 3 on Hopper where it is installed, else 2."""


def _sdpa(config: SdpaConfig) -> Attend:
    from ovikit.networks.attention import ScaledDotProduct

    return ScaledDotProduct(config.backend)


def _flash(config: FlashConfig) -> Attend:
    from ovikit.networks.flash import flash_attention

    return flash_attention(config.version)


COMPONENTS = (
    Component("sdpa", SdpaConfig, _sdpa, "PyTorch's scaled dot-product attention"),
    Component("flash-attn", FlashConfig, _flash, "the flash-attn package, version 2 or 3 (extra: flash)"),
)
