"""Options that fusions share, with one meaning everywhere, and the layers that a choice of them stands for.

A fusion's config derives from ``FusionConfig`` where all of them have a meaning, and from ``FusedLayersConfig`` where
some have none; what is left out can be refused with its reason by ``refuse_options``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

from pydantic import BeforeValidator, Field, NonNegativeInt, model_validator

from ovikit.kernel.component import Config

Direction = Literal["both", "a2v", "v2a"]
Update = Literal["parallel", "audio-first", "video-first"]
Pattern = Literal["full", "shallow", "distributed", "progressive"]

EVERY = 3
"""Of a sparse pattern: one layer in three has fusion."""

T = TypeVar("T")


def _known_layers(value: Any) -> Any:
    """A pattern or a tuple of layers; what else was given is told what it may be, in one sentence."""
    if isinstance(value, str) and value in get_args(Pattern):
        return value
    given = cast("list[object]", value) if isinstance(value, list | tuple) else [None]
    if not all(type(one) is int and one >= 0 for one in given):
        raise ValueError(f"should be one of {', '.join(get_args(Pattern))}, or a list of layers counted from 0")
    if not given:
        raise ValueError("names no layer; towers that never meet are fusion 'none'")
    if len(set(given)) < len(given):
        raise ValueError("names a layer twice")
    return tuple(given)  # from JSON it comes as a list, which a strict tuple refuses here


Layers = Annotated[Pattern | tuple[NonNegativeInt, ...], BeforeValidator(_known_layers)]


class FusedLayersConfig(Config):
    """Where the towers meet, and who reads whom."""

    direction: Direction = "both"
    """both: each reads the other; a2v (audio to video): the video reads and the audio runs alone; v2a: the reverse."""
    layers: Layers = "full"
    """full: all; shallow: first third; distributed: 1 in 3; progressive: first quarter, then 1 in 3; or a list."""


class FusionConfig(FusedLayersConfig):
    """The options of a fusion whose two directions are apart from each other."""

    update: Update = "parallel"
    """parallel: each reads the other as it was; audio-first: the audio reads, then the video reads what came of it."""
    init_scale: float = Field(1.0, ge=0)
    """Factor on the usual initial weights of what the fusion adds: 0.1 a tenth, 0 nothing at first."""

    @model_validator(mode="after")
    def _order_needs_two(self) -> FusionConfig:
        if self.direction != "both" and self.update != "parallel":
            raise ValueError(
                f"update '{self.update}' has no meaning with direction '{self.direction}': one modality alone reads, "
                "so there is no order; leave update out"
            )
        return self


def refuse_options(data: Any, reasons: Mapping[str, str]) -> Any:
    """The data of a config as it was. ValueError for an option that has no meaning for it, with the reason.

    reasons: by option; for a validator of mode "before"
    """
    given = cast("dict[str, Any]", data if isinstance(data, dict) else {})
    told = [f"{name} has no meaning here: {reason}" for name, reason in reasons.items() if name in given]
    if told:
        raise ValueError("; ".join(told))
    return cast(Any, data)


def fused_layers(layers: Pattern | tuple[int, ...], depth: int) -> tuple[int, ...]:
    """The layers with fusion, of ``depth`` that both towers have, in order.

    shallow: the first third, rounded up; distributed: layers 0, 3, 6, ...; progressive: the first quarter, rounded up,
    then every third from there on. Of 30 layers these are 10, 10 and 16 (8 and 8). ValueError names a layer beyond.
    """
    dense = {"full": depth, "shallow": -(-depth // 3), "distributed": 0, "progressive": -(-depth // 4)}
    if isinstance(layers, str):
        first = dense[layers]
        sparse = range(first, depth, EVERY) if layers in ("distributed", "progressive") else ()
        return (*range(first), *sparse)
    beyond = [str(i) for i in layers if i >= depth]
    if beyond:
        raise ValueError(f"layers names {', '.join(beyond)}, but the layers that both towers have are 0 to {depth - 1}")
    return tuple(sorted(layers))


def one_each(layers: Pattern | tuple[int, ...], depth: int, make: Callable[[], T]) -> list[T | None]:
    """What ``make`` gives for each layer with fusion, and None for the others."""
    chosen = fused_layers(layers, depth)
    return [make() if i in chosen else None for i in range(depth)]
