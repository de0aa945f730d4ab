"""Files of weights: what they are called by, and that they are the same for the same content."""

from __future__ import annotations

from pathlib import Path

import torch

from ovikit.checkpoints.load import read_metadata, read_tensors, write_tensors
from ovikit.files import sha256_of


def test_the_same_weights_make_the_same_file(tmp_path: Path) -> None:
    """safetensors alone writes the metadata in another order each time."""
    tensors = {name: torch.arange(6.0).reshape(2, 3) for name in "abc"}
    metadata = {f"key {i}": f"välue {i}" for i in range(8)}
    for i in range(6):
        write_tensors(tmp_path / f"{i}.safetensors", tensors, metadata)
    assert len({sha256_of(path) for path in tmp_path.iterdir()}) == 1
    back, told = read_tensors(tmp_path / "0.safetensors")
    assert told == metadata
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_metadata_is_read_in_the_order_of_its_keys(tmp_path: Path) -> None:
    """It goes on into sidecars, which are the same for the same clip."""
    write_tensors(tmp_path / "w.safetensors", {"a": torch.zeros(1)}, {key: key for key in "hgfedcba"})
    assert list(read_tensors(tmp_path / "w.safetensors")[1]) == list("abcdefgh")
    assert list(read_metadata(tmp_path / "w.safetensors")) == list("abcdefgh")
