"""What this plugin registers: the published fusions beside Ovi's. Torch-free until one is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from ovikit.kernel.component import Component
from ovikit.kernel.fusion_options import FusedLayersConfig, FusionConfig, one_each, refuse_options
from ovikit.kernel.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import nn

    from ovikit.networks.exchange import Exchange
    from ovikit.networks.precision import Precision
    from ovikit.networks.protocols import Attend
    from ovikit.types import AV
    from ovikit_fusions.reading import InnerHeads

    Layers = Sequence[nn.Module | None]


class OwnHeadsConfig(FusionConfig):
    """Options of a fusion that attends in heads of its own."""

    heads: int | None = Field(None, gt=0)
    """Heads in which the towers meet; null: as many as the narrower tower has."""
    head_width: int | None = Field(None, gt=0, multiple_of=2)
    """Width of these heads; null: the narrower tower's."""


class GatedResidualConfig(OwnHeadsConfig):
    """Options of ``gated-residual``."""

    modulation_rank: int = Field(64, gt=0)
    """Channels through which the noise embeddings become shifts, scales and gates."""


class BridgeConfig(OwnHeadsConfig):
    """Options of ``bridge``."""


class JointConfig(FusedLayersConfig):
    """Options of ``joint``."""

    @model_validator(mode="before")
    @classmethod
    def _one_softmax(cls, data: Any) -> Any:
        return refuse_options(
            data,
            {
                "update": "both modalities are read in one softmax, so neither reads first",
                "init_scale": "joint attention has no weights beside the towers' own",
            },
        )


class AsymmetricWindowConfig(OwnHeadsConfig):
    """Options of ``asymmetric-window``."""

    init_scale: float = Field(0.0, ge=0)
    """Factor on the usual initial weights of the output projections: 0 in the paper, which adds nothing at first."""
    window: int = Field(1, ge=0)
    """Video steps on either side of its own whose audio a video token reads."""


class GlobalLocalConfig(OwnHeadsConfig):
    """Options of ``global-local``."""

    window: int = Field(1, ge=0)
    """Video steps on either side that the local attentions read beside their own time."""


class AdditiveConfig(FusionConfig):
    """Options of ``additive``."""


def _meeting(config: OwnHeadsConfig, width: AV[int], heads: AV[int]) -> tuple[InnerHeads, Exchange]:
    """In which heads the towers meet, and in which order."""
    from ovikit.networks.exchange import Exchange
    from ovikit_fusions.reading import inner_heads

    return inner_heads(width, heads, config.heads, config.head_width), Exchange(config.direction, config.update)


def _gated_residual(
    config: GatedResidualConfig, *, depth: int, width: AV[int], heads: AV[int], attend: Attend, precision: Precision
) -> Layers:
    from ovikit_fusions.gated_residual import GatedResidualLayer

    inner, exchange = _meeting(config, width, heads)
    return one_each(
        config.layers,
        depth,
        lambda: GatedResidualLayer(
            width, inner, attend, exchange, config.modulation_rank, config.init_scale, precision
        ),
    )


def _bridge(
    config: BridgeConfig, *, depth: int, width: AV[int], heads: AV[int], attend: Attend, precision: Precision
) -> Layers:
    from ovikit_fusions.bridge import BridgeLayer

    inner, exchange = _meeting(config, width, heads)
    return one_each(
        config.layers, depth, lambda: BridgeLayer(width, inner, attend, exchange, config.init_scale, precision)
    )


def _joint(
    config: JointConfig, *, depth: int, width: AV[int], heads: AV[int], attend: Attend, precision: Precision
) -> Layers:
    from ovikit.networks.exchange import Exchange
    from ovikit_fusions.joint import JointLayer

    return one_each(config.layers, depth, lambda: JointLayer(width, heads, attend, Exchange(config.direction)))


def _asymmetric_window(
    config: AsymmetricWindowConfig, *, depth: int, width: AV[int], heads: AV[int], attend: Attend, precision: Precision
) -> Layers:
    from ovikit_fusions.asymmetric_window import AsymmetricWindowLayer

    inner, exchange = _meeting(config, width, heads)
    return one_each(
        config.layers,
        depth,
        lambda: AsymmetricWindowLayer(width, inner, attend, exchange, config.window, config.init_scale, precision),
    )


def _global_local(
    config: GlobalLocalConfig, *, depth: int, width: AV[int], heads: AV[int], attend: Attend, precision: Precision
) -> Layers:
    from ovikit_fusions.global_local import GlobalLocalLayer

    inner, exchange = _meeting(config, width, heads)
    return one_each(
        config.layers,
        depth,
        lambda: GlobalLocalLayer(width, inner, attend, exchange, config.window, config.init_scale, precision),
    )


def _additive(
    config: AdditiveConfig, *, depth: int, width: AV[int], heads: AV[int], attend: Attend, precision: Precision
) -> Layers:
    from ovikit.networks.exchange import Exchange
    from ovikit_fusions.additive import AdditiveLayer

    exchange = Exchange(config.direction, config.update)
    return one_each(config.layers, depth, lambda: AdditiveLayer(width, attend, exchange, config.init_scale, precision))


@hookimpl
def ovikit_register_fusions() -> Sequence[Component]:
    return (
        Component(
            "gated-residual", GatedResidualConfig, _gated_residual,
            "residual attentions, gated by the noise of what they read (LTX-2)",
        ),
        Component("bridge", BridgeConfig, _bridge, "residual attentions before chosen layers, trained strength (MOVA)"),
        Component("joint", JointConfig, _joint, "one self-attention over both modalities (MMDiT, JavisDiT++)"),
        Component(
            "asymmetric-window", AsymmetricWindowConfig, _asymmetric_window,
            "video reads audio in windows, audio reads interpolated video (UniAVGen)",
        ),
        Component(
            "global-local", GlobalLocalConfig, _global_local,
            "windowed attention for timing and a global one for style (Harmony)",
        ),
        Component(
            "additive", AdditiveConfig, _additive,
            "other modality resampled in time and added before the block (CMC-PE)",
        ),
    )  # fmt: skip
