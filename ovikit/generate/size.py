"""How large a clip becomes: the size that was asked for, or the shape of its first frame, on a grid of whole tokens.

Sizes are pairs of height and width in pixels.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ovikit.errors import UserError

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SizeRule:
    """The sizes of a recipe's clips.

    own:     the recipe's size
    step:    what heights and widths are multiples of: the pixels of a token
    area_px: height times width that other sizes are brought to; None: they are taken as they are
    """

    own: Size
    step: Size
    area_px: int | None = None

    def asked(self, size: Size) -> Size:
        """The clip's size where ``size`` is asked for: brought to the area with its proportions kept, each side then
        rounded to the next multiple (released code). UserError, without an area, for sides that are no multiples."""
        if self.area_px is None:
            self._refuse_off_grid(size)
            return size
        scale = math.sqrt(self.area_px / (size[0] * size[1]))
        height, width = (_nearest(round(side * scale), step) for side, step in zip(size, self.step, strict=True))
        return height, width

    def shown(self, picture: Size) -> Size:
        """The clip's size where a picture of some size is its first frame: of those on the grid that have about its
        proportions, the one nearest to the area, then the one nearest to its proportions (released code). Without an
        area: the recipe's own."""
        if self.area_px is None:
            return self.own
        area = self.area_px
        rows_px, columns_px = self.step
        ratio = picture[1] / picture[0]
        cells = max(1, area // (rows_px * columns_px))
        ratio_cells = ratio * rows_px / columns_px
        first = max(1, round(math.sqrt(cells / ratio_cells)))
        found = [
            (rows * rows_px, max(1, round(rows * ratio_cells)) * columns_px)
            for rows in range(max(1, first - 3), first + 4)
        ]
        scale = math.sqrt(area / (picture[0] * picture[1]))
        found.append((_nearest(picture[0] * scale, rows_px), _nearest(picture[1] * scale, columns_px)))

        def distance(size: Size) -> tuple[int, float]:
            return abs(size[0] * size[1] - area), abs(size[1] / size[0] - ratio)

        return min(found, key=distance)

    def _refuse_off_grid(self, size: Size) -> None:
        for what, side, step in zip(("height", "width"), size, self.step, strict=True):
            if side % step:
                raise UserError(
                    f"the {what} of {side} pixels is not a multiple of {step}",
                    "--size",
                    f"this recipe's clips are {told(self.own)} (height x width); sides are multiples of"
                    f" {self.step[0]} and {self.step[1]}",
                )


def parse_size(text: str) -> Size:
    """The size that ``HEIGHTxWIDTH`` stands for. UserError where it stands for none."""
    match = re.fullmatch(r"\s*(\d{1,5})\s*[xX×*]\s*(\d{1,5})\s*", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if min(size) < 1:
        raise UserError(f"'{text}' is not a size", "--size", "give height x width in pixels, as in --size 704x1280")
    return size


def told(size: Size) -> str:
    """As people write it: ``704x1280``, the height first."""
    return f"{size[0]}x{size[1]}"


def _nearest(side: float, step: int) -> int:
    return max(step, round(side / step) * step)
