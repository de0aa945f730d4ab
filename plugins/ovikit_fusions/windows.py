"""Reading in time: which tokens of one stream lie around a token of the other, and attention to those alone.

Everything that depends on times is worked out once per pair of grids, into tensors that the streams carry.

Shape legend: b batch, n m tokens of the two streams, g groups of queries that share a window, k keys of the largest
window, t steps of a stream, s tokens per step, w width, h heads, d head width.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ovikit.networks.attention import length_mask
from ovikit.networks.protocols import Attend
from ovikit.types import TokenGrid
from ovikit_fusions.reading import attend_or_zero

Span = tuple[float, float]

TOUCH_S = 1e-6
"""Two intervals that share less than this only touch: their ends are sums of rounded durations."""


def overlapped(span: Span, edges_s: Sequence[Span]) -> tuple[int, int]:
    """First step that shares time with a span, and the one after the last; equal where none does."""
    first = sum(end <= span[0] + TOUCH_S for _, end in edges_s)
    return first, max(first, sum(start < span[1] - TOUCH_S for start, _ in edges_s))


def window_layout(mine: TokenGrid, other: TokenGrid, reach: int) -> dict[str, Tensor]:
    """The window of each step of ``mine``: tokens of ``other`` that are near it in time.

    reach: in video steps. Video reads the audio tokens that share time with its step or the ``reach`` steps on either
           side; audio reads the video steps that share time with it, and ``reach`` more on either side.
    Gives ``first`` and ``stop`` (g,), and ``index`` (g, k): the tokens from ``first`` on, as many as the largest window
    has.
    """
    steps, edges = other.shape[0], mine.edges_s
    if mine.modality == "video":
        last = len(edges) - 1
        spans = [(edges[max(i - reach, 0)][0], edges[min(i + reach, last)][1]) for i in range(len(edges))]
        bounds = [overlapped(span, other.edges_s) for span in spans]
    else:
        found = [overlapped(span, other.edges_s) for span in edges]
        bounds = [(max(first - reach, 0), min(stop + reach, steps)) for first, stop in found]
    first, stop = (torch.tensor(bounds) * other.tokens_per_step).unbind(1)
    size = max(1, int((stop - first).max()))
    index = (first[:, None] + torch.arange(size)).clamp(max=len(other) - 1)
    return {"first": first, "stop": stop, "index": index}


def windowed(
    attend: Attend,
    query: Float[Tensor, "b n h d"],
    key: Float[Tensor, "b m h d"],
    value: Float[Tensor, "b m h d"],
    lengths: Int[Tensor, " b"] | None,
    layout: Mapping[str, Tensor],
) -> Float[Tensor, "b n h d"]:
    """What each query reads in its own window; zero where that holds no valid token.

    The groups of one item go through ``attend`` as items of their own: a window is consecutive tokens, so those of it
    that are valid are its first ones.
    """
    first, stop, index = layout["first"], layout["stop"], layout["index"]
    groups = first.shape[0]
    ends = stop.expand(query.shape[0], groups)
    if lengths is not None:
        ends = torch.minimum(ends, lengths[:, None])
    found = attend_or_zero(
        attend,
        rearrange(query, "b (g s) h d -> (b g) s h d", g=groups),
        rearrange(key[:, index], "b g k h d -> (b g) k h d"),
        rearrange(value[:, index], "b g k h d -> (b g) k h d"),
        rearrange((ends - first).clamp(min=0), "b g -> (b g)"),
    )
    return rearrange(found, "(b g) s h d -> b (g s) h d", g=groups)


def centres_s(grid: TokenGrid) -> list[float]:
    """The middle of each step."""
    return [(start + end) / 2 for start, end in grid.edges_s]


def neighbour_layout(mine: TokenGrid, other: TokenGrid) -> dict[str, Tensor]:
    """Between which two steps of ``other`` the middle of each step of ``mine`` lies: ``step`` (g,) is the earlier one,
    ``share`` (g,) in [0, 1) how far it is on the way to the next; before the first middle and after the last one it is
    that step itself. ``place`` (s,) counts the tokens of a step."""
    known = centres_s(other)
    steps: list[int] = []
    shares: list[float] = []
    for at in centres_s(mine):
        step = max(bisect_right(known, at) - 1, 0)
        inside = at > known[step] and step + 1 < len(known)
        steps.append(step)
        shares.append((at - known[step]) / (known[step + 1] - known[step]) if inside else 0.0)
    return {
        "step": torch.tensor(steps),
        "share": torch.tensor(shares, dtype=torch.float64),
        "place": torch.arange(other.tokens_per_step),
    }


def interpolated(
    x: Float[Tensor, "b m w"], lengths: Int[Tensor, " b"] | None, layout: Mapping[str, Tensor]
) -> Float[Tensor, "b g s w"]:
    """The tokens of a step as they would be at the time of each group: on the line between the two nearest steps.

    A token of the later step that is not valid counts as the one of the earlier step.
    """
    step, share, place = layout["step"], layout["share"].to(x.dtype)[:, None], layout["place"]
    by_step = rearrange(x, "b (t s) w -> b t s w", s=place.shape[0])
    following = (step + 1).clamp(max=by_step.shape[1] - 1)
    if lengths is not None:
        valid = following[:, None] * place.shape[0] + place < lengths[:, None, None]
        share = share * valid
    return torch.lerp(by_step[:, step], by_step[:, following], share[..., None])


def neighbours_read(
    attend: Attend,
    query: Float[Tensor, "b n h d"],
    key: Float[Tensor, "b n s h d"],
    value: Float[Tensor, "b n s h d"],
    lengths: Int[Tensor, " b"] | None,
    layout: Mapping[str, Tensor],
) -> Float[Tensor, "b n h d"]:
    """What each query reads of the interpolated tokens that are its own; zero where none of them is valid."""
    valid = None
    if lengths is not None:
        size = layout["place"].shape[0]
        valid = rearrange((lengths[:, None] - layout["step"] * size).clamp(0, size), "b n -> (b n)")
    found = attend_or_zero(
        attend,
        rearrange(query, "b n h d -> (b n) 1 h d"),
        rearrange(key, "b n s h d -> (b n) s h d"),
        rearrange(value, "b n s h d -> (b n) s h d"),
        valid,
    )
    return rearrange(found, "(b n) 1 h d -> b n h d", b=query.shape[0])


def resampling_layout(mine: TokenGrid, other: TokenGrid) -> dict[str, Tensor]:
    """Of which steps of ``other`` each step of ``mine`` is made: ``weights`` (t of mine, t of other), by shared time;
    every row sums to one. A step that shares time with none takes the one whose middle is nearest."""
    here, there = (torch.tensor(grid.edges_s, dtype=torch.float64) for grid in (mine, other))
    start = torch.maximum(here[:, None, 0], there[None, :, 0])
    stop = torch.minimum(here[:, None, 1], there[None, :, 1])
    shared = torch.where(stop - start > TOUCH_S, stop - start, 0.0)
    apart = (here.mean(1)[:, None] - there.mean(1)).abs()
    nearest = F.one_hot(apart.argmin(1), len(there)).to(shared.dtype)
    shared = torch.where(shared.sum(1, keepdim=True) > 0, shared, nearest)
    return {"weights": shared / shared.sum(1, keepdim=True)}


def resampled(
    x: Float[Tensor, "b m w"], lengths: Int[Tensor, " b"] | None, layout: Mapping[str, Tensor]
) -> Float[Tensor, "b g w"]:
    """The mean over each step's valid tokens, resampled to the steps of the stream that carries the layout; zero where
    none of what a step is made of is valid."""
    weights = layout["weights"].to(x.dtype)
    by_step = rearrange(x, "b (t s) w -> b t s w", t=weights.shape[1])
    if lengths is None:
        return weights @ by_step.mean(2)
    valid = rearrange(length_mask(lengths, x.shape[1]), "b (t s) -> b t s", t=weights.shape[1])
    count = valid.sum(2)
    mean = torch.where(valid[..., None], by_step, 0.0).sum(2) / count.clamp(min=1)[..., None]
    kept = weights * (count > 0)[:, None]
    total = kept.sum(2, keepdim=True)
    return kept / torch.where(total > 0, total, 1.0) @ mean
