"""The affinity of positions: what is averaged, where its ridge lies, and what is written."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ovikit.errors import UserError
from ovikit.figures.affinity import (
    Affinity,
    AffinityMap,
    affinity,
    between,
    least_distance_s,
    physical_steps,
    ridge_distance_s,
)
from ovikit.figures.affinity_picture import draw_affinity, write_affinity
from ovikit.networks.axes import axis_angles
from ovikit.types import AV, TokenGrid

GRIDS = AV(video=TokenGrid.uniform("video", (6, 2, 3), 0.4, 0.1), audio=TokenGrid.uniform("audio", (21, 1, 1), 0.1))


class Timed:
    """Turns by the middle of each token in seconds times a rate; rows by index; audio stands on a row of its own."""

    def __init__(self, audio_rate: float = 1.0, still: bool = False) -> None:
        self.audio_rate, self.still = audio_rate, still

    def angles(self, grid: TokenGrid, head_width: int, use: Any) -> Tensor:
        places = grid.index.to(torch.float64)
        places[:, 0] = grid.seconds.mean(1) * 4 * (self.audio_rate if grid.modality == "audio" else 1.0)
        if grid.modality == "audio":
            places[:, 1] = -5.0
        if self.still:
            places[:, 0] = 3.0
        return axis_angles(places, head_width, 100.0)


def test_it_is_the_mean_cosine_over_the_pairs_that_turn_with_time() -> None:
    """Head width 8: two pairs of time, of 4 and 0.4 radians a second; the row that audio stands on does not count."""
    found = affinity(Timed(), GRIDS, 8)
    seen, heard = (torch.tensor(grid.edges_s, dtype=torch.float64).mean(1) for grid in GRIDS.values())
    apart = heard[:, None] - seen[None]
    assert torch.allclose(found, ((4 * apart).cos() + (0.4 * apart).cos()) / 2, atol=1e-12)


def test_positions_that_stand_still_have_no_affinity() -> None:
    with pytest.raises(ValueError, match="turns nothing with time"):
        affinity(Timed(still=True), GRIDS, 8)


def test_an_aligned_scheme_has_its_ridge_at_the_nearest_step() -> None:
    aligned = ridge_distance_s(affinity(Timed(), GRIDS, 20), GRIDS)
    assert aligned == pytest.approx(least_distance_s(GRIDS), abs=1e-12)
    assert ridge_distance_s(affinity(Timed(3.0), GRIDS, 20), GRIDS) > 3 * aligned


def test_the_ridge_by_hand() -> None:
    """Two audio tokens of 1 s that look at the wrong and at the right one of two video steps."""
    grids = AV(TokenGrid.uniform("video", (2, 1, 1), 1.0), TokenGrid.uniform("audio", (2, 1, 1), 1.0))
    found = torch.tensor([[0.1, 0.9], [0.2, 0.3]], dtype=torch.float64)
    assert ridge_distance_s(found, grids) == 0.5
    assert least_distance_s(grids) == 0.0


def test_the_physical_line_is_straight_in_seconds_also_beyond_the_middles() -> None:
    steps = physical_steps(GRIDS)
    assert np.all(np.diff(steps) > 0)
    # after the short first step, 0.4 s a step: four audio tokens
    assert np.allclose(np.diff(steps[4:]), 0.25)
    middle = 0.1 + 0.4 * 1.5  # of the third step
    assert between(np.array([middle]), np.array([0.05, 0.3, 0.7]), np.arange(3.0)) == pytest.approx(2.0)


def made() -> Affinity:
    maps = [affinity(Timed(rate), GRIDS, 20) for rate in (3.0, 1.0)]
    before, after = (AffinityMap("timed", {"rate": 1.0}, one, ridge_distance_s(one, GRIDS)) for one in maps)
    return Affinity("here", GRIDS, before, after)


def test_both_files_hold_the_numbers_exactly(tmp_path: Path) -> None:
    found = made()
    write_affinity(found, tmp_path / "a.safetensors")
    write_affinity(found, tmp_path / "a.csv")
    tensors = load_file(tmp_path / "a.safetensors")
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert tensors.keys() == {"affinity.before", "affinity.after"}
    for place, one in found.maps.items():
        assert torch.equal(tensors[f"affinity.{place}"], one.values)
        read = torch.tensor([float(row[place]) for row in rows], dtype=torch.float64)
        assert torch.equal(read.view_as(one.values), one.values)
    assert [float(rows[7][key]) for key in ("audio_token", "video_step", "audio_s", "video_s")] == [1, 1, 0.15, 0.3]


def test_other_data_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in none of \.safetensors, \.csv"):
        write_affinity(made(), tmp_path / "a.json")


def test_the_picture_is_bright_on_the_aligned_diagonal_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_affinity(made(), tmp_path / "deep" / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "deep" / "a.png").convert("RGB")).astype(int)
    yellow = (pixels[..., 0] > 180) & (pixels[..., 1] > 200) & (pixels[..., 2] < 80)
    left, right = yellow[:, : pixels.shape[1] // 2 - 40], yellow[:, pixels.shape[1] // 2 - 40 :]
    assert pixels.shape[1] > 1500
    assert right.sum() > 2 * left.sum() > 0
