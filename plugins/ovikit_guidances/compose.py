"""Options to a guidance: each kind of options adds itself to what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch

from ovikit.types import AV
from ovikit_guidances import terms
from ovikit_guidances.differences import Projected, ZeroStar
from ovikit_guidances.guided import Guided
from ovikit_guidances.options import (
    Apg,
    Cfg,
    CfgZeroStar,
    Interval,
    ModalityIsolating,
    Modifier,
    Rescale,
    SkipLayer,
    Stg,
    SyncCfg,
    Term,
)


def compose(parts: Sequence[Term | Modifier]) -> Guided:
    """The guidance of these parts; in which order they come makes no difference."""
    whole = Guided()
    for part in parts:
        whole = added(part, whole)
    return replace(whole, pushes=tuple(sorted(whole.pushes, key=lambda push: (-push.neutral, push.run.name))))


@singledispatch
def added(options: Term | Modifier, to: Guided) -> Guided:
    """A guidance with a term or a modifier added to it."""
    raise TypeError(f"{type(options).__name__} are no options of a guidance")


def _pushing(to: Guided, *pushes: terms.Push) -> Guided:
    return replace(to, pushes=(*to.pushes, *pushes))


@added.register
def _(options: Cfg, to: Guided) -> Guided:
    return _pushing(to, terms.negative(AV(options.video, options.audio), options.skip_layers))


@added.register
def _(options: SkipLayer, to: Guided) -> Guided:
    return _pushing(to, terms.without_layers(AV(options.video, options.audio), options.layers))


@added.register
def _(options: Stg, to: Guided) -> Guided:
    return _pushing(to, terms.without_self_attention(AV(options.video, options.audio), options.layers))


@added.register
def _(options: ModalityIsolating, to: Guided) -> Guided:
    return _pushing(to, terms.isolated(AV(options.video, options.audio)))


@added.register
def _(options: SyncCfg, to: Guided) -> Guided:
    return _pushing(to, *terms.anchored(AV(options.video, options.audio)))


@added.register
def _(options: Apg, to: Guided) -> Guided:
    return replace(to, differ=Projected(options.eta, options.threshold))


@added.register
def _(options: CfgZeroStar, to: Guided) -> Guided:
    return replace(to, differ=ZeroStar(), zero_above=options.zero_above)


@added.register
def _(options: Rescale, to: Guided) -> Guided:
    return replace(to, phi=options.phi)


@added.register
def _(options: Interval, to: Guided) -> Guided:
    return replace(to, interval=AV(options.video, options.audio))
