"""Any media file to clips of one form: frames by their time stamps, sound aligned with them.

Time zero of a file is its first frame; of a file of sound alone, its first sample. Where a stream has a gap, the
picture stands still and the sound is silent; sound that starts late, starts late in the clip.
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
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ovikit.errors import UserError
from ovikit.types import MODALITIES, ClipSpec, Modality

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
    picture:    whether it has a picture; times are those of the sound where it has none
    aspect:     width of the upright picture to its height; None where it is not told, or there is none
    """

    origin_s: float
    duration_s: float
    sound: bool
    picture: bool = True
    aspect: float | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """A part of the upright picture, in shares of its height and width."""

    top: float = 0.0
    left: float = 0.0
    bottom: float = 1.0
    right: float = 1.0


WHOLE = Box()


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """An open container; UserError naming the file for whatever FFmpeg makes of it while it is open."""
    try:
        with av.open(str(path)) as container:
            yield container
    except FFmpegError as error:
        raise UserError(f"this file cannot be read as a video ({error.strerror})", str(path)) from error


def probe(path: Path, picture: bool = True) -> Probe:
    """What a file holds. UserError for a file that cannot be read, was cut off, or has no picture though there should
    be one (``picture``), or neither picture nor sound.

    All packets are looked at and none is decoded: a header may promise what is not there.
    """
    spans: dict[int, list[float]] = {}
    with opened(path) as container:
        video, audio = container.streams.best("video"), container.streams.best("audio")
        if video is None and picture:
            raise UserError("this file has no picture", str(path))
        rate = (video.average_rate or video.guessed_rate) if video is not None else None
        frame_s = float(1 / rate) if rate else 0.0
        promised_s = _promised(container)
        for packet in container.demux([stream for stream in (video, audio) if stream is not None]):
            if packet.pts is None or packet.is_corrupt:
                continue
            first = float(packet.pts * packet.time_base)
            last = first + (float(packet.duration * packet.time_base) if packet.duration else _untold(packet, frame_s))
            span = spans.setdefault(packet.stream.index, [first, last])
            span[0], span[1] = min(span[0], first), max(span[1], last)
        shown = video is not None and video.index in spans
        sound = audio is not None and audio.index in spans
        timed = video.index if video is not None and shown else audio.index if audio is not None else -1
    if not shown and (picture or not sound):
        raise UserError("this file has no picture" if picture else "nothing is in this file", str(path))
    start, end = spans[timed]
    found_s = max(span[1] for span in spans.values()) - min(span[0] for span in spans.values())
    if promised_s - found_s > CUT_S:
        raise UserError(
            f"this file was cut off: its header says {promised_s:.1f} s, it holds {found_s:.1f} s", str(path)
        )
    return Probe(start, end - start, sound, shown, _aspect(path) if shown else None)


def _aspect(path: Path) -> float | None:
    """From the first frame: its rotation is told nowhere else."""
    with opened(path) as container:
        stream = container.streams.best("video")
        assert isinstance(stream, VideoStream)
        for frame in container.decode(stream):
            shape = float(stream.sample_aspect_ratio or 1) * frame.width / frame.height
            return 1 / shape if quarter_turns(frame) % 2 else shape
    return None


def _untold(packet: Packet, frame_s: float) -> float:
    """The duration of a packet that does not tell it."""
    return frame_s if packet.stream.type == "video" else 0.0


def _promised(container: InputContainer) -> float:
    """The duration that the header gives, in seconds; 0 where it gives none."""
    return container.duration / av.time_base if container.duration else 0.0


def read_window(
    path: Path,
    origin_s: float,
    start_s: float,
    clip: ClipSpec,
    box: Box = WHOLE,
    modalities: tuple[Modality, ...] = MODALITIES,
) -> tuple[Tensor | None, Tensor | None]:
    """The picture uint8 (frames, height, width, 3) and sound float32 (samples,) of the window from ``start_s``.

    origin_s:   of the file, from ``probe``
    box:        the part of the picture that is there for the clip
    modalities: what is read; the other one is None

    Sound is None where the file has none. UserError when no frame of the window can be decoded.
    """
    video = audio = None
    if "video" in modalities:
        with opened(path) as container:
            video = _read_video(container, origin_s + start_s, clip, box)
        if video is None:
            raise UserError(f"nothing can be decoded {start_s:.2f} s into this file", str(path))
    if "audio" in modalities:
        with opened(path) as container:
            heard = container.streams.best("audio")
            if isinstance(heard, AudioStream):
                audio = _read_audio(container, heard, origin_s + start_s, clip)
    return video, audio


def _read_video(container: InputContainer, start_s: float, clip: ClipSpec, box: Box) -> Tensor | None:
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
            shown = fit(held, pixel_aspect, clip, box) if shown is None else shown
            out.append(shown)
        held, shown = frame, None
        if len(out) == clip.frames:
            break
    if held is None:
        return None
    while len(out) < clip.frames:  # the last frame stays on screen
        shown = fit(held, pixel_aspect, clip, box) if shown is None else shown
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


def upright(frame: VideoFrame, form: str = "rgb24") -> NDArray[np.uint8]:
    """The pixels of a frame (height, width, ...), turned as its metadata say."""
    pixels: NDArray[np.uint8] = frame.to_ndarray(format=form)
    return np.rot90(pixels, quarter_turns(frame))


def quarter_turns(frame: VideoFrame) -> int:
    return round((frame.rotation or 0) / 90) % 4


def fit(frame: VideoFrame, pixel_aspect: float, clip: ClipSpec, box: Box = WHOLE) -> Tensor:
    """The frame as uint8 (height, width, 3): turned upright, cut to ``box`` and to the clip's aspect about its centre,
    resized with a filter that does not alias.

    pixel_aspect: width of one stored pixel to its height
    """
    pixels = upright(frame)
    wide = 1 / pixel_aspect if quarter_turns(frame) % 2 else pixel_aspect
    height, width, _ = pixels.shape
    pixels = pixels[
        round(box.top * height) : round(box.bottom * height), round(box.left * width) : round(box.right * width)
    ]
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
