"""The contract of positional schemes: what attention scores depend on is how far tokens lie apart."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ovikit.networks.protocols import Positions
from ovikit.networks.rotary import rotate, rotation
from ovikit.testing.contract import Contract, global_generators_unused
from ovikit.testing.reference import drawn
from ovikit.types import AV, MODALITIES, Modality, TokenGrid

Use = Literal["self", "fusion"]
USES: tuple[Use, Use] = ("self", "fusion")
_SAME = 1e-9


def _grid(modality: Modality, steps: int = 7) -> TokenGrid:
    rows, columns = (4, 5) if modality == "video" else (1, 1)
    return TokenGrid.uniform(modality, (steps, rows, columns), 0.25 if modality == "video" else 0.1)


class PositionsContract(Contract):
    """Subclass it and name the component.

    aligned:    tokens of the two modalities that ``start`` at one time, or whose ``midpoint`` is one time, have one
                temporal angle in the fusion; None: the scheme does not promise that
    head_widths: the widths of heads that the checks use
    grids:      of an aligned scheme: video and audio grids of one row and column, on which its promise is checked. An
                audio step is a third of a video step; schemes that are told the ratio need options that say so
    """

    kind = "positions"
    aligned: ClassVar[Literal["start", "midpoint"] | None] = None
    head_widths: ClassVar[tuple[int, ...]] = (12, 16, 64, 128)
    grids: ClassVar[AV[TokenGrid]] = AV(
        TokenGrid.uniform("video", (5, 1, 1), 0.25), TokenGrid.uniform("audio", (15, 1, 1), 0.25 / 3)
    )

    def _angles(self, grid: TokenGrid, head_width: int, use: Use) -> Tensor:
        made: Positions = self.build()
        return made.angles(grid, head_width, use)

    def test_angles_have_their_shape_and_format(self) -> None:
        """(tokens, head width / 2) float64, finite, for both uses, whatever the head width and the grid."""
        for modality in MODALITIES:
            for grid in (_grid(modality), _grid(modality, steps=1), TokenGrid.uniform(modality, (3, 1, 1), 0.04, 0.01)):
                for use in USES:
                    for width in self.head_widths:
                        found = self._angles(grid, width, use)
                        told = f"angles of {modality} {grid.shape} with heads of {width} for {use}"
                        wanted = (len(grid), width // 2)
                        assert tuple(found.shape) == wanted, (
                            f"{told} are {tuple(found.shape)}, not {wanted}; give one per token and channel pair, "
                            "zero where a pair does not turn"
                        )
                        assert found.dtype == torch.float64, (
                            f"{told} are {found.dtype}; work them out in float64: they are rounded once, as cosines"
                        )
                        assert bool(torch.isfinite(found).all()), (
                            f"{told} are NaN or Inf; look at divisions by a size of 1"
                        )

    def test_equal_grids_have_equal_angles(self) -> None:
        """Angles depend on the grid alone: they are computed once per grid and kept."""
        scheme: Positions = self.build()
        for modality in MODALITIES:
            for use in USES:
                first = scheme.angles(_grid(modality), 16, use).clone()
                scheme.angles(_grid(modality, steps=3), 16, use)
                scheme.angles(_grid("audio", steps=9), 24, "self")
                again = scheme.angles(_grid(modality), 16, use)
                assert torch.equal(first, again), (
                    f"a second call for the same {modality} grid gives other angles; keep nothing of earlier grids"
                )

    def test_global_random_numbers_are_left_alone(self) -> None:
        """A scheme draws nothing."""
        with global_generators_unused(f"the positions '{self.found().name}'"):
            self._angles(_grid("video"), 16, "self")

    def test_scores_do_not_change_when_all_tokens_move(self) -> None:
        """Attention scores stay when all tokens of a stream move by as many steps, rows or columns.

        A first step of its own is allowed: what is compared lies after it.
        """
        for modality in MODALITIES:
            for axis in range(3 if modality == "video" else 1):
                for use in USES:
                    here, there = self._moved(modality, axis, use)
                    off = float((self._scores(here) - self._scores(there)).abs().max())
                    what = ("steps", "rows", "columns")[axis]
                    assert off < _SAME, (
                        f"scores of {modality} tokens for {use} change by {off:.2g} when all of them move along the "
                        f"{what}; angles have to be linear in the place, with frequencies that are the same for all "
                        "tokens"
                    )

    def _moved(self, modality: Modality, axis: int, use: Use) -> tuple[Tensor, Tensor]:
        """Angles of two blocks of one grid that are alike but for their place along an axis."""
        grid = _grid(modality)
        angles, index = self._angles(grid, 16, use), grid.index
        size = grid.shape[axis]
        early = index[:, axis].gt(0) & index[:, axis].lt(size - 1)
        late = index[:, axis].gt(1)
        after_first = index[:, 0].gt(0)
        return angles[early & after_first], angles[late & after_first]

    @staticmethod
    def _scores(angles: Tensor) -> Tensor:
        """(n, n) scores of fixed random queries and keys that are turned by the angles."""
        by = rotation(angles, "cpu", torch.float64)
        size = (1, 1, 1, 2 * angles.shape[1])
        query, key = (drawn(*size, seed=seed).expand(1, len(angles), 1, -1) for seed in (1, 2))
        return rotate(query, by)[0, :, 0] @ rotate(key, by)[0, :, 0].T

    def test_scores_do_not_change_with_the_clock(self) -> None:
        """Scores stay when the times of all tokens, in both streams, are later by as much."""
        for use in USES:
            now = {m: self._angles(_grid(m), 16, use) for m in MODALITIES}
            later = {m: self._angles(_later(_grid(m), 0.7), 16, use) for m in MODALITIES}
            off = max(float((self._scores(now[m]) - self._scores(later[m])).abs().max()) for m in MODALITIES)
            assert off < _SAME, (
                f"scores for {use} change by {off:.2g} when a clip starts 0.7 s later; use differences of times"
            )

    def test_equal_times_have_equal_angles(self) -> None:
        """An aligned scheme turns tokens of both streams alike where their times are the same."""
        if self.aligned is None:
            return
        angles = self.grids.map(lambda grid: self._angles(grid, 16, "fusion"))
        times = self.grids.map(lambda grid: grid.seconds[:, 0] if self.aligned == "start" else grid.seconds.mean(dim=1))
        pairs = (times["video"][:, None] - times["audio"]).abs().lt(1e-9).nonzero().unbind(1)
        assert len(pairs[0]) >= 2, (
            f"no two tokens of grids {self.grids} have the same {self.aligned}; choose other grids"
        )
        # What a scheme turns by anything else than time, such as a row that no picture has, is not looked at.
        moving = torch.stack([(one - one[:1]).abs().amax(0) > 0 for one in angles.values()]).any(0)
        off = float((angles["video"][pairs[0]] - angles["audio"][pairs[1]])[:, moving].abs().max())
        assert off < _SAME, (
            f"tokens of the same {self.aligned} differ by {off:.2g} in their angles; measure both streams in one unit, "
            "from one origin, or set aligned to what holds"
        )
        assert float(angles["video"].abs().max()) > 0, "an aligned scheme turns nothing; set aligned to None"


def _later(grid: TokenGrid, seconds: float) -> TokenGrid:
    edges = tuple((start + seconds, end + seconds) for start, end in grid.edges_s)
    return TokenGrid(grid.modality, grid.shape, edges)
