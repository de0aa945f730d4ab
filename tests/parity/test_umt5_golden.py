"""The released text encoder's recording, and files that its replay must refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from official_text import text_weights
from safetensors.torch import save_file
from torch import Tensor
from umt5_kit import GOLDEN, by_hand

from ovikit.checkpoints.load import read_tensors
from ovikit.errors import UserError
from ovikit_ovi.parity.golden import Golden
from ovikit_ovi.parity.run import compare
from ovikit_ovi.parity.umt5 import shape_of
from ovikit_ovi.text.encoder import Umt5Shape


def altered(tmp_path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], object]) -> Path:
    tensors, metadata = read_tensors(GOLDEN / "umt5.safetensors")
    change(tensors, metadata)
    path = tmp_path / "umt5_other.safetensors"
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_agrees_with_the_released_code(dtype: torch.dtype) -> None:
    rows = list(compare(GOLDEN / "umt5.safetensors", (dtype,)))
    assert [row.tensor for row in rows] == ["embedding"]
    assert max(row.error for row in rows) < 2e-6


@pytest.mark.parametrize(
    "weight", ["token_embedding", "norm", "blocks.2.attn.o", "blocks.1.ffn.gate.0", "blocks.0.pos_embedding.embedding"]
)
def test_a_changed_weight_is_seen(tmp_path: Path, weight: str) -> None:
    path = altered(tmp_path, lambda tensors, _: tensors[f"weights.{weight}.weight"].mul_(1.01))
    assert not any(row.agrees for row in compare(path, (torch.float32,)))


def test_other_sizes_than_the_recorded_ones(tmp_path: Path) -> None:
    ids, mask = torch.zeros(2, 9, dtype=torch.int64), torch.zeros(2, 9, dtype=torch.int64)
    for row, one in enumerate(([5, 6, 7, 300, 9, 10, 1], [11, 1])):
        ids[row, : len(one)], mask[row, : len(one)] = torch.tensor(one), 1

    def change(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        tensors.clear()
        config = {
            "vocab": 384,
            "dim": 32,
            "dim_attn": 32,
            "dim_ffn": 48,
            "num_heads": 4,
            "num_layers": 2,
            "num_buckets": 8,
        }
        metadata["config"] = json.dumps({**config, "shared_pos": False, "dropout": 0.1})
        weights = {name: value.float() for name, value in text_weights().items()}
        wanted = torch.zeros(2, 9, 32)
        for row in range(2):
            kept = ids[row][mask[row] > 0].tolist()
            wanted[row, : len(kept)] = by_hand(weights, kept).float()
        tensors.update({f"weights.{name}": value for name, value in weights.items()})
        tensors.update({"cases.x.ids": ids, "cases.x.mask": mask, "cases.x.embedding": wanted})

    rows = list(compare(altered(tmp_path, change), (torch.float32, torch.float64)))
    assert len(rows) == 2
    assert all(row.agrees for row in rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.update(config="{}"), "the configuration lacks 'vocab'"),
        (lambda t, m: m.update(config='{"shared_pos": true}'), "share their relative positions"),
        (lambda t, m: t.pop("weights.norm.weight"), r"missing: encoder\.final_layer_norm\.weight"),
        (lambda t, m: t.pop("cases.padded_batch.mask"), "lacks the tensor mask"),
        (lambda t, m: t["cases.padded_batch.ids"].fill_(97), "do not go together"),
    ],
)
def test_a_damaged_recording_is_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        list(compare(altered(tmp_path, change), (torch.float32,)))


def test_sizes_of_a_recording_are_read_from_it() -> None:
    golden = Golden.read(GOLDEN / "umt5.safetensors")
    assert shape_of(json.loads(golden.metadata["config"]), "x") == Umt5Shape(3, 32, 48, 4, 4, 97, 32)
