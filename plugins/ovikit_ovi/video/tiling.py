"""Cutting a picture into overlapping tiles, and the weights that blend them into one again.

Tiles of a row overlap by at least what is asked for, are all of one size and are spread evenly, so that none is larger
than the cut needs. What is computed near the edge of a tile lacks what lies beyond it. So the outer part of an overlap
is not used; across the inner part the weight of one tile falls linearly while that of the next one rises. The weights
at a place always sum to one. Everything counts latent cells; pixels are a whole number of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil

import torch
from jaxtyping import Float64
from torch import Tensor

UNUSED = 0.375
"""Share of an overlap that each tile leaves unused at its edge, where the overlap is shorter than twice the reach of
the network. Measured on random weights: a quarter and a half both leave larger errors in overlaps of 4 to 8 cells."""


@dataclass(frozen=True)
class Cut:
    """One axis of ``length`` cells, cut into spans of ``side`` cells that begin at ``starts``."""

    length: int
    side: int
    starts: tuple[int, ...]

    @classmethod
    def of(cls, length: int, count: int, overlap: int) -> Cut:
        """The axis in ``count`` spans that overlap by at least ``overlap`` cells."""
        side = ceil((length + (count - 1) * overlap) / count)
        return cls(length, side, tuple((length - side) * i // max(count - 1, 1) for i in range(count)))

    def ramps(self, scale: int, reach: int) -> Float64[Tensor, "spans size"]:
        """The weight of each span's samples, of which there are ``scale`` to a cell. At each place they sum to one.

        reach: how many cells away a sample depends on; where spans overlap by twice as much, no sample is used that
        depends on anything outside of its span
        """
        size, starts = self.side * scale, [start * scale for start in self.starts]
        raw = torch.ones(len(starts), size, dtype=torch.float64)
        for i, (start, after) in enumerate(pairwise(starts)):
            shared = size - (after - start)
            unused = reach * scale if shared >= 2 * reach * scale else shared * UNUSED
            ramp = max(shared - 2 * unused, 1e-9)
            rise = ((torch.arange(size, dtype=torch.float64) + 0.5 - unused) / ramp).clamp(0, 1)
            raw[i] = torch.minimum(raw[i], rise.flip(0))
            raw[i + 1] = torch.minimum(raw[i + 1], rise)
        total = torch.zeros(self.length * scale, dtype=torch.float64)
        for weight, start in zip(raw, starts, strict=True):
            total[start : start + size] += weight
        return torch.stack([weight / total[s : s + size] for weight, s in zip(raw, starts, strict=True)])


@dataclass(frozen=True)
class Tile:
    """One tile, in cells."""

    row: int
    column: int
    rows: int
    columns: int

    def area(self, scale: int) -> tuple[slice, slice]:
        """Rows and columns of a picture with ``scale`` samples to a cell."""
        top, left = self.row * scale, self.column * scale
        return slice(top, top + self.rows * scale), slice(left, left + self.columns * scale)


@dataclass(frozen=True)
class Tiling:
    """A picture's two axes, cut."""

    vertical: Cut
    horizontal: Cut

    @classmethod
    def untiled(cls, rows: int, columns: int) -> Tiling:
        return cls(Cut(rows, rows, (0,)), Cut(columns, columns, (0,)))

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """Every tile, row by row."""
        sides = self.vertical.side, self.horizontal.side
        return tuple(Tile(top, left, *sides) for top in self.vertical.starts for left in self.horizontal.starts)

    @property
    def cells_per_tile(self) -> int:
        return self.vertical.side * self.horizontal.side

    @property
    def cells(self) -> int:
        """Cells that are computed in all, those of overlaps once for each tile."""
        return self.cells_per_tile * len(self.tiles)

    def weights(self, scale: int, reach: int) -> tuple[Float64[Tensor, "height width"], ...]:
        """The weight of each tile's samples, of which there are ``scale`` to a cell on each axis."""
        down, across = self.vertical.ramps(scale, reach), self.horizontal.ramps(scale, reach)
        return tuple(torch.outer(y, x) for y in down for x in across)

    def __str__(self) -> str:
        counts = f"{len(self.vertical.starts)}x{len(self.horizontal.starts)}"
        return "untiled" if counts == "1x1" else f"{counts} of {self.vertical.side}x{self.horizontal.side}"


def _cuts(length: int, overlap: int, longest: int) -> list[Cut]:
    """The axis in one span, two, three, ... of at most ``longest`` cells, where one more makes them shorter."""
    cuts = [Cut.of(length, 1, overlap)]
    for count in range(2, length + 1):
        cut = Cut.of(length, count, overlap)
        if overlap < cut.side < cuts[-1].side:
            cuts.append(cut)
    return [cut for cut in cuts if cut.side <= longest]


def tiling_of(
    rows: int, columns: int, *, overlap: int, most_cells: int | None = None, longest: int | None = None
) -> Tiling:
    """The tiling that computes the fewest cells, and has the fewest tiles among those, within both limits.

    overlap:    of neighbours, in cells
    most_cells: of one tile; None: any number
    longest:    side of a tile; None: any length

    ValueError where no tiling is within the limits.
    """
    side = max(rows, columns) if longest is None else longest
    down, across = (_cuts(length, overlap, side) for length in (rows, columns))
    found = [
        tiling
        for tiling in (Tiling(vertical, horizontal) for vertical in down for horizontal in across)
        if most_cells is None or tiling.cells_per_tile <= most_cells
    ]
    if not found:
        raise ValueError(f"no tiles of {rows} x {columns} cells that overlap by {overlap} are small enough")
    return min(found, key=lambda tiling: (tiling.cells, len(tiling.tiles), tiling.vertical.side))
