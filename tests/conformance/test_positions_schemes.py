"""The positional schemes: what each counts, by hand, and what holds of attention scores whatever queries and keys are.

Grids here are small and exact: 4 audio tokens last as long as a video step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ovikit.errors import UserError
from ovikit.kernel.manager import installed_catalog
from ovikit.networks.axes import axis_channels, frequencies
from ovikit.networks.protocols import Positions
from ovikit.networks.rotary import rotate, rotation
from ovikit.recipe.load import load_recipe
from ovikit.types import TokenGrid
from ovikit_positions.schemes import Interleaved

STEP_S, PER_STEP = 0.5, 4
VIDEO = TokenGrid.uniform("video", (7, 2, 3), STEP_S)
AUDIO = TokenGrid.uniform("audio", (28, 1, 1), STEP_S / PER_STEP)
WIDTHS = (2, 4, 8, 10, 20, 32, 64, 128)
ALIGNED: Mapping[str, Mapping[str, Any]] = {
    "scaled-audio": {"ratio": 1 / PER_STEP},
    "scaled-video": {"ratio": float(PER_STEP)},
    "seconds": {},
    "interleaved": {"ratio": 1 / PER_STEP},
}
ALL = {**ALIGNED, "native": {}, "none": {}}


def scheme(name: str, **options: Any) -> Positions:
    component = installed_catalog().find("positions", name).component
    return component.build(component.config(**options))


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scores(query_angles: Tensor, key_angles: Tensor) -> Tensor:
    """(n, m) products of one random query and one random key, at the places of all tokens."""
    width = 2 * query_angles.shape[1]

    def turned(angles: Tensor, seed: int) -> Tensor:
        same = drawn(width, seed=seed).expand(1, len(angles), 1, width)
        return rotate(same, rotation(angles, "cpu", torch.float64))[0, :, 0]

    return turned(query_angles, 1) @ turned(key_angles, 2).T


def times(grid: TokenGrid, head_width: int, found: Tensor) -> Tensor:
    """(steps, pairs) the angles of the time channels, of the first token of each step."""
    return found[:: grid.tokens_per_step, : axis_channels(head_width)[0] // 2]


@pytest.mark.parametrize("head_width", WIDTHS)
@pytest.mark.parametrize("name", ALL)
def test_angles_have_the_width_of_half_a_head_and_are_finite(name: str, head_width: int) -> None:
    for grid in (VIDEO, AUDIO):
        for use in ("self", "fusion"):
            found = scheme(name, **ALL[name]).angles(grid, head_width, use)
            assert (found.shape, found.dtype) == ((len(grid), head_width // 2), torch.float64)
            assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", [*ALIGNED, "none"])
def test_fusion_scores_see_only_the_distance_in_time(name: str) -> None:
    """All tokens of both modalities one video step later: the scores of video with audio are the same."""
    one = scheme(name, **ALL[name])
    video, audio = (one.angles(grid, 20, "fusion") for grid in (VIDEO, AUDIO))
    found = scores(video, audio)
    later = found[VIDEO.tokens_per_step :, PER_STEP:]
    assert torch.allclose(later, found[: -VIDEO.tokens_per_step, :-PER_STEP], atol=1e-12)
    moved_alone = found[VIDEO.tokens_per_step :, :-PER_STEP]
    assert torch.allclose(moved_alone, found[: -VIDEO.tokens_per_step, :-PER_STEP]) == (name == "none")


def test_native_scores_see_only_the_distance_in_tokens() -> None:
    one = scheme("native")
    found = scores(one.angles(VIDEO, 20, "fusion"), one.angles(AUDIO, 20, "fusion"))
    size = VIDEO.tokens_per_step
    assert torch.allclose(found[size:, 1:], found[:-size, :-1], atol=1e-12)
    assert not torch.allclose(found[size:, PER_STEP:], found[:-size, :-PER_STEP])


@pytest.mark.parametrize("grid", [VIDEO, AUDIO], ids=["video", "audio"])
@pytest.mark.parametrize("name", ALL)
def test_self_scores_see_only_the_distance(name: str, grid: TokenGrid) -> None:
    """In time, and of video in rows and columns too."""
    found = scheme(name, **ALL[name]).angles(grid, 20, "self")
    table = scores(found, found).view(*grid.shape, *grid.shape)
    assert torch.allclose(table[1:, :, :, 1:], table[:-1, :, :, :-1], atol=1e-12)
    assert torch.allclose(table[:, 1:, :, :, 1:], table[:, :-1, :, :, :-1], atol=1e-12)
    assert torch.allclose(table[:, :, 1:, :, :, 1:], table[:, :, :-1, :, :, :-1], atol=1e-12)
    assert not torch.allclose(table[1:, :, :, 1:], table[1:, :, :, :-1])


@pytest.mark.parametrize("head_width", [4, 20, 128])
@pytest.mark.parametrize("name", ["scaled-audio", "scaled-video", "interleaved"])
def test_schemes_of_index_give_equal_angles_where_tokens_start_together(name: str, head_width: int) -> None:
    one = scheme(name, **ALIGNED[name])
    video, audio = (times(grid, head_width, one.angles(grid, head_width, "fusion")) for grid in (VIDEO, AUDIO))
    assert torch.allclose(audio[::PER_STEP], video, atol=1e-12)
    assert VIDEO.seconds[:: VIDEO.tokens_per_step, 0].equal(AUDIO.seconds[::PER_STEP, 0])


def test_seconds_give_equal_angles_where_tokens_have_their_middle_together() -> None:
    """Three audio tokens a step: the second one has the middle of the step, whatever the steps before lasted."""
    one, head_width = scheme("seconds"), 20
    for first_s in (None, 0.25):
        video = TokenGrid.uniform("video", (4, 2, 2), 0.75, first_s)
        audio = TokenGrid.uniform("audio", (20, 1, 1), 0.25)
        found = [times(grid, head_width, one.angles(grid, head_width, "fusion")) for grid in (video, audio)]
        middles = [grid.seconds[:: grid.tokens_per_step].mean(dim=1) for grid in (video, audio)]
        together = [(v, a) for v in range(4) for a in range(20) if abs(middles[0][v] - middles[1][a]) < 1e-9]
        assert len(together) == 4
        for v, a in together:
            assert torch.allclose(found[0][v], found[1][a], atol=1e-12)


def test_the_first_step_shift_puts_each_step_of_a_causal_codec_at_its_start() -> None:
    causal = TokenGrid.uniform("video", (5, 1, 1), STEP_S, STEP_S / 4)
    finer = TokenGrid.uniform("audio", (5 * 16, 1, 1), STEP_S / 16)
    one = scheme("scaled-video", ratio=16.0, first_step_shift=0.75)
    video, audio = (one.angles(grid, 20, "fusion") for grid in (causal, finer))
    starts = (causal.seconds[:, 0] / (STEP_S / 16)).round().long()
    assert starts.tolist() == [0, 4, 20, 36, 52]
    assert torch.allclose(video, audio[starts], atol=1e-12)
    plain = scheme("scaled-video", ratio=16.0).angles(causal, 20, "fusion")
    assert torch.equal(plain[0], video[0])
    assert not torch.allclose(plain[1:], video[1:])


@pytest.mark.parametrize(
    ("name", "options", "use", "video", "audio"),
    [
        # head width 8: two pairs of time (1 and 100 ** -0.5), one of rows, one of columns; tokens (2, 1, 2) and 3
        ("scaled-video", {"ratio": 5.0}, "fusion", (10.0, 1.0, 1.0, 2.0), (3.0, 0.3, 0.0, 0.0)),
        ("scaled-video", {"ratio": 5.0, "first_step_shift": 0.5}, "self", (7.5, 0.75, 1.0, 2.0), (3.0, 0.3, 0.0, 0.0)),
        ("seconds", {"per_second": 8.0}, "self", (10.0, 1.0, 1.0, 2.0), (3.5, 0.35, 0.0, 0.0)),
        ("seconds", {"per_second": 8.0}, "fusion", (10.0, 1.0, 0.0, 0.0), (3.5, 0.35, 0.0, 0.0)),
        ("seconds", {}, "fusion", (7.5, 0.75, 0.0, 0.0), (2.625, 0.2625, 0.0, 0.0)),
        ("interleaved", {"ratio": 0.25}, "fusion", (2.0, 0.2, 1.0, 2.0), (0.75, 0.075, -1.0, -1.0)),
        ("interleaved", {"ratio": 0.25, "offset": -3}, "self", (2.0, 0.2, 1.0, 2.0), (0.75, 0.075, -3.0, -3.0)),
        ("none", {}, "self", (2.0, 0.2, 1.0, 2.0), (3.0, 0.3, 0.0, 0.0)),
        ("none", {}, "fusion", (0.0,) * 4, (0.0,) * 4),
        ("native", {}, "fusion", (2.0, 0.2, 1.0, 2.0), (3.0, 0.3, 0.0, 0.0)),
    ],
)
def test_angles_by_hand(name: str, options: dict[str, float], use: str, video: tuple, audio: tuple) -> None:
    one = scheme(name, theta=100.0, **options)
    token = VIDEO.index.tolist().index([2, 1, 2])
    for grid, i, expected in ((VIDEO, token, video), (AUDIO, 3, audio)):
        found = one.angles(grid, 8, use)[i]
        assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-14)


def test_defaults_are_the_released_rates() -> None:
    config = installed_catalog().find("positions", "scaled-video").component.config()
    assert config.ratio * 0.19676 == pytest.approx(1.0, abs=1e-15)
    assert config.first_step_shift == 0.0
    wan = TokenGrid.uniform("video", (5, 1, 1), 4 / 24)
    counted = scheme("seconds").angles(wan, 8, "fusion")[:, 0]
    assert torch.allclose(counted, torch.arange(5, dtype=torch.float64) + 0.5)


def test_frequencies_are_wans() -> None:
    assert torch.equal(frequencies(44, 10000.0), 10000.0 ** -(torch.arange(0, 44, 2, dtype=torch.float64) / 44))
    assert [sum(axis_channels(width)) for width in WIDTHS] == list(WIDTHS)


@pytest.mark.parametrize("use", ["self", "fusion"])
def test_how_the_schemes_relate(use: str) -> None:
    """Every scheme is native with another count of time, where it turns at all."""
    native, width = scheme("native"), 20
    pairs = axis_channels(width)[0] // 2
    plain = {grid.modality: native.angles(grid, width, use) for grid in (VIDEO, AUDIO)}
    for name, options, scale in (
        ("scaled-audio", {"ratio": 0.3}, {"video": 1.0, "audio": 0.3}),
        ("interleaved", {"ratio": 0.3}, {"video": 1.0, "audio": 0.3}),
        ("scaled-video", {"ratio": 5.0}, {"video": 5.0, "audio": 1.0}),
        ("scaled-video", {"ratio": 1.0}, {"video": 1.0, "audio": 1.0}),
    ):
        for grid in (VIDEO, AUDIO):
            found, expected = scheme(name, **options).angles(grid, width, use), plain[grid.modality]
            assert torch.allclose(found[:, :pairs], scale[grid.modality] * expected[:, :pairs])
            if name != "interleaved" or grid is VIDEO:
                assert torch.equal(found[:, pairs:], expected[:, pairs:])
    for grid in (VIDEO, AUDIO):
        found = scheme("none").angles(grid, width, use)
        assert torch.equal(found, plain[grid.modality] if use == "self" else torch.zeros_like(found))


@pytest.mark.parametrize("offset", [-1, -2, -7])
@pytest.mark.parametrize("ratio", [0.19676, 0.25, 1.0])
def test_interleaved_tokens_of_two_modalities_never_share_a_place(offset: int, ratio: float) -> None:
    one = Interleaved(ratio, offset)
    for video in (VIDEO, TokenGrid.uniform("video", (30, 1, 1), 0.1), TokenGrid.uniform("video", (3, 8, 9), 0.1)):
        places = [tuple(row) for grid in (video, AUDIO) for row in one.places(grid).tolist()]
        assert len(set(places)) == len(places)
        seen, heard = (one.angles(grid, 20, "fusion") for grid in (video, AUDIO))
        apart = torch.cdist(torch.cat((seen.cos(), seen.sin()), 1), torch.cat((heard.cos(), heard.sin()), 1))
        assert apart.min() > 0.1  # rows and columns keep them apart by as much at equal times as anywhere
    shared = scheme("scaled-audio", ratio=ratio)
    assert torch.equal(shared.angles(VIDEO, 20, "fusion")[0], shared.angles(AUDIO, 20, "fusion")[0])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("scaled-video", {"ratio": 0.0}), ("scaled-video", {"ratio": float("inf")}), ("seconds", {"theta": 1.0}),
        ("scaled-video", {"first_step_shift": -0.1}), ("scaled-video", {"first_step_shift": 1.0}),
        ("seconds", {"per_second": -6.0}), ("seconds", {"ratio": 0.2}), ("interleaved", {"offset": 0}),
        ("interleaved", {"offset": -1.5}), ("interleaved", {"ratio": float("nan")}), ("none", {"ratio": 1.0}),
    ],
)  # fmt: skip
def test_bad_options_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        installed_catalog().find("positions", name).component.config(**options)


def test_a_bad_option_of_a_recipe_is_told_with_its_place() -> None:
    recipe = "recipes/tiny/ovi.yaml"
    with pytest.raises(UserError, match=r"model\.positions\.offset"):
        load_recipe(recipe, ["model.positions.type=interleaved", "model.positions.offset=2"])
