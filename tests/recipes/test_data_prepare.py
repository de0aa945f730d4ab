"""From real media files to shards: what is cut, what is left out and why, the same from however many workers, and the
same training as from the clips themselves."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from video_kit import even, sound, turn, waves, write_video

from ovikit.data.encoded import EncodedClips
from ovikit.data.prepare import Preparing
from ovikit.data.prepared import PreparedDataset, check_dataset
from ovikit.errors import UserError
from ovikit.layout import read_metrics
from ovikit.recipe import build
from ovikit.recipe.load import load_recipe
from ovikit.recipe.models import Recipe
from ovikit.training.run import train

ROOT = Path(__file__).parents[2]


def letterboxed(time_s: float) -> NDArray[np.uint8]:
    out = np.zeros((64, 64, 3), np.uint8)
    out[8:56] = waves(11.0)(time_s)
    return out


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files as people have them."""
    folder = tmp_path_factory.mktemp("media")
    times = even(2.1)
    write_video(folder / "a-plain.mp4", even(3.1), sound(3.1), picture=waves(1.0))
    write_video(folder / "b-film.mkv", even(2.1, 25.0), sound(2.1, 48000), sound_rate=48000, picture=waves(2.0))
    write_video(folder / "c-web.webm", even(2.1, 30.0), sound(2.1, 48000), sound_rate=48000, picture=waves(3.0),
                codecs=("libvpx-vp9", "libopus"), pixels="yuv420p")  # fmt: skip
    write_video(folder / "d-old.avi", times, sound(2.1), picture=waves(4.0, 36, 48), codecs=("mjpeg", "pcm_s16le"),
                pixels="yuvj420p")  # fmt: skip
    write_video(folder / "e-mute.mp4", times, None, picture=waves(5.0))
    write_video(folder / "f-late.mp4", times, sound(1.5), sound_from_s=0.6, picture=waves(6.0))
    jitter = sorted(t + 0.015 * math.sin(40 * t) for t in times)
    write_video(folder / "g-uneven.mkv", jitter, sound(2.1), picture=waves(7.0))
    write_video(folder / "h-phone.mp4", times, sound(2.1), picture=waves(8.0, 48, 80))
    turn(folder / "h-phone.mp4", (0, 1, -1, 0))
    write_video(folder / "i-letter.mp4", times, sound(2.1), picture=letterboxed)
    whole = (folder / "a-plain.mp4").read_bytes()
    (folder / "j-cut-off.mp4").write_bytes(whole[: len(whole) // 2])
    shutil.copy(folder / "b-film.mkv", folder / "k-again.mkv")
    write_video(folder / "l-short.mp4", even(0.5), sound(0.5), picture=waves(9.0))
    (folder / "below").mkdir()
    write_video(folder / "below" / "m-still.mp4", times, sound(2.1), picture=lambda time_s: waves(10.0)(0.0))
    (folder / "a-plain.txt").write_text("A pattern slides. Audio: two clicks")
    return folder


def recipe(folder: Path, *overrides: str, more: str = "") -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(f"extends: {ROOT / 'recipes/tiny/prepared.yaml'}\nname: own\n{more}", encoding="utf-8")
    return load_recipe(path, ("preparation.stride_s=null", *overrides))


def load(folder: Path, dataset: PreparedDataset, *overrides: str) -> Recipe:
    """The recipe that ``recipe`` has written, to train on a dataset."""
    return load_recipe(folder / "recipe.yaml", (f"training.data.path={dataset.path}", *overrides))


def prepare(media: Path, out: Path, made_with: Recipe, workers: int = 1) -> PreparedDataset:
    Preparing(made_with, media, out, workers=workers).run()
    return PreparedDataset(out)


@pytest.fixture(scope="module")
def dataset(media: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("dataset")
    return prepare(media, folder / "set", recipe(folder))


def opened(dataset: PreparedDataset, made_with: Recipe) -> EncodedClips:
    return dataset.open(build.build_codecs(made_with), build.build_conditioner(made_with), False)


def test_every_kind_of_file_is_read_or_left_out_with_a_reason(dataset: PreparedDataset) -> None:
    kept = [row.candidate.file for row in dataset.kept]
    assert kept == ["a-plain.mp4", "b-film.mkv", "c-web.webm", "d-old.avi", "f-late.mp4", "g-uneven.mkv",
                    "h-phone.mp4", "i-letter.mp4"]  # fmt: skip
    left_out = {row.candidate.file: (row.candidate.by, row.candidate.why) for row in dataset.rows if row.place is None}
    by = {file: one for file, (one, _) in left_out.items()}
    assert by == {"e-mute.mp4": "sound", "j-cut-off.mp4": "reading", "k-again.mkv": "duplicate",
                  "l-short.mp4": "length", "below/m-still.mp4": "motion"}  # fmt: skip
    assert left_out["k-again.mkv"][1] == "it shows what b-film.mkv@0.00s shows"
    assert left_out["l-short.mp4"][1] == "its longest scene has 0.50 s, a clip 2 s"
    prompts = {row.candidate.file: row.candidate.prompt for row in dataset.kept}
    assert prompts["a-plain.mp4"] == "A pattern slides. Audio: two clicks"
    assert prompts["b-film.mkv"] == "b film"
    for row in dataset.kept:
        assert set(row.candidate.scores) == {"motion_heights_per_s", "volume_db", "silent_share", "black_share"}
    box = next(row.candidate.box for row in dataset.kept if row.candidate.file == "i-letter.mp4")
    assert (box.top, box.bottom, box.left, box.right) == (8 / 64, 56 / 64, 0.0, 1.0)
    assert all(one is None for one in check_dataset(dataset))


def test_latents_are_those_of_the_clips(dataset: PreparedDataset, tmp_path: Path) -> None:
    made_with = recipe(tmp_path)
    codecs, clips = build.build_codecs(made_with), opened(dataset, made_with)
    for index in range(len(dataset)):
        clip, found = dataset[index], clips.read([index])
        for modality, codec in codecs.items():
            alone = codec.encode(clip.signal(modality)[None])
            torch.testing.assert_close(found.latents[modality], alone.float(), rtol=1e-4, atol=1e-5)


def test_sound_that_starts_late_does_so_in_the_latents(tmp_path: Path) -> None:
    """The course of the latents of a file whose sound starts 0.6 s late is that of the same sound on time, 0.6 s
    later."""
    made_with = recipe(tmp_path, more="preparation: {filters: [], margins: false, scenes: {detector: none}}\n")
    (tmp_path / "media").mkdir()
    for name, from_s in (("late", 0.6), ("on-time", 0.0)):
        write_video(tmp_path / "media" / f"{name}.mp4", even(2.0), sound(1.4, clicks_s=(0.1, 0.45, 1.0)),
                    sound_from_s=from_s, picture=waves(1.0))  # fmt: skip
    clips = opened(prepare(tmp_path / "media", tmp_path / "set", made_with), made_with)
    step_s = 2.0 / build.build_codecs(made_with)["audio"].shape()[1]
    late, early = (clips.read([index]).latents["audio"][0, 0] for index in range(2))
    late, early = late - late.median(), early - early.median()
    most = round(1.0 / step_s)
    agreement = [float((late[shift:] * early[: len(early) - shift]).sum()) for shift in range(most)]
    found_s = step_s * int(np.argmax(agreement))
    assert found_s == pytest.approx(0.6, abs=step_s / 2 + 1e-6)


@pytest.mark.slow
def test_the_dataset_does_not_depend_on_the_workers(media: Path, dataset: PreparedDataset, tmp_path: Path) -> None:
    again = prepare(media, tmp_path / "set", recipe(tmp_path), workers=3)
    same_files(dataset.path, again.path)


def same_files(one: Path, other: Path) -> None:
    def names(folder: Path) -> list[str]:
        found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
        return sorted(path.relative_to(folder).as_posix() for path in found)

    assert names(one) == names(other)
    for name in names(one):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


class PulledError(Exception):
    """The plug."""


def test_interrupted_preparation_goes_on(media: Path, dataset: PreparedDataset, tmp_path: Path) -> None:
    """Interrupted while files are scanned, and again while clips are encoded: what was done is not done again, and the
    dataset is the same bytes as one that was not interrupted."""
    made_with, out = recipe(tmp_path, "preparation.clips_per_shard=3"), tmp_path / "set"
    undisturbed = prepare(media, tmp_path / "undisturbed", made_with)
    seen: list[tuple[str, int]] = []

    def pull_at(what: str, count: int) -> Callable[[str, int, int], None]:
        seen.clear()

        def report(now: str, done: int, total: int) -> None:
            seen.append((now, done))
            if (now, done) == (what, count):
                raise PulledError

        return report

    for what, count, first in (("files", 4, 0), ("clips", 3, 4)):
        with pytest.raises(PulledError):
            Preparing(made_with, media, out, report=pull_at(what, count)).run()
        assert seen[0] == ("files", first)
        with pytest.raises(UserError, match="not whole: its preparation was interrupted"):
            PreparedDataset(out)
    Preparing(made_with, media, out, report=pull_at("none", 0)).run()
    assert seen[0] == ("files", 13)
    same_files(undisturbed.path, out)


def test_what_has_changed_is_told(media: Path, dataset: PreparedDataset, tmp_path: Path) -> None:
    other = recipe(tmp_path, "model.codecs.audio.channels=20")
    told = r"made with something else\n    audio codec for 2 s.*/24/.* there.*/20/.* here"
    with pytest.raises(UserError, match=told):
        Preparing(other, media, dataset.path).run()
    with pytest.raises(UserError, match=told):
        train(load(tmp_path, dataset, "model.codecs.audio.channels=20"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    grown = tmp_path / "media"
    shutil.copytree(media, grown)
    with pytest.raises(UserError, match=r"folder: .* there"):
        Preparing(recipe(tmp_path), grown, dataset.path).run()
    own = prepare(grown, tmp_path / "own", recipe(tmp_path))
    shutil.copy(grown / "a-plain.mp4", grown / "z-new.mp4")
    (grown / "a-plain.txt").write_text("another caption")
    with pytest.raises(UserError, match=r"made of other files: z-new.mp4 is new, a-plain.mp4 has changed"):
        Preparing(recipe(tmp_path), grown, own.path).run()


def test_bad_files_stop_when_asked_to(media: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"j-cut-off.mp4: this file cannot be used") as error:
        Preparing(recipe(tmp_path), media, tmp_path / "set", on_bad="stop").run()
    assert "--on-bad-clip skip" in str(error.value)


def test_training_from_shards_is_training_from_clips(media: Path, tmp_path: Path) -> None:
    """The same bits, with and without processes that prepare batches."""
    plain = tmp_path / "media"
    plain.mkdir()
    for name in ("a-plain.mp4", "b-film.mkv", "f-late.mp4"):
        shutil.copy(media / name, plain / name)
    more = "preparation: {filters: [], margins: false, scenes: {detector: none}}\n"
    made_with = recipe(tmp_path, more=more)
    dataset = prepare(plain, tmp_path / "set", made_with)
    steps = ("training.trainer.max_steps=6", "training.batch_size=2")
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, chosen in {
        "clips": ("training.data.type=folder", f"training.data.path={plain}"),
        "shards": (f"training.data.path={dataset.path}",),
        "workers": (f"training.data.path={dataset.path}", "training.trainer.workers=2"),
    }.items():
        weights = train(load_recipe(tmp_path / "recipe.yaml", (*steps, *chosen)), tmp_path / name).weights
        assert weights is not None
        found[name] = load_file(weights)
    for name in ("shards", "workers"):
        assert all(torch.equal(value, found["clips"][key]) for key, value in found[name].items())


BUCKETS = """preparation:
  buckets:
    - {duration_s: 2.0, height_px: 32, width_px: 64}
    - {duration_s: 1.0, height_px: 64, width_px: 32}
    - {duration_s: 1.0, height_px: 32, width_px: 64}
"""


def test_clips_of_several_forms(media: Path, tmp_path: Path) -> None:
    """Each clip gets the nearest shape and the longest form; batches are of one form; a run that is stopped in the
    middle of an epoch goes on to the same bits, with other processes to prepare batches."""
    made_with = recipe(tmp_path, more=BUCKETS)
    dataset = prepare(media, tmp_path / "set", made_with)
    forms = {row.candidate.name: row.candidate.bucket for row in dataset.kept}
    assert forms["h-phone.mp4@0.00s"] == 1  # stored wide, shown tall
    assert forms["a-plain.mp4@0.00s"] == 0
    assert forms["a-plain.mp4@2.00s"] == 2  # what is left of three seconds
    clips = opened(dataset, made_with)
    assert sorted(index for bucket in clips.buckets for index in bucket.clips) == list(range(len(clips)))
    for bucket in clips.buckets:
        found = clips.read(list(bucket.clips))
        expected = build.build_codecs(made_with).map(lambda codec, form=bucket.form: codec.for_clip(form).shape())
        assert found.latents.map(lambda one: tuple(one.shape[1:])) == expected
    chosen = ("training.batch_size=2", "training.trainer.max_steps=9", "training.trainer.checkpoint_every_steps=5")
    whole = train(load(tmp_path, dataset, *chosen), tmp_path / "whole")
    assert whole.weights is not None
    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole", stopped)
    (stopped / "weights.safetensors").unlink()
    (stopped / "checkpoints" / "step-000009.ckpt").unlink()
    shutil.copy(stopped / "checkpoints" / "step-000005.ckpt", stopped / "checkpoints" / "last.ckpt")
    again = load_recipe(stopped / "recipe.lock.yaml", ())
    resumed = train(again, stopped, resume=True)
    assert resumed.weights is not None
    one, other = load_file(whole.weights), load_file(resumed.weights)
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_damaged_shard_is_told_and_stepped_over(media: Path, dataset: PreparedDataset, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(dataset.path, broken)
    place = PreparedDataset(broken).kept[2].place
    assert place is not None
    shard = broken / place.shard
    data = bytearray(shard.read_bytes())
    data[place.offset + place.size // 2] ^= 255
    shard.write_bytes(data)
    told = [one.why for one in check_dataset(PreparedDataset(broken)) if one is not None]
    assert told == [f"{shard}: clip c-web.webm@0.00s is damaged (checksum)"]
    recipe(tmp_path)
    for workers in (0, 1):
        chosen = (f"training.data.path={broken}", "training.trainer.max_steps=4", f"training.trainer.workers={workers}")
        found = load_recipe(tmp_path / "recipe.yaml", chosen)
        with pytest.raises(
            UserError, match=r"^[^\n]* is damaged \(checksum\)\n[^\n]*--resume --on-bad-clip skip$"
        ) as bad:
            train(found, tmp_path / f"stop-{workers}")
        assert "clip c-web.webm@0.00s" in str(bad.value)
        assert train(found, tmp_path / f"skip-{workers}", skip_bad=True).weights is not None


def test_sound_alone(tmp_path: Path) -> None:
    """A stage of the audio tower takes files of sound, of several lengths, and the sound of videos."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    import av

    for name, codec, seconds in (("a.flac", "flac", 2.6), ("b.wav", "pcm_s16le", 1.2), ("c.mp3", "libmp3lame", 1.7)):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=44100, layout="mono")
            form = stream.codec_context.format.name
            values = sound(seconds)[None]
            frame = av.AudioFrame.from_ndarray(values, format="fltp", layout="mono")
            frame.sample_rate = 44100
            for part in av.AudioResampler(form, "mono", 44100, frame_size=1152).resample(frame) + [None]:
                container.mux(stream.encode(part))
    write_video(folder / "d.mp4", even(1.1), sound(1.1), picture=waves(1.0))
    more = """model: {video: null, fusion: {type: none}, codecs: {video: null}}
training: {stage: audio}
preparation:
  filters: [{type: loudness}]
  buckets: [{duration_s: 2.0, height_px: 64, width_px: 64}, {duration_s: 1.0, height_px: 64, width_px: 64}]
"""
    made_with = recipe(tmp_path, more=more)
    dataset = prepare(folder, tmp_path / "set", made_with)
    forms = [(row.candidate.file, row.candidate.start_s, row.candidate.bucket) for row in dataset.kept]
    assert forms == [("a.flac", 0.0, 0), ("b.wav", 0.0, 1), ("c.mp3", 0.0, 1), ("d.mp4", 0.0, 1)]
    chosen = (f"training.data.path={dataset.path}", "training.trainer.max_steps=3", "training.batch_size=1")
    assert train(load_recipe(tmp_path / "recipe.yaml", chosen), tmp_path / "run").weights is not None
    other = load_recipe(ROOT / "recipes/tiny/prepared.yaml", (f"training.data.path={dataset.path}",))
    with pytest.raises(UserError, match="this dataset has no video, which is to be trained"):
        train(other, tmp_path / "two")


def test_other_tools_read_the_shards(dataset: PreparedDataset) -> None:
    webdataset = pytest.importorskip("webdataset")
    shards = sorted((dataset.path / "shards").glob("0*.tar"))
    found = list(webdataset.WebDataset([str(path) for path in shards], shardshuffle=False))
    assert [json.loads(one["json"])["name"] for one in found] == [row.candidate.name for row in dataset.kept]
    assert all("safetensors" in one for one in found)


@pytest.mark.slow
def test_a_run_killed_at_any_step_goes_on_to_the_same_bits(media: Path, tmp_path: Path) -> None:
    """kill -9 at a random step, in the middle of an epoch of a dataset of several forms, with two processes that
    prepare batches, and one afterwards."""
    made_with = recipe(tmp_path, more=BUCKETS)
    dataset = prepare(media, tmp_path / "set", made_with)
    steps = ("training.batch_size=2", "training.trainer.max_steps=40", "training.trainer.checkpoint_every_steps=2",
             "training.trainer.log_every_steps=1", "training.trainer.workers=2")  # fmt: skip
    whole = train(load(tmp_path, dataset, *steps), tmp_path / "whole")
    seed = int.from_bytes(os.urandom(4), "big")
    stop = 3 + random.Random(seed).randrange(30)
    changes = [word for one in (f"training.data.path={dataset.path}", *steps) for word in ("-o", one)]
    command = [
        sys.executable,
        "-m",
        "ovikit",
        "train",
        str(tmp_path / "recipe.yaml"),
        "--run",
        str(tmp_path / "killed"),
    ]
    with subprocess.Popen([*command, *changes], stdout=subprocess.DEVNULL, start_new_session=True) as process:
        metrics, until = tmp_path / "killed" / "metrics.csv", time.monotonic() + 120
        while not metrics.exists() or len(read_metrics(metrics)) < stop:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "killed" / "weights.safetensors").exists(), f"seed {seed}: it ended before it was killed"
    again = load(tmp_path, dataset, *steps[:-1], "training.trainer.workers=1")
    resumed = train(again, tmp_path / "killed", resume=True)
    assert whole.weights is not None
    assert resumed.weights is not None
    one, other = load_file(whole.weights), load_file(resumed.weights)
    assert all(torch.equal(value, other[key]) for key, value in one.items()), f"seed {seed}, killed at step {stop}"
    columns = ("step", "loss", "loss_video", "loss_audio", "grad_norm")
    rows = [[[row[name] for name in columns] for row in read_metrics(tmp_path / run / "metrics.csv")]
            for run in ("whole", "killed")]  # fmt: skip
    assert rows[0] == rows[1], f"seed {seed}, killed at step {stop}"


@pytest.mark.slow
def test_from_a_folder_of_files_to_scores(media: Path, tmp_path: Path) -> None:
    """What a user types, from files as people have them to the scores of clips of the model."""

    def ovikit(*words: object) -> str:
        command = [sys.executable, "-m", "ovikit", *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    suite = (ROOT / "evals/suites/toyworld-bounce.yaml").read_text(encoding="utf-8")
    (tmp_path / "suite.yaml").write_text(suite.replace("count: 32", "count: 2"), encoding="utf-8")
    made_with = ROOT / "recipes/tiny/prepared.yaml"
    ovikit("data", "prepare", media, "--recipe", made_with, "--out", "set")
    assert ovikit("data", "check", "set").endswith("9 clips are what was written\n")
    told = ovikit("data", "show", "set", "--clips", 2, "--out", "page")
    assert "left out by reading; j-cut-off.mp4" in told
    assert "1 left out by sound; e-mute.mp4: it has no sound" in told
    page = (tmp_path / "page/index.html").read_text(encoding="utf-8")
    assert "motion_heights_per_s.png" in page
    assert 'src="clips/000000.mp4"' in page
    ovikit("train", made_with, "-o", "training.data.path=set", "-o", "training.trainer.max_steps=3", "--run", "run")
    ovikit("generate", "run", "--suite", "suite.yaml", "--out", "clips", "-o", "sampling.steps=2")
    ovikit("eval", "suite.yaml", "--clips", "clips", "--out", "scores")
    results = json.loads((tmp_path / "scores/results.json").read_text(encoding="utf-8"))
    assert {"onset_f1", "onset_offset_ms"} <= results["metrics"].keys()
    assert len(results["items"]) == 2
