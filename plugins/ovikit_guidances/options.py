"""The options of the guidances: terms, which push away from a pass, and modifiers, which change how they push.

Each is written once, and used three times: as the component of its name (with ``cfg`` beside it), and as a part of
``composed`` (told by ``part``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Union

from pydantic import Field, model_validator

from ovikit.kernel.component import Config

Scale = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Layer = Annotated[int, Field(ge=0)]


class Cfg(Config):
    """Classifier-free guidance: + (scale - 1) (prompt - negative)."""

    video: Scale = 4.0
    """Guidance scale of the video. 1: none."""
    audio: Scale = 3.0
    """Guidance scale of the audio. 1: none."""
    skip_layers: tuple[Layer, ...] = ()
    """Layers, counted from 0, that both towers leave out of the negative pass; the released Ovi skips 11."""


class SkipLayer(Config):
    """Away from a pass that reads the prompt too, and leaves layers out."""

    layers: Annotated[tuple[Layer, ...], Field(min_length=1)]
    """Layers, counted from 0, that both towers leave out of the pass."""
    video: Scale = 1.0
    """Scale of the video in + scale (prompt - pass). 0: none."""
    audio: Scale = 1.0
    """Scale of the audio. 0: none."""


class Stg(Config):
    """Away from a pass in whose layers the self-attention gives back its values."""

    layers: Annotated[tuple[Layer, ...], Field(min_length=1)]
    """Layers, counted from 0, without self-attention, in both towers."""
    video: Scale = 1.0
    """Scale of the video in + scale (prompt - pass). 0: none."""
    audio: Scale = 1.0
    """Scale of the audio. 0: none."""


class ModalityIsolating(Config):
    """Away from a pass in which the towers do not hear each other."""

    video: Scale = 2.0
    """Scale of the video in + scale (prompt - pass). 0: none. LTX-2's modality scale is 1 more."""
    audio: Scale = 2.0
    """Scale of the audio. 0: none."""


class SyncCfg(Config):
    """Away from a pass in which nothing happens in the other modality."""

    video: Scale = 1.0
    """Scale of the video in + scale (prompt - pass with silence). 0: none; the pass is not run."""
    audio: Scale = 1.0
    """Scale of the audio in + scale (prompt - pass with a still grey picture). 0: none; the pass is not run."""


class Apg(Config):
    """Adaptive projected guidance: less of what only makes the prediction longer."""

    eta: Scale = 0.0
    """What is kept of the part of each difference that is parallel to the prompt's predicted data. 1: all of it."""
    threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Largest root mean square of a difference of predicted data, before its scale; longer ones are shortened to it."""


class CfgZeroStar(Config):
    """CFG-Zero*: the negative pass is scaled to lie as near as possible to the prompt's."""

    zero_above: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The velocity is 0 at levels above this one, where the first predictions are worse than none. For solvers without
    a history (euler, heun, res-2s): unipc and dpmpp-2m would go on from data that nobody predicted."""


class Rescale(Config):
    """The guided velocity gets back the standard deviation of the prompt's."""

    phi: Share = 0.7
    """How far: 0 not at all, 1 exactly."""


class Interval(Config):
    """Guidance at some noise levels only; where it needs no other pass, only the prompt's is run."""

    video: tuple[Share, Share] = (0.0, 1.0)
    """Lowest and highest level at which the video is guided."""
    audio: tuple[Share, Share] = (0.0, 1.0)
    """Lowest and highest level at which the audio is guided."""

    @model_validator(mode="after")
    def _rises(self) -> Interval:
        for modality, (low, high) in (("video", self.video), ("audio", self.audio)):
            if low > high:
                raise ValueError(f"the {modality}'s interval is [low, high], and {low:g} is above {high:g}")
        return self


Term = Cfg | SkipLayer | Stg | ModalityIsolating | SyncCfg
Modifier = Apg | CfgZeroStar | Rescale | Interval
TERMS = (Cfg, SkipLayer, Stg, ModalityIsolating, SyncCfg)


class SkipLayerConfig(SkipLayer):
    """Options of ``skip-layer``."""

    cfg: Cfg | None = None
    """Classifier-free guidance beside it: a mapping with the options of ``cfg``. null: none."""


class StgConfig(Stg):
    """Options of ``stg``."""

    cfg: Cfg | None = None
    """Classifier-free guidance beside it: a mapping with the options of ``cfg``. null: none."""


class ModalityIsolatingConfig(ModalityIsolating):
    """Options of ``modality-isolating``."""

    cfg: Cfg | None = None
    """Classifier-free guidance beside it: a mapping with the options of ``cfg``. null: none."""


class SyncCfgConfig(SyncCfg):
    """Options of ``sync-cfg``."""

    cfg: Cfg | None = None
    """Classifier-free guidance beside it: a mapping with the options of ``cfg``. null: none."""


class ApgConfig(Apg):
    """Options of ``apg``."""

    cfg: Cfg = Cfg()
    """The classifier-free guidance that is projected."""


class CfgZeroStarConfig(CfgZeroStar):
    """Options of ``cfg-zero-star``."""

    cfg: Cfg = Cfg()
    """The classifier-free guidance whose negative pass is scaled."""


class RescaleConfig(Rescale):
    """Options of ``rescale``."""

    cfg: Cfg = Cfg()
    """The classifier-free guidance that is rescaled."""


class IntervalConfig(Interval):
    """Options of ``interval``."""

    cfg: Cfg = Cfg()
    """The classifier-free guidance that is limited."""


class CfgPart(Cfg):
    part: Literal["cfg"]


class SkipLayerPart(SkipLayer):
    part: Literal["skip-layer"]


class StgPart(Stg):
    part: Literal["stg"]


class ModalityIsolatingPart(ModalityIsolating):
    part: Literal["modality-isolating"]


class SyncCfgPart(SyncCfg):
    part: Literal["sync-cfg"]


class ApgPart(Apg):
    part: Literal["apg"]


class CfgZeroStarPart(CfgZeroStar):
    part: Literal["cfg-zero-star"]


class RescalePart(Rescale):
    part: Literal["rescale"]


class IntervalPart(Interval):
    part: Literal["interval"]


# One list of names for pydantic and for readers of the schema.
Part = Annotated[
    Union[  # noqa: UP007  # nine alternatives read better one a line
        CfgPart,
        SkipLayerPart,
        StgPart,
        ModalityIsolatingPart,
        SyncCfgPart,
        ApgPart,
        CfgZeroStarPart,
        RescalePart,
        IntervalPart,
    ],
    Field(discriminator="part"),
]


class ComposedConfig(Config):
    """Options of ``composed``."""

    parts: tuple[Part, ...]
    """Mappings {part: NAME, ...} with the options of the guidance NAME, without its ``cfg``, which is a part of its
    own. Terms (cfg, skip-layer, stg, modality-isolating, sync-cfg) add up; modifiers (apg or cfg-zero-star, rescale,
    interval) change what they come to. The order in which they stand makes no difference."""

    @model_validator(mode="after")
    def _has_a_meaning(self) -> ComposedConfig:
        refuse_meaningless(self.parts)
        return self


def refuse_meaningless(parts: Sequence[Part]) -> None:
    """ValueError for parts that have no meaning together."""
    terms = [part for part in parts if isinstance(part, TERMS)]
    names = [part.part for part in parts]
    modifiers = [part.part for part in parts if not isinstance(part, TERMS)]
    for name in modifiers:
        if modifiers.count(name) > 1:
            raise ValueError(f"'{name}' is there twice: which of the two would hold?")
    if not parts:
        raise ValueError("there are no parts: for no guidance, take cfg with both scales 1")
    if not terms:
        raise ValueError(f"'{modifiers[0]}' has no term to act on: add cfg or another one")
    for i, term in enumerate(terms):
        if any(_same_pass(term, other) for other in terms[:i]):
            raise ValueError(f"'{term.part}' is there twice with the same pass: write one, with the sum of the scales")
    if {"apg", "cfg-zero-star"} <= set(names):
        raise ValueError("'apg' and 'cfg-zero-star' both change the difference to the negative pass: choose one")
    if "cfg-zero-star" in names and "cfg" not in names:
        raise ValueError("'cfg-zero-star' scales the negative pass, which only 'cfg' has: add it")


def _same_pass(one: Term, other: Term) -> bool:
    """Whether two terms push away from the same pass."""
    if type(one) is not type(other):
        return False
    kept = {"layers", "skip_layers"}
    mine, others = (
        {key: sorted(layers) for key, layers in term.model_dump(include=kept).items()} for term in (one, other)
    )
    return mine == others
