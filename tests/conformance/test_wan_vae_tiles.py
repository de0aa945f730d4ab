"""The ``wan-vae`` codec within a bound of memory: what it takes, how it is cut, and how far that is from the whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from einops import reduce
from official_video import write_video_weights
from torch import Tensor
from wan_vae_kit import FULL, GOLDEN, apart, build, clip, loaded, pictures, random

from ovikit.checkpoints.assets import Assets
from ovikit.checkpoints.load import read_tensors
from ovikit_ovi.video.causal import features_of_latents, features_of_pixels, pixels_of_features
from ovikit_ovi.video.codec import Limits, WanVae
from ovikit_ovi.video.component import (
    COMPONENT,
    EXACT_OVERLAP_PX,
    LATENT_MEAN,
    LATENT_STD,
    TIME_HALVED,
    VAE_FILE,
    WIDTH_FACTORS,
    WanVaeConfig,
)
from ovikit_ovi.video.memory import bytes_per_cell, peak_bytes
from ovikit_ovi.video.tiling import Cut, tiling_of
from ovikit_ovi.video.weights import Architecture, VideoWeights, empty_vae


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with a tiny file."""
    root = tmp_path_factory.mktemp("weights")
    write_video_weights(root / VAE_FILE)
    return root


@cache
def golden_weights() -> VideoWeights:
    """The weights of the golden file."""
    config = json.loads(read_tensors(GOLDEN)[1]["config"])
    sizes = Architecture(config["dim"], config["dec_dim"], WIDTH_FACTORS, TIME_HALVED, 2, LATENT_MEAN, LATENT_STD)
    weights = VideoWeights(Assets(None), "", sizes, torch.float32)
    tensors, _ = read_tensors(GOLDEN)
    weights.put({n.removeprefix("weights."): v for n, v in tensors.items() if n.startswith("weights.")}, str(GOLDEN))
    return weights


@pytest.mark.parametrize("length", [1, 7, 30, 60])
@pytest.mark.parametrize("overlap", [0, 3, 8, 20, 26])
@pytest.mark.parametrize("reach", [0, 4, 13])
def test_spans_cover_an_axis_and_their_weights_sum_to_one(length: int, overlap: int, reach: int) -> None:
    for count in range(1, 8):
        cut = Cut.of(length, count, overlap)
        if cut.side <= overlap and count > 1:
            continue
        assert (cut.starts[0], cut.starts[-1] + cut.side) == (0, length)
        assert all(
            after - start <= cut.side - overlap for start, after in zip(cut.starts, cut.starts[1:], strict=False)
        )
        total = torch.zeros(2 * length, dtype=torch.float64)
        for start, weight in zip(cut.starts, cut.ramps(2, reach), strict=True):
            total[2 * start : 2 * (start + cut.side)] += weight
            if overlap >= 2 * reach:  # nothing is used that lacks what lies outside
                assert start == 0 or weight[: 2 * reach].abs().sum() == 0
                assert start + cut.side == length or weight[len(weight) - 2 * reach :].abs().sum() == 0
        torch.testing.assert_close(total, torch.ones_like(total))


def test_a_tiling_is_the_least_work_within_its_limits() -> None:
    assert str(tiling_of(60, 60, overlap=8)) == "untiled"
    assert str(tiling_of(44, 80, overlap=8, most_cells=44 * 44)) == "1x2 of 44x44"
    assert str(tiling_of(60, 60, overlap=8, longest=34)) == "2x2 of 34x34"
    with pytest.raises(ValueError, match="small enough"):
        tiling_of(60, 60, overlap=8, most_cells=80)
    assert tiling_of(60, 60, overlap=8, most_cells=81).cells_per_tile == 81
    assert tiling_of(5, 60, overlap=8, most_cells=45).vertical.side == 5


@torch.no_grad()
def test_tiled_stages_reach_as_far_as_stated_and_no_further() -> None:
    """What one cell changes, in float64: nothing beyond the reach, and something within two cells of it."""
    weights = VideoWeights(Assets(None), "", golden_weights().architecture, torch.float64)
    weights.put(golden_weights().vae.state_dict(), "golden")
    sizes, middle, columns = weights.architecture, 15, 31
    features, pixels = random(1, 32, 1, 1, columns).double(), random(1, 3, 1, 16, 16 * columns).double()
    other_features, other_pixels = features.clone(), pixels.clone()
    other_features[..., middle] += 100
    other_pixels[..., 16 * middle : 16 * (middle + 1)] += 100

    def changed(stage: Callable[[Tensor], Iterator[Tensor]], one: Tensor, other: Tensor, width: str) -> int:
        apart = next(stage(one)) != next(stage(other))
        cells = reduce(apart, f"{width} -> x", "max", x=columns).nonzero().flatten()
        return int((cells - middle).abs().max())

    decode = changed(lambda x: pixels_of_features(weights.vae, x, 1), features, other_features, "b f h (x i) c")
    encode = changed(lambda x: features_of_pixels(weights.vae, x, 1, 4), pixels, other_pixels, "b k t y x")
    assert sizes.decode_reach - 2 <= decode <= sizes.decode_reach == 13
    assert sizes.encode_reach - 2 <= encode <= sizes.encode_reach == 10


def test_memory_does_not_grow_with_time() -> None:
    """Once every causal layer remembers what it can, later chunks take nothing more."""
    vae = empty_vae(FULL, torch.bfloat16)
    features = torch.empty(1, 1024, 7, 6, 6, device="meta", dtype=torch.bfloat16)
    peaks = [peak_bytes(pixels_of_features(vae, features[:, :, :steps], 1)) for steps in (2, 3, 7)]
    assert peaks[0] < peaks[1] == peaks[2]


@pytest.mark.parametrize(("rows", "columns"), [(8, 24), (20, 20), (30, 43)])
@pytest.mark.parametrize(("dtype", "chunk_steps"), [(torch.float32, 1), (torch.bfloat16, 2)], ids=str)
def test_what_is_counted_on_a_small_tile_bounds_larger_ones(
    rows: int, columns: int, dtype: torch.dtype, chunk_steps: int
) -> None:
    vae, bound = empty_vae(FULL, dtype), bytes_per_cell(FULL, dtype, "decode", chunk_steps)

    def inputs(width: int) -> Tensor:
        return torch.empty(1, width, 1 + 2 * chunk_steps, rows, columns, device="meta", dtype=dtype)

    tiled = peak_bytes(pixels_of_features(vae, inputs(1024), chunk_steps))
    assert 0.98 * bound.tiled * rows * columns < tiled <= bound.tiled * rows * columns
    assert peak_bytes(features_of_latents(vae, inputs(48), chunk_steps)) <= bound.untiled_part(rows * columns)


@pytest.mark.parametrize(("bound_gb", "tiling"), [(24, "untiled"), (16, "1x2 of 60x43"), (12, "2x2 of 43x43")])
def test_a_bound_at_full_size_gives_the_least_work_within_it(bound_gb: float, tiling: str) -> None:
    full = {"encoder_width": 160, "decoder_width": 256}
    codec = build(None, clip(241, 960, 960), decode_gb=bound_gb, **full)
    assert str(codec.decode_tiling) in (tiling, "2x1 of 43x60" if tiling.startswith("1x2") else tiling)
    assert codec.decode_bytes() <= bound_gb * 1e9
    assert codec.encode_bytes() <= bound_gb * 1e9
    assert str(codec.encode_tiling) == "untiled"


def test_a_bound_holds_and_changes_nothing_but_rounding(folder: Path) -> None:
    """With the overlap of the default."""
    form = clip(5, 16, 640)
    free = loaded(folder, form)
    bound_gb = 0.8 * free.decode_bytes() / 1e9
    bound = loaded(folder, form, decode_gb=bound_gb)
    assert len(bound.decode_tiling.tiles) > 1
    latents, pixels = random(1, *free.shape()), pictures(1, 5, 16, 640, 3)
    assert apart(bound.decode(latents), free.decode(latents)) < 1e-5
    assert bound.decode_bytes() <= bound_gb * 1e9
    tiled = loaded(folder, form, tile_px=496, overlap_px=EXACT_OVERLAP_PX)
    assert len(tiled.encode_tiling.tiles) > 1
    assert apart(tiled.encode(pixels), free.encode(pixels)) < 1e-5
    assert len({bound.fingerprint(), free.fingerprint(), tiled.fingerprint()}) == 3


@pytest.mark.parametrize(
    ("overlap_px", "most", "rms"),
    [(64, 0.5, 2e-2), (128, 0.1, 4e-3), (256, 1e-3, 4e-5), (EXACT_OVERLAP_PX, 1e-5, 1e-6)],
)
def test_how_far_short_overlaps_are_off(overlap_px: int, most: float, rms: float) -> None:
    """The stated error of tiles that overlap by less than twice the reach, on the weights of the golden file: the
    largest one, of pixels in [-1, 1], and the root mean square relative to the pixels'."""
    form, weights = clip(5, 32, 960), golden_weights()
    whole, tiled = WanVae(form, weights, Limits()), WanVae(form, weights, Limits(tile_px=704, overlap_px=overlap_px))
    assert len(tiled.decode_tiling.tiles) == 2
    latents = random(1, *whole.shape())
    wanted = whole.decode(latents)
    error = tiled.decode(latents) - wanted
    assert error.abs().max() < most
    assert error.square().mean().sqrt() < rms * wanted.square().mean().sqrt()
    pixels = pictures(1, 5, 32, 960, 3)
    assert apart(tiled.encode(pixels), whole.encode(pixels)) < max(most, 1e-5)


def test_a_bound_that_nothing_fits_says_what_is_needed() -> None:
    with pytest.raises(ValueError, match=r"960 x 960 pixels.*overlap by 416 pixels takes 4\.\d+ GB .* the bound of 2;"):
        COMPONENT.build(WanVaeConfig(decode_gb=2.0), clip=clip(241, 960, 960), assets=Assets(None))
    fits = COMPONENT.build(WanVaeConfig(decode_gb=2.0, overlap_px=128), clip=clip(241, 960, 960), assets=Assets(None))
    assert fits.decode_bytes() <= 2e9
