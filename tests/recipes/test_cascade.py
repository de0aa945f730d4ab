"""Pictures of one model with sounds of another: every clip that can be made is, as it was, and measured as one."""

from __future__ import annotations

import shutil
import wave
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator

from ovikit.cli import main
from ovikit.evaluation.results import read_results
from ovikit.generate.media import read_clip, write_clip
from ovikit.kernel.manager import installed_catalog
from ovikit.recipe.document import read_yaml
from ovikit.recipe.load import load_cascade, load_recipe
from ovikit.recipe.models import Cascade
from ovikit.recipe.schema import document_schema
from ovikit.testing.clips import CLIP, beating_clip, noisy_clip

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes/cascade/wan-mmaudio.yaml"
RATE_HZ = 44100


def tone(path: Path, seconds: float, channels: int = 2) -> None:
    """Two tones, one for each ear."""
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    ears = np.stack([9000 * np.sin(2 * np.pi * hz * times) for hz in (440, 660)[:channels]], axis=1).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(ears.tobytes())


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """Three pictures and three sounds, two of which go together; one sound is longer than its picture."""
    pictures, sounds = tmp_path / "pictures", tmp_path / "sounds"
    for folder in (pictures, sounds):
        folder.mkdir()
    for k in range(3):
        write_clip(pictures / f"0000{k}.mp4", noisy_clip(CLIP, k))
    tone(sounds / "00000.wav", 2.5)
    write_clip(sounds / "00001.mp4", beating_clip(CLIP))
    tone(sounds / "00007.wav", 1.0)
    return pictures, sounds


def run(*arguments: object) -> tuple[int, str]:
    """The status of a command, and what it printed."""
    out = StringIO()
    with redirect_stdout(out), redirect_stderr(out), pytest.raises(SystemExit) as ended:
        main([str(one) for one in arguments])
    return int(ended.value.code or 0), out.getvalue()


def cascade(sides: tuple[Path, Path], out: Path, *more: object) -> tuple[int, str]:
    given = [f"cascade.{name}.folder='{folder}'" for name, folder in zip(("video", "audio"), sides, strict=True)]
    return run("cascade", RECIPE, "--out", out, *(word for one in given for word in ("-o", one)), *more)


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size]


def test_pictures_are_copied_and_sounds_are_those_of_the_other_model(sides, tmp_path):
    status, told = cascade(sides, tmp_path / "clips")
    assert status == 0, told
    assert "2 clips made, 0 kept" in told
    assert "only video, and left out: 00002" in told
    assert "only audio, and left out: 00007" in told
    for name in ("00000", "00001"):
        assert packets(tmp_path / "clips" / f"{name}.mp4") == packets(sides[0] / f"{name}.mp4")
    with av.open(str(tmp_path / "clips/00000.mp4")) as container:
        heard = container.streams.audio[0]
        assert (heard.codec_context.sample_rate, heard.codec_context.layout.name) == (RATE_HZ, "stereo")
        left, right = np.concatenate([frame.to_ndarray() for frame in container.decode(heard)], axis=1)[:, 4096:40960]
    # Each ear hears its own tone, as loud as before, and the sound ends with the picture.
    hz = np.fft.rfftfreq(len(left), 1 / RATE_HZ)
    assert [hz[np.abs(np.fft.rfft(ear)).argmax()] for ear in (left, right)] == pytest.approx([440, 660], abs=2)
    assert np.abs(left).max() == pytest.approx(9000 / 32768, rel=0.05)
    with av.open(str(tmp_path / "clips/00000.mp4")) as container:
        heard = container.streams.audio[0]
        assert float(heard.duration * heard.time_base) == pytest.approx(CLIP.duration_s, abs=0.03)


def test_sound_stays_where_it_was(sides, tmp_path):
    assert cascade(sides, tmp_path / "clips")[0] == 0
    own, new = (read_clip(folder / "00001.mp4").audio for folder in (sides[1], tmp_path / "clips"))
    assert own is not None
    assert new is not None
    near = torch.stack([(own[200:-200] * new[200 + k : len(new) - 200 + k]).sum() for k in range(-100, 101)])
    assert abs(int(near.argmax()) - 100) <= 1


def test_what_is_there_whole_is_kept_and_what_changed_is_made_again(sides, tmp_path):
    out = tmp_path / "clips"
    assert cascade(sides, out)[0] == 0
    assert "0 clips made, 2 kept" in cascade(sides, out)[1]
    (out / "00000.mp4").write_bytes(b"")
    write_clip(sides[1] / "00001.mp4", beating_clip(CLIP, beats=3))
    assert "2 clips made, 0 kept" in cascade(sides, out)[1]


def test_files_that_cannot_be_read_are_told_and_the_others_made(sides, tmp_path):
    (sides[0] / "00001.mp4").write_bytes(b"no film")
    status, told = cascade(sides, tmp_path / "clips")
    assert status == 2
    assert "1 clips made" in told
    assert "00001: " in told
    assert "00001.mp4" in told
    assert not (tmp_path / "clips/00001.mp4").exists()
    assert (tmp_path / "clips/00000.mp4").is_file()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda sides: shutil.rmtree(sides[0]), "there is no such folder"),
        (lambda sides: [one.unlink() for one in sides[1].iterdir()], "there are no files here that end in"),
        (lambda sides: [one.rename(one.with_name(f"x{one.name}")) for one in list(sides[1].iterdir())], "in common"),
        (
            lambda sides: write_clip(sides[1] / "00001.mp4", replace(noisy_clip(CLIP), audio=None)),
            "it has no audio stream",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_told(sides, tmp_path, spoil, message):
    spoil(sides)
    status, told = cascade(sides, tmp_path / "clips")
    assert status == 2
    assert message in told
    assert "Traceback" not in told


def test_a_folder_of_another_cascade_is_left_alone(sides, tmp_path):
    assert cascade(sides, tmp_path / "clips")[0] == 0
    status, told = cascade(sides, tmp_path / "clips", "-o", "cascade.audio.model=another")
    assert status == 2
    assert "of another cascade" in told


def test_it_is_measured_as_one_model_under_its_name(sides, tmp_path):
    assert cascade(sides, tmp_path / "clips")[0] == 0
    status, told = run("eval", ROOT / "evals/suites/signals.yaml", "--clips", tmp_path / "clips")
    assert status == 0, told
    results = read_results(tmp_path / "results.json")
    assert (results.subject, results.recipe.digest) == ("wan2.1-mmaudio", load_cascade(RECIPE).digest)
    assert results.metrics["loudness_lufs"].scored == 2
    # Where the files lie is no part of what it is.
    moved = load_cascade(RECIPE, ["cascade.video.folder=elsewhere"])
    assert moved.digest == results.recipe.digest
    assert load_cascade(RECIPE, ["cascade.video.revision='2'"]).digest != results.recipe.digest


def test_cascades_are_no_recipes_and_have_a_schema():
    for path in (ROOT / "recipes/cascade").glob("*.yaml"):
        Draft202012Validator(document_schema(installed_catalog(), Cascade)).validate(read_yaml(path).data)
        status, told = run("recipe", "check", path)
        assert status == 2
        assert "ovikit cascade runs it" in told
    with pytest.raises(Exception, match="ovikit cascade runs it"):
        load_recipe(RECIPE)
