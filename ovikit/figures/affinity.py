"""How alike the positions of audio tokens and video steps are: Figure 2 of Ovi, for any scheme and any rates.

Shape legend: a audio tokens, v video steps, t steps, p channel pairs of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from ovikit.errors import UserError
from ovikit.kernel.catalog import Catalog, UnknownComponentError
from ovikit.kernel.manager import installed_catalog
from ovikit.networks.protocols import Positions
from ovikit.recipe.build import build_codecs, build_conditioner, build_model
from ovikit.recipe.models import Recipe
from ovikit.types import AV, TokenGrid

THETA = "theta"
"""Option that schemes share: the base of the rotation frequencies."""


def affinity(positions: Positions, grids: AV[TokenGrid], head_width: int) -> Float64[Tensor, "a v"]:
    """Mean, over the channel pairs that turn with time, of cos(angle of the audio token - angle of the video step).

    ValueError where no pair turns with time in the fusion, or there is no second step to turn to.
    """
    angles = grids.map(lambda grid: positions.angles(grid, head_width, "fusion")[:: grid.tokens_per_step])
    video, audio = angles["video"], angles["audio"]
    turning = (video != video[:1]).any(0) | (audio != audio[:1]).any(0)
    if not turning.any():
        raise ValueError("turns nothing with time in the fusion: all tokens are equally alike")
    return (audio[:, None, turning] - video[None, :, turning]).cos().mean(-1)


def middles_s(grid: TokenGrid) -> NDArray[np.float64]:
    """The middle of each step, in seconds."""
    return np.asarray(grid.edges_s, dtype=np.float64).mean(axis=1)


def physical_steps(grids: AV[TokenGrid]) -> NDArray[np.float64]:
    """(a,) the video step, between two whole ones, whose time is that of each audio token."""
    seen = middles_s(grids["video"])
    return between(middles_s(grids["audio"]), seen, np.arange(len(seen), dtype=np.float64))


def between(x: NDArray[np.float64], given: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """What belongs to ``x`` where ``wanted`` belongs to ``given``: linear in between, and on beyond both ends."""
    inner = np.interp(x, given, wanted)
    if len(given) < 2:
        return inner
    first, last = ((wanted[i] - wanted[i - 1]) / (given[i] - given[i - 1]) for i in (1, -1))
    return inner + np.minimum(x - given[0], 0) * first + np.maximum(x - given[-1], 0) * last


def ridge_distance_s(found: Float64[Tensor, "a v"], grids: AV[TokenGrid]) -> float:
    """How far the video step that is most like an audio token is from it in time, in seconds, on average."""
    seen, heard = middles_s(grids["video"]), middles_s(grids["audio"])
    return float(np.abs(seen[found.argmax(dim=1).numpy()] - heard).mean())


def least_distance_s(grids: AV[TokenGrid]) -> float:
    """What ``ridge_distance_s`` is where each audio token is most like the video step that is nearest to it."""
    seen, heard = middles_s(grids["video"]), middles_s(grids["audio"])
    return float(np.abs(seen[None] - heard[:, None]).min(axis=1).mean())


@dataclass(frozen=True, slots=True)
class AffinityMap:
    """The map of one scheme. options: what was set of it."""

    scheme: str
    options: Mapping[str, object]
    values: Tensor
    distance_s: float

    @property
    def title(self) -> str:
        """The scheme with its options, as a recipe has them."""
        return ", ".join([self.scheme, *(f"{name} {value:.6g}" for name, value in self.options.items())])


@dataclass(frozen=True, slots=True)
class Affinity:
    """Two schemes over the same tokens."""

    recipe: str
    grids: AV[TokenGrid]
    before: AffinityMap
    after: AffinityMap

    @property
    def maps(self) -> dict[str, AffinityMap]:
        return {"before": self.before, "after": self.after}


def rope_affinity(recipe: Recipe, before: str, catalog: Catalog | None = None) -> Affinity:
    """The recipe's own scheme after that of the component ``before``, over the tokens of the recipe's clips.

    Nothing is read: the network is built without weights. UserError for a recipe of one tower or without rotations in
    the fusion, and for a scheme that is not there or turns nothing.
    """
    if len(recipe.model.modalities) < 2:
        raise UserError(f"recipe '{recipe.name}' has one tower: there is nothing to be alike to", "model")
    if not recipe.model.rotated.fusion:
        raise UserError("this recipe's fusion turns by no positions", "model.rotated.fusion", "set it to true")
    codecs = build_codecs(recipe)
    model = build_model(recipe, codecs, build_conditioner(recipe), "meta")
    grids = AV.of({m: model.tower(m).grid(codec.grid()) for m, codec in codecs.items()})
    widths = {model.head_width(m, "fusion") for m in grids.modalities}
    if len(widths) > 1:
        raise UserError(
            f"the heads of the towers have different widths ({', '.join(map(str, sorted(widths)))}) and the fusion has "
            "none of its own: their angles cannot be compared", "model.fusion",
        )  # fmt: skip
    slot, head_width = recipe.model.positions, widths.pop()
    own = {name: value for name, value in slot.config.model_dump().items() if isinstance(value, int | float)}
    scheme, options = _scheme(before, own, catalog or installed_catalog())
    return Affinity(
        recipe.name,
        grids,
        _map(before, options, scheme, grids, head_width),
        _map(slot.type, own, model.positions, grids, head_width),
    )


def _scheme(name: str, own: Mapping[str, object], catalog: Catalog) -> tuple[Positions, Mapping[str, object]]:
    """The scheme of a component, with the recipe's theta if it takes one, and what was set of it."""
    try:
        component = catalog.find("positions", name).component
    except UnknownComponentError as error:
        raise UserError(error.what, "--before", "give the name of a scheme that is installed") from error
    options = {THETA: own[THETA]} if THETA in own and THETA in component.config.model_fields else {}
    try:
        config = component.config.model_validate(options)
    except ValidationError as error:
        missing = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
        raise UserError(f"positions '{name}' cannot be built from defaults: {missing}", "--before") from error
    return component.build(config), {k: v for k, v in config.model_dump().items() if isinstance(v, int | float)}


def _map(
    name: str, options: Mapping[str, object], scheme: Positions, grids: AV[TokenGrid], head_width: int
) -> AffinityMap:
    try:
        values = affinity(scheme, grids, head_width)
    except ValueError as error:
        raise UserError(str(error), f"positions '{name}'") from error
    return AffinityMap(name, options, values, ridge_distance_s(values, grids))
