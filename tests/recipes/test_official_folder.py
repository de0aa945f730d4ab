"""A complete small folder of released weights through the command line: every variant, plan and input gives its clip,
and whatever is wrong is one clear message that leaves nothing half-written."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import official_kit as kit
import pytest
import torch
from official_clips import OTHER, SAME, Ended, clips, off, only, pixels, told
from PIL import Image
from safetensors.torch import load_file, save_file

from ovikit.cli import main
from ovikit.files import sha256_of
from ovikit.generate.image import first_frame, read_image
from ovikit.generate.media import read_clip
from ovikit.layout import CACHE, LOCK, WEIGHTS
from ovikit.networks.loaded import loaded
from ovikit.recipe.build import build_codecs, clip_spec, find_assets
from ovikit.recipe.load import load_recipe
from ovikit.recipe.lock import write_lock
from ovikit.types import Clip
from ovikit_ovi.formats import ovi_format

PROMPT = "A man says <S>Hello there<E> in the rain. <AUDCAP>rain<ENDAUDCAP>"
SUFFIX = "A man says <S>Hello there<E> in the rain. Audio: rain"
FORMS = {"720x720_5s": (9, 64), "720x720_5s_fp8": (9, 64), "960x960_5s": (9, 96), "960x960_10s": (17, 96)}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Digests and embeddings of this module alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return kit.make_folder(tmp_path_factory.mktemp("weights"), list(kit.VARIANTS), seed=0)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    for variant in kit.VARIANTS:
        kit.write_recipe(folder / f"{variant}.yaml", variant)
    return folder


@pytest.fixture(scope="module")
def recipe(recipes) -> Path:
    return recipes / "720x720_5s.yaml"


@pytest.fixture
def ovikit(capsys) -> Callable[..., Ended]:
    def run(*arguments: object) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([str(one) for one in arguments])
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def generate(ovikit, weights, recipe) -> Callable[..., Ended]:
    """``ovikit generate`` on the smallest variant into a folder."""

    def run(out: Path, *options: object, prompt: str | None = PROMPT, seed: int = 7) -> Ended:
        prompts = () if prompt is None else ("--prompt", prompt)
        where = ("--weights", weights, "--out", out, "--device", "cpu")
        return ovikit("generate", recipe, *where, "--seed", seed, *prompts, *options)

    return run


@pytest.fixture(scope="module")
def reference(weights, recipe, tmp_path_factory) -> Path:
    """The folder of the clip that all ways of computing it must give."""
    out = tmp_path_factory.mktemp("reference")
    with pytest.raises(SystemExit) as ended:
        main(["generate", str(recipe), "--weights", str(weights), "--out", str(out), "--seed", "7", "--prompt", PROMPT,
              "--device", "cpu"])  # fmt: skip
    assert not ended.value.code
    return out


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """A picture twice as wide as high, without symmetries, smooth enough for H.264."""
    rows, columns = np.mgrid[0:100, 0:200]
    picture = np.stack([columns, 2 * rows, 120 + 100 * np.sin(columns / 30)], axis=-1).astype(np.uint8)
    path = tmp_path_factory.mktemp("images") / "wide.png"
    Image.fromarray(picture).save(path)
    return path


# What is made


@pytest.mark.parametrize(
    "variant", [*list(FORMS)[:2], pytest.param("960x960_5s", marks=pytest.mark.slow), "960x960_10s"]
)
def test_every_variant_makes_its_clip_from_text(ovikit, weights, recipes, tmp_path, variant):
    ended = ovikit("generate", recipes / f"{variant}.yaml", "--weights", weights, "--prompt", PROMPT, "--out", tmp_path)
    assert ended.status == 0, ended.err
    clip, (frames, side) = only(tmp_path), FORMS[variant]
    assert pixels(clip).shape == (frames, side, side, 3)
    assert len(read_clip(clip).audio) == round(frames / 24 * 16000)
    sidecar = told(clip)
    assert (sidecar["prompt"], sidecar["size_px"], sidecar["first_frame"]) == (PROMPT, [side, side], None)
    joint = weights / kit.VARIANTS[variant][0]
    assert sidecar["weights_sha256"] == sha256_of(joint)
    assert set(sidecar["parts"]) == {"codecs.video", "codecs.audio", "conditioner"}
    assert sidecar["run"]["memory_plan"] == "full"
    assert {"loading", "denoising", "decoding"} <= set(sidecar["run"]["seconds"])
    assert sidecar["run"]["peak_memory_gb"] > 0
    assert "CC-BY-NC" in sidecar["terms"][0]
    # the prompt is put into the format that the variant was trained with, and its author is told
    assert sidecar.get("prepared_prompt") == (SUFFIX if variant.startswith("960") else None)
    assert ("rewritten" in ended.out) == variant.startswith("960")
    assert ended.out.count("CC-BY-NC") == 1
    assert "memory plan full" in ended.out
    assert "denoising" in ended.out.splitlines()[-1]
    assert "peak resident memory" in ended.out.splitlines()[-1]


@pytest.mark.parametrize("plan", ["full", "offload-components", "stream-layers"])
def test_every_memory_plan_gives_the_same_clip(generate, reference, tmp_path, plan):
    assert generate(tmp_path, "-o", f"runtime.memory.plan={plan}").status == 0
    assert clips(tmp_path) == clips(reference)
    assert told(only(tmp_path))["run"]["memory_plan"] == plan


def test_passes_in_one_batch_give_the_clip_but_for_rounding(generate, tmp_path):
    # the released codec works in bfloat16, where the last bit of a latent may become one of a pixel
    exact = ("-o", "model.codecs.video.dtype=float32")
    for how in ("in-turn", "batched"):
        assert generate(tmp_path / how, *exact, "-o", f"runtime.guidance={how}").status == 0
        assert told(only(tmp_path / how))["run"]["passes"] == how.replace("-", " ")
    assert off(pixels(only(tmp_path / "batched")), pixels(only(tmp_path / "in-turn"))) < 1


def test_how_a_clip_is_computed_is_no_reason_to_make_it_again(generate, reference, tmp_path):
    shutil.copytree(reference, tmp_path, dirs_exist_ok=True)
    ended = generate(tmp_path, "-o", "runtime.memory.plan=stream-layers", "-o", "runtime.guidance=batched")
    assert ended.status == 0
    assert "1 clips are there already" in ended.out
    assert clips(tmp_path) == clips(reference)


def test_a_converted_folder_gives_the_same_clip(ovikit, weights, recipe, reference, tmp_path):
    own, out = tmp_path / "own", tmp_path / "out"
    assert ovikit("weights", "convert", weights, own, "--to", "ovikit", "--variant", "720x720_5s").status == 0
    assert (own / "ovikit.json").is_file()
    ended = ovikit("generate", recipe, "--weights", own, "--prompt", PROMPT, "--seed", 7, "--out", out)
    assert ended.status == 0, ended.err
    assert clips(out) == clips(reference)


def test_weights_are_found_where_assets_are(ovikit, weights, recipe, reference, tmp_path, monkeypatch):
    monkeypatch.setenv("OVIKIT_ASSETS", str(weights))
    for name, options in (("all", []), ("file", ["--weights", weights / "Ovi" / "model.safetensors"])):
        out = tmp_path / name
        assert ovikit("generate", recipe, "--prompt", PROMPT, "--seed", 7, "--out", out, *options).status == 0
        assert clips(out) == clips(reference)


def test_a_run_of_its_own_weights_takes_the_rest_from_the_folder(ovikit, weights, recipe, reference, tmp_path):
    run = tmp_path / "run"
    write_lock(load_recipe(recipe), run / LOCK, checkpoint_sha256="")
    official = load_file(weights / "Ovi" / "model.safetensors")
    save_file(ovi_format().keymap.to_ours(official), run / WEIGHTS)
    (weights / "Ovi" / "model.safetensors").rename(tmp_path / "away")
    try:
        ended = ovikit("generate", run, "--weights", weights, "--prompt", PROMPT, "--seed", 7)
    finally:
        (tmp_path / "away").rename(weights / "Ovi" / "model.safetensors")
    assert ended.status == 0, ended.err
    assert clips(run / "prompted") == clips(reference)


def test_the_text_encoder_is_not_needed_for_prompts_that_it_has_seen(generate, reference, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("ovikit_ovi.text.conditioner.Umt5Conditioner.load", refuse)
    assert generate(tmp_path).status == 0
    assert clips(tmp_path) == clips(reference)


# First frames and sizes


def expected_first(recipe: Path, weights: Path, image: Path, size: tuple[int, int], crop: bool) -> torch.Tensor:
    """What the video codec makes of a picture: the first frame of every clip that begins with it."""
    read = load_recipe(recipe)
    form = clip_spec(read)
    codec = build_codecs(read, find_assets(weights))["video"].for_clip(
        type(form)(form.duration_s, *size, form.frame_rate_hz, form.sample_rate_hz)
    )
    frame = first_frame(read_image(image).pixels, size, crop)
    with loaded(codec), torch.no_grad():
        start = codec.encode(frame)
        rest = start.new_zeros(1, codec.channels, codec.shape()[1] - 1, *codec.shape()[2:])
        return Clip.pixels(codec.decode(torch.cat([start, rest], dim=2))[0])[0]


def test_a_clip_begins_with_its_picture_whatever_its_noise(generate, recipe, weights, reference, wide, tmp_path):
    made = []
    for seed in (1, 2):
        assert generate(tmp_path / str(seed), "--image", wide, "--size", "64x64", seed=seed).status == 0
        made.append(pixels(only(tmp_path / str(seed))))
    wanted = expected_first(recipe, weights, wide, (64, 64), crop=True)
    assert off(made[0][0], wanted) < SAME
    assert off(made[1][0], wanted) < SAME
    assert off(made[0][1:], made[1][1:]) > OTHER
    assert off(pixels(only(reference))[0], wanted) > OTHER
    sidecar = told(only(tmp_path / "1"))
    assert sidecar["first_frame"] == {"sha256": sha256_of(wide), "cropped": True, "name": "wide.png"}


def test_the_shape_of_the_picture_decides_unless_a_size_is_given(generate, recipe, weights, wide, tmp_path):
    shaped = generate(tmp_path / "a", "--image", wide, "-o", "clip.area_px=8192")
    assert shaped.status == 0, shaped.err
    assert told(only(tmp_path / "a"))["size_px"] == [64, 128]
    assert "wide.png is 100x200 (height x width) and is resized to 64x128" in shaped.out
    assert off(pixels(only(tmp_path / "a"))[0], expected_first(recipe, weights, wide, (64, 128), crop=False)) < SAME
    asked = generate(tmp_path / "b", "--image", wide, "--size", "96x40")
    assert asked.status == 0
    assert told(only(tmp_path / "b"))["size_px"] == [96, 32]
    assert "96x40 becomes 96x32" in asked.out
    assert "cropped to 96x32" in asked.out


def test_prompts_of_a_file_have_first_frames_and_sizes_of_their_own(generate, wide, tmp_path):
    Image.open(wide).rotate(90, expand=True).save(tmp_path / "high.png")
    rows = ["text_prompt\timage_path", f"{PROMPT}\t{wide}", "Rain.\thigh.png", "Rain.\t", f"{PROMPT}\t{wide}"]
    (tmp_path / "p.tsv").write_text("\n".join(rows) + "\n")
    options = ("--prompts", tmp_path / "p.tsv", "-o", "clip.area_px=8192", "--batch-size", 2)
    assert generate(tmp_path / "out", *options, prompt=None).status == 0
    sizes = [told(path)["size_px"] for path in sorted((tmp_path / "out").glob("*.mp4"))]
    assert sizes == [[64, 128], [128, 64], [64, 64], [64, 128]]
    assert len(set(clips(tmp_path / "out").values())) == 4
    # again, after one was lost: its batch is made again, and gives the same
    before = clips(tmp_path / "out")
    (tmp_path / "out" / "00003.json").unlink()
    ended = generate(tmp_path / "out", *options, prompt=None)
    assert "3 clips are there already" in ended.out
    assert clips(tmp_path / "out") == before


def test_a_picture_that_has_changed_is_another_clip(generate, wide, tmp_path):
    mine = tmp_path / "mine.png"
    shutil.copy(wide, mine)
    assert generate(tmp_path / "out", "--image", mine).status == 0
    before = clips(tmp_path / "out")
    Image.open(wide).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mine)
    ended = generate(tmp_path / "out", "--image", mine)
    assert ended.status == 2
    assert "another first frame" in ended.err
    assert clips(tmp_path / "out") == before


# What is refused


def refused(ended: Ended, out: Path, *parts: str) -> None:
    """The command ended with one message that names these, and left no clip, whole or half."""
    assert ended.status == 2
    assert ended.err.count("error:") == 1
    assert "Traceback" not in ended.err
    for part in parts:
        assert part in ended.err
    assert not list(out.rglob("*.mp4"))
    assert not [path for path in out.rglob(".*") if path.is_file()]


def test_bad_rows_are_all_named_before_anything_is_read_or_written(ovikit, recipe, weights, wide, tmp_path):
    rows = ["text_prompt,image_path", f'"{PROMPT}",{wide}', ",", "Rain.,none.png", f'"{PROMPT}",']
    (tmp_path / "p.csv").write_text("\n".join(rows) + "\n")
    empty = tmp_path / "empty"
    shutil.copytree(weights, empty, copy_function=lambda source, target: Path(target).touch())
    out = tmp_path / "out"
    ended = ovikit("generate", recipe, "--weights", empty, "--prompts", tmp_path / "p.csv", "--out", out)
    refused(ended, out, "p.csv: 2 rows", "line 3: the prompt is empty", "line 4: there is no image 'none.png'")
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "big"], "'big' is not a size"),
        (["--size", "64x40", "-o", "clip.area_px=null"], "width of 40 pixels is not a multiple of 32"),
        (["--image", "none.png"], "none.png: there is no such image"),
        (["--weights", "nowhere"], "no such weights file"),
    ],
)
def test_requests_that_cannot_be_met_leave_no_folder(generate, tmp_path, options, message):
    ended = generate(tmp_path / "out", *options)
    refused(ended, tmp_path / "out", message)
    assert not (tmp_path / "out").exists()


def test_a_recipe_without_its_weights_says_how_to_give_them(ovikit, recipe, tmp_path):
    refused(ovikit("generate", recipe, "--prompt", PROMPT, "--out", tmp_path / "out"), tmp_path, "--weights DIR")


FILES = ["Ovi/model.safetensors", kit.VAE, kit.TEXT, kit.AUDIO_VAE, kit.VOCODER]
SPOILT: dict[str, tuple[Callable[[Path], object], Sequence[str]]] = {
    "truncated": (kit.truncate, FILES),
    "misshaped": (kit.misshape, FILES),
    "with a key too many": (kit.add_key, FILES),
    "with a tensor too few": (kit.drop_tensor, FILES),
    "a pickle that runs code": (kit.evil_pickle, [kit.VAE, kit.TEXT, kit.AUDIO_VAE, kit.VOCODER]),
    "a git-lfs pointer": (kit.lfs_pointer, ["Ovi/model.safetensors", kit.TEXT]),
}
SLOW = {(how, name) for how in SPOILT for name in (kit.AUDIO_VAE, kit.VAE)} | {("with a tensor too few", kit.TEXT)}
SPOILT_FILES = [
    pytest.param(how, name, id=f"{Path(name).name} {how}", marks=[pytest.mark.slow] if (how, name) in SLOW else [])
    for how, (_, names) in SPOILT.items()
    for name in names
]


@pytest.fixture
def mine(weights, tmp_path) -> Path:
    """A copy of the folder to spoil."""
    return Path(shutil.copytree(weights, tmp_path / "mine"))


@pytest.mark.parametrize("name", [*FILES, f"{kit.TOKENIZER}/tokenizer.json"])
def test_a_missing_file_is_named_before_anything_is_written(ovikit, recipe, mine, tmp_path, name):
    (mine / name).unlink()
    out = tmp_path / "out"
    ended = ovikit("generate", recipe, "--weights", mine, "--prompt", PROMPT, "--out", out)
    refused(ended, out, Path(name).name if name in FILES else "tokenizer")
    assert not out.exists()


@pytest.mark.parametrize(("how", "name"), SPOILT_FILES)
def test_a_spoilt_file_is_named_and_nothing_is_half_written(ovikit, recipe, mine, tmp_path, how, name):
    spoil = SPOILT[how][0]
    mark = spoil(mine / name)
    out = tmp_path / "out"
    ended = ovikit("generate", recipe, "--weights", mine, "--prompt", PROMPT, "--out", out)
    refused(ended, out, Path(name).name)
    if how == "a pickle that runs code":
        assert isinstance(mark, Path)
        assert not mark.exists()
        assert "code" in ended.err
    if how in ("with a key too many", "with a tensor too few"):
        assert str(mark) in ended.err or "1 tensors" in ended.err


# Ended early


def command(recipe: Path, weights: Path, out: Path) -> list[str]:
    words = ["generate", recipe, "--weights", weights, "--prompt", PROMPT, "--count", 3, "--out", out, "--seed", 7]
    return [sys.executable, "-m", "ovikit", *map(str, words), "--batch-size", "1", "--device", "cpu"]


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_that_was_ended_goes_on_to_the_same_clips(ovikit, recipe, weights, reference, tmp_path, how):
    out = tmp_path / "out"
    running = subprocess.Popen(command(recipe, weights, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("*seed7.json")) and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(how)
    _, err = running.communicate()
    assert running.returncode == (-how if how == signal.SIGKILL else 130), err
    assert "Traceback" not in err
    assert len(clips(out)) < 3, "it was ended too late to show anything"
    assert ovikit(*command(recipe, weights, out)[3:]).status == 0
    found = clips(out)
    assert len(set(found.values())) == len(found) == 3
    assert clips(reference).items() <= found.items()
    assert ovikit(*command(recipe, weights, tmp_path / "whole")[3:]).status == 0
    assert clips(tmp_path / "whole") == found
