"""``ovikit eval`` over clips of another model: no recipe, and everything that such folders hold."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from fractions import Fraction
from io import StringIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from real_clips import fetch

from ovikit.cli import main
from ovikit.evaluation.compare_page import rows_of
from ovikit.evaluation.results import Results, read_results, write_results
from ovikit.evaluation.selftest import made_clips
from ovikit.generate.media import View, read_clip, read_views, write_clip
from ovikit.testing.clips import CLIP, beating_clip
from ovikit.types import MODALITIES

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "evals/suites/signals.yaml"
SECONDS, RATE_HZ = 2, 24
HEARD, SEEN = View(modalities=("audio",)), View(modalities=("video",))


def frames(count: int = SECONDS * RATE_HZ, side: int = 64, channels: int = 3) -> Iterator[np.ndarray]:
    """A bright square that jumps every half second."""
    for k in range(count):
        picture = np.full((side, side, channels), 30, dtype=np.uint8)
        place = 8 + 16 * (k // (RATE_HZ // 2) % 3)
        picture[16:48, place : place + 16] = 220
        yield picture


def film(
    path: Path,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    source: str = "rgb24",
    count: int = SECONDS * RATE_HZ,
    layout: str | None = "mono",
    rate_hz: int = 48000,
) -> None:
    """A file as other encoders write them. layout: None: without sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=RATE_HZ)
        video.width = video.height = 64
        video.pix_fmt = pixels
        audio = None if layout is None else container.add_stream("aac", rate=rate_hz, layout=layout)
        for k, picture in enumerate(frames(count, channels=4 if source == "rgba" else 3)):
            frame = VideoFrame.from_ndarray(picture, format=source).reformat(format=pixels)
            frame.pts, frame.time_base = k, Fraction(1, RATE_HZ)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is None:
            return
        times = np.arange(SECONDS * rate_hz) / rate_hz
        samples = (0.3 * np.sin(2 * np.pi * 440 * times) * np.exp(-(times % 0.5) / 0.05)).astype(np.float32)
        channels = len(audio.codec_context.layout.channels)
        for start in range(0, len(samples), 1024):
            piece = np.repeat(samples[None, start : start + 1024], channels, axis=0)
            sound = AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="fltp", layout=layout)
            sound.sample_rate, sound.pts, sound.time_base = rate_hz, start, Fraction(1, rate_hz)
            container.mux(audio.encode(sound))
        container.mux(audio.encode(None))


def truncated(path: Path) -> None:
    film(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_media(path: Path) -> None:
    path.write_text("this is no film")


FILES: dict[str, Callable[[Path], None]] = {
    "00001": film,
    "00002-no-sound": lambda path: film(path, layout=None),
    "00003-truncated": truncated,
    "00004-one-frame": lambda path: film(path, count=1, layout=None),
    "00005-surround": lambda path: film(path, layout="5.1"),
    "00006-other-rate": lambda path: film(path, rate_hz=44100),
    "00007-alpha": lambda path: film(path, codec="png", pixels="rgba", source="rgba"),
    "00008-no-media": no_media,
    "00009-empty": lambda path: path.write_bytes(b""),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "their-model"
    folder.mkdir()
    for name, make in FILES.items():
        make(folder / f"{name}.mp4")
    return folder


@dataclass(frozen=True)
class Ended:
    status: int
    told: str


def ovikit(*arguments: str | Path) -> Ended:
    """How a command ended, and what it said."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(one) for one in arguments])
    return Ended(int(ended.value.code or 0), out.getvalue() + err.getvalue())


@pytest.fixture(scope="module")
def results(clips: Path) -> Results:
    done = ovikit("eval", SUITE, "--clips", clips, "--report")
    assert done.status == 0, done.told
    return read_results(clips.parent / "results.json")


def noted(patched: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are opened from now on."""
    opened: list[str] = []
    open_file = av.open

    def opening(path: str, *rest: Any, **options: Any) -> Any:
        opened.append(Path(path).stem)
        return open_file(path, *rest, **options)

    patched.setattr(av, "open", opening)
    return opened


def scores(results: Results, name: str) -> dict[str, float | str | None]:
    (item,) = (one for one in results.items if one.id == name)
    return {metric: item.reasons.get(metric, score) for metric, score in item.scores.items()}


def test_every_clip_of_the_folder_is_an_item(results: Results) -> None:
    assert [item.id for item in results.items] == sorted(FILES)
    assert (results.recipe, results.folder, results.subject) == (None, "their-model", "their-model")
    assert results.profile == "signals-v1"
    assert all(metric.ceiling is None for metric in results.metrics.values())


def test_each_bad_clip_has_its_reason_and_the_others_are_scored(results: Results) -> None:
    assert all(isinstance(one, float) for one in scores(results, "00001").values())
    mute = scores(results, "00002-no-sound")
    assert mute["loudness_lufs"] == mute["av_correlation"] == "no sound"
    assert isinstance(mute["flicker"], float)
    assert "truncated" in str(scores(results, "00003-truncated")["brightness"])
    one = scores(results, "00004-one-frame")
    assert isinstance(one["brightness"], float)
    assert one["frozen_share"] == "there is one frame"
    assert one["flicker"] == "there are fewer than three frames"
    assert one["motion_heights_per_s"] == "there are fewer than two frames"
    for name in ("00008-no-media", "00009-empty"):
        assert len(set(scores(results, name).values())) == 1
        assert "cannot be decoded" in str(scores(results, name)["brightness"])
    metric = results.metrics["loudness_lufs"]
    assert metric.scored == 4
    assert metric.scored + sum(one.count for one in metric.unscored) == len(FILES)


@pytest.mark.parametrize("name", ["00005-surround", "00006-other-rate", "00007-alpha"])
def test_the_same_film_in_another_form_scores_alike(results: Results, name: str) -> None:
    plain, other = scores(results, "00001"), scores(results, name)
    for metric in ("brightness", "contrast", "flicker", "frozen_share", "av_correlation"):
        assert other[metric] == pytest.approx(plain[metric], abs=0.03), metric
    assert other["av_late_ms"] == pytest.approx(plain["av_late_ms"], abs=10)
    if name != "00005-surround":  # a mix of six equal channels is louder than one
        assert other["loudness_lufs"] == pytest.approx(plain["loudness_lufs"], abs=0.3)
        assert other["silent_share"] == pytest.approx(plain["silent_share"], abs=0.03)


def test_a_second_run_decodes_nothing_and_finds_the_same(
    clips: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = noted(monkeypatch)
    done = ovikit("eval", SUITE, "--clips", clips, "--out", clips.parent / "again")
    assert done.status == 0, done.told
    assert set(opened) <= {"00003-truncated", "00008-no-media", "00009-empty"}
    assert read_results(clips.parent / "again" / "results.json") == results


def test_the_report_opens_without_a_recipe(clips: Path, results: Results) -> None:
    page = (clips.parent / "report.html").read_text()
    assert "none: the clips were taken as they are" in page
    assert "The recipe, resolved" not in page
    assert 'src="their-model/00001.mp4"' in page


def test_a_folder_without_clips_is_refused(tmp_path: Path) -> None:
    done = ovikit("eval", SUITE, "--clips", tmp_path)
    assert done.status == 2
    assert "there are no clips in this folder" in done.told


def test_nothing_is_generated_from_a_suite_without_prompts(tmp_path: Path) -> None:
    done = ovikit("generate", ROOT / "recipes/tiny/ovi.yaml", "--suite", SUITE, "--out", tmp_path / "clips")
    assert done.status == 2
    assert "Traceback" not in done.told


def test_views_are_the_clip_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "a.mp4", beating_clip(CLIP, beats=3), scale=4)
    views = (View(), View(longest_px=32, sample_rate_hz=8000), HEARD, SEEN)
    with monkeypatch.context() as patched:
        opened = noted(patched)
        found = read_views(tmp_path / "a.mp4", views, MODALITIES)
    assert len(opened) == 1
    whole = read_clip(tmp_path / "a.mp4")
    assert whole.video is not None
    assert whole.audio is not None
    own, small, heard, seen = (found[view] for view in views)
    assert torch.equal(own.video, whole.video)
    assert torch.equal(own.audio, whole.audio)
    assert torch.equal(heard.audio, whole.audio)
    assert torch.equal(seen.video, whole.video)
    assert heard.video is None
    assert seen.audio is None
    assert small.video.shape == (CLIP.frames, 32, 32, 3)
    means = whole.video.float().unflatten(1, (32, 4)).unflatten(3, (32, 4)).mean(dim=(2, 4))
    assert (small.video.float() - means).abs().mean() < 1.5
    assert len(small.audio) == len(whole.audio) // 2


def test_every_metric_is_listed(results: Results) -> None:
    told = ovikit("eval", "--list")
    assert told.status == 0, told.told
    for name, metric in results.metrics.items():
        row = next(line.split() for line in told.told.splitlines() if line.split()[:1] == [name])
        assert row[1] == metric.evaluator
        assert metric.version in row
        assert f"{name}: {metric.summary}" in told.told


def test_a_difference_too_small_to_be_shown_has_no_side(results: Results) -> None:
    def moved(by: float) -> Results:
        told = results.model_dump(mode="json")
        for item in told["items"]:
            if item["scores"]["loudness_lufs"] is not None:
                item["scores"]["loudness_lufs"] += by
        return Results.model_validate(told)

    def verdict(by: float) -> str:
        return next(row.verdict for row in rows_of(results, moved(by)) if row.name == "loudness_lufs")

    assert [verdict(by) for by in (1e-9, -1e-9, 0.5, -0.5)] == [*["less apart than is shown"] * 2, "more", "less"]


def test_two_results_are_compared_by_item(clips: Path, results: Results, tmp_path: Path) -> None:
    other = tmp_path / "other" / "quieter-model"
    shutil.copytree(clips, other)
    for name in ("00001", "00006-other-rate", "00007-alpha"):
        one = read_clip(other / f"{name}.mp4")
        assert one.audio is not None
        write_clip(other / f"{name}.mp4", replace(one, audio=one.audio / 4))
    assert ovikit("eval", SUITE, "--clips", other).status == 0
    told = ovikit("eval", "compare", clips.parent, other.parent, "--out", tmp_path)
    assert told.status == 0, told.told
    rows = {line.split()[0]: line for line in told.told.splitlines() if line.strip()}
    assert rows["loudness_lufs"].split()[4] == "-9.0"  # 12 dB in three of four items
    assert rows["loudness_lufs"].split()[-1] == "less"
    assert rows["black_share"].rstrip().endswith("not told apart")
    written = (tmp_path / "comparison.md").read_text()
    assert "quieter-model" in written
    assert "their-model" in written
    page = (tmp_path / "comparison.html").read_text()
    # The items that differ most, with a player for either side.
    players = re.findall(r'<video [^>]*src="([^"]+)"', page)
    assert len(players) >= 4
    assert all((tmp_path / one).is_file() for one in players)
    assert {Path(one).parent.name for one in players} == {"quieter-model", "their-model"}


def test_processes_of_torchrun_write_the_file_of_one(clips: Path, results: Results, tmp_path: Path) -> None:
    home = tmp_path / "their-model"
    shutil.copytree(clips, home, ignore=shutil.ignore_patterns(".features"))
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ovikit"]
    told = subprocess.run(
        [*words, "eval", str(SUITE), "--clips", str(home)], capture_output=True, text=True, timeout=300
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("results:") == 1
    assert (tmp_path / "results.json").read_text() == (clips.parent / "results.json").read_text()


def test_items_are_paired_by_name(clips: Path, results: Results, tmp_path: Path) -> None:
    """The same clips without the first one: nothing differs, though every item has another place."""
    other = tmp_path / "other" / "their-model"
    shutil.copytree(clips, other)
    (other / "00001.mp4").unlink()
    told = ovikit("eval", SUITE, "--clips", other, "--against", clips, "--against", clips.parent, "--force")
    assert told.status == 0, told.told
    rows = [line.split() for line in told.told.splitlines() if line.split()[:1] == ["brightness"]]
    differences = [row for row in rows if "told" in row]
    assert [row[4] for row in differences] == ["+0.000", "+0.000"]
    assert (other.parent / "against-their-model" / "comparison.html").is_file()
    table = (other.parent / "results.md").read_text().splitlines()
    assert table[0] == "signals, profile signals-v1:"
    assert table[2].startswith("| clips | loudness_lufs · | true_peak_dbtp · | clipped_share ↓ |")
    assert table[4].startswith("| their-model | -")


def test_what_was_measured_in_different_ways_is_not_compared(clips: Path, results: Results, tmp_path: Path) -> None:
    metric = results.metrics["loudness_lufs"].model_copy(update={"version": "0"})
    older = results.model_copy(
        update={"profile": "signals-v0", "metrics": {**results.metrics, "loudness_lufs": metric}}
    )
    write_results(older, tmp_path / "results.json")
    refused = ovikit("eval", "compare", clips.parent, tmp_path)
    assert refused.status == 2
    assert "profiles signals-v1 and signals-v0" in refused.told
    assert "versions 1 and 0 of loudness_lufs" in refused.told
    assert ovikit("eval", "compare", clips.parent, tmp_path, "--force").status == 0
    alone = ovikit("eval", "compare", clips.parent)
    assert (alone.status, "two or more results.json" in alone.told) == (2, True)


WANTED = {
    "sound late": {"av_offset_ms": "up", "av_late_ms": "up"},
    "clipping": {"clipped_share": "up", "loudness_lufs": "up"},
    "muffled": {"bandwidth_hz": "down"},
    "wrong words": {},  # for metrics of speech: tests/conformance/test_speech.py
    "silenced": {"silent_share": "up"},
    "noise": {"loudness_lufs": "up"},
    "frames dropped": {"frozen_share": "up"},
    "frozen": {"frozen_share": "up"},
    "blurred": {"sharpness": "down", "contrast": "down"},
    "flicker": {"flicker": "up"},
    "blacked out": {"black_share": "up", "brightness": "down"},
}
"""What each corruption is for."""


@pytest.mark.slow
def test_each_corruption_moves_its_metrics_further_with_every_grade(tmp_path: Path) -> None:
    """A speech, a film, and a clip that was made for it: the one that has an offset to tell."""
    clips = tmp_path / "clips"
    view = View(longest_px=160, sample_rate_hz=48000)
    for path in fetch(("jwpIntro.mp4", "bigbuckbunny.mp4"), tmp_path / "real"):
        one = read_views(path, (view,))[view]
        assert one.video is not None
        assert one.audio is not None
        frames, samples = round(3 * one.frame_rate_hz), 3 * one.sample_rate_hz
        write_clip(clips / path.name, replace(one, video=one.video[-frames:], audio=one.audio[-samples:]))
    write_clip(clips / "made.mp4", made_clips(1)[0])
    done = ovikit("eval", "self-test", SUITE, "--clips", clips, "--out", tmp_path)
    assert done.status == 0, done.told
    found = json.loads((tmp_path / "self-test.json").read_text())
    assert set(found["corruptions"]) == set(WANTED)
    for label, wanted in WANTED.items():
        responses = found["corruptions"][label]["responses"]
        assert {name: responses[name]["moves"] for name in wanted} == wanted, label
    late = found["corruptions"]["sound late"]
    shifts = [now - late["responses"]["av_late_ms"]["whole"] for now in late["responses"]["av_late_ms"]["grades"]]
    assert shifts == pytest.approx(late["grades"], abs=20)
    for name, metric in found["metrics"].items():  # the sound cannot move what is of the picture alone, nor the reverse
        kind = "picture" if name in PICTURE else "sound" if name in SOUND else None
        for label in ("muffled", "noise", "clipping") if kind == "picture" else ("blurred", "flicker", "frozen"):
            if kind is not None:
                response = found["corruptions"][label]["responses"][name]
                assert response["moves"] == "not", (name, label, metric)
                assert set(response["grades"]) == {response["whole"]}
    assert (tmp_path / "self-test.png").stat().st_size > 20_000


PICTURE = ("brightness", "contrast", "sharpness", "flicker", "frozen_share", "black_share", "motion_heights_per_s")
SOUND = ("loudness_lufs", "true_peak_dbtp", "clipped_share", "silent_share", "bandwidth_hz")
