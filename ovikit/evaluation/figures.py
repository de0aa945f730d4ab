"""The figures of a report: a filmstrip over its spectrogram on one time axis, and points for curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovikit.evaluation.protocols import Unscored
from ovikit.extras import require
from ovikit.files import atomic_path
from ovikit.layout import read_metrics
from ovikit.types import Clip

VISUAL_COLOUR, AUDIO_COLOUR, INK = "#e8590c", "#1c7ed6", "#8a8f98"
VISUAL, AUDIO = "visual_onsets_s", "audio_onsets_s"
"""Names of the features, of whatever evaluator, that are drawn as marks; each a list of seconds."""
_FLOOR_DB = -70.0
_WINDOW_S = 0.032
_WIDTH_IN, _BELOW_IN = 6.2, 2.2
"""Width of a figure, and the height of all that is below its filmstrip, in inches."""


@dataclass(frozen=True, slots=True)
class Onsets:
    """When things happen in a clip, in seconds, as an evaluator detected them."""

    visual: tuple[float, ...] = ()
    audio: tuple[float, ...] = ()


def onsets_of(features: Mapping[str, Mapping[str, object]] | Unscored) -> Onsets:
    """The onsets among a clip's features; none where no evaluator detects them."""
    if isinstance(features, Unscored):
        return Onsets()

    def first(name: str) -> tuple[float, ...]:
        found = next((one[name] for one in features.values() if isinstance(one.get(name), list)), [])
        return tuple(float(time) for time in found)  # type: ignore[union-attr]  # JSON: object

    return Onsets(first(VISUAL), first(AUDIO))


def spectrogram_db(audio: NDArray[np.float32], rate_hz: int) -> NDArray[np.float64]:
    """(frequencies, frames): magnitude in dB below the loudest, one frame per half window of 32 ms."""
    size = int(_WINDOW_S * rate_hz) // 2 * 2
    padded = np.pad(audio.astype(np.float64), size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 2]
    magnitude = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)).T
    top = float(magnitude.max())
    return (
        np.maximum(20 * np.log10(magnitude / top + 1e-9), _FLOOR_DB) if top > 0 else np.full_like(magnitude, _FLOOR_DB)
    )


def filmstrip(video: NDArray[np.uint8], pictures: int) -> NDArray[np.uint8]:
    """(height, pictures * width, 3): frames side by side, each of the middle of its share of the time."""
    chosen = ((np.arange(pictures) + 0.5) * len(video) / pictures).astype(int)
    return np.concatenate(list(video[chosen]), axis=1)


def draw_clip(clip: Clip, onsets: Onsets, path: Path) -> None:
    """Writes a PNG: the filmstrip over the spectrogram, one time axis, with the onsets of each marked.

    UserError where matplotlib, of the extra ``report``, is missing.
    """
    require("matplotlib", extra="report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert clip.video is not None
    assert clip.audio is not None
    video, audio = clip.video.numpy(), clip.audio.numpy()
    duration = len(video) / clip.frame_rate_hz
    aspect = video.shape[2] / video.shape[1]
    pictures = max(1, min(len(video), round(10 / aspect)))
    strip_height = _WIDTH_IN / (pictures * aspect)
    height = strip_height + _BELOW_IN
    figure = Figure(figsize=(_WIDTH_IN, height), dpi=150)
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [strip_height, _BELOW_IN - 0.6], "hspace": 0.05}
    )
    figure.subplots_adjust(left=0.075, right=0.97, top=1 - 0.12 / height, bottom=0.46 / height)
    figure.patch.set_alpha(0)
    top.imshow(filmstrip(video, pictures), extent=(0, duration, 0, 1), aspect="auto", interpolation="nearest")
    top.set_yticks([])
    bottom.imshow(
        spectrogram_db(audio, clip.sample_rate_hz), extent=(0, duration, 0, clip.sample_rate_hz / 2000),
        aspect="auto", origin="lower", cmap="magma", vmin=_FLOOR_DB, vmax=0,
    )  # fmt: skip
    bottom.set_ylabel("kHz", color=INK, fontsize=10)
    bottom.set_xlabel("seconds", color=INK, fontsize=10, labelpad=1)
    bottom.set_xlim(0, duration)
    for axes in (top, bottom):
        axes.tick_params(colors=INK, labelsize=9, length=3)
        for spine in axes.spines.values():
            spine.set_visible(False)
        # Each onset is marked in full where it was detected, and lightly in the other half, to compare them.
        for times, colour, own in ((onsets.visual, VISUAL_COLOUR, top), (onsets.audio, AUDIO_COLOUR, bottom)):
            for time in times:
                mark = {"linewidth": 2.4, "alpha": 1.0} if axes is own else {"linewidth": 1.0, "alpha": 0.75}
                axes.axvline(time, color=colour, **mark)
    top.tick_params(bottom=False)
    for times, colour, own, y in ((onsets.visual, VISUAL_COLOUR, top, 1.0), (onsets.audio, AUDIO_COLOUR, bottom, 0.0)):
        own.plot(
            times, [y] * len(times), linestyle="none", marker="v" if y else "^", markersize=9, color=colour,
            transform=own.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip
    with atomic_path(path) as temporary:
        figure.savefig(temporary, transparent=True)


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a training log in the unit square, y downwards, for SVG. last: its last value."""

    name: str
    points: str
    last: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves over steps with the ticks of their axes: (position in [0, 1], label)."""

    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def training_chart(path: Path, columns: Sequence[str] = ("loss_video", "loss_audio")) -> Chart | None:
    """The chart of a ``metrics.csv``; None where there is no such file or too little in it."""
    if not path.is_file():
        return None
    rows = read_metrics(path)
    series = {
        name: [(int(row["step"]), float(row[name])) for row in rows if row.get(name)] for name in columns
    }  # fmt: skip
    series = {name: points for name, points in series.items() if len(points) > 1}
    if not series:
        return None
    last_step = max(step for points in series.values() for step, _ in points)
    values = np.array([value for points in series.values() for _, value in points])
    low, high = 0.0, float(np.quantile(values, 0.995)) * 1.05
    curves = tuple(
        Curve(
            name.removeprefix("loss_"),
            " ".join(
                f"{step / last_step:.4f},{1 - min(max((v - low) / (high - low), 0), 1):.4f}" for step, v in points
            ),
            points[-1][1],
        )
        for name, points in series.items()
    )
    x_ticks = tuple((step / last_step, f"{step:,}") for step in _nice(last_step))
    y_ticks = tuple((1 - value / high, f"{value:g}") for value in _nice(high))
    return Chart(curves, x_ticks, y_ticks)


def _nice(top: float) -> list[float]:
    """Round numbers from 0 to ``top``, four to eight of them."""
    step = 10.0 ** np.floor(np.log10(top))
    while top / step < 4:
        step /= 2
    ticks = [i * step for i in range(int(top / step) + 1)]
    return [int(tick) if step >= 1 else round(float(tick), 6) for tick in ticks]
