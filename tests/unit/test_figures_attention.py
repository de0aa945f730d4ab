"""Figures of attention apart from any plugin: what is refused, which pixels glow, and what the two files hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_kit import kit_installed, write_recipe

from ovikit.checkpoints.load import write_tensors
from ovikit.commands.figures import parse_numbers
from ovikit.errors import UserError
from ovikit.figures.attention import (
    Attention,
    find_weighted,
    numbered_tokens,
    record_attention,
    refuse_alike,
    spread_tokens,
    tokens_at,
)
from ovikit.figures.attention_film import heat_of_frames, write_film
from ovikit.figures.attention_picture import draw_attention, moments
from ovikit.figures.heat import hottest, laid_over, over_pixels, step_at
from ovikit.generate.media import read_clip
from ovikit.generate.prompts import given_prompts
from ovikit.recipe.build import build_codecs, build_conditioner, build_model, fill_model
from ovikit.recipe.load import load_recipe
from ovikit.types import AV, Clip, TokenGrid

SOUND = TokenGrid.uniform("audio", (10, 1, 1), 0.1)
PICTURE = TokenGrid.uniform("video", (4, 2, 3), 0.3, 0.1)


def found(maps: torch.Tensor) -> Attention:
    """A black clip of 1 s with those maps, 10 frames a second, 16 x 24 pixels."""
    video = torch.zeros(10, 16, 24, 3, dtype=torch.uint8)
    clip = Clip("one", "a prompt", video, torch.linspace(-0.5, 0.5, 16000).sin(), 10.0, 16000)
    return Attention(clip, maps, AV(PICTURE, SOUND), (0, 1), 2, 4)


def one_place(token: int, step: int, y: int, x: int) -> Attention:
    """All attend evenly, but for one token that attends to one place alone."""
    maps = torch.full((10, len(PICTURE)), 1 / len(PICTURE))
    maps[token] = 0.0
    maps[token, PICTURE.index.tolist().index([step, y, x])] = 1.0
    return found(maps)


def test_tokens_are_those_that_sound_at_a_time() -> None:
    assert tokens_at(SOUND, [0.0, 0.05, 0.31, 0.99]) == [0, 0, 3, 9]
    assert spread_tokens(SOUND) == [1, 3, 6, 8]
    assert spread_tokens(TokenGrid.uniform("audio", (2, 1, 1), 1.0)) == [0, 1]
    assert numbered_tokens(SOUND, [9, 0]) == [9, 0]


@pytest.mark.parametrize("time", [-0.01, 1.0, float("nan"), float("inf")])
def test_times_outside_of_the_sound_are_refused(time: float) -> None:
    with pytest.raises(UserError, match=r"--at: .* lies outside of the sound, which lasts 1\.00 s"):
        tokens_at(SOUND, [0.5, time])


def test_tokens_that_are_not_there_are_refused() -> None:
    with pytest.raises(UserError, match="--tokens: there is no audio token 10: a clip has 10, from 0 on"):
        numbered_tokens(SOUND, [0, 10])


def test_lists_of_numbers() -> None:
    assert parse_numbers("0, 8-11,9", "--layers") == [0, 8, 9, 10, 11]
    for text in ("", "1,,2", "-1", "1.5", "a", "3-"):
        with pytest.raises(UserError, match=r"--layers: .* is no list of whole numbers"):
            parse_numbers(text, "--layers")
    with pytest.raises(UserError, match="write it as 4-7"):
        parse_numbers("7-4", "--layers")


def test_calls_that_look_alike_are_refused() -> None:
    refuse_alike(5, AV(video=12, audio=5))
    with pytest.raises(UserError, match="12 tokens of the picture and as many of the sound or the text"):
        refuse_alike(12, AV(video=12, audio=5))
    with pytest.raises(UserError, match="17 tokens of picture and sound and as many of"):
        refuse_alike(17, AV(video=12, audio=5))


def test_steps_of_times_and_times_of_steps() -> None:
    assert [step_at(PICTURE, time) for time in (-1.0, 0.0, 0.09, 0.1, 0.39, 0.4, 5.0)] == [0, 0, 0, 1, 1, 2, 3]
    one = one_place(0, 0, 0, 0)
    # middles at 0.05, 0.25, 0.55 and 0.85 s
    assert moments(one, 2) == [(2, [0, 1]), (7, [2, 3])]
    assert moments(one, 4) == [(1, [0]), (3, [1]), (6, [2]), (8, [3])]
    assert [steps for _, steps in moments(one, 5)] == [[0], [1], [2], [3], [3]]  # none from 0.6 to 0.8 s


def test_heat_covers_the_pixels_of_its_token() -> None:
    """Linear between middles: greatest in the token's own block, none two tokens away; an even map stays even."""
    heat = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    wide = over_pixels(heat, (16, 24))
    assert np.unravel_index(wide.argmax(), wide.shape)[1] >= 16
    assert wide[:8, 16:].mean() > 4 * wide[8:, 16:].mean() > 0
    assert wide[:, :8].max() == 0.0
    assert np.allclose(over_pixels(torch.full((2, 3), 0.4), (16, 24)), 0.4)


def test_cold_pixels_are_dim_and_hot_ones_glow() -> None:
    pytest.importorskip("matplotlib")
    frame = np.full((2, 2, 3), 200, dtype=np.uint8)
    mixed = laid_over(frame, np.array([[0.0, 0.3], [1.0, 7.0]], dtype=np.float32))
    assert mixed[0, 0].tolist() == [160, 160, 160]
    assert np.array_equal(mixed[1, 0], mixed[1, 1])
    assert mixed[1, 0, 0] > 230
    assert mixed[1, 0, 2] < mixed[1, 0, 1]


def test_the_hottest_is_not_one_outlier() -> None:
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    values[3] = 100.0
    assert hottest(values) <= 1.0
    assert hottest(torch.tensor([0.0, 2.0])) == 2.0
    assert hottest(torch.zeros(3)) > 0


def test_each_frame_shows_what_sounds_during_it() -> None:
    """Token 5 sounds from 0.5 to 0.6 s, in frame 5, which is of step 2."""
    even = 1 / len(PICTURE)
    heat = heat_of_frames(one_place(5, 2, 1, 2))
    assert heat.shape == (10, 2, 3)
    assert torch.allclose(heat[[0, 4, 6, 9]], torch.tensor(even))
    expected = torch.zeros(2, 3)
    expected[1, 2] = 1.0
    assert torch.allclose(heat[5], expected, atol=1e-6)
    elsewhere = heat_of_frames(one_place(5, 3, 1, 2))
    assert elsewhere[5].abs().max() < 1e-6


def test_a_frame_between_two_tokens_shows_their_mean() -> None:
    maps = torch.zeros(10, len(PICTURE))
    maps[:, 6] = torch.arange(10.0)  # the first place of step 1, which is on show at 0.1 s
    between = found(maps)
    slow = Clip("two", "", between.clip.video[:5], between.clip.audio, 5.0, 16000)
    heat = heat_of_frames(Attention(slow, maps, between.grids, (0,), 1, 1))
    assert heat[0, 0, 0] == pytest.approx(0.5)  # tokens 0 and 1, as long each
    after = Clip("three", "", between.clip.video.repeat(2, 1, 1, 1), between.clip.audio, 10.0, 16000)
    assert torch.isfinite(heat_of_frames(Attention(after, maps, between.grids, (0,), 1, 1))).all()


def test_both_files_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    one = one_place(5, 2, 1, 2)
    draw_attention(one, [0, 5], tmp_path / "a.png")
    write_film(one, tmp_path / "a.mp4")
    assert min(Image.open(tmp_path / "a.png").size) > 400
    clip = read_clip(tmp_path / "a.mp4")
    assert (tuple(clip.video.shape), clip.frame_rate_hz) == ((10, 256, 384, 3), 10.0)
    assert abs(len(clip.audio) - 16000) < 1600
    glow = clip.video[5].float().mean(-1)
    assert glow[128:, 256:].mean() > 5 * glow[:128, :128].mean()


@pytest.fixture
def kit_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """(recipe file, weights file) of the kit's model, whose fusion adds a mean and attends to nothing."""
    with kit_installed(monkeypatch):
        path = write_recipe(tmp_path)
        recipe = load_recipe(path)
        model = build_model(recipe, build_codecs(recipe), build_conditioner(recipe), "meta")
        fill_model(model, recipe)
        write_tensors(tmp_path / "w.safetensors", model.state_dict(), {})
        yield path, tmp_path / "w.safetensors"


def test_a_fusion_without_attention_is_told_so(kit_run: tuple[Path, Path]) -> None:
    source = find_weighted(kit_run[0], [], None, kit_run[1])
    with pytest.raises(UserError, match="fusion 'kit-fusion' has no such attention to show"):
        record_attention(source, given_prompts(["a ball"])[0])


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (["model.fusion.type=none"], {}, "fusion 'none' has no such attention"),
        (["model.audio=null", "model.fusion.type=none", "training.stage=video"], {}, "makes video alone"),
        ([], {"step": 3}, "--step: there is no step 3: the recipe denoises in 2, from 1 on"),
        ([], {"step": 0}, "--step: there is no step 0"),
        ([], {"layers": [0, 2]}, "--layers: there is no layer 2: the model has 2, from 0 on"),
        ([], {"choose": lambda grid: numbered_tokens(grid, [99])}, "there is no audio token 99"),
        ([], {"choose": lambda grid: list(range(41))}, "at most 40 rows, not 41"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_is_read(
    kit_run: tuple[Path, Path], overrides: list[str], options: dict, message: str
) -> None:
    source = find_weighted(kit_run[0], overrides, None, kit_run[1])
    with pytest.raises(UserError, match=message):
        record_attention(source, given_prompts(["a ball"])[0], **options)


def test_checkpoints_that_are_no_weights_are_refused(kit_run: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"")
    for checkpoint, weights, message in (
        ("last.ckpt", None, "this is the state of a training, not a file of weights"),
        ("none.safetensors", None, "no such weights file"),
        ("w.safetensors", tmp_path / "w.safetensors", "both name the network's weights"),
    ):
        with pytest.raises(UserError, match=message):
            find_weighted(kit_run[0], [], weights, tmp_path / checkpoint)
    both = find_weighted(kit_run[0], [], tmp_path, kit_run[1])
    assert (both.weights, both.assets.root) == (kit_run[1], tmp_path)
