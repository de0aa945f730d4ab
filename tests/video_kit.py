"""Videos made here, whose frames and sounds say when they are."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray

RATE = 44100
Picture = Callable[[float], NDArray[np.uint8]]


def grey(time_s: float, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """A grey picture whose level is the time: 40 a second."""
    return np.full((height, width, 3), 20 + 40 * time_s, dtype=np.uint8)


def click_track(clicks_s: Sequence[float], duration_s: float, rate: int = RATE) -> NDArray[np.float32]:
    """Silence with a short tone at each of these times."""
    out, tone = np.zeros(round(duration_s * rate), np.float32), np.sin(np.arange(round(0.02 * rate)) * 0.4) * 0.8
    for at in clicks_s:
        out[round(at * rate) : round(at * rate) + len(tone)] = tone
    return out


def write_video(
    path: Path,
    times_s: Sequence[float],
    sound: NDArray[np.float32] | None = None,
    *,
    sound_from_s: float = 0.0,
    sound_rate: int = RATE,
    picture: Picture = grey,
    codecs: tuple[str, str] = ("libx264", "aac"),
    pixels: str = "yuv444p",
    options: dict[str, str] | None = None,
) -> Path:
    """A video with frames at these times and the sound from ``sound_from_s`` on."""
    first = picture(0.0)
    with av.open(str(path), "w", options=options or {}) as container:
        video = container.add_stream(codecs[0], rate=24)
        video.width, video.height, video.pix_fmt = first.shape[1], first.shape[0], pixels
        video.codec_context.time_base = Fraction(1, 12000)
        if codecs[0] == "libx264":
            video.options = {"crf": "4", "g": "10"}
        audio = container.add_stream(codecs[1], rate=sound_rate, layout="stereo") if sound is not None else None
        for time_s in times_s:
            frame = av.VideoFrame.from_ndarray(picture(time_s), format="rgb24")
            frame.pts, frame.time_base = round(time_s * 12000), Fraction(1, 12000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and sound is not None:
            for at in range(0, len(sound), 1024):
                part = np.stack([sound[at : at + 1024]] * 2)
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
                frame.sample_rate, frame.time_base = sound_rate, Fraction(1, sound_rate)
                frame.pts = at + round(sound_from_s * sound_rate)
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def even(duration_s: float, rate: float = 24.0) -> list[float]:
    return [k / rate for k in range(round(duration_s * rate))]


def levels(video: torch.Tensor) -> torch.Tensor:
    """The time that each frame of a grey clip shows."""
    return (video.float().mean(dim=(1, 2, 3)) - 20) / 40


def clicks(audio: torch.Tensor) -> list[float]:
    """When each tone of a click track starts."""
    loud = (audio.abs() > 0.2).nonzero().flatten()
    starts = [int(loud[0])] + [b for a, b in pairwise(loud.tolist()) if b - a > 800]
    return [start / 16000 for start in starts]


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Writes a rotation into the track header of an MP4, as a phone does."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes between the box's name and its matrix
    a, b, c, d = (value * (1 << 16) for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def sound(duration_s: float, rate: int = 44100, clicks_s: tuple[float, ...] = (0.5, 1.3)) -> NDArray[np.float32]:
    """Clicks in a murmur."""
    murmur = np.random.default_rng(1).normal(0, 0.02, round(duration_s * rate)).astype(np.float32)
    return click_track([at for at in clicks_s if at < duration_s - 0.1], duration_s, rate) + murmur


def waves(seed: float, height: int = 48, width: int = 64) -> Callable[[float], NDArray[np.uint8]]:
    """A pattern that slides; seeds give patterns that look different."""

    def picture(time_s: float) -> NDArray[np.uint8]:
        y, x = np.mgrid[:height, :width]
        out = np.zeros((height, width, 3), np.uint8)
        out[..., 0] = 127 + 100 * np.sin((x * (1 + seed % 3) + 30 * time_s) / (5 + seed % 5) + seed)
        out[..., 1] = 127 + 100 * np.cos((y * (1 + seed % 2) - 25 * time_s) / (4 + seed % 7))
        out[..., 2] = 40 + 20 * (seed % 6)
        return out

    return picture
