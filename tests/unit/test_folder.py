"""The folder dataset on videos made here: frames and sound land where their time stamps say, whatever the file is."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from video_kit import click_track, clicks, even, grey, levels, turn, write_video

from ovikit.data.folder import FolderClips
from ovikit.errors import UserError
from ovikit.types import ClipSpec

FORM = ClipSpec(1.0, 32, 32, 8.0, 16000)


def test_windows_show_and_sound_what_happens_in_them(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", even(3.0), click_track([0.25, 1.5, 2.75], 3.0))
    clips = FolderClips(tmp_path, FORM)
    assert len(clips) == 3
    for index, at in enumerate([0.25, 0.5, 0.75]):
        clip = clips[index]
        assert clip.video is not None
        assert clip.audio is not None
        assert (clip.video.shape, clip.video.dtype) == ((8, 32, 32, 3), torch.uint8)
        assert (clip.audio.shape, clip.audio.dtype) == ((16000,), torch.float32)
        # the frame on screen in the middle of each output frame; one level of grey is 0.025 s
        assert (levels(clip.video) - (index + (torch.arange(8) + 0.5) / 8)).abs().max() < 0.07
        assert clicks(clip.audio) == pytest.approx([at], abs=0.003)
    assert [clips[i].name for i in range(3)] == ["a.mp4@0.00s", "a.mp4@1.00s", "a.mp4@2.00s"]


def test_sound_that_starts_late_keeps_its_place(tmp_path: Path) -> None:
    write_video(tmp_path / "late.mp4", even(2.0), click_track([0.1, 0.9], 1.3), sound_from_s=0.6)
    clips = FolderClips(tmp_path, FORM)
    first, second = clips[0].audio, clips[1].audio
    assert first is not None
    assert second is not None
    assert first[: round(0.58 * 16000)].abs().max() == 0
    assert clicks(first) == pytest.approx([0.7], abs=0.003)
    assert clicks(second) == pytest.approx([0.5], abs=0.003)


def test_sound_shorter_than_the_picture_ends_in_silence(tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", even(1.0), click_track([0.1], 0.4))
    audio = FolderClips(tmp_path, FORM)[0].audio
    assert audio is not None
    assert audio[8000:].abs().max() == 0
    assert clicks(audio) == pytest.approx([0.1], abs=0.003)


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_other_sample_rates_keep_the_time(tmp_path: Path, rate: int) -> None:
    write_video(tmp_path / "a.mkv", even(1.0), click_track([0.2, 0.8], 1.0, rate), sound_rate=rate)
    audio = FolderClips(tmp_path, FORM)[0].audio
    assert audio is not None
    assert clicks(audio) == pytest.approx([0.2, 0.8], abs=0.004)


def test_uneven_frame_times_are_honoured(tmp_path: Path) -> None:
    # a frame that stays for 0.7 s, then a burst
    times = [0.0, 0.05, 0.1, 0.8, 0.82, 0.84, 0.9, 0.95, 1.0, 1.02]
    write_video(tmp_path / "vfr.mkv", times, click_track([0.5], 1.1))
    video = FolderClips(tmp_path, FORM)[0].video
    assert video is not None
    middles = [(k + 0.5) / 8 for k in range(8)]
    shown = [max(time for time in times if time <= middle) for middle in middles]
    assert levels(video).tolist() == pytest.approx(shown, abs=0.04)


@pytest.mark.parametrize(
    ("name", "codecs", "rate"),
    [
        ("a.avi", ("mpeg4", "mp3"), 44100),
        ("a.mov", ("mjpeg", "pcm_s16le"), 44100),
        ("a.TS", ("mpeg2video", "mp2"), 44100),
    ],
)
def test_other_formats(tmp_path: Path, name: str, codecs: tuple[str, str], rate: int) -> None:
    def write(path: Path) -> None:
        first = grey(0.0)
        container_format = {"a.TS": "mpegts"}.get(name)
        with av.open(str(path), "w", format=container_format) as container:
            video = container.add_stream(codecs[0], rate=24)
            video.width, video.height = first.shape[1], first.shape[0]
            video.pix_fmt = "yuvj420p" if codecs[0] == "mjpeg" else "yuv420p"
            video.bit_rate = 4_000_000
            audio = container.add_stream(codecs[1], rate=rate, layout="mono")
            sound = click_track([0.4, 1.4], 2.0, rate)
            for k in range(48):
                frame = av.VideoFrame.from_ndarray(grey(k / 24), format="rgb24")
                frame.pts, frame.time_base = k, Fraction(1, 24)
                container.mux(video.encode(frame))
            size = audio.codec_context.frame_size or 1024
            for at in range(0, len(sound), size):
                values = (sound[None, at : at + size] * 32767).astype(np.int16)
                part = av.AudioFrame.from_ndarray(values, format="s16", layout="mono")
                part.sample_rate, part.pts, part.time_base = rate, at, Fraction(1, rate)
                container.mux(audio.encode(part))
            container.mux(video.encode(None))
            container.mux(audio.encode(None))

    write(tmp_path / name)
    clips = FolderClips(tmp_path, FORM)
    assert len(clips) == 2
    for index in range(2):
        clip = clips[index]
        assert clip.video is not None
        assert clip.audio is not None
        assert (levels(clip.video) - (index + (torch.arange(8) + 0.5) / 8)).abs().max() < 0.12
        # these writers do not all tell the encoder's delay: within one packet of sound
        assert clicks(clip.audio) == pytest.approx([0.4], abs=0.03)


def quadrants(time_s: float, height: int = 48, width: int = 96) -> NDArray[np.uint8]:
    """Red upper left, green upper right, blue lower left, white lower right, in the middle square; black outside."""
    out, side = np.zeros((height, width, 3), np.uint8), height // 2
    left = (width - height) // 2
    out[:side, left : left + side] = (255, 0, 0)
    out[:side, left + side : left + 2 * side] = (0, 255, 0)
    out[side:, left : left + side] = (0, 0, 255)
    out[side:, left + side : left + 2 * side] = 255
    return out


CORNERS = ((8, 8), (8, 24), (24, 8), (24, 24))
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def corner_colours(video: torch.Tensor) -> list[str]:
    def nearest(pixel: torch.Tensor) -> str:
        return min(COLOURS, key=lambda name: (pixel.float() - torch.tensor(COLOURS[name])).abs().sum().item())

    return [nearest(video[0, y, x]) for y, x in CORNERS]


def test_wide_picture_is_cropped_about_its_centre(tmp_path: Path) -> None:
    write_video(tmp_path / "wide.mp4", even(1.0), click_track([], 1.0), picture=quadrants)
    video = FolderClips(tmp_path, FORM)[0].video
    assert video is not None
    assert corner_colours(video) == ["red", "green", "blue", "white"]


def test_tall_picture_is_cropped_about_its_centre(tmp_path: Path) -> None:
    def tall(time_s: float) -> NDArray[np.uint8]:
        return np.ascontiguousarray(quadrants(time_s).transpose(1, 0, 2))

    write_video(tmp_path / "tall.mp4", even(1.0), click_track([], 1.0), picture=tall)
    video = FolderClips(tmp_path, FORM)[0].video
    assert video is not None
    assert corner_colours(video) == ["red", "blue", "green", "white"]


# matrices of a track header that a phone writes: shown after turning by that many degrees clockwise
@pytest.mark.parametrize(
    ("matrix", "corners"),
    [
        ((0, 1, -1, 0), ["blue", "red", "white", "green"]),  # 90 degrees clockwise
        ((-1, 0, 0, -1), ["white", "blue", "green", "red"]),
        ((0, -1, 1, 0), ["green", "white", "red", "blue"]),
    ],
)
def test_turned_video_is_turned_upright(tmp_path: Path, matrix: tuple[int, int, int, int], corners: list[str]) -> None:
    path = write_video(tmp_path / "phone.mp4", even(1.0), click_track([], 1.0), picture=quadrants)
    turn(path, matrix)
    video = FolderClips(tmp_path, FORM)[0].video
    assert video is not None
    assert corner_colours(video) == corners


def test_fine_stripes_become_grey(tmp_path: Path) -> None:
    def stripes(time_s: float) -> NDArray[np.uint8]:
        out = np.zeros((128, 128, 3), np.uint8)
        out[:, ::2] = 255
        return out

    write_video(tmp_path / "a.mp4", even(1.0), click_track([], 1.0), picture=stripes)
    video = FolderClips(tmp_path, FORM)[0].video
    assert video is not None
    assert (video.float() - 127.5).abs().max() < 12  # picking pixels would give 0 or 255


def test_windows_may_overlap_and_be_limited(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", even(2.0), click_track([], 2.0))
    assert [w.start_s for w in FolderClips(tmp_path, FORM, stride_s=0.25).windows] == [0, 0.25, 0.5, 0.75, 1.0]
    assert [w.start_s for w in FolderClips(tmp_path, FORM, stride_s=0.25, windows=2).windows] == [0, 0.25]
    assert [w.start_s for w in FolderClips(tmp_path, FORM, from_s=0.5, stride_s=0.25).windows] == [0.5, 0.75, 1.0]
    with pytest.raises(UserError, match=r"videos shorter than a clip of 1 s from 1.5 s on: a.mp4"):
        FolderClips(tmp_path, FORM, from_s=1.5)


def test_prompts_come_from_captions_the_option_or_the_name(tmp_path: Path) -> None:
    for name in ("with_text", "with_json", "A_dog-barks"):
        write_video(tmp_path / f"{name}.mp4", even(1.0), click_track([], 1.0))
    (tmp_path / "with_text.txt").write_text("Rain on a roof.\n")
    (tmp_path / "with_json.json").write_text('{"prompt": "A bell"}')
    assert [w.prompt for w in FolderClips(tmp_path, FORM).windows] == ["A dog barks", "A bell", "Rain on a roof."]
    assert [w.prompt for w in FolderClips(tmp_path, FORM, prompt="x").windows] == ["x", "A bell", "Rain on a roof."]
    (tmp_path / "with_json.json").write_text('{"caption": "A bell"}')
    with pytest.raises(UserError, match=r'with_json.json: a caption file holds {"prompt"'):
        FolderClips(tmp_path, FORM)


def test_videos_without_sound_are_refused_by_name_or_left_out(tmp_path: Path) -> None:
    write_video(tmp_path / "loud.mp4", even(1.0), click_track([], 1.0))
    write_video(tmp_path / "mute1.mp4", even(1.0))
    write_video(tmp_path / "mute2.mp4", even(1.0))
    with pytest.raises(
        UserError, match=r"2 of 3 videos without sound: mute1.mp4, mute2.mp4\n  -o training.data.without_sound=skip"
    ):
        FolderClips(tmp_path, FORM)
    assert [w.name for w in FolderClips(tmp_path, FORM, without_sound="skip").windows] == ["loud.mp4@0.00s"]


def test_short_videos_are_refused_by_name_or_left_out(tmp_path: Path) -> None:
    write_video(tmp_path / "long.mp4", even(1.0), click_track([], 1.0))
    write_video(tmp_path / "brief.mp4", even(0.5), click_track([], 0.5))
    with pytest.raises(UserError, match=r"1 of 2 videos shorter than a clip of 1 s: brief.mp4"):
        FolderClips(tmp_path, FORM)
    assert len(FolderClips(tmp_path, FORM, too_short="skip")) == 1


@pytest.mark.parametrize("header", ["last", "first"])
def test_cut_off_video_is_refused(tmp_path: Path, header: str) -> None:
    options = {"movflags": "faststart"} if header == "first" else {}
    path = write_video(tmp_path / "cut.mp4", even(4.0), click_track([1.0], 4.0), options=options)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    wanted = "was cut off: its header says 4.0 s" if header == "first" else "cannot be read as a video"
    with pytest.raises(UserError, match=rf"cut.mp4: this file {wanted}"):
        FolderClips(tmp_path, FORM)


def test_all_unreadable_files_are_listed(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mp4", even(1.0), click_track([], 1.0))
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mov").write_bytes(b"")
    with pytest.raises(UserError, match="2 of 3 videos cannot be used") as caught:
        FolderClips(tmp_path, FORM)
    assert "text.mp4: this file cannot be read" in str(caught.value)
    assert "empty.mov: this file cannot be read" in str(caught.value)


def test_sound_without_picture_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    with pytest.raises(UserError, match=r"song.mp4: this file has no picture"):
        FolderClips(tmp_path, FORM)


def test_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        FolderClips(tmp_path / "nowhere", FORM)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"there are no videos in this folder\n  looked for .3gp"):
        FolderClips(tmp_path, FORM)
    (tmp_path / "below").mkdir()
    write_video(tmp_path / "below/a.mp4", even(1.0), click_track([], 1.0))
    with pytest.raises(UserError, match="set recursive: true"):
        FolderClips(tmp_path, FORM)
    assert [w.name for w in FolderClips(tmp_path, FORM, recursive=True).windows] == ["below/a.mp4@0.00s"]


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.mp4").symlink_to(write_video(tmp_path / "outside.mp4", even(1.0), click_track([], 1.0)))
    with pytest.raises(UserError, match=r"links that lead out of the folder are not followed: link.mp4"):
        FolderClips(inside, FORM)


def test_fingerprint_follows_content_and_prompts(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", even(1.0), click_track([0.2], 1.0))
    marks = [FolderClips(tmp_path, FORM).fingerprint()]
    assert FolderClips(tmp_path, FORM).fingerprint() == marks[0]
    (tmp_path / "a.txt").write_text("other words")
    marks.append(FolderClips(tmp_path, FORM).fingerprint())
    write_video(path, even(1.0), click_track([0.3], 1.0))
    marks.append(FolderClips(tmp_path, FORM).fingerprint())
    assert len(set(marks)) == 3
