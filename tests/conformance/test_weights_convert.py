"""``ovikit weights convert``: there and back to the bit, and a converted folder works like the official one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import official_audio
import official_kit as kit
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from ovikit.checkpoints.assets import MANIFEST
from ovikit.checkpoints.state import read_state
from ovikit.cli import build_app
from ovikit.errors import UserError
from ovikit.networks.protocols import Weighted
from ovikit.recipe.build import build_codecs, build_conditioner, build_model, find_assets
from ovikit.recipe.load import load_recipe
from ovikit_ovi.weights import convert
from ovikit_ovi.weights.convert import convert_folder
from ovikit_ovi.weights.layout import BY_NAME, FILES

ALL = tuple(kit.VARIANTS)


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    return kit.make_folder(tmp_path_factory.mktemp("weights") / "official", ALL)


@pytest.fixture(scope="module")
def own(official: Path) -> Path:
    target = official.parent / "own"
    convert_folder(official, target, "ovikit")
    return target


def _bits(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return {
        name: (one.dtype, one.shape, one.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for name, one in tensors.items()
    }


def _state(folder: Path, name: str) -> dict[str, Tensor]:
    return read_state(folder / name, BY_NAME[name].within)[0]


def _same(one: Path, other: Path, names: list[str]) -> None:
    for name in names:
        if (one / name).is_dir():
            files = sorted(path.name for path in (one / name).iterdir())
            assert files == sorted(path.name for path in (other / name).iterdir())
            assert all((one / name / file).read_bytes() == (other / name / file).read_bytes() for file in files)
        else:
            assert _bits(_state(one, name)) == _bits(_state(other, name)), name


def test_there_and_back_to_the_bit(official: Path, own: Path, tmp_path: Path) -> None:
    back = tmp_path / "back"
    written = convert_folder(own, back, "official")
    assert sorted(written) == sorted(file.name for file in FILES)
    _same(official, back, written)
    # also the wrapping: the vocoder's file nests, and none of the .pth files does
    assert set(torch.load(back / kit.VOCODER, weights_only=True)) == {"generator"}
    assert read_state(back / "Ovi/model.safetensors")[1] == {"format": "pt"}


@pytest.mark.parametrize("spelling", ["old", "new"])
def test_both_spellings_of_weight_norm_are_kept(official: Path, tmp_path: Path, spelling) -> None:
    folder = tmp_path / "one"
    official_audio.write_audio_weights(folder / kit.AUDIO_VAE, folder / kit.VOCODER, 5, spelling)
    convert_folder(folder, tmp_path / "own", "ovikit")
    convert_folder(tmp_path / "own", tmp_path / "back", "official")
    _same(folder, tmp_path / "back", [kit.AUDIO_VAE, kit.VOCODER])


def test_scaled_float8_goes_there_and_back(tmp_path: Path) -> None:
    folder, name = tmp_path / "one", kit.VARIANTS["720x720_5s_fp8"][0]
    tensors = kit.in_scaled_float8(kit.joint_tensors()) | {"scaled_fp8": torch.zeros(0)}
    kit.write_joint_weights(folder / name, tensors)
    convert_folder(folder, tmp_path / "own", "ovikit")
    convert_folder(tmp_path / "own", tmp_path / "back", "official")
    _same(folder, tmp_path / "back", [name])


def test_the_converted_folder_describes_itself(own: Path) -> None:
    told = json.loads((own / MANIFEST).read_text(encoding="utf-8"))
    assert told["format"] == "ovikit-weights"
    assert list(told["variants"]) == list(ALL)
    assert told["licences"] == sorted({file.licence for file in FILES})
    assets = find_assets(own)
    for file in FILES:
        entry = told["files"][file.name]
        assert assets.path(file.name) == own / entry["path"]
        assert assets.digest(file.name) == entry["sha256"]
        assert entry["licence"] == file.licence
    _, metadata = read_state(own / BY_NAME[kit.VAE].own)
    assert metadata["file"] == kit.VAE
    assert not list(own.rglob("*.pth"))
    assert not list(own.rglob("*.pt"))


@pytest.mark.parametrize("variant", ALL)
def test_a_converted_folder_gives_the_same_parts(official: Path, own: Path, tmp_path: Path, variant: str) -> None:
    recipe = load_recipe(kit.write_recipe(tmp_path / "tiny.yaml", variant), ["model.quantization=none"])
    states = []
    for folder in (official, own):
        assets = find_assets(folder)
        codecs, conditioner = build_codecs(recipe, assets), build_conditioner(recipe, assets)
        model = build_model(recipe, codecs, conditioner, assets=assets)
        for part in (codecs["video"], codecs["audio"], conditioner):
            assert isinstance(part, Weighted)
            part.load("cpu")
        generator = torch.Generator().manual_seed(1)
        video = torch.randn(1, *codecs["video"].shape(), generator=generator)
        audio = torch.randn(1, *codecs["audio"].shape(), generator=generator)
        states.append(
            {
                **model.state_dict(),
                "pictures": codecs["video"].decode(video),
                "sound": codecs["audio"].decode(audio),
                "text": conditioner.encode(["a man speaks <S>hello<E>"]).tokens,
            }
        )
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(one, states[1][name]) for name, one in states[0].items())


def test_one_variant(own: Path, tmp_path: Path) -> None:
    written = convert_folder(own, tmp_path / "back", "official", ["960x960_10s"])
    assert [name for name in written if name.startswith("Ovi/")] == ["Ovi/model_960x960_10s.safetensors"]
    assert kit.VAE in written


# What is refused, and leaves nothing behind


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_variant_that_is_not_there(tmp_path: Path) -> None:
    folder = kit.make_folder(tmp_path / "one")
    with pytest.raises(UserError, match=r"model_960x960.safetensors: it is missing"):
        convert_folder(folder, tmp_path / "own", "ovikit", ["960x960_5s"])
    assert _left(tmp_path) == ["one"]


def test_a_target_that_is_not_empty(own: Path, official: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    convert_folder(official, target, "ovikit", ["720x720_5s"])
    with pytest.raises(UserError, match="--overwrite"):
        convert_folder(official, target, "ovikit")
    convert_folder(official, target, "ovikit", overwrite=True)
    assert _left(target) == _left(own)
    assert _left(tmp_path) == ["target"]


def test_somebodys_folder_is_never_overwritten(official: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="holds no weights"):
        convert_folder(official, tmp_path / "home", "ovikit", overwrite=True)
    assert _left(tmp_path / "home") == ["thesis.txt"]


def test_into_itself_or_the_same_layout(official: Path, own: Path) -> None:
    with pytest.raises(UserError, match="the source, or inside it"):
        convert_folder(official, official / "Ovi" / "own", "ovikit")
    with pytest.raises(UserError, match="in the official layout already"):
        convert_folder(official, own.parent / "x", "official")
    with pytest.raises(UserError, match="in ovikit layout already"):
        convert_folder(own, own.parent / "x", "ovikit")
    assert not (own.parent / "x").exists()


@pytest.mark.parametrize("spoil", [kit.truncate, kit.drop_tensor, kit.misshape, kit.add_key, kit.evil_pickle])
def test_a_spoilt_source_is_refused_before_anything_is_written(tmp_path: Path, spoil) -> None:
    folder = kit.make_folder(tmp_path / "one")
    spoil(folder / kit.VOCODER)
    with pytest.raises(UserError, match="ovikit weights check"):
        convert_folder(folder, tmp_path / "own", "ovikit")
    assert _left(tmp_path) == ["one"]
    assert not list(folder.rglob("it-ran"))


def test_a_disk_without_room(official: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match=r"GB are needed and 0\.0 GB are free"):
        convert_folder(official, tmp_path / "own", "ovikit")
    assert _left(tmp_path) == []


def test_an_interruption_leaves_nothing(official: Path, tmp_path: Path, monkeypatch) -> None:
    true, calls = convert._convert_file, []

    def interrupted(*arguments) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        true(*arguments)

    monkeypatch.setattr(convert, "_convert_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_folder(official, tmp_path / "own", "ovikit", told=lambda *told: None)
    assert _left(tmp_path) == []


def test_progress_ends_at_the_whole(official: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    convert_folder(official, tmp_path / "own", "ovikit", told=lambda *one: told.append(one))
    assert told[-1][1] == told[-1][2] > 8_000_000
    assert [one[1] for one in told] == sorted(one[1] for one in told)


# The command


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(build_app(), ["weights", "convert", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_command_says_what_it_wrote(official: Path, tmp_path: Path) -> None:
    told = _run(str(official), str(tmp_path / "own"), "--to", "ovikit", "--variant", "960x960_5s")
    assert "writing" in told
    assert f"wrote {tmp_path / 'own' / 'ovi-960x960-5s.safetensors'}" in told
    assert f"wrote {tmp_path / 'own' / MANIFEST}" in told
    assert "CC-BY-NC" in told


def test_layouts_and_variants_that_there_are_not(official: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no layout is called 'diffusers'"):
        _run(str(official), str(tmp_path / "own"), "--to", "diffusers")
    with pytest.raises(UserError, match="no variant is called '480p'"):
        _run(str(official), str(tmp_path / "own"), "--to", "ovikit", "--variant", "480p")
    assert _left(tmp_path) == []
