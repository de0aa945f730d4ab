"""Clips from the tiny Ovi with drawn weights: repeatable, continued after a kill, refused where something is wrong."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file

from ovikit.commands.generate import closing_lines
from ovikit.commands.progress import generation_progress
from ovikit.errors import UserError
from ovikit.evaluation.protocols import PromptItem
from ovikit.files import sha256_of
from ovikit.generate.jobs import FirstFrame, Shape, groups, plan
from ovikit.generate.media import read_clip
from ovikit.generate.prompts import given_prompts
from ovikit.generate.run import Generated, find_source, generate
from ovikit.generate.watch import Unwatched
from ovikit.layout import LOCK, WEIGHTS
from ovikit.recipe.build import build_codecs, build_conditioner, build_model
from ovikit.recipe.load import load_recipe
from ovikit.recipe.lock import write_lock
from ovikit.types import AV
from ovikit_ovi.formats import ovi_format

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny" / "ovi.yaml"
SMALL = [
    "sampling.steps=2",
    "sampling.guidance.video=2.0",
    "model.video.feed_forward_width=40",
    "model.audio.feed_forward_width=40",
]
ITEMS = [
    PromptItem(f"{i:05d}", f"A {colour} ball flashes")
    for i, colour in enumerate(["red", "blue", "green", "red", "blue"])
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a run whose weights were drawn, not trained."""
    folder = tmp_path_factory.mktemp("run")
    recipe = load_recipe(RECIPE, SMALL)
    write_lock(recipe, folder / LOCK)
    model = build_model(recipe, build_codecs(recipe), build_conditioner(recipe))
    # As they are drawn, heads and gates are zero: the network would have no part in its clips.
    generator = torch.Generator().manual_seed(1)
    tensors = {
        n: value + 0.05 * torch.randn(value.shape, generator=generator) for n, value in model.state_dict().items()
    }
    save_file(tensors, folder / WEIGHTS, {"digest": recipe.digest, "step": "0"})
    return folder


def make(run: Path, folder: Path, seed: int = 0, items=ITEMS, **options) -> Generated:
    source = find_source(run, [f"sampling.seed={seed}"])
    return generate(source, items, folder, **{"batch_size": 2, **options})


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.mp4"))}


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory) -> Path:
    """All clips, made in one go."""
    folder = tmp_path_factory.mktemp("whole")
    assert make(run, folder).made == tuple(item.id for item in ITEMS)
    return folder


class Killed(BaseException):
    """As a signal would end the run."""


class KillAfter(Unwatched):
    """A watcher that ends the run after some clips."""

    def __init__(self, clips: int) -> None:
        self.left = clips

    def clip(self, name: str, path: Path, seconds: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


def test_a_clip_has_the_recipes_form_and_its_sound(whole):
    clip = read_clip(whole / "00000.mp4", size_px=(64, 64))
    assert clip.video.shape == (48, 64, 64, 3)
    assert clip.audio.shape == (32000,)
    assert (clip.frame_rate_hz, clip.sample_rate_hz) == (24.0, 16000)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ones(run, whole, tmp_path):
    make(run, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(whole)
    make(run, tmp_path / "other", seed=100)
    assert set(digests(tmp_path / "other").values()).isdisjoint(digests(whole).values())


def test_prompts_are_read(run, whole, tmp_path):
    make(run, tmp_path, items=[PromptItem("00000", "A blue ball flashes"), *ITEMS[1:2]])
    assert digests(tmp_path)["00000.mp4"] != digests(whole)["00000.mp4"]
    assert digests(tmp_path)["00001.mp4"] == digests(whole)["00001.mp4"]


def test_a_clips_noise_does_not_depend_on_its_batch(run, whole, tmp_path):
    make(run, tmp_path, batch_size=5)
    for name in digests(whole):
        one, other = read_clip(whole / name), read_clip(tmp_path / name)
        assert (one.video.float() - other.video.float()).abs().mean() < 0.5  # of 255: rounding, then H.264
        assert torch.allclose(one.audio, other.audio, atol=0.02)


@pytest.mark.parametrize("clips", [1, 2, 3])
def test_a_killed_run_continues_to_the_same_files(run, whole, tmp_path, clips):
    with pytest.raises(Killed):
        make(run, tmp_path, watcher=KillAfter(clips))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.mp4")}
    assert len(times) == clips
    # What a kill in the middle of a write leaves behind: a clip without its sidecar, and one under a temporary name.
    (tmp_path / "00004.mp4").write_bytes(b"half")
    (tmp_path / ".00003-abcd_123.mp4").write_bytes(b"half")
    done = make(run, tmp_path)
    assert (len(done.made), done.skipped) == (len(ITEMS) - clips, clips)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert not list(tmp_path.glob(".*.mp4"))
    assert digests(tmp_path) == digests(whole)
    assert make(run, tmp_path).made == ()


def test_a_damaged_clip_is_made_again(run, whole, tmp_path):
    make(run, tmp_path)
    (tmp_path / "00001.mp4").write_bytes(b"damaged")
    (tmp_path / "00002.json").write_text('{"id": ')
    assert make(run, tmp_path).made == ("00001", "00002")
    assert digests(tmp_path) == digests(whole)


def test_the_sidecar_says_how_the_clip_was_made(run, whole):
    told = json.loads((whole / "00003.json").read_text())
    recipe = load_recipe(whole / LOCK)
    assert (told["id"], told["prompt"], told["seed"]) == ("00003", "A red ball flashes", 3)
    assert told["recipe"] == {"name": "tiny-ovi", "digest": recipe.digest}
    assert told["weights_sha256"] == sha256_of(run / WEIGHTS)
    assert told["media_sha256"] == sha256_of(whole / "00003.mp4")
    assert told["sampling"]["steps"] == 2
    assert told["weights"]["step"] == "0"
    assert {"torch", "av", "ovikit"} <= set(told["versions"])


def test_observers_are_told(whole):
    events = [json.loads(line)["event"] for line in (whole / "events.jsonl").read_text().splitlines()]
    assert events == ["ovikit_run_started", *["ovikit_clip_finished"] * 5, "ovikit_run_finished"]


def test_clips_made_otherwise_are_refused_unless_they_may_be_replaced(run, tmp_path):
    make(run, tmp_path, items=ITEMS[:1])
    before = digests(tmp_path)
    with pytest.raises(UserError, match=r"00000\.json: this clip was made with another seed: 0, now it would be 5"):
        make(run, tmp_path, seed=5, items=ITEMS[:1])
    with pytest.raises(UserError, match="another prompt"):
        make(run, tmp_path, items=[PromptItem("00000", "something else")])
    assert digests(tmp_path) == before
    assert make(run, tmp_path, seed=5, items=ITEMS[:1], overwrite=True).made == ("00000",)
    assert digests(tmp_path) != before


def test_several_clips_of_a_prompt_differ(run, tmp_path):
    make(run, tmp_path, items=ITEMS[:1], count=3)
    assert sorted(digests(tmp_path)) == ["00000-1.mp4", "00000-2.mp4", "00000.mp4"]
    assert len(set(digests(tmp_path).values())) == 3


def broken(run: Path, folder: Path, change) -> Path:
    """A weights file with a change to its tensors."""
    tensors = load_file(run / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / "broken.safetensors")
    return folder / "broken.safetensors"


def test_values_that_are_not_finite_name_the_clip_and_leave_no_file(run, tmp_path):
    def poison(tensors):
        for name in tensors:
            if name.startswith("towers.audio"):
                tensors[name] = torch.full_like(tensors[name], torch.nan)

    weights = broken(run, tmp_path, poison)
    with pytest.raises(UserError, match=r"clip 00000 has values in its (video|audio) that are not finite"):
        generate(find_source(run, weights=weights), ITEMS[:1], tmp_path / "clips")
    assert not list((tmp_path / "clips").glob("0*"))
    failed = json.loads((tmp_path / "clips" / "events.jsonl").read_text().splitlines()[-1])
    assert failed["event"] == "ovikit_run_failed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(sorted(tensors)[0]), "1 tensors missing"),
        (lambda tensors: tensors.update(surplus=torch.zeros(1)), "1 tensors not in the model: surplus"),
        (lambda tensors: tensors.update({sorted(tensors)[0]: torch.zeros(1, 1, 7)}), "1 tensors of another shape"),
    ],
)
def test_weights_of_another_model_are_refused(run, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        generate(find_source(run, weights=broken(run, tmp_path, change)), ITEMS[:1], tmp_path / "clips")


def test_weights_under_the_released_names_are_recognised(run, whole, tmp_path):
    official = tmp_path / "official.safetensors"
    save_file(ovi_format().keymap.to_official(load_file(run / WEIGHTS)), official)
    generate(find_source(run, weights=official), ITEMS[:2], tmp_path / "clips", batch_size=2)
    made = digests(tmp_path / "clips")
    assert made == {name: digests(whole)[name] for name in ("00000.mp4", "00001.mp4")}


def test_truncated_and_missing_weights_are_refused(run, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes((run / WEIGHTS).read_bytes()[:5000])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        generate(find_source(run, weights=tmp_path / "cut.safetensors"), ITEMS[:1], tmp_path / "clips")
    with pytest.raises(UserError, match="no such weights file"):
        generate(find_source(run, weights=tmp_path / "none.safetensors"), ITEMS[:1], tmp_path / "clips")


def test_a_source_without_weights_is_refused_with_what_to_do(run, tmp_path):
    with pytest.raises(UserError, match="ovikit train"):
        find_source(RECIPE)
    with pytest.raises(UserError, match="not the folder of a run"):
        find_source(tmp_path)
    (tmp_path / LOCK).write_bytes((run / LOCK).read_bytes())
    with pytest.raises(UserError, match="its training has not ended"):
        find_source(tmp_path)


def test_a_codec_that_cannot_encode_one_frame_says_so(run, tmp_path):
    Image.new("RGB", (90, 70)).save(tmp_path / "a.png")
    items = [PromptItem("00000", "A red ball", image=tmp_path / "a.png")]
    with pytest.raises(UserError, match=r"a latent holds 4 frames, and 1 cannot be encoded\n.*given picture"):
        make(run, tmp_path / "clips", items=items)
    assert not list((tmp_path / "clips").glob("*.mp4"))


def test_a_size_that_does_not_fit_is_refused_with_the_multiples(run, tmp_path):
    with pytest.raises(UserError, match="--size: the height of 96 pixels is not a multiple of 64"):
        make(run, tmp_path, items=ITEMS[:1], size=(96, 64))
    assert not list(tmp_path.iterdir())
    make(run, tmp_path, items=ITEMS[:1], size=(64, 128))
    assert read_clip(tmp_path / "00000.mp4", size_px=(64, 128)).video.shape == (48, 64, 128, 3)


def test_skipping_a_layer_that_is_not_there_is_refused(run, tmp_path):
    source = find_source(run, ["sampling.guidance.skip_layers=[0, 99]"])
    with pytest.raises(UserError, match=r"sampling\.guidance: there is no layer 99: the model has \d+"):
        generate(source, ITEMS[:1], tmp_path)
    assert not list(tmp_path.glob("*.mp4"))


def test_clips_of_one_size_share_batches_and_a_kept_order():
    shapes = [Shape((64, 64)), Shape((64, 128)), Shape((64, 64)), Shape((64, 64), FirstFrame(Path("a"), "", True))]
    items = [PromptItem(f"{i}", "A") for i in range(4)]
    jobs = plan(items, shapes, [AV("A", "A")] * 4, seed=5)
    assert [job.seed for job in jobs] == [5, 6, 7, 8]
    assert [[job.id for job in batch] for batch in groups(jobs, 2, set())] == [["0", "2"], ["1"], ["3"]]
    assert [[job.id for job in batch] for batch in groups(jobs, 2, {"0", "1"})] == [["0", "2"], ["3"]]


def test_what_is_shown_off_a_terminal_is_a_line_for_each_phase_note_and_clip(run, tmp_path):
    console = Console(file=io.StringIO(), width=200)
    with generation_progress(console, lines=True) as shown:
        done = make(run, tmp_path, watcher=shown)
    lines = console.file.getvalue().splitlines()
    assert sum(".mp4" in line for line in lines) == len(ITEMS)
    assert any(line.startswith("encoding prompts 4/4") for line in lines)
    assert any(line.startswith("loading the network") for line in lines)
    assert any(line.startswith("memory plan") for line in lines)
    assert lines[-1].startswith(f"generating {len(ITEMS)}/{len(ITEMS)}")
    assert {"text", "loading", "denoising", "decoding", "writing"} <= set(done.phases)
    assert done.peak_bytes > 1e8
    told = closing_lines(done)
    assert told[0].startswith("5 clips in ")
    assert "peak resident memory" in told[1]


def test_a_checkpoint_takes_the_place_of_the_final_weights(run, tmp_path) -> None:
    """Its clips are its own, in a folder of their own; the file that it makes is read like any weights."""
    from typer.testing import CliRunner

    from ovikit.cli import build_app

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LOCK).write_bytes((run / LOCK).read_bytes())
    final = load_file(run / WEIGHTS)
    averages = {"Ema": {"average": {name: value for name, value in final.items() if "head" in name}}}
    state = {f"model.{name}": value * 0.9 if "head" in name else value for name, value in final.items()}
    (folder / "checkpoints").mkdir()
    torch.save({"global_step": 7, "state_dict": state, "callbacks": averages}, folder / "checkpoints/step-000007.ckpt")
    torch.save({"global_step": 6, "state_dict": state, "callbacks": {}}, folder / "checkpoints/step-000006.ckpt")
    for name in ("step-000007", "step-000006"):
        arguments = ["generate", str(folder), "--checkpoint", name, "--device", "cpu", "--batch-size", "2"]
        done = CliRunner().invoke(build_app(), [*arguments, *(f"--prompt={item.prompt}" for item in ITEMS[:2])])
        assert done.exit_code == 0, done.output
    averaged, plain = folder / "prompted-step-000007", folder / "prompted-step-000006"
    made = generate(
        find_source(run), given_prompts([item.prompt for item in ITEMS[:2]], 0), tmp_path / "final", batch_size=2
    )
    assert digests(averaged) == digests(made.folder)
    assert set(digests(plain).values()).isdisjoint(digests(averaged).values())
    arguments = ["generate", str(folder), "--checkpoint", "step-000007", "--prompt", "x"]
    done = CliRunner().invoke(build_app(), [*arguments, "--weights", str(run / WEIGHTS)])
    assert "--checkpoint and a file of weights were both given" in str(done.exception)
    done = CliRunner().invoke(build_app(), ["generate", str(RECIPE), "--checkpoint", "x", "--prompt", "x"])
    assert "--checkpoint goes with the folder of a training run" in str(done.exception)
