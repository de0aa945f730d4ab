"""Pairs and token grids."""

from __future__ import annotations

import pytest
import torch

from ovikit.types import AV, Clip, ClipSpec, TokenGrid


def test_pair_maps_only_what_is_there() -> None:
    assert AV(video=2, audio=3).map(lambda x: x * x) == AV(4, 9)
    assert AV(audio=3).map(lambda x: x * x) == AV(audio=9)
    assert AV(audio=3).modalities == ("audio",)
    assert AV(1, 2).zip(AV(10, 20), lambda a, b: a + b) == AV(11, 22)
    assert AV(1).zip(AV(10, 20), lambda a, b: a + b) == AV(11)


def test_pair_keeps_falsy_values_and_names_what_is_absent() -> None:
    assert list(AV(0, 0.0).items()) == [("video", 0), ("audio", 0.0)]
    with pytest.raises(KeyError, match="no audio"):
        AV(video=1)["audio"]
    with pytest.raises(KeyError, match="no audio"):
        AV(1, 2).zip(AV(1), lambda a, b: a + b)


def test_grid_orders_tokens_by_step_row_column() -> None:
    grid = TokenGrid.uniform("video", (2, 2, 3), 0.5)
    assert grid.index[:7].tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2], [1, 0, 0]]
    assert len(grid) == len(grid.index) == len(grid.seconds) == len(grid.space) == 12
    assert grid.tokens_per_step == 6


def test_causal_grid_gives_the_first_step_its_own_duration() -> None:
    """121 frames at 24 Hz, 4 to a latent but the first alone: 31 latents that end at 121 / 24 s."""
    grid = TokenGrid.uniform("video", (31, 1, 1), 4 / 24, 1 / 24)
    assert grid.seconds[0].tolist() == [0.0, 1 / 24]
    assert grid.seconds[-1, 1].item() == pytest.approx(121 / 24)
    assert torch.equal(grid.seconds[1:, 0], grid.seconds[:-1, 1])


def test_pooling_keeps_time_and_space() -> None:
    grid = TokenGrid.uniform("video", (4, 4, 6), 0.25)
    pooled = grid.pooled((2, 2, 2))
    assert pooled.shape == (2, 2, 3)
    assert pooled.edges_s == ((0.0, 0.5), (0.5, 1.0))
    fine = grid.space.reshape(4, 2, 2, 3, 2, 2).mean((0, 2, 4))
    assert torch.allclose(fine.reshape(-1, 2), pooled.space[:6])
    with pytest.raises(ValueError, match="cannot be cut"):
        grid.pooled((3, 2, 2))


def test_grids_are_keys() -> None:
    first, second = (TokenGrid.uniform("audio", (5, 1, 1), 0.032) for _ in range(2))
    assert {first: 1}[second] == 1
    assert first != TokenGrid.uniform("audio", (5, 1, 1), 0.04)
    with pytest.raises(ValueError, match="5 steps"):
        TokenGrid("audio", (5, 1, 1), ((0.0, 1.0),))


def test_clip_spec_counts_frames_and_samples() -> None:
    spec = ClipSpec(duration_s=2.0, height_px=64, width_px=64, frame_rate_hz=24.0, sample_rate_hz=16000)
    assert (spec.frames, spec.samples) == (48, 32000)


def test_every_pixel_comes_back_from_its_signal() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    clip = Clip("c", "", levels, None, 24.0, 16000)
    signal = clip.signal("video")
    assert (signal.min(), signal.max()) == (-1.0, 1.0)
    assert torch.equal(Clip.pixels(signal), levels)
    assert torch.equal(Clip.pixels(signal * 999), torch.where(levels < 128, 0, 255).to(torch.uint8))
    assert clip.modalities == ("video",)
    with pytest.raises(KeyError, match="no audio"):
        clip.signal("audio")
