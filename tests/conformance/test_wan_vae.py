"""The ``wan-vae`` codec: the released recordings, and that chunks, tiles and batches do not change what it computes.

Pictures are small and frames are few: three-dimensional convolutions are slow on a CPU.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from official_video import official_shapes, video_tensors, write_video_weights
from safetensors.torch import save_file
from wan_vae_kit import FULL, GOLDEN, apart, build, clip, loaded, pictures, random

from ovikit.checkpoints.assets import Assets
from ovikit.checkpoints.load import read_tensors
from ovikit.errors import UserError
from ovikit.networks.protocols import Weighted
from ovikit.types import ClipSpec
from ovikit_ovi.parity.golden import Golden
from ovikit_ovi.parity.run import compare
from ovikit_ovi.parity.wan_vae import replay
from ovikit_ovi.video.component import (
    COMPONENT,
    LATENT_MEAN,
    LATENT_STD,
    TIME_HALVED,
    VAE_FILE,
    WIDTH_FACTORS,
    WanVaeConfig,
)
from ovikit_ovi.video.keymap import rules, wan_vae_format
from ovikit_ovi.video.weights import Architecture, empty_vae


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with a tiny file."""
    root = tmp_path_factory.mktemp("weights")
    write_video_weights(root / VAE_FILE)
    return root


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
    for found in (codec.check, lambda: codec.load("cpu")):
        with pytest.raises(UserError, match=message) as caught:
            found()
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
