"""The ``wan-vae`` codec: the released recordings, and that chunks, tiles and batches do not change what it computes.

Pictures are small and frames are few: three-dimensional convolutions are slow on a CPU.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from official_video import TINY_VIDEO_OPTIONS, official_shapes, video_tensors, write_video_weights
from safetensors.torch import save_file
from torch import Tensor

from ovikit.checkpoints.assets import Assets
from ovikit.checkpoints.load import read_tensors
from ovikit.errors import UserError
from ovikit.networks.protocols import Weighted
from ovikit.types import ClipSpec
from ovikit_ovi.parity.golden import Golden
from ovikit_ovi.parity.run import compare
from ovikit_ovi.parity.wan_vae import replay
from ovikit_ovi.video.causal import features_of_latents, pixels_of_features
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
from ovikit_ovi.video.keymap import rules, wan_vae_format
from ovikit_ovi.video.memory import bytes_per_cell, peak_bytes
from ovikit_ovi.video.weights import Architecture, VideoWeights, empty_vae

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "wan_vae.safetensors"
FULL = Architecture(160, 256, WIDTH_FACTORS, TIME_HALVED, 2, LATENT_MEAN, LATENT_STD)


def clip(frames: int = 9, height: int = 32, width: int = 48) -> ClipSpec:
    return ClipSpec(frames / 24, height, width, 24.0, 16000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with a tiny file."""
    root = tmp_path_factory.mktemp("weights")
    write_video_weights(root / VAE_FILE)
    return root


def build(folder: Path | None, form: ClipSpec, **options: Any) -> WanVae:
    config = WanVaeConfig(**{**TINY_VIDEO_OPTIONS, **options})
    return COMPONENT.build(config, clip=form, assets=Assets(folder))


def loaded(folder: Path, form: ClipSpec | None = None, **options: Any) -> WanVae:
    codec = build(folder, form or clip(), **options)
    codec.load("cpu")
    return codec


@cache
def golden_weights() -> VideoWeights:
    """The weights of the golden file."""
    config = json.loads(read_tensors(GOLDEN)[1]["config"])
    sizes = Architecture(config["dim"], config["dec_dim"], WIDTH_FACTORS, TIME_HALVED, 2, LATENT_MEAN, LATENT_STD)
    weights = VideoWeights(Assets(None), "", sizes, torch.float32)
    tensors, _ = read_tensors(GOLDEN)
    weights.put({n.removeprefix("weights."): v for n, v in tensors.items() if n.startswith("weights.")}, str(GOLDEN))
    return weights


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return random(*shape, seed=seed).clamp(-1, 1)


def apart(ours: Tensor, other: Tensor) -> float:
    """max |a - b| / max |b|."""
    return float((ours - other).abs().max() / other.abs().max())


def test_agrees_with_the_released_code() -> None:
    rows = list(compare(GOLDEN, (torch.float64, torch.float32)))
    assert {(row.case, row.tensor) for row in rows} == {("decode", "pixels"), ("image", "latent"), ("video", "latent")}
    assert [row for row in rows if not row.agrees] == []
    assert max(row.error for row in rows if row.precision == "float64") < 1e-7  # rounding of what was recorded


def changed(tmp_path: Path, change) -> Path:
    tensors, metadata = read_tensors(GOLDEN)
    config = json.loads(metadata["config"])
    change(tensors, config)
    path = tmp_path / "wan_vae_other.safetensors"
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, {"config": json.dumps(config)})
    return path


def test_a_file_of_other_sizes_is_replayed_at_them(tmp_path: Path) -> None:
    """Widths, blocks, channels, frames and pixels are the file's."""

    def change(tensors: dict, config: dict) -> None:
        tensors.clear()
        config |= {"dim": 6, "dec_dim": 4, "num_res_blocks": 1, "z_dim": 5}
        config |= {"latent_mean": [0.1] * 5, "latent_std": [0.5, 1.0, 1.5, 2.0, 2.5]}
        sizes = Architecture(6, 4, WIDTH_FACTORS, TIME_HALVED, 1, tuple(config["latent_mean"]), (0.5, 1, 1.5, 2, 2.5))
        shapes = {name: value.shape for name, value in empty_vae(sizes, torch.float32).state_dict().items()}
        keymap = wan_vae_format(blocks=1).keymap
        for i, (name, shape) in enumerate(shapes.items()):
            fan_in = shape[1:].numel()
            tensors[f"weights.{keymap.official(name)}"] = random(*shape, seed=i) / fan_in**0.5
        tensors |= {"cases.video_5.pixels": pictures(1, 3, 5, 48, 16), "cases.video_5.latent": random(1, 5, 2, 3, 1)}
        tensors |= {
            "cases.decode_13.pixels": pictures(1, 3, 13, 16, 32),
            "cases.decode_13.latent": random(1, 5, 4, 1, 2),
        }
        memory = Golden(Path("wan_vae_here"), tensors, {"config": json.dumps(config)})
        tensors |= {f"cases.{case}.{name}": ours for case, name, ours, _ in replay(memory, torch.float64)}

    path = changed(tmp_path, change)
    rows = list(compare(path, (torch.float32, torch.float64)))
    assert {row.case for row in rows} == {"video_5", "decode_13"}
    assert [row for row in rows if not row.agrees] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, config: config.update(latent_mean=[0.1, *config["latent_mean"][1:]]),
        lambda tensors, config: config.update(latent_std=[9.0, *config["latent_std"][1:]]),
        lambda tensors, config: tensors["weights.decoder.upsamples.1.upsamples.3.time_conv.bias"].add_(0.01),
        lambda tensors, config: tensors["weights.encoder.middle.1.proj.weight"].mul_(1.1),
    ],
)
def test_a_changed_file_is_seen(tmp_path: Path, change) -> None:
    assert any(not row.agrees for row in compare(changed(tmp_path, change), (torch.float32,)))


def test_a_file_without_its_options_is_refused_by_name(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda tensors, config: config.pop("dec_dim"))
    with pytest.raises(UserError, match="configuration lacks 'dec_dim'") as caught:
        list(compare(path, (torch.float32,)))
    assert str(path) in str(caught.value)


def test_every_official_tensor_has_a_place_at_full_size_and_the_reverse() -> None:
    keymap, official = wan_vae_format().keymap, official_shapes()
    ours = {name: tuple(value.shape) for name, value in empty_vae(FULL, torch.float32).state_dict().items()}
    assert len(official) == 196
    assert {keymap.ours(name): shape for name, shape in official.items()} == ours
    assert {keymap.official(name): shape for name, shape in ours.items()} == official
    used = {rule for rule in rules() for name in official if _alone(rule, name)}
    assert used == set(rules())


def _alone(rule, name: str) -> bool:
    from ovikit.checkpoints.keymap import KeyMap, UnmappedError

    try:
        return bool(KeyMap((rule,)).ours(name))
    except UnmappedError:
        return False


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_weights_take_what_the_full_architecture_says_without_a_file(dtype: str, size: int) -> None:
    codec = COMPONENT.build(WanVaeConfig(dtype=dtype), clip=clip(121, 704, 704), assets=Assets(None))
    assert isinstance(codec, Weighted)
    assert codec.weight_bytes() == 704_688_668 * size


@pytest.mark.parametrize("chunk_steps", [2, 3, 8])
def test_chunks_change_nothing(folder: Path, chunk_steps: int) -> None:
    form = clip(17)
    one, many = loaded(folder, form), loaded(folder, form, chunk_steps=chunk_steps)
    latents, pixels = random(1, *one.shape()), pictures(1, 17, 32, 48, 3)
    assert apart(many.decode(latents), one.decode(latents)) < 1e-5
    assert apart(many.encode(pixels), one.encode(pixels)) < 1e-5
    assert many.fingerprint() == one.fingerprint()


def test_stages_and_chunks_give_what_diffusers_gives_in_one_go(folder: Path) -> None:
    codec = loaded(folder)
    latents, pixels = random(2, *codec.shape()), pictures(2, 9, 32, 48, 3)
    vae = codec.weights.vae
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (LATENT_MEAN, LATENT_STD))
    with torch.no_grad():
        decoded = vae.decode(latents * std + mean).sample.permute(0, 2, 3, 4, 1)
        encoded = (vae.encode(pixels.permute(0, 4, 1, 2, 3)).latent_dist.mode() - mean) / std
    assert apart(codec.decode(latents), decoded) < 1e-5
    assert apart(codec.encode(pixels), encoded) < 1e-5


def test_time_is_causal(folder: Path) -> None:
    """The first frames are those of a shorter clip, so that a first frame alone has the latents it has in the clip."""
    long, short = loaded(folder, clip(17)), loaded(folder, clip(9))
    latents, pixels = random(1, *long.shape()), pictures(1, 17, 32, 48, 3)
    assert apart(short.decode(latents[:, :, :3]), long.decode(latents)[:, :9]) < 1e-5
    whole = long.encode(pixels)
    for frames, steps in ((1, 1), (5, 2), (9, 3)):
        assert apart(long.encode(pixels[:, :frames]), whole[:, :, :steps]) < 1e-5


def test_items_of_a_batch_do_not_meet(folder: Path) -> None:
    codec = loaded(folder)
    latents, pixels = random(2, *codec.shape()), pictures(2, 9, 32, 48, 3)
    assert torch.equal(codec.decode(latents)[1:], codec.decode(latents[1:]))
    assert torch.equal(codec.encode(pixels)[1:], codec.encode(pixels[1:]))


def test_forms_and_grid(folder: Path) -> None:
    codec = build(None, clip(121, 704, 1280))
    assert codec.shape() == (48, 31, 44, 80)
    grid = codec.grid()
    assert grid.shape == (31, 44, 80)
    assert grid.edges_s[0] == (0.0, pytest.approx(1 / 24))
    assert grid.edges_s[1] == (pytest.approx(1 / 24), pytest.approx(5 / 24))
    assert grid.edges_s[-1][1] == pytest.approx(121 / 24)
    assert codec.for_clip(clip(241, 960, 960)).shape() == (48, 61, 60, 60)
    small = loaded(folder)
    assert small.decode(random(1, *small.shape())).shape == (1, 9, 32, 48, 3)
    assert small.encode(pictures(1, 9, 32, 48, 3)).shape[1:] == small.shape()


def test_progress_tells_of_every_chunk_of_every_tile(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    codec = loaded(folder, clip(9, 32, 96), tile_px=48, overlap_px=16)
    codec.decode(random(2, *codec.shape()), lambda done, total: told.append((done, total)))
    total = 2 * len(codec.decode_tiling.tiles) * 3
    assert len(codec.decode_tiling.tiles) == 3
    assert told == [(done, total) for done in range(1, total + 1)]


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


def test_bfloat16_is_near_float32(folder: Path) -> None:
    exact, rounded = loaded(folder, clip(5)), loaded(folder, clip(5), dtype="bfloat16")
    latents, pixels = random(1, *exact.shape()), pictures(1, 5, 32, 48, 3)
    assert rounded.decode(latents).dtype == rounded.encode(pixels).dtype == torch.float32
    assert (rounded.decode(latents) - exact.decode(latents)).square().mean().sqrt() < 0.03
    assert (rounded.encode(pixels) - exact.encode(pixels)).square().mean().sqrt() < 0.03


def test_our_names_give_the_same_and_may_lie_in_a_converted_folder(folder: Path, tmp_path: Path) -> None:
    official, keymap = video_tensors(), wan_vae_format().keymap
    ours = keymap.to_ours(official)
    back = keymap.to_official(ours)
    assert back.keys() == official.keys()
    assert all(torch.equal(back[name], official[name]) for name in official)
    save_file(ours, tmp_path / "vae.safetensors")
    latents = random(1, 48, 3, 2, 3)
    assert torch.equal(loaded(tmp_path, weights="vae.safetensors").decode(latents), loaded(folder).decode(latents))


def test_codecs_for_other_clips_share_the_weights(folder: Path) -> None:
    codec = build(folder, clip())
    other = codec.for_clip(clip(5, 48, 16))
    with pytest.raises(RuntimeError, match="load"):
        codec.decode(random(1, *codec.shape()))
    other.load("cpu")
    assert codec.weights.vae is other.weights.vae
    before = codec.decode(random(1, *codec.shape()))
    codec.unload()
    with pytest.raises(RuntimeError, match="load"):
        other.encode(pictures(1, 5, 48, 16, 3))
    codec.load("cpu")
    assert torch.equal(codec.decode(random(1, *codec.shape())), before)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (clip(9, 40, 48), "height of 40 pixels is not a multiple of 16"),
        (clip(9, 32, 50), "width of 50 pixels is not a multiple of 16"),
        (clip(120), r"120 frames does not fill latents.*117 \(4.8750 s\) or 121 \(5.0417 s\) frames would"),
    ],
)
def test_forms_that_latents_do_not_fill_are_refused(form: ClipSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(None, form)


def test_samples_and_latents_of_another_form_are_refused(folder: Path) -> None:
    codec = loaded(folder)
    for shape, message in (
        ((1, 9, 48, 32, 3), "48 x 32 pixels were given for clips of 32 x 48"),
        ((1, 8, 32, 48, 3), "8 frames cannot be encoded: up to 9"),
        ((1, 13, 32, 48, 3), "13 frames cannot be encoded"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.encode(pictures(*shape))
    with pytest.raises(ValueError, match=r"\(48, 2, 2, 3\) were given for clips of \(48, 3, 2, 3\)"):
        codec.decode(random(1, 48, 2, 2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_px": 256, "decode_gb": 3.0}, "not both"),
        ({"tile_px": 100}, "tile_px is 100, which is not a multiple of the 16"),
        ({"tile_px": 256}, "tiles of 256 pixels cannot overlap by 416"),
        ({"latent_mean": (0.0, 1.0)}, "one value for each channel"),
        ({"latent_std": (0.0,), "latent_mean": (0.0,)}, "above zero"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WanVaeConfig(**options)


def test_a_bound_that_nothing_fits_says_what_is_needed() -> None:
    with pytest.raises(
        ValueError, match=r"960 x 960 pixels.*overlap by 416 pixels takes 4.* more than the bound of 2;"
    ):
        COMPONENT.build(WanVaeConfig(decode_gb=2.0), clip=clip(241, 960, 960), assets=Assets(None))
    fits = COMPONENT.build(WanVaeConfig(decode_gb=2.0, overlap_px=128), clip=clip(241, 960, 960), assets=Assets(None))
    assert fits.decode_bytes() <= 2e9


def damaged(folder: Path, change) -> Path:
    tensors = video_tensors()
    change(tensors)
    path = folder / VAE_FILE
    path.parent.mkdir(parents=True)
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.conv1.weight"), "1 tensors missing: encoder.conv_in.weight"),
        (lambda t: t.update(extra=torch.zeros(1)), "knows no tensor 'extra'"),
        (lambda t: t.update({"conv1.bias": torch.zeros(3)}), r"1 tensors of another shape: quant_conv.bias is \(3,\)"),
        (lambda t: (t.clear(), t.update(a=torch.zeros(1))), "knows no tensor 'a'"),
    ],
)
def test_wrong_tensors_are_named_with_their_file(tmp_path: Path, change, message: str) -> None:
    path = damaged(tmp_path, change)
    codec = build(tmp_path, clip())
    with pytest.raises(UserError, match=message) as caught:
        codec.load("cpu")
    assert str(path) in str(caught.value)


def test_a_missing_and_a_truncated_file_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Wan2\.2_VAE\.pth"):
        build(tmp_path, clip()).load("cpu")
    path = damaged(tmp_path, lambda tensors: None)
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(UserError) as caught:
        build(tmp_path, clip()).load("cpu")
    assert str(path) in str(caught.value)


def test_the_fingerprint_is_of_the_file_and_of_what_changes_numbers(folder: Path, tmp_path: Path) -> None:
    write_video_weights(tmp_path / VAE_FILE, seed=1)
    other = {"latent_mean": (0.5, *LATENT_MEAN[1:])}
    marks = [
        build(folder, clip()).fingerprint(),
        build(tmp_path, clip()).fingerprint(),
        build(folder, clip(), dtype="bfloat16").fingerprint(),
        build(folder, clip(), **other).fingerprint(),
    ]
    assert len(set(marks)) == 4
    assert marks[0] == build(folder, clip(), decode_gb=5.0).fingerprint()
