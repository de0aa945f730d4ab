"""Any video file to clips of one form: frames by their time stamps, sound aligned with them.

Time zero of a file is its first frame. Where a stream has a gap, the picture stands still and the sound is silent;
sound that starts late, starts late in the clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor
from torch.nn import functional as F

from ovikit.errors import UserError
from ovikit.types import ClipSpec

LEAD_S = 0.3
"""Sound decoded before the part that is wanted: a decoder's first packets after a seek are not what they should be."""
GAP_S = 0.04
"""Time stamps of sound that jump by more than this are a gap; less is rounding."""
CUT_S = 0.5
"""A file whose streams end this much before its header says was cut off."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a file holds, from its packets rather than from its header.

    origin_s:   time stamp of the first frame
    duration_s: from the first frame to the end of the last
    sound:      whether it has a sound stream with anything in it
    """

    origin_s: float
    duration_s: float
    sound: bool


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """An open container; UserError naming the file for whatever FFmpeg makes of it while it is open."""
    try:
        with av.open(str(path)) as container:
            yield container
    except FFmpegError as error:
        raise UserError(f"this file cannot be read as a video ({error.strerror})", str(path)) from error


def probe(path: Path) -> Probe:
    """What a file holds. UserError for a file that cannot be read, has no picture, or was cut off.

    All packets are looked at and none is decoded: a header may promise what is not there.
    """
    spans: dict[int, list[float]] = {}
    with opened(path) as container:
        video, audio = container.streams.best("video"), container.streams.best("audio")
        if video is None:
            raise UserError("this file has no picture", str(path))
        rate = video.average_rate or video.guessed_rate
        frame_s = float(1 / rate) if rate else 0.0
        promised_s = _promised(container)
        for packet in container.demux([stream for stream in (video, audio) if stream is not None]):
            if packet.pts is None or packet.is_corrupt:
                continue
            first = float(packet.pts * packet.time_base)
            last = first + (float(packet.duration * packet.time_base) if packet.duration else _untold(packet, frame_s))
            span = spans.setdefault(packet.stream.index, [first, last])
            span[0], span[1] = min(span[0], first), max(span[1], last)
        if video.index not in spans:
            raise UserError("this file has no picture", str(path))
        start, end = spans[video.index]
        sound = audio is not None and audio.index in spans
    found_s = max(span[1] for span in spans.values()) - min(span[0] for span in spans.values())
    if promised_s - found_s > CUT_S:
        raise UserError(
            f"this file was cut off: its header says {promised_s:.1f} s, it holds {found_s:.1f} s", str(path)
        )
    return Probe(start, end - start, sound)


def _untold(packet: Packet, frame_s: float) -> float:
    """The duration of a packet that does not tell it."""
    return frame_s if packet.stream.type == "video" else 0.0


def _promised(container: InputContainer) -> float:
    """The duration that the header gives, in seconds; 0 where it gives none."""
    return container.duration / av.time_base if container.duration else 0.0


def read_window(path: Path, origin_s: float, start_s: float, clip: ClipSpec) -> tuple[Tensor, Tensor | None]:
    """The picture uint8 (frames, height, width, 3) and sound float32 (samples,) of the window from ``start_s``.

    origin_s: of the file, from ``probe``. Sound is None where the file has none. UserError when no frame of the
    window can be decoded.
    """
    with opened(path) as container:
        video = _read_video(container, origin_s + start_s, clip)
        if video is None:
            raise UserError(f"nothing can be decoded {start_s:.2f} s into this file", str(path))
    with opened(path) as container:
        heard = container.streams.best("audio")
        audio = _read_audio(container, heard, origin_s + start_s, clip) if isinstance(heard, AudioStream) else None
    return video, audio


def _read_video(container: InputContainer, start_s: float, clip: ClipSpec) -> Tensor | None:
    """Each output frame is the one on screen in the middle of its time."""
    stream = container.streams.best("video")
    assert isinstance(stream, VideoStream)  # the probe has seen it
    stream.thread_type = "AUTO"
    pixel_aspect = float(stream.sample_aspect_ratio or 1)
    _seek(container, stream, start_s)
    wanted = [start_s + (k + 0.5) / clip.frame_rate_hz for k in range(clip.frames)]
    out: list[Tensor] = []
    shown: Tensor | None = None
    held: VideoFrame | None = None
    for frame in container.decode(stream):
        if frame.time is None:
            continue
        time_s = frame.time
        while len(out) < clip.frames and held is not None and wanted[len(out)] < time_s:
            shown = fit(held, pixel_aspect, clip) if shown is None else shown
            out.append(shown)
        held, shown = frame, None
        if len(out) == clip.frames:
            break
    if held is None:
        return None
    while len(out) < clip.frames:  # the last frame stays on screen
        shown = fit(held, pixel_aspect, clip) if shown is None else shown
        out.append(shown)
    return torch.stack(out)


def _seek(container: InputContainer, stream: Any, time_s: float) -> None:
    """Goes to the last key frame at or before a time; to the start where a format cannot be searched."""
    if time_s <= float((stream.start_time or 0) * stream.time_base):
        return
    try:
        container.seek(int(time_s / stream.time_base), stream=stream, backward=True)
    except FFmpegError:
        container.seek(0)


def fit(frame: VideoFrame, pixel_aspect: float, clip: ClipSpec) -> Tensor:
    """The frame as uint8 (height, width, 3): turned upright, cropped to the clip's aspect about its centre, resized
    with a filter that does not alias.

    pixel_aspect: width of one stored pixel to its height
    """
    pixels = frame.to_ndarray(format="rgb24")
    wide = pixel_aspect
    turns = round((frame.rotation or 0) / 90) % 4
    if turns:
        pixels = np.rot90(pixels, turns)
        wide = 1 / wide if turns % 2 else wide
    image = torch.from_numpy(np.ascontiguousarray(pixels))
    height, width, _ = image.shape
    wanted = clip.width_px / clip.height_px
    crop_w = min(width, max(1, round(height * wanted / wide)))
    crop_h = min(height, max(1, round(width * wide / wanted)))
    top, left = (height - crop_h) // 2, (width - crop_w) // 2
    image = image[top : top + crop_h, left : left + crop_w].permute(2, 0, 1)[None]
    size = (clip.height_px, clip.width_px)
    if image.shape[2:] != size:
        image = F.interpolate(image.float(), size, mode="bicubic", antialias=True).round().clamp(0, 255).byte()
    return image[0].permute(1, 2, 0).contiguous()


def _read_audio(container: InputContainer, stream: AudioStream, start_s: float, clip: ClipSpec) -> Tensor:
    """The sound from ``start_s``, mono, each sample at the place that the time stamps give it; silence elsewhere."""
    _seek(container, stream, start_s - LEAD_S)
    track = _Track(start_s, clip)
    end_s = start_s + clip.duration_s + LEAD_S
    for frame in container.decode(stream):
        if frame.time is None:
            continue
        time_s = frame.time
        if time_s > end_s:
            break
        track.add(frame, time_s)
    track.flush()
    return torch.from_numpy(track.samples).clamp(-1.0, 1.0)


class _Track:
    """Sound frames, resampled run by run, into their place in a window."""

    def __init__(self, start_s: float, clip: ClipSpec) -> None:
        self.start_s, self.rate = start_s, clip.sample_rate_hz
        self.samples = np.zeros(clip.samples, dtype=np.float32)
        self._resampler: AudioResampler | None = None
        self._next_s = 0.0
        self._at = 0

    def add(self, frame: AudioFrame, time_s: float) -> None:
        if self._resampler is None or abs(time_s - self._next_s) > GAP_S:
            self.flush()
            self._resampler = AudioResampler(format="flt", layout="mono", rate=self.rate)
            self._at, self._next_s = round((time_s - self.start_s) * self.rate), time_s
        frame.pts = None  # the resampler would fill or drop samples by them; gaps are handled here
        self._next_s += frame.samples / frame.sample_rate
        for part in self._resampler.resample(frame):
            self._put(part)

    def flush(self) -> None:
        """Writes what the resampler still holds, and ends the run."""
        if self._resampler is not None:
            for part in self._resampler.resample(None):
                self._put(part)
        self._resampler = None

    def _put(self, part: AudioFrame) -> None:
        values = part.to_ndarray()[0]
        first, last = max(0, self._at), min(len(self.samples), self._at + len(values))
        if first < last:
            self.samples[first:last] = values[first - self._at : last - self._at]
        self._at += len(values)
