"""MP4 files: what goes in at a time comes out at that time, at every size and rate, or the file is refused by name."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from ovikit.errors import UserError
from ovikit.files import sha256_of
from ovikit.generate.media import View, read_clip, read_views, viewing_scale, write_clip
from ovikit.types import Clip

FORMS = [
    # frames per second, samples per second, frames, (height, width), scale
    (24.0, 16000, 48, (64, 64), 4),
    (24.0, 16000, 12, (64, 64), 1),
    (25.0, 44100, 30, (63, 65), 1),
    (24000 / 1001, 48000, 49, (17, 9), 3),
    (6.0, 16000, 12, (16, 24), 4),
    (24.0, 22050, 121, (8, 8), 1),
    (24.0, 16000, 1, (2, 2), 1),
]


def clip_with_one_event(rate_fps: float, rate_hz: int, frames: int, size: tuple[int, int]) -> tuple[Clip, int, int]:
    """A clip whose middle frame flashes white while a short click sounds, and their frame and sample."""
    frame, samples = frames // 2, round(frames / rate_fps * rate_hz)
    video = torch.zeros(frames, *size, 3, dtype=torch.uint8)
    video[..., 0], video[frame] = 180, 255
    audio, sample = torch.zeros(samples), round(frame / rate_fps * rate_hz)
    audio[sample : sample + 8] = 0.9
    return Clip("event", "", video, audio, rate_fps, rate_hz), frame, sample


@pytest.mark.parametrize(("rate_fps", "rate_hz", "frames", "size", "scale"), FORMS)
def test_an_event_comes_back_at_its_frame_and_at_its_sample(tmp_path, rate_fps, rate_hz, frames, size, scale):
    clip, frame, sample = clip_with_one_event(rate_fps, rate_hz, frames, size)
    write_clip(tmp_path / "a.mp4", clip, scale)
    back = read_clip(tmp_path / "a.mp4", size_px=size)
    assert back.video.shape == clip.video.shape
    assert back.audio.shape == clip.audio.shape
    assert back.sample_rate_hz == rate_hz
    assert back.frame_rate_hz == pytest.approx(rate_fps, rel=1e-4)
    assert int(back.video.float().mean((1, 2, 3)).argmax()) == frame
    assert sample <= int(back.audio.abs().argmax()) < sample + 8


def test_sound_is_not_shifted_by_a_single_sample(tmp_path):
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(32000, generator=generator) * 0.1
    video = torch.zeros(48, 16, 16, 3, dtype=torch.uint8)
    write_clip(tmp_path / "a.mp4", Clip("a", "", video, audio, 24.0, 16000))
    back = read_clip(tmp_path / "a.mp4").audio
    correlation = torch.fft.irfft(torch.fft.rfft(back) * torch.fft.rfft(audio).conj())
    assert int(correlation.argmax()) == 0
    assert (back - audio).square().mean() < 0.05 * audio.square().mean()


def test_enlarging_keeps_the_colour_of_single_pixels(tmp_path):
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (1, 8, 8, 3), generator=generator, dtype=torch.uint8).repeat(6, 1, 1, 1)
    errors = {}
    for scale in (1, 8):
        write_clip(tmp_path / f"{scale}.mp4", Clip("a", "", video, torch.zeros(16000), 6.0, 16000), scale)
        back = read_clip(tmp_path / f"{scale}.mp4", size_px=(8, 8)).video
        errors[scale] = float((back.float() - video.float()).abs().mean())
    assert errors[8] < 4 < errors[1]  # at their own size, four pixels share one colour


def test_the_file_is_tagged_and_in_the_formats_that_players_read(tmp_path):
    write_clip(tmp_path / "a.mp4", clip_with_one_event(24.0, 16000, 24, (32, 32))[0])
    with av.open(str(tmp_path / "a.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert video.average_rate == Fraction(24)
        assert (audio.codec_context.name, audio.codec_context.sample_rate) == ("aac", 16000)
    head = (tmp_path / "a.mp4").read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")


def test_writing_twice_gives_the_same_bytes(tmp_path):
    clip, _, _ = clip_with_one_event(24.0, 16000, 24, (32, 32))
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name, clip, 4)
    assert sha256_of(tmp_path / "a.mp4") == sha256_of(tmp_path / "b.mp4")


@pytest.mark.parametrize("lacking", ["video", "audio"])
def test_a_clip_of_one_modality_is_written_and_refused_where_both_are_needed(tmp_path, lacking):
    clip, _, _ = clip_with_one_event(24.0, 16000, 24, (32, 32))
    alone = Clip(
        "a", "", None if lacking == "video" else clip.video, None if lacking == "audio" else clip.audio, 24.0, 16000
    )
    write_clip(tmp_path / "a.mp4", alone)
    there = "audio" if lacking == "video" else "video"
    back = read_clip(tmp_path / "a.mp4", need=(there,))
    assert (back.video is None, back.audio is None) == (lacking == "video", lacking == "audio")
    with pytest.raises(UserError, match=f"no {lacking} stream"):
        read_clip(tmp_path / "a.mp4")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused_by_name(tmp_path, share):
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (48, 32, 32, 3), generator=generator, dtype=torch.uint8)
    write_clip(tmp_path / "a.mp4", Clip("a", "", video, torch.randn(32000, generator=generator) * 0.1, 24.0, 16000))
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r"cut\.mp4"):
        read_clip(tmp_path / "cut.mp4")


def test_a_missing_file_and_a_rate_that_aac_lacks_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_clip(tmp_path / "none.mp4")
    clip, _, _ = clip_with_one_event(24.0, 16001, 4, (16, 16))
    with pytest.raises(UserError, match="16001"):
        write_clip(tmp_path / "a.mp4", clip)
    assert list(tmp_path.iterdir()) == []


def test_sound_is_resampled_on_request(tmp_path):
    clip, _, sample = clip_with_one_event(24.0, 48000, 24, (16, 16))
    write_clip(tmp_path / "a.mp4", clip)
    back = read_clip(tmp_path / "a.mp4", sample_rate_hz=16000)
    assert back.audio.shape == (16000,)
    assert abs(int(back.audio.abs().argmax()) - sample / 3) < 8


def test_viewing_scale_is_the_least_whole_factor():
    assert [viewing_scale(64, 64), viewing_scale(100, 400), viewing_scale(256, 256), viewing_scale(720, 1280)] == [
        4,
        3,
        1,
        1,
    ]


def test_narrow_clips_are_not_enlarged_beyond_what_the_encoder_takes(tmp_path):
    assert [viewing_scale(32, 6400), viewing_scale(3424, 32), viewing_scale(32, 16384)] == [2, 4, 1]
    video, sound = torch.zeros(2, 32, 6400, 3, dtype=torch.uint8), torch.zeros(1600)
    write_clip(tmp_path / "a.mp4", Clip("a", "", video, sound, 24.0, 16000), viewing_scale(32, 6400))
    assert read_clip(tmp_path / "a.mp4", sample_rate_hz=16000).video.shape[1:3] == (64, 12800)


@pytest.mark.parametrize(("side", "scale"), [(64, 4), (96, 3), (96, 2), (80, 1)])
def test_a_clip_gives_the_same_file_each_time_whatever_its_size(tmp_path: Path, side: int, scale: int) -> None:
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(100, 156, (17, side, side, 3), generator=generator, dtype=torch.uint8)
    digests = set()
    for i in range(8):
        write_clip(tmp_path / f"{i}.mp4", Clip("x", "p", video, None, 24.0, 16000), scale)
        digests.add(sha256_of(tmp_path / f"{i}.mp4"))
    assert len(digests) == 1


def shown_by_ffmpeg(frames: int, rate_fps: Fraction, shown_hz: int) -> list[int]:
    """Which frame FFmpeg's filter ``fps`` shows in each slot; frames are told apart by their brightness."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=16, height=16, format="gray", time_base=1 / rate_fps)
    filtered, sink = graph.add("fps", f"fps={shown_hz}"), graph.add("buffersink")
    source.link_to(filtered)
    filtered.link_to(sink)
    graph.configure()
    found = []
    for i in [*range(frames), None]:
        if i is None:
            source.push(None)
        else:
            frame = av.VideoFrame.from_ndarray(np.full((16, 16), i, np.uint8), format="gray")
            frame.pts, frame.time_base, frame.duration = i, 1 / rate_fps, 1
            source.push(frame)
        while True:
            try:
                found.append(int(sink.pull().to_ndarray()[0, 0]))
            except (av.error.BlockingIOError, av.error.EOFError):
                break
    return found


@pytest.mark.parametrize(
    ("rate_fps", "frames"),
    [(Fraction(24), 121), (Fraction(30), 91), (Fraction(24000, 1001), 50), (Fraction(25), 30), (Fraction(10), 7)],
)
def test_frames_at_another_rate_are_those_that_ffmpeg_shows(tmp_path, rate_fps, frames):
    # a frame's number in binary, as black and white columns
    bits = (torch.arange(frames)[:, None] >> torch.arange(8)) & 1
    video = (255 * bits).to(torch.uint8).repeat_interleave(16, 1)[:, None, :, None].expand(-1, 32, -1, 3).contiguous()
    rate = float(rate_fps)
    write_clip(tmp_path / "a.mp4", Clip("a", "", video, torch.zeros(round(frames / rate * 16000)), rate, 16000))
    [back] = read_views(tmp_path / "a.mp4", [View(frame_rate_hz=25.0, sample_rate_hz=16000)]).values()
    shown = ((back.video[:, 16, 8::16, 1] > 127).int() << torch.arange(8)).sum(1).tolist()
    assert shown == shown_by_ffmpeg(frames, rate_fps, 25)
    assert back.frame_rate_hz == 25
    assert len(back.audio) == 640 * len(shown)


@pytest.mark.parametrize(("size", "wanted"), [((64, 96), (48, 72)), ((96, 64), (72, 48)), ((16, 20), (48, 60))])
def test_a_view_may_ask_for_a_shortest_side(tmp_path, size, wanted):
    """A horizontal ramp stays one; a view of the file's own size beside it is decoded with it."""
    ramp = torch.linspace(20, 230, size[1]).to(torch.uint8)[None, None, :, None].expand(3, size[0], -1, 3).contiguous()
    write_clip(tmp_path / "a.mp4", Clip("a", "", ramp, None, 24.0, 16000))
    small, own = View(shortest_px=48), View()
    found = read_views(tmp_path / "a.mp4", [small, own])
    assert tuple(found[small].video.shape[1:3]) == wanted
    assert tuple(found[own].video.shape[1:3]) == size
    expected = torch.linspace(20, 230, wanted[1])
    row = found[small].video[1, wanted[0] // 2, :, 0].float()
    assert (row - expected)[4:-4].abs().mean() < 4
    with pytest.raises(ValueError, match="not both"):
        View(longest_px=4, shortest_px=4)
