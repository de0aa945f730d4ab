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
from ovikit_ovi.parity.golden import Golden, skipped_layers
from ovikit_ovi.parity.run import KINDS, RECORDED_MATH, compare, float32_math, relative_error, tolerance

GOLDEN = Path(__file__).parent / "golden"
FILES = ("fusion_tiny", "generate_tiny", "samplers", "rope_affinity", "mel", "mmaudio_vae", "bigvgan")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", FILES)
def test_agrees_with_the_released_code(name: str, dtype: torch.dtype) -> None:
    rows = list(compare(GOLDEN / f"{name}.safetensors", (dtype,)))
    assert rows
    assert [row for row in rows if not row.agrees] == []


def test_the_network_and_the_loop_agree_to_rounding_in_float64() -> None:
    """Tighter than the tolerance: nothing of the released computation is approximated."""
    assert max(row.error for row in compare(GOLDEN / "fusion_tiny.safetensors", (torch.float64,))) < 1e-14
    if float32_math() == RECORDED_MATH:  # the released solver steps in float32, whose last bits are the processor's
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


def test_no_layer_and_layer_0_skip_nothing_as_in_the_released_code() -> None:
    assert [skipped_layers(value) for value in (None, False, -1, 0, 2)] == [(), (), (), (), (2,)]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("fusion_tiny", lambda t, m: m.update(cases="{}"), r"out_audio of case audio_only was recorded without"),
        ("fusion_tiny", lambda t, m: m.update(cases='{"t2av": 3}'), r"the options of case t2av are not a mapping"),
        ("fusion_tiny", lambda t, m: m.update(video_config='{"patch_size": [1, 2, 2]}'), r"configuration lacks"),
        ("fusion_tiny", lambda t, m: m.pop("audio_config"), r"lacks 'audio_config'"),
        ("fusion_tiny", lambda t, m: t.pop("cases.t2av.audio"), r"out_audio of case t2av was recorded without"),
        ("fusion_tiny", lambda t, m: t.update({"cases.t2av.video": torch.zeros(5, 3, 8, 6)}), r"do not go together"),
        ("generate_tiny", lambda t, m: m.update(cases='{"t2av": {"steps": 6, "gv": 1.0}}'), r"t2av lacks the option"),
        ("rope_affinity", lambda t, m: t.update({"affinity.third": torch.zeros(2, 2)}), r"'affinity.third' is no aff"),
        ("rope_affinity", lambda t, m: (t.clear(), t.update(x=torch.zeros(1, 1))), r"'x' is no affinity map"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, change, message: str) -> None:
    shutil.copy(GOLDEN / "fusion_tiny.safetensors", tmp_path)
    path = altered(tmp_path, name, change)
    with pytest.raises(UserError, match=message) as caught:
        list(compare(path, (torch.float64,)))
    assert str(path) in str(caught.value)


def test_a_file_of_no_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are: fusion, generate, samplers, rope"):
        list(compare(tmp_path / "other.safetensors", (torch.float64,)))


def test_what_was_stored_or_stepped_in_float32_is_held_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = torch.zeros(1, dtype=torch.float64), torch.zeros(1)
    assert tolerance(KINDS["fusion"], torch.float64, wide) == 1e-9
    assert tolerance(KINDS["fusion"], torch.float64, narrow) == 1e-5
    monkeypatch.setattr("ovikit_ovi.parity.run.float32_math", lambda: RECORDED_MATH)
    assert tolerance(KINDS["generate"], torch.float64, wide) == 1e-9
    monkeypatch.setattr("ovikit_ovi.parity.run.float32_math", lambda: RECORDED_MATH + 1)
    assert tolerance(KINDS["generate"], torch.float64, wide) == 1e-5
    assert tolerance(KINDS["fusion"], torch.float64, wide) == 1e-9


def test_other_sizes_than_the_recorded_ones(tmp_path: Path) -> None:
    """Head widths, depths, patches and tokens are the file's: what was made at other sizes is replayed at them."""
    from ovikit_ovi.parity.fusion import replay

    def change(tensors: dict, metadata: dict) -> None:
        old, generator = dict(tensors), torch.Generator().manual_seed(0)
        tensors.clear()
        shared = {"dim": 80, "num_heads": 2, "num_layers": 1, "ffn_dim": 40, "freq_dim": 10, "text_len": 7}
        for name, more in (("video_config", {"patch_size": [1, 1, 2]}), ("audio_config", {})):
            metadata[name] = json.dumps({**json.loads(metadata[name]), **shared, **more})
        for name, shape in shapes(metadata).items():
            tensors[f"weights.{name}"] = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.2
        tensors.update({k: v for k, v in old.items() if k.startswith("cases.t2av.") and "context" not in k})
        for m in ("video", "audio"):
            tensors[f"cases.t2av.{m}_context"] = torch.randn(7, 24, generator=generator, dtype=torch.float64)
        metadata["cases"] = json.dumps({"t2av": {"slg_layer": None}})
        made = {f"cases.t2av.{name}": ours for _, name, ours, _ in replay(memory(tensors, metadata), torch.float64)}
        tensors.update({name: value.contiguous() for name, value in made.items()})

    path = altered(tmp_path, "fusion_tiny", change)
    rows = list(compare(path, (torch.float64, torch.float32)))
    assert [row.tensor for row in rows] == ["out_video", "out_audio"] * 2
    assert all(row.agrees for row in rows)


def memory(tensors: dict, metadata: dict) -> Golden:
    return Golden(Path("fusion_here.safetensors"), tensors, metadata)


def shapes(metadata: dict) -> dict[str, torch.Size]:
    """The official names and shapes of the weights that a file's configurations describe."""
    from ovikit_ovi.formats import ovi_format
    from ovikit_ovi.parity.golden import empty_model

    keymap = ovi_format().keymap
    made = empty_model(memory({}, metadata)).state_dict()
    return {keymap.official(name): value.shape for name, value in made.items()}


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
