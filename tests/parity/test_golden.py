"""The released code's recordings, through the checkpoint format and the loop; and files that replays must refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ovikit.checkpoints.load import read_tensors
from ovikit.errors import UserError
from ovikit_ovi.parity.run import compare, relative_error

GOLDEN = Path(__file__).parent / "golden"
FILES = ("fusion_tiny", "generate_tiny", "rope_affinity")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", FILES)
def test_agrees_with_the_released_code(name: str, dtype: torch.dtype) -> None:
    rows = list(compare(GOLDEN / f"{name}.safetensors", (dtype,)))
    assert rows
    assert [row for row in rows if not row.agrees] == []


def test_the_network_and_the_loop_agree_to_rounding_in_float64() -> None:
    """Tighter than the tolerance: nothing of the released computation is approximated."""
    assert max(row.error for row in compare(GOLDEN / "fusion_tiny.safetensors", (torch.float64,))) < 1e-14
    assert max(row.error for row in compare(GOLDEN / "generate_tiny.safetensors", (torch.float64,))) == 0.0


def test_every_case_and_output_of_the_file_is_compared() -> None:
    tensors, metadata = read_tensors(GOLDEN / "fusion_tiny.safetensors")
    outputs = {tuple(name.split(".")[1:]) for name in tensors if ".out_" in name}
    rows = compare(GOLDEN / "fusion_tiny.safetensors", (torch.float64,))
    assert {(row.case, row.tensor) for row in rows} == outputs
    assert {case for case, _ in outputs} == set(json.loads(metadata["cases"]))


def altered(tmp_path: Path, name: str, change) -> Path:
    """A copy of a golden file with ``change(tensors, metadata)`` made to it."""
    tensors, metadata = read_tensors(GOLDEN / f"{name}.safetensors")
    change(tensors, metadata)
    path = tmp_path / f"{name}.safetensors"
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize(
    "weight",
    [
        "audio_model.blocks.1.cross_attn.v_fusion.weight",
        "video_model.blocks.2.cross_attn.norm_k_fusion.weight",
        "audio_model.patch_embedding.2.w3.weight",
        "video_model.head.modulation",
        "video_model.time_projection.1.bias",
    ],
)
def test_a_changed_weight_is_seen(tmp_path: Path, weight: str) -> None:
    path = altered(tmp_path, "fusion_tiny", lambda tensors, _: tensors[f"weights.{weight}"].mul_(1.01))
    assert any(not row.agrees for row in compare(path, (torch.float64,)))


@pytest.mark.parametrize(
    ("key", "value"), [("temporal_rope_scaling_factor", 0.2), ("eps", 1e-3), ("num_heads", 4), ("num_heads", 1)]
)
def test_the_configuration_is_read_from_the_file(tmp_path: Path, key: str, value: float) -> None:
    """A replay that ignored an option would still agree."""

    def change(_: dict, metadata: dict) -> None:
        for name in ("video_config", "audio_config"):
            metadata[name] = json.dumps({**json.loads(metadata[name]), key: value})

    assert any(not row.agrees for row in compare(altered(tmp_path, "fusion_tiny", change), (torch.float64,)))


@pytest.mark.parametrize(("key", "value"), [("steps", 7), ("shift", 4.0), ("gv", 3.5), ("ga", 2.5), ("slg", 2)])
def test_the_sampling_options_are_read_from_the_file(tmp_path: Path, key: str, value: float) -> None:
    def change(_: dict, metadata: dict) -> None:
        metadata["cases"] = json.dumps({"t2av": {**json.loads(metadata["cases"])["t2av"], key: value}})

    path = altered(tmp_path, "generate_tiny", change)
    shutil.copy(GOLDEN / "fusion_tiny.safetensors", tmp_path)
    assert any(not row.agrees for row in compare(path, (torch.float64,)))


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    path = altered(tmp_path, "fusion_tiny", lambda tensors, _: tensors.pop("weights.video_model.head.modulation"))
    with pytest.raises(UserError, match=r"1 tensors missing: towers\.video\.head\.modulation"):
        list(compare(path, (torch.float64,)))


def test_generate_without_its_weights_says_what_it_needs(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "generate_tiny.safetensors", tmp_path)
    with pytest.raises(UserError, match="needs it beside it"):
        list(compare(tmp_path / "generate_tiny.safetensors", (torch.float64,)))


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fusion_cut.safetensors"
    path.write_bytes((GOLDEN / "fusion_tiny.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        list(compare(path, (torch.float64,)))


def test_relative_error_is_infinite_for_nan_and_other_shapes() -> None:
    value = torch.tensor([1.0, -2.0])
    assert relative_error(value, value) == 0.0
    assert relative_error(torch.tensor([1.0, -2.5]), value) == 0.25
    assert relative_error(torch.tensor([1.0, float("nan")]), value) == float("inf")
    assert relative_error(value[:1], value) == float("inf")


def test_weights_come_back_under_their_official_names() -> None:
    """The converter is its own inverse, tensor for tensor."""
    from ovikit_ovi.formats import ovi_format

    tensors = load_file(GOLDEN / "fusion_tiny.safetensors")
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    keymap = ovi_format().keymap
    back = keymap.to_official(keymap.to_ours(weights))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)
