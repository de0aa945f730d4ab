"""Clips to MP4 files and back: H.264 and AAC on one clock, through PyAV.

Time zero of a file is its first frame. Sound is placed by its time stamps, so that the encoder's priming samples
and the padding of its last packet do not move it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray
from torch import Tensor

from ovikit.errors import UserError
from ovikit.files import atomic_path
from ovikit.types import MODALITIES, Clip, Modality

AAC_RATES_HZ = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
LEAST_SIDE_PX = 256
MOST_SIDE_PX = 16384
"""The longest side that the H.264 encoder takes."""
_BT709 = 1
"""H.273's code of BT.709 for primaries, transfer and matrix."""
_AAC_FRAME = 1024
_ROUNDING = 1e-6
"""Of a frame interval: what time stamps in floating point may be off."""


def viewing_scale(height_px: int, width_px: int, least_px: int = LEAST_SIDE_PX) -> int:
    """The whole factor that brings the shorter side to ``least_px``, and no side beyond ``MOST_SIDE_PX``; 1 where it
    is already there.

    Players show tiny videos badly, and 4:2:0 would halve the colour resolution of each pixel.
    """
    return max(1, min(-(-least_px // min(height_px, width_px)), MOST_SIDE_PX // max(height_px, width_px)))


_WHOLE_PX = 128
"""Sides that are a multiple of this fill the vectors in which x264 looks ahead at pictures of half the size. Of others
it reads what happens to lie behind a row, and its macroblock tree would make another file of a clip each time."""


def write_clip(path: Path | str, clip: Clip, scale: int = 1) -> None:
    """Writes a clip as MP4, under a temporary name until it is whole.

    scale: whole factor by which pixels are repeated; an odd side is padded by one repeated row or column

    ValueError for an empty clip, UserError for a sample rate that AAC does not have. The same clip gives the same
    bytes on one machine.
    """
    if clip.video is None and clip.audio is None:
        raise ValueError(f"clip {clip.name} has neither picture nor sound")
    if clip.audio is not None and clip.sample_rate_hz not in AAC_RATES_HZ:
        rates = ", ".join(str(rate) for rate in sorted(AAC_RATES_HZ))
        raise UserError(f"AAC has no sample rate of {clip.sample_rate_hz} Hz", hint=f"It has {rates}.")
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4", options=options) as container:
        writers = []
        if clip.video is not None:
            writers.append(_video_packets(container, clip.video, clip.frame_rate_hz, scale))
        if clip.audio is not None:
            writers.append(_audio_packets(container, clip.audio, clip.sample_rate_hz))
        # Both streams are declared before the first packet; in the order of time, so that players can stream the file.
        for packet in heapq.merge(*writers, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


def _video_packets(container: OutputContainer, video: Tensor, frame_rate_hz: float, scale: int) -> Iterator[Packet]:
    """H.264 packets of (frames, height, width, 3); the stream is declared at once, the encoding is lazy."""
    frames = np.asarray(video)
    if frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(
            f"video must be uint8 with at least one frame, not {video.dtype} of shape {tuple(video.shape)}"
        )
    rate = Fraction(frame_rate_hz).limit_denominator(1001)
    # One thread: x264 splits its decisions by thread, and the file would depend on the machine's cores.
    options = {"crf": "18", "preset": "veryfast", "threads": "1"}
    height, width = (side * scale for side in frames.shape[1:3])
    if height % _WHOLE_PX or width % _WHOLE_PX:
        options["x264-params"] = "mbtree=0"
    stream = container.add_stream("libx264", rate=rate, options=options)
    # 4:2:0 needs even sides.
    stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
    stream.time_base = 1 / rate
    codec = stream.codec_context
    codec.color_range = ColorRange.MPEG.value
    codec.color_primaries = codec.color_trc = codec.colorspace = _BT709

    def packets() -> Iterator[Packet]:
        for i, pixels in enumerate(frames):
            # One by one: a clip of ten seconds would not fit in memory a second time.
            frame = VideoFrame.from_ndarray(_enlarged(pixels, scale), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            frame.pts, frame.time_base = i, 1 / rate
            yield from stream.encode(frame)
        yield from stream.encode(None)

    return packets()


def _enlarged(frame: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """A frame (height, width, 3) with its pixels repeated and even sides: an odd one gets its last row or column
    again."""
    large = frame.repeat(scale, axis=0).repeat(scale, axis=1) if scale > 1 else frame
    bottom, right = large.shape[0] % 2, large.shape[1] % 2
    even = np.pad(large, ((0, bottom), (0, right), (0, 0)), mode="edge") if bottom or right else large
    return np.ascontiguousarray(even)


def _audio_packets(container: OutputContainer, audio: Tensor, rate: int) -> Iterator[Packet]:
    """AAC packets of (samples,); the stream is declared at once, the encoding is lazy."""
    sound = np.asarray(audio, dtype=np.float32).clip(-1.0, 1.0)
    stream = container.add_stream("aac", rate=rate, layout="mono")
    # 5 bits a sample is near the most that AAC allows (6); what the towers made is not to be lost here.
    stream.codec_context.bit_rate = min(5 * rate, 192_000)

    def packets() -> Iterator[Packet]:
        for start in range(0, len(sound), _AAC_FRAME):
            piece = np.ascontiguousarray(sound[None, start : start + _AAC_FRAME])
            frame = AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            yield from stream.encode(frame)
        yield from stream.encode(None)

    return packets()


@dataclass(frozen=True, slots=True)
class View:
    """The form in which somebody wants to see and hear a clip.

    longest_px:     frames are averaged down until their longer side is that; None, or smaller frames: as they are
    sample_rate_hz: sound is resampled to it; None: the file's own
    modalities:     what is wanted; the clip lacks the other one, but keeps to the length of the picture
    shortest_px:    frames are scaled (bicubic), up or down, until their shorter side is that; not with ``longest_px``
    frame_rate_hz:  frames are repeated or left out until so many are shown in a second, as FFmpeg's filter ``fps``
                    does; None: the file's own rate
    """

    longest_px: int | None = None
    sample_rate_hz: int | None = None
    modalities: tuple[Modality, ...] = MODALITIES
    shortest_px: int | None = None
    frame_rate_hz: float | None = None

    def __post_init__(self) -> None:
        if self.longest_px is not None and self.shortest_px is not None:
            raise ValueError("a view has a longest or a shortest side, not both")

    def size_px(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the frames of a file."""
        if self.shortest_px is not None:
            shorter = min(height, width)
            return height * self.shortest_px // shorter, width * self.shortest_px // shorter
        if self.longest_px is None or max(height, width) <= self.longest_px:
            return height, width
        scale = self.longest_px / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(slots=True)
class _Decoded:
    """What one pass over a file gathers for a view: frames and sound, each piece with its time in seconds.

    shown_rate_hz: frames a second that are asked for; None: the file's own rate
    """

    frames: list[NDArray[np.uint8]]
    frame_times: list[float]
    sounds: list[NDArray[np.float32]]
    sound_times: list[float]
    frame_rate_hz: float
    sample_rate_hz: int
    shown_rate_hz: float | None = None

    @property
    def clip_rate_hz(self) -> float:
        """Frames a second of the clip."""
        return self.shown_rate_hz or self.frame_rate_hz


def read_clip(
    path: Path | str,
    *,
    need: Sequence[Modality] = MODALITIES,
    size_px: tuple[int, int] | None = None,
    sample_rate_hz: int | None = None,
) -> Clip:
    """The clip of a media file, decoded: frames at a constant rate, mono sound trimmed or padded to the picture.

    need:           modalities without which the file is refused
    size_px:        (height, width) that frames are averaged down to where a whole factor leads there; other files
                    keep their own size
    sample_rate_hz: resampled to this rate; default: the file's own

    UserError, naming the file, when it is missing, truncated, or lacks frames or sound that are needed.
    """
    (decoded,) = _read(Path(path), need, (View(None, sample_rate_hz),))
    return _clip(Path(path), decoded, size_px)


def read_views(path: Path | str, views: Sequence[View], need: Sequence[Modality] = ()) -> dict[View, Clip]:
    """The clip of a media file in several forms, decoded once. Errors and the rest are as in ``read_clip``."""
    wanted = tuple(dict.fromkeys(views))
    found = zip(wanted, _read(Path(path), need, wanted), strict=True)
    return {view: _clip(Path(path), decoded, None) for view, decoded in found}


def _read(path: Path, need: Sequence[Modality], views: Sequence[View]) -> list[_Decoded]:
    if not path.is_file():
        raise UserError("there is no such file", str(path))
    try:
        found = _decode(path, need, views)
    except FFmpegError as error:
        raise UserError(
            f"it cannot be decoded ({error.strerror or error}): truncated or not a media file", str(path)
        ) from error
    there = {
        "video": any(one.frame_times for one in found),
        "audio": any(one.sounds for one in found) or not any("audio" in view.modalities for view in views),
    }
    for modality, one in there.items():
        if modality in need and not one:
            raise UserError(f"its {modality} stream is empty", str(path))
    if not any(there.values()):
        raise UserError("it has neither picture nor sound", str(path))
    return found


def _clip(path: Path, decoded: _Decoded, size_px: tuple[int, int] | None) -> Clip:
    shown = _shown(decoded)
    frames = None if not decoded.frames else np.stack([decoded.frames[i] for i in shown])
    video = frames if frames is None or size_px is None else _averaged_down(frames, *size_px)
    start = decoded.frame_times[0] if decoded.frame_times else (decoded.sound_times[0] if decoded.sound_times else 0.0)
    length = round(len(shown) / decoded.clip_rate_hz * decoded.sample_rate_hz) if len(shown) else None
    return Clip(
        path.stem, "", None if video is None else torch.from_numpy(video), _sound(decoded, start, length),
        decoded.clip_rate_hz, decoded.sample_rate_hz,
    )  # fmt: skip


def _decode(path: Path, need: Sequence[Modality], views: Sequence[View]) -> list[_Decoded]:
    with av.open(str(path)) as container:
        video, audio = next(iter(container.streams.video), None), next(iter(container.streams.audio), None)
        for modality, stream in (("video", video), ("audio", audio)):
            if modality in need and stream is None:
                raise UserError(f"it has no {modality} stream", str(path))
        streams = [stream for stream in (video, audio) if stream is not None]
        if not streams:
            raise UserError("it has neither picture nor sound", str(path))
        frame_rate = video.average_rate or video.guessed_rate or video.base_rate if video else 0
        if video is not None and not frame_rate:
            raise UserError("its frame rate is not known", str(path))
        own = audio.codec_context.sample_rate if audio else 0
        found = [
            _Decoded([], [], [], [], float(frame_rate or 0), view.sample_rate_hz or own, view.frame_rate_hz)
            for view in views
        ]
        resamplers = [
            AudioResampler(format="fltp", layout="mono", rate=one.sample_rate_hz)
            if audio and "audio" in view.modalities
            else None
            for view, one in zip(views, found, strict=True)
        ]
        for frame in container.decode(*streams):
            pixels: dict[tuple[int, int, Interpolation], NDArray[np.uint8]] = {}  # views of one size share them
            for view, decoded, resampler in zip(views, found, resamplers, strict=True):
                if isinstance(frame, VideoFrame):
                    _take_frame(decoded, frame, view, pixels)
                elif isinstance(frame, AudioFrame) and resampler is not None:
                    _take_sound(decoded, resampler.resample(frame))
        for decoded, resampler in zip(found, resamplers, strict=True):
            if resampler is not None:
                _take_sound(decoded, resampler.resample(None))
        for one in found:
            if video is not None and one.frame_times:
                _refuse_truncated(video, one.frame_times[-1] + 1 / one.frame_rate_hz, path)
            if audio is not None and one.sounds:
                _refuse_truncated(audio, one.sound_times[-1] + len(one.sounds[-1]) / one.sample_rate_hz, path)
    return found


def _take_frame(
    decoded: _Decoded, frame: VideoFrame, view: View, pixels: dict[tuple[int, int, Interpolation], NDArray[np.uint8]]
) -> None:
    # A stream without time stamps is taken to be even.
    even = len(decoded.frame_times) / decoded.frame_rate_hz
    decoded.frame_times.append(even if frame.time is None else frame.time)
    if "video" not in view.modalities:
        return
    height, width = view.size_px(frame.height, frame.width)
    way = Interpolation.AREA if view.shortest_px is None else Interpolation.BICUBIC
    if (height, width, way) not in pixels:
        shown = frame
        if (height, width) != (frame.height, frame.width):
            shown = frame.reformat(width=width, height=height, format="rgb24", interpolation=way)
        pixels[height, width, way] = np.asarray(shown.to_ndarray(format="rgb24"), dtype=np.uint8)
    decoded.frames.append(pixels[height, width, way])


def _refuse_truncated(stream: Stream, end_s: float, path: Path) -> None:
    """UserError where a stream ends well before its header says: a cut file decodes without any complaint."""
    if stream.duration is None or stream.time_base is None:
        return
    promised = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    if end_s < promised - max(0.1, 0.01 * promised):
        raise UserError(
            f"its {stream.type} ends at {end_s:.2f} s of {promised:.2f} s: the file is truncated", str(path)
        )


def _take_sound(decoded: _Decoded, frames: Sequence[AudioFrame]) -> None:
    for frame in frames:
        even = sum(map(len, decoded.sounds[-1:])) / decoded.sample_rate_hz + (decoded.sound_times or [0.0])[-1]
        decoded.sound_times.append(even if frame.time is None else frame.time)
        decoded.sounds.append(frame.to_ndarray()[0].astype(np.float32))


def _shown(decoded: _Decoded) -> NDArray[np.int64]:
    """At each multiple of the clip's frame interval, which frame is on show."""
    if not decoded.frame_times:
        return np.zeros(0, dtype=np.int64)
    times = np.asarray(decoded.frame_times) - decoded.frame_times[0]
    count = round(times[-1] * decoded.frame_rate_hz) + 1
    if decoded.shown_rate_hz is not None:
        # As FFmpeg's fps filter: a frame goes to the slot nearest to it, half up, and stays until the next one's.
        rate, end_s = decoded.shown_rate_hz, count / decoded.frame_rate_hz
        slots = np.floor(times * rate + 0.5 + _ROUNDING)
        return np.searchsorted(slots, np.arange(max(1, int(end_s * rate + 0.5 + _ROUNDING))), side="right") - 1
    # Half an interval of tolerance: containers round time stamps.
    return np.searchsorted(times, (np.arange(count) + 0.5) / decoded.frame_rate_hz, side="right") - 1


def _averaged_down(frames: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Means over squares of k x k pixels, where frames are k times (height, width) but for an odd side's padding."""
    k = frames.shape[1] // height
    if k < 1 or frames.shape[1] - k * height not in (0, 1) or frames.shape[2] - k * width not in (0, 1):
        return frames
    cut = frames[:, : k * height, : k * width]
    # One strided sum per pixel of a square: several times faster than a mean over reshaped axes.
    total = np.zeros((len(cut), height, width, 3), dtype=np.uint32)
    for y, x in np.ndindex(k, k):
        total += cut[:, y::k, x::k]
    return ((total + k * k // 2) // (k * k)).astype(np.uint8)


def _sound(decoded: _Decoded, start_s: float, length: int | None) -> Tensor | None:
    """(length,) float32 on the picture's clock: cut before the first frame, silent where the sound ends early."""
    if not decoded.sounds:
        return None
    rate = decoded.sample_rate_hz
    # Pieces follow each other without gaps in every file that encoders write; the first one's stamp places them all.
    sound = np.concatenate(decoded.sounds)
    offset = round((decoded.sound_times[0] - start_s) * rate)
    sound = np.concatenate([np.zeros(offset, np.float32), sound]) if offset > 0 else sound[-offset:]
    if length is not None:
        sound = np.pad(sound[:length], (0, max(0, length - len(sound))))
    return torch.from_numpy(np.ascontiguousarray(sound))
