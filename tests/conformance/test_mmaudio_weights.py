"""The weights of the ``mmaudio`` codec: official names and files, both ways, shared between clips, and damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmaudio_kit import FIVE, GOLDEN, changed, codec_of, folder, latents, loaded, waves
from official_audio import vae_tensors, vocoder_tensors
from safetensors.torch import save_file

from ovikit.checkpoints.load import read_tensors
from ovikit.checkpoints.state import read_header, read_state
from ovikit.errors import UserError
from ovikit.networks.protocols import Weighted
from ovikit_ovi.audio.codec import MMAudioCodec
from ovikit_ovi.audio.component import LICENCE, VAE_FILE, VOCODER_FILE
from ovikit_ovi.audio.keymap import GENERATOR, SPELLING, VAE, VOCODER
from ovikit_ovi.audio.weight_norm import of_length_one
from ovikit_ovi.audio.weights import Sizes, stored_autoencoder, stored_vocoder

RELEASED = Sizes(channels=20, bands=80, hidden_channels=384, vocoder_channels=1536)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="module")
def codec(official: Path) -> MMAudioCodec:
    return loaded(official)


@pytest.mark.parametrize("spelling", ["old", "new"])
def test_the_released_files_map_to_the_modules_and_back(spelling: str) -> None:
    layouts = json.loads((GOLDEN / "checkpoint_layouts.json").read_text(encoding="utf-8"))
    vocoder = layouts["best_netG.pt:generator"]
    if spelling == "old":
        vocoder = {SPELLING.official(name): shape for name, shape in vocoder.items()}
        assert "conv_pre.weight_g" in vocoder
    for checkpoint, layout, model in (
        (VAE, layouts["v1-16.pth"], stored_autoencoder(RELEASED)),
        (VOCODER, vocoder, stored_vocoder(RELEASED)),
    ):
        assert checkpoint.recognises(layout.keys())
        ours = {checkpoint.keymap.ours(name): shape for name, shape in layout.items()}
        assert {checkpoint.keymap.official(name): shape for name, shape in ours.items()} == layout
        held = {SPELLING.ours(name) if checkpoint is VOCODER else name: shape for name, shape in ours.items()}
        assert held == {name: list(one.shape) for name, one in model.state_dict().items()}


def test_the_released_weights_take_what_their_parameters_say() -> None:
    """171.7 M and 112.2 M parameters in float32; the lengths of weight norm are folded and take nothing."""
    layouts = json.loads((GOLDEN / "checkpoint_layouts.json").read_text(encoding="utf-8"))
    vae = sum(torch.Size(shape).numel() for shape in layouts["v1-16.pth"].values())
    vocoder = sum(
        torch.Size(shape).numel()
        for name, shape in layouts["best_netG.pt:generator"].items()
        if not name.endswith("original0")
    )
    released = {"hidden_channels": 384, "vocoder_channels": 1536}
    assert codec_of(None, **released).weight_bytes() == 4 * (vae + vocoder)
    assert codec_of(None, **released, dtype="bfloat16").weight_bytes() == 2 * vae + 4 * vocoder


def test_weight_bytes_are_those_of_the_loaded_networks(codec: MMAudioCodec) -> None:
    networks = codec.weights.networks
    held = [one for model in (networks.autoencoder, networks.vocoder) for one in model.state_dict().values()]
    assert codec.weight_bytes() == sum(one.numel() * one.element_size() for one in held)


def test_both_spellings_of_weight_norm_are_the_same_weights(codec: MMAudioCodec, tmp_path: Path) -> None:
    newer = loaded(folder(tmp_path, weight_norm="new"))
    assert torch.equal(newer.decode(latents(1, 15)), codec.decode(latents(1, 15)))


def test_weight_norm_is_folded_as_it_is_defined(codec: MMAudioCodec) -> None:
    stored, vocoder = vocoder_tensors(), codec.weights.networks.vocoder
    for name in ("conv_pre", "ups.1.0", "resblocks.4.convs2.2", "conv_post"):
        direction = stored[f"{name}.weight_v"].double()
        wanted = stored[f"{name}.weight_g"] * direction / direction.flatten(1).norm(dim=1)[:, None, None]
        torch.testing.assert_close(vocoder.get_submodule(name).weight.double(), wanted, rtol=1e-5, atol=1e-7)


def test_the_autoencoders_filters_have_length_one_whatever_is_stored() -> None:
    stored = vae_tensors()["encoder.mid.block_1.conv1.weight"]
    folded = of_length_one(stored)
    torch.testing.assert_close(folded.flatten(1).norm(dim=1), torch.ones(32), atol=2e-4, rtol=0)
    torch.testing.assert_close(of_length_one(7 * stored), folded, rtol=2e-4, atol=0)
    assert of_length_one(torch.zeros(2, 3, 3)).abs().max() == 0.0


@pytest.mark.parametrize("weight_norm", ["old", "new"])
def test_converted_weights_are_the_same_codec_and_convert_back_bit_by_bit(
    codec: MMAudioCodec, tmp_path: Path, weight_norm: str
) -> None:
    official, own = folder(tmp_path / "official", weight_norm=weight_norm), tmp_path / "own"
    own.mkdir()
    files, before = {}, {}
    for name, checkpoint, within in ((VAE_FILE, VAE, None), (VOCODER_FILE, VOCODER, GENERATOR)):
        before[name], _ = read_state(official / name, within)
        save_file(checkpoint.keymap.to_ours(before[name]), own / f"{checkpoint.name}.safetensors")
        files[name] = {"path": f"{checkpoint.name}.safetensors"}
        after = checkpoint.keymap.to_official(read_tensors(own / f"{checkpoint.name}.safetensors")[0])
        assert after.keys() == before[name].keys()
        assert all(torch.equal(after[key], before[name][key]) for key in after)
    manifest = {"format": "ovikit-weights", "version": 1, "variant": "tiny", "files": files}
    (own / "ovikit.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert torch.equal(loaded(own).decode(latents(1, 15)), codec.decode(latents(1, 15)))


def test_the_tiny_files_have_the_official_names(official: Path) -> None:
    layouts = json.loads((GOLDEN / "checkpoint_layouts.json").read_text(encoding="utf-8"))
    assert read_header(official / VAE_FILE).keys() == layouts["v1-16.pth"].keys()
    held = read_header(official / VOCODER_FILE, GENERATOR)
    assert {SPELLING.ours(name) for name in held} == layouts["best_netG.pt:generator"].keys()


def test_sizes_that_were_never_released(tmp_path: Path) -> None:
    sizes = Sizes(channels=6, bands=32, hidden_channels=4, vocoder_channels=64)
    generator = torch.Generator().manual_seed(0)
    models = ((VAE_FILE, stored_autoencoder(sizes), None), (VOCODER_FILE, stored_vocoder(sizes), GENERATOR))
    for name, model, within in models:
        state = {key: 0.1 * torch.randn(one.shape, generator=generator) for key, one in model.state_dict().items()}
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({within: state} if within else state, tmp_path / name)
    codec = loaded(tmp_path, channels=6, bands=32, hidden_channels=4)
    found = codec.encode(waves(2, 8000))
    assert found.shape == (2, *codec.shape()) == (2, 6, 15)
    assert codec.decode_mel(found).shape == (2, 32, 30)
    assert codec.decode(found).shape == (2, 8000)


def test_weights_are_shared_between_clips_and_freed(official: Path) -> None:
    codec = codec_of(official)
    other = codec.for_clip(FIVE)
    assert isinstance(codec, Weighted)
    with pytest.raises(RuntimeError, match="load"):
        other.encode(waves(1, 100))
    codec.load("cpu")
    assert other.shape() == (20, 157)
    assert other.decode(latents(1, 157)).shape == (1, FIVE.samples)
    held = codec.weights.networks
    other.load("cpu")
    assert codec.weights.networks.vocoder is held.vocoder
    other.unload()
    with pytest.raises(RuntimeError, match="load"):
        codec.decode(latents(1, 15))
    codec.load("cpu")
    assert codec.decode(latents(1, 15)).isfinite().all()


def test_the_fingerprint_is_of_weights_and_options(official: Path, tmp_path: Path) -> None:
    same, other = folder(tmp_path / "same"), folder(tmp_path / "other", seed=1)
    marks = [
        codec_of(official).fingerprint(),
        codec_of(other).fingerprint(),
        codec_of(official, dtype="bfloat16").fingerprint(),
        codec_of(official, steps=16).fingerprint(),
    ]
    assert len(set(marks)) == len(marks)
    assert codec_of(same).fingerprint() == codec_of(official).fingerprint()
    with pytest.raises(UserError, match="--weights DIR"):
        codec_of(None).fingerprint()


def test_the_licence_says_what_the_user_may_not_do() -> None:
    assert "CC-BY-NC" in LICENCE
    assert "not for commercial use" in LICENCE


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def running_code(path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, ("true",)

    torch.save({"generator": {"conv_pre.bias": Evil()}}, path)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (VAE_FILE, Path.unlink, r"v1-16\.pth"),
        (VOCODER_FILE, Path.unlink, r"best_netG\.pt"),
        (VAE_FILE, truncated, r"truncated"),
        (VOCODER_FILE, running_code, r"run code"),
        (VAE_FILE, changed(lambda t: t.pop("data_mean")), r"1 tensors missing: data_mean"),
        (VAE_FILE, changed(lambda t: t.update(optimizer=torch.zeros(1))), r"knows no tensor 'optimizer'"),
        (VAE_FILE, changed(lambda t: t.update({"encoder.more": torch.zeros(1)})), r"not in the model: encoder\.more"),
        (VAE_FILE, changed(lambda t: t.update(data_std=torch.ones(1, 3, 1))), r"data_std is \(1, 3, 1\), the model"),
        (VOCODER_FILE, changed(lambda t: t.pop("conv_pre.weight_g")), r"missing: conv_pre\.parametriz.*original0"),
        (VOCODER_FILE, changed(lambda t: t.update({"conv_pre.weight": torch.zeros(1)})), r"conv_pre\.weight"),
        (
            VOCODER_FILE,
            changed(lambda t: t.update({"conv_pre.parametrizations.weight.original0": torch.zeros(1)})),
            r"both spellings",
        ),
        (VOCODER_FILE, lambda path: torch.save(vocoder_tensors(), path), r"nothing under 'generator'"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: Callable[[Path], Any], message: str) -> None:
    root = folder(tmp_path)
    damage(root / name)
    codec = codec_of(root)
    for found in (codec.check, lambda: codec.load("cpu")):
        with pytest.raises(UserError, match=message) as caught:
            found()
        assert Path(name).name in str(caught.value)


def test_weights_that_make_no_sound_are_named(tmp_path: Path) -> None:
    root = folder(tmp_path)
    changed(lambda tensors: tensors["conv_pre.bias"].fill_(float("nan")))(root / VOCODER_FILE)
    codec = loaded(root)
    with pytest.raises(UserError, match="the decoded sound holds NaN"):
        codec.decode(latents(1, 15))


def test_building_needs_no_weights_and_loading_says_how_to_give_them() -> None:
    codec = codec_of(None)
    assert codec.shape() == (20, 15)
    with pytest.raises(UserError, match="--weights DIR"):
        codec.load("cpu")
