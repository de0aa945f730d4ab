"""Heat maps of tokens, laid over the pixels that the tokens stand for.

Shape legend: y x rows, columns of tokens; frames, height, width in pixels.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ovikit.extras import require
from ovikit.types import TokenGrid

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap

GAMMA = 0.65
"""Heat is drawn as a root of it: between the hottest place and an even attention lie factors, not differences."""
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_DARKEST = 0.3
"""Where the colours begin in matplotlib's own: what is darker would be lost in a dark picture."""
_MOST = 0.9
"""How opaque the hottest place is."""
_HOT = 0.005
"""Share of the places that are drawn as the hottest."""


@cache
def colours() -> ListedColormap:
    """The colours of heat. UserError where matplotlib, of the extra ``report``, is missing."""
    table = require("matplotlib", extra="report").colormaps["inferno"](np.linspace(_DARKEST, 1, 256))
    from matplotlib.colors import ListedColormap

    return ListedColormap(table)


def step_at(grid: TokenGrid, time_s: float) -> int:
    """The step that a time lies in; the first or the last one outside of them all."""
    starts = [start for start, _ in grid.edges_s]
    return max(0, int(np.searchsorted(starts, time_s, side="right")) - 1)


def over_pixels(heat: Tensor, size_px: tuple[int, int]) -> NDArray[np.float32]:
    """(height, width) of (y, x): linear between the tokens' middles."""
    wide = F.interpolate(heat[None, None].float(), size_px, mode="bilinear", align_corners=False)
    return wide[0, 0].numpy()


def laid_over(frame: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A frame (height, width, 3) under a heat in [0, 1]: dim and greyer where it is cold, glowing where it is hot.

    Errors as of ``colours``.
    """
    table = np.asarray(colours().colors, dtype=np.float32)[:, :3]
    rooted = (heat.clip(0, 1) ** GAMMA).astype(np.float32)
    picture = frame.astype(np.float32) / 255
    under = 0.4 * picture + 0.4 * (picture @ _GREY)[..., None]
    cover = _MOST * rooted[..., None]
    mixed = (1 - cover) * under + cover * table[(rooted * 255).astype(np.uint8)]
    return (mixed.clip(0, 1) * 255).round().astype(np.uint8)


def hottest(maps: Tensor) -> float:
    """The value from which on places are drawn as the hottest: nearly the greatest, so that one does not darken all."""
    flat = maps.flatten().float()
    # topk, since quantile refuses tens of millions of values
    return max(float(torch.topk(flat, max(1, round(_HOT * flat.numel()))).values[-1]), 1e-12)
