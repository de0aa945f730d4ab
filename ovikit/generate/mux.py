"""One clip of a picture from one file and a sound from another."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from ovikit.errors import UserError
from ovikit.files import atomic_path
from ovikit.generate.media import AAC_RATES_HZ

COPIED = ("h264", "hevc", "av1", "vp9", "mpeg4")
"""Pictures that MP4 files hold as they are; others are encoded anew."""
OTHER_RATE_HZ = 48000
BIT_RATE = 192_000
FRAME = 1024


def mux(picture: Path, sound: Path, path: Path) -> None:
    """Writes an MP4 of the picture of one file, packet by packet as it is, and the sound of another, as AAC in its own
    rate and layout, cut where the picture ends. Both start at zero, whatever their files' time stamps say.

    UserError naming the file that cannot be read, or has no picture, or no sound, or a picture that MP4 cannot hold;
    nothing is left under the final name then.
    """
    with _opened(picture, "video") as first, _opened(sound, "audio") as second, atomic_path(path) as temporary:
        seen, heard = first.streams.video[0], second.streams.audio[0]
        if seen.codec_context.name not in COPIED:
            raise UserError(f"its picture is {seen.codec_context.name}, which MP4 files cannot hold", str(picture))
        start, end = _span(picture, seen)
        assert seen.time_base is not None
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as made:
            # Both streams are declared before the first packet; in the order of time, so that players can stream it.
            pictures = _copied(first, seen, made.add_stream_from_template(seen), start)
            sounds = _encoded(second, heard, made, float((end - start) * seen.time_base))
            for packet in heapq.merge(_told(pictures, picture), _told(sounds, sound), key=_time):
                made.mux(packet)


def _opened(path: Path, kind: str) -> InputContainer:
    try:
        container = av.open(str(path))
    except (FFmpegError, OSError) as error:
        raise UserError(f"it cannot be read ({error.strerror})", str(path)) from error
    if not any(stream.type == kind for stream in container.streams):
        container.close()
        raise UserError(f"it has no {kind} stream", str(path))
    return container


def _told(packets: Iterator[Packet], path: Path) -> Iterator[Packet]:
    """The packets; what FFmpeg makes of a broken file, as an error of the user's that names it."""
    try:
        yield from packets
    except FFmpegError as error:
        raise UserError(f"it cannot be read ({error.strerror})", str(path)) from error


def _time(packet: Packet) -> Fraction:
    assert packet.dts is not None
    return packet.dts * packet.time_base


def _span(path: Path, seen: VideoStream) -> tuple[int, int]:
    """Time stamps of the first frame and of the end of the last, in the stream's units."""
    with _opened(path, "video") as container:
        packets = list(_whole(container, container.streams.video[0]))
    if not packets:
        raise UserError("its video stream is empty", str(path))
    start = min(packet.pts or 0 for packet in packets)
    return start, max((packet.pts or 0) + (packet.duration or _frame(seen)) for packet in packets)


def _whole(container: InputContainer, seen: VideoStream) -> Iterator[Packet]:
    return (one for one in container.demux(seen) if one.pts is not None and one.dts is not None and one.size)


def _frame(seen: VideoStream) -> int:
    """The time of one frame in the stream's units."""
    rate = seen.average_rate or seen.guessed_rate
    assert seen.time_base is not None
    return round(1 / (rate * seen.time_base)) if rate else 0


def _copied(container: InputContainer, seen: VideoStream, shown: VideoStream, start: int) -> Iterator[Packet]:
    for packet in _whole(container, seen):
        assert packet.pts is not None
        assert packet.dts is not None
        packet.pts, packet.dts = packet.pts - start, packet.dts - start
        packet.stream = shown
        yield packet


def _encoded(container: InputContainer, heard: AudioStream, made: OutputContainer, end_s: float) -> Iterator[Packet]:
    """AAC packets of the sound up to a time; the stream is declared at once, the encoding is lazy."""
    own = heard.codec_context.sample_rate
    rate = own if own in AAC_RATES_HZ else OTHER_RATE_HZ
    told = heard.codec_context.layout
    # A WAV file may say how many channels it has and not which: "2 channels", which an encoder does not take.
    layout = {1: "mono", 2: "stereo"}.get(told.nb_channels, told.name)
    stream = made.add_stream("aac", rate=rate, layout=layout)
    stream.codec_context.bit_rate = BIT_RATE
    # The encoder's frames, so that what is cut off at the end is counted in samples.
    resampler = AudioResampler(format="fltp", layout=layout, rate=rate, frame_size=FRAME)

    def packets() -> Iterator[Packet]:
        place, end = 0, round(end_s * rate)
        for frame in (piece for one in _decoded(container, heard) for piece in resampler.resample(one)):
            samples = np.ascontiguousarray(frame.to_ndarray()[:, : end - place])
            if place >= end:
                break
            piece = AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            piece.sample_rate, piece.pts, piece.time_base = rate, place, Fraction(1, rate)
            place += samples.shape[1]
            yield from stream.encode(piece)
        if place == 0:
            raise UserError("its audio stream is empty", container.name)
        yield from stream.encode(None)

    return packets()


def _decoded(container: InputContainer, heard: AudioStream) -> Iterator[AudioFrame | None]:
    yield from container.decode(heard)
    yield None
