"""``ovikit weights check``: what is told of a folder that is whole, and of every way in which one is spoilt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import official_kit as kit
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ovikit.cli import build_app
from ovikit.errors import UserError
from ovikit_ovi.weights.check import Finding, check_folder
from ovikit_ovi.weights.convert import convert_folder
from ovikit_ovi.weights.layout import FILES, VARIANTS, forms, released_size

LAYOUTS = Path(__file__).parents[1] / "parity" / "golden" / "checkpoint_layouts.json"
JOINT = "Ovi/model.safetensors"
WEIGHTS = (JOINT, kit.VAE, kit.TEXT, kit.AUDIO_VAE, kit.VOCODER)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return kit.make_folder(tmp_path_factory.mktemp("made") / "weights")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A whole folder to spoil."""
    return shutil.copytree(made, tmp_path / "weights")


@pytest.fixture(params=["official", "ovikit"])
def either(request, folder: Path, tmp_path: Path) -> Path:
    """A whole folder in each layout."""
    if request.param == "official":
        return folder
    convert_folder(folder, tmp_path / "own", "ovikit")
    return tmp_path / "own"


def _of(folder: Path, name: str, full: bool = False) -> Finding:
    return next(one for one in check_folder(folder, full).findings if one.file.name == name)


def _told(folder: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), ["weights", "check", str(folder), *options])
    return result.exit_code, result.output


def test_the_layout_has_every_released_tensor() -> None:
    released = json.loads(LAYOUTS.read_text(encoding="utf-8"))
    for form, file in (
        ("ovi", JOINT),
        ("wan-vae", "Wan2.2_VAE.pth"),
        ("umt5", "models_t5_umt5-xxl-enc-bf16.pth"),
        ("mmaudio-vae", "v1-16.pth"),
        ("bigvgan", "best_netG.pt:generator"),
    ):
        found = forms()[form].tensors(forms()[form].depth(released[file]))
        assert {name: [released_size(size) for size in sizes] for name, sizes in found.items()} == released[file]


def test_the_sizes_of_the_files_are_those_of_their_tensors() -> None:
    """In the number formats of the release: bfloat16 for the towers and the text encoder, else float32."""
    for file in FILES:
        if file.form == "tokenizer":
            continue
        form = forms()[file.form]
        numbers = sum(
            torch.Size([released_size(size) for size in sizes]).numel() for sizes in form.tensors(form.layers).values()
        )
        each = 1 if file.fp8 else 2 if file.form in ("ovi", "umt5") else 4
        assert numbers * each / 1e9 == pytest.approx(file.gb, abs=0.01), file.name


def test_a_whole_folder_can_run(either: Path) -> None:
    report = check_folder(either)
    assert report.runnable() == ("720x720_5s",)
    states = {one.file.name: one.state for one in report.findings}
    others = {VARIANTS[name][0] for name in VARIANTS if name != "720x720_5s"}
    assert {name for name, state in states.items() if state == "missing"} == others
    assert all(state == "ok" for name, state in states.items() if name not in others)
    status, told = _told(either)
    assert status == 0
    assert "runs recipes/reference/ovi-720x720-5s.yaml" in told
    assert "not the released size: 3 layers for 30" in told
    assert "CC-BY-NC" in told


def test_a_joint_model_of_the_released_size_is_checked_at_once(tmp_path: Path) -> None:
    """23 GB of zeros that take no room on the disk: only the header is read."""
    shapes = json.loads(LAYOUTS.read_text(encoding="utf-8"))[JOINT]
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    (tmp_path / "Ovi").mkdir()
    with (tmp_path / JOINT).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    found = _of(tmp_path, JOINT)
    assert (found.state, found.told) == ("ok", "")
    assert found.bytes / 1e9 == pytest.approx(found.file.gb, abs=0.01)
    kit.truncate(tmp_path / JOINT, 0.99)
    assert _of(tmp_path, JOINT).state == "damaged"


def test_all_variants(tmp_path: Path) -> None:
    folder = kit.make_folder(tmp_path / "all", tuple(kit.VARIANTS))
    assert check_folder(folder).runnable() == tuple(VARIANTS)
    assert {name: joint for name, (joint, _) in VARIANTS.items()} == {n: j for n, (j, _) in kit.VARIANTS.items()}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_missing_file_is_named_with_its_source(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert _of(folder, name).state == "missing"
    status, told = _told(folder)
    assert status == 1
    assert f"needs {name}: Hugging Face" in told
    assert "nothing can be run" in told


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize(
    ("spoil", "state", "remark"),
    [
        (kit.truncate, "damaged", ("truncated", "not a whole safetensors file")),
        (kit.lfs_pointer, "damaged", ("git-lfs pointer",)),
        (kit.drop_tensor, "wrong", ("1 tensors missing: ",)),
        (kit.misshape, "wrong", ("of the wrong shape: ",)),
        (kit.add_key, "wrong", ("1 tensors that do not belong: somebody.elses.weight",)),
    ],
)
def test_a_spoilt_file(folder: Path, name: str, spoil: Callable[[Path], object], state: str, remark: tuple) -> None:
    changed = spoil(folder / name)
    report = check_folder(folder)
    found = next(one for one in report.findings if one.file.name == name)
    assert found.state == state
    assert any(words in found.told for words in remark)
    if isinstance(changed, str):
        assert changed in found.told
    assert report.runnable() == ()


@pytest.mark.parametrize("name", [kit.VAE, kit.TEXT, kit.AUDIO_VAE, kit.VOCODER])
def test_a_pickle_that_runs_code_is_refused(folder: Path, name: str) -> None:
    mark = kit.evil_pickle(folder / name)
    found = _of(folder, name, full=True)
    assert found.state == "damaged"
    assert "wants to run code" in found.told
    assert not mark.exists()


def test_one_file_in_the_place_of_another(folder: Path) -> None:
    (folder / kit.VAE).replace(folder / kit.TEXT)
    found = _of(folder, kit.TEXT)
    assert found.state == "wrong"
    assert "one of wan-vae (pictures to latents and back)" in found.told


def test_the_float8_file_under_the_name_of_the_whole_one_and_the_reverse(tmp_path: Path) -> None:
    folder = kit.make_folder(tmp_path / "all", ("720x720_5s", "720x720_5s_fp8"))
    whole, rounded = folder / JOINT, folder / VARIANTS["720x720_5s_fp8"][0]
    whole.rename(folder / "x")
    rounded.rename(whole)
    (folder / "x").rename(rounded)
    assert "are float8" in _of(folder, JOINT).told
    assert "are not float8" in _of(folder, VARIANTS["720x720_5s_fp8"][0]).told


def test_scales_belong_to_a_float8_file(folder: Path) -> None:
    kit.write_joint_weights(folder / VARIANTS["720x720_5s_fp8"][0], kit.in_scaled_float8(load_file(folder / JOINT)))
    assert check_folder(folder).runnable() == ("720x720_5s", "720x720_5s_fp8")


def test_misplaced_files_are_found(folder: Path) -> None:
    (folder / JOINT).rename(folder / "model.safetensors")
    assert _of(folder, JOINT).told == "misplaced: it is at model.safetensors"
    assert _of(folder / "MMAudio", kit.VOCODER).told == f"it is in {folder}: give that folder"


def test_a_tokenizer_that_was_cut_off(folder: Path) -> None:
    kit.truncate(folder / kit.TOKENIZER / "tokenizer.json")
    assert _of(folder, kit.TOKENIZER).state == "damaged"
    assert "not whole" in _of(folder, kit.TOKENIZER).told


def test_a_tokenizer_that_is_not_one(folder: Path) -> None:
    (folder / kit.TOKENIZER / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git-lfs" in _of(folder, kit.TOKENIZER).told
    (folder / kit.TOKENIZER / "tokenizer.json").unlink()
    assert _of(folder, kit.TOKENIZER).state == "damaged"


def test_in_full_finds_what_headers_do_not_show(either: Path) -> None:
    report = check_folder(either, full=True)
    assert report.runnable() == ("720x720_5s",)
    assert all(one.sha256 for one in report.findings if one.state == "ok")
    path = next(one.path for one in report.findings if one.file.name == JOINT)
    assert path is not None
    tensors = {name: one.clone() for name, one in load_file(path).items()}
    spoilt = next(name for name, one in tensors.items() if one.dim() == 2)
    tensors[spoilt][0, 0] = float("nan")
    save_file(tensors, path)
    assert check_folder(either).runnable() == ("720x720_5s",)
    found = _of(either, JOINT, full=True)
    assert found.state == "damaged"
    assert f"not finite: {spoilt}" in found.told or "not what it was" in found.told


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such weights folder"):
        check_folder(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file, and a weights folder is wanted"):
        check_folder(tmp_path / "file")


def test_an_empty_folder_tells_all_that_it_wants(tmp_path: Path) -> None:
    status, told = _told(tmp_path)
    assert status == 1
    assert all(f"needs {file.name}: Hugging Face {file.source[0]}" in told for file in FILES)
