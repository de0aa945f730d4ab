"""Where chosen audio tokens look: film strips under a heat map, over curves of time. Figure 3 of Ovi."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovikit.evaluation.figures import spectrogram_db
from ovikit.extras import require
from ovikit.figures.affinity import middles_s
from ovikit.figures.attention import Attention
from ovikit.figures.heat import GAMMA, colours, hottest, laid_over, over_pixels, step_at
from ovikit.files import atomic_path
from ovikit.generate.media import viewing_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TEXT, _QUIET, _OWN, _CURVE = "#24292f", "#57606a", "#1c7ed6", "#e8590c"
_WIDTH_IN, _CURVE_IN, _SOUND_IN, _GAP_IN = 11.0, 0.62, 0.75, 0.16
_LEFT_IN, _RIGHT_IN, _TOP_IN, _BOTTOM_IN = 0.95, 1.3, 0.5, 0.5
_LEAST_PX = 192
"""Height that a picture of a strip is drawn from at least: smooth heat needs pixels."""


def draw_attention(found: Attention, tokens: Sequence[int], path: Path) -> None:
    """Writes a PNG: for each audio token a film strip with what it attends to, and below it, over time, its attention
    summed over space; at the foot the sound. UserError where matplotlib, of the extra ``report``, is missing."""
    require("matplotlib", extra="report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert found.clip.video is not None
    height, width = found.clip.video.shape[1:3]
    pictures = max(1, min(found.grids["video"].shape[0], round(12 * height / width)))
    inner = _WIDTH_IN - _LEFT_IN - _RIGHT_IN
    strip_in = inner / pictures * height / width
    parts = [size for _ in tokens for size in (strip_in, _CURVE_IN, _GAP_IN)] + [_SOUND_IN]
    whole = sum(parts) + _TOP_IN + _BOTTOM_IN
    figure = Figure(figsize=(_WIDTH_IN, whole), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    bottoms = 1 - (_TOP_IN + np.cumsum(parts)) / whole

    def axes(i: int) -> Axes:
        return figure.add_axes((_LEFT_IN / _WIDTH_IN, bottoms[i], inner / _WIDTH_IN, parts[i] / whole))

    maps, count = found.over_frames(), found.maps.shape[1]
    chosen = maps[list(tokens)]
    shares = chosen.sum(dim=(2, 3))
    shown = moments(found, pictures)
    heat = torch.stack([chosen[:, list(steps)].mean(dim=1) for _, steps in shown], dim=1)
    hot = hottest(heat)
    for row, token in enumerate(tokens):
        _strip(axes(3 * row), found, heat[row] / hot, [frame for frame, _ in shown], token)
        _curve(axes(3 * row + 1), found, shares[row], token, float(shares.max()))
    _sound(axes(len(parts) - 1), found, tokens)
    _bar(figure, hot * count, whole)
    figure.text(_LEFT_IN / _WIDTH_IN, 1 - 0.2 / whole, _heading(found), color=_TEXT, fontsize=9.5, va="center")
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _heading(found: Attention) -> str:
    prompt = found.clip.prompt if len(found.clip.prompt) <= 90 else f"{found.clip.prompt[:87]}..."
    layers = f"layer {found.layers[0]}" if len(found.layers) == 1 else f"{len(found.layers)} layers"
    return f"{prompt}   (step {found.step} of {found.steps}, {layers})"


def _duration(found: Attention) -> float:
    assert found.clip.video is not None
    return len(found.clip.video) / found.clip.frame_rate_hz


def moments(found: Attention, pictures: int) -> list[tuple[int, list[int]]]:
    """The frame in the middle of each picture's share of the time, and the video steps whose middles lie in that share;
    where none does, the step of that frame."""
    assert found.clip.video is not None
    count, rate = len(found.clip.video), found.clip.frame_rate_hz
    middles = middles_s(found.grids["video"]) * rate * pictures / count
    shown: list[tuple[int, list[int]]] = []
    for i in range(pictures):
        frame = int((i + 0.5) * count / pictures)
        within = [step for step, middle in enumerate(middles) if i <= middle < i + 1]
        shown.append((frame, within or [step_at(found.grids["video"], (frame + 0.5) / rate)]))
    return shown


def _strip(axes: Axes, found: Attention, heat: Tensor, frames: Sequence[int], token: int) -> None:
    assert found.clip.video is not None
    height, width = found.clip.video.shape[1:3]
    scale = viewing_scale(height, width, _LEAST_PX)
    pictures: list[NDArray[np.uint8]] = []
    for frame, hot in zip(frames, heat, strict=True):
        pixels = found.clip.video[frame].numpy().repeat(scale, axis=0).repeat(scale, axis=1)
        one = laid_over(pixels, over_pixels(hot, (pixels.shape[0], pixels.shape[1])))
        one[:, -max(1, one.shape[1] // 96) :] = 255  # what parts it from the next
        pictures.append(one)
    axes.imshow(np.concatenate(pictures, axis=1), extent=(0, _duration(found), 0, 1), aspect="auto")
    middle = sum(found.grids["audio"].edges_s[token]) / 2
    axes.text(-0.012, 0.5, f"token {token}\n{middle:.2f} s", transform=axes.transAxes, ha="right", va="center",
              color=_OWN, fontsize=9.5, fontweight="bold")  # fmt: skip
    _bare(axes)
    axes.set_xticks([])
    axes.set_yticks([])


def _curve(axes: Axes, found: Attention, share: Tensor, token: int, most: float) -> None:
    edges = np.array([*(start for start, _ in found.grids["video"].edges_s), found.grids["video"].edges_s[-1][1]])
    percent = 100 * share.numpy()
    axes.stairs(percent, edges, fill=True, color=_CURVE, alpha=0.25)
    axes.stairs(percent, edges, color=_CURVE, linewidth=1.4, baseline=None)
    even = 100 / len(percent)
    axes.axhline(even, color=_QUIET, linewidth=0.8, linestyle=(0, (2, 2)))
    start, end = found.grids["audio"].edges_s[token]
    axes.axvline((start + end) / 2, color=_OWN, linewidth=1.6)
    axes.plot([(start + end) / 2], [1.0], marker="v", markersize=6, color=_OWN, transform=axes.get_xaxis_transform(),
              clip_on=False)  # fmt: skip
    axes.set_xlim(0, _duration(found))
    top = 108 * most
    axes.set_ylim(0, top)
    axes.set_yticks([0, round(100 * most)] if most > 0 else [0])
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.text(1.006, even / top, "even", transform=axes.transAxes, color=_QUIET, fontsize=7.5, va="center")
    _bare(axes)
    axes.tick_params(colors=_QUIET, labelsize=7.5, length=2, bottom=False, labelbottom=False)


def _sound(axes: Axes, found: Attention, tokens: Sequence[int]) -> None:
    clip = found.clip
    assert clip.audio is not None
    lasts = len(clip.audio) / clip.sample_rate_hz
    axes.imshow(
        spectrogram_db(clip.audio.numpy(), clip.sample_rate_hz), extent=(0, lasts, 0, clip.sample_rate_hz / 2000),
        aspect="auto", origin="lower", cmap="Greys", vmin=-70, vmax=0,
    )  # fmt: skip
    for token in tokens:
        axes.axvline(sum(found.grids["audio"].edges_s[token]) / 2, color=_OWN, linewidth=1.4)
    axes.set_xlim(0, _duration(found))
    axes.set_xlabel("seconds", color=_TEXT, fontsize=9, labelpad=1)
    axes.set_ylabel("kHz", color=_TEXT, fontsize=8)
    _bare(axes)
    axes.tick_params(colors=_QUIET, labelsize=8, length=3)


def _bar(figure: Figure, most: float, whole: float) -> None:
    """The colour bar: attention in multiples of what each video token would get of an even one."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    axes = figure.add_axes(((_WIDTH_IN - 0.78) / _WIDTH_IN, 1 - (_TOP_IN + 1.6) / whole, 0.012, 1.5 / whole))
    bar = figure.colorbar(ScalarMappable(PowerNorm(GAMMA, 0, most), colours()), cax=axes, extend="max")
    bar.set_label("times an even attention", color=_TEXT, fontsize=8)
    axes.tick_params(colors=_QUIET, labelsize=7.5, length=2)
    bar.outline.set_visible(False)  # type: ignore[operator]  # matplotlib's stubs take it for an Axes


def _bare(axes: Axes) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
