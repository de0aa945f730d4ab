"""Recordings of the audio networks at other sizes, lengths and batches than the released code's, and damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ovikit.checkpoints.load import read_tensors
from ovikit.data.mel import log_mel
from ovikit.errors import UserError
from ovikit_ovi.audio.networks import autoencoder, vocoder
from ovikit_ovi.audio.weight_norm import of_length_one
from ovikit_ovi.parity.run import compare

GOLDEN = Path(__file__).parent / "golden"
BOTH = (torch.float64, torch.float32)


def drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def test_an_autoencoder_of_other_sizes(tmp_path: Path) -> None:
    generator, tensors = torch.Generator().manual_seed(0), {}
    model = autoencoder(40, 6, 8)
    state = {name: drawn(generator, *one.shape) for name, one in model.state_dict().items()}
    state["data_std"] = state["data_std"].abs() + 0.5
    model.load_state_dict({name: of_length_one(one) if name.endswith("weight") else one for name, one in state.items()})
    with torch.no_grad():
        for case, batch, frames in (("encode", 3, 14), ("encode.long", 1, 62)):
            mel = drawn(generator, batch, 40, frames)
            mean, log_variance = model.encode(mel).chunk(2, dim=1)
            made = {"mel": mel, "mean": mean, "std": (log_variance / 2).exp()}
            tensors |= {f"cases.{case}.{name}": one.contiguous() for name, one in made.items()}
        latent = drawn(generator, 2, 6, 5)
        tensors |= {"cases.decode.latent": latent, "cases.decode.mel": model.decode(latent).contiguous()}
    tensors |= {f"weights.{name}": one for name, one in state.items()}
    config = {"data_dim": 40, "embed_dim": 6, "hidden_dim": 8}
    path = tmp_path / "mmaudio_vae_other.safetensors"
    save_file(tensors, path, {"config": json.dumps(config)})
    rows = list(compare(path, BOTH))
    assert len(rows) == 2 * 5
    assert all(row.agrees for row in rows)


@pytest.mark.parametrize("older", [False, True])
def test_a_vocoder_of_other_sizes_in_both_spellings(tmp_path: Path, older: bool) -> None:
    generator, tensors = torch.Generator().manual_seed(0), {}
    model = vocoder(12, 8, (4, 2), (8, 4), (3, 5), ((1, 2), (1, 3)))
    for name, one in model.state_dict().items():
        if not name.endswith("filter"):
            one.copy_(0.3 * drawn(generator, *one.shape))
        if name.endswith("weight"):  # its length, and a direction of any other length
            stem = name if older else name.replace("weight", "parametrizations.weight")
            length, direction = ("_g", "_v") if older else (".original0", ".original1")
            tensors[f"weights.{stem}{length}"] = one.flatten(1).norm(dim=1)[:, None, None]
            tensors[f"weights.{stem}{direction}"] = 3 * one
        else:
            tensors[f"weights.{name}"] = one
    with torch.no_grad():
        for case, batch, frames in (("vocode", 2, 7), ("short", 1, 1)):
            mel = drawn(generator, batch, 12, frames)
            (wave,) = model(mel, return_dict=False)
            assert wave.shape == (batch, 1, 8 * frames)
            tensors |= {f"cases.{case}.mel": mel, f"cases.{case}.waveform": wave.contiguous()}
    config = {
        "num_mels": 12,
        "upsample_initial_channel": 8,
        "upsample_rates": [4, 2],
        "upsample_kernel_sizes": [8, 4],
        "resblock_kernel_sizes": [3, 5],
        "resblock_dilation_sizes": [[1, 2], [1, 3]],
    }
    path = tmp_path / "bigvgan_other.safetensors"
    save_file({name: one.clone() for name, one in tensors.items()}, path, {"config": json.dumps(config)})
    rows = list(compare(path, BOTH))
    assert len(rows) == 2 * 2
    assert all(row.agrees for row in rows)


def test_mels_of_other_lengths_bands_and_loudness(tmp_path: Path) -> None:
    generator, tensors = torch.Generator().manual_seed(0), {}
    for case, batch, samples, bands in (("long", 2, 20001, 80), ("few_bands", 1, 4096, 40)):
        waveform = 2 * drawn(generator, batch, samples)
        mel = log_mel(waveform.double(), bands).float()
        tensors |= {f"cases.{case}.waveform": waveform, f"cases.{case}.mel": mel}
    save_file(tensors, tmp_path / "mel_other.safetensors")
    rows = list(compare(tmp_path / "mel_other.safetensors", BOTH))
    assert len(rows) == 2 * 2
    assert all(row.agrees for row in rows)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mmaudio_vae", lambda t, m: m.update(config='{"data_dim": 80}'), r"configuration lacks 'embed_dim'"),
        ("mmaudio_vae", lambda t, m: m.clear(), r"lacks 'config'"),
        ("mmaudio_vae", lambda t, m: t.pop("weights.data_mean"), r"missing: data_mean"),
        ("mmaudio_vae", lambda t, m: t.pop("cases.encode.std"), r"case encode lacks the tensor std"),
        ("bigvgan", lambda t, m: m.update(config='{"activation": "snake"}'), r"options that the released one does not"),
        ("bigvgan", lambda t, m: m.update(config="{}"), r"configuration lacks 'num_mels'"),
        ("bigvgan", lambda t, m: t.update({"weights.more": torch.zeros(1)}), r"knows no tensor 'more'"),
        ("bigvgan", lambda t, m: t.pop("cases.vocode.mel"), r"case vocode lacks the tensor mel"),
        ("mel", lambda t, m: (t.clear(), t.update(other=torch.zeros(1))), r"nothing in this file"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    tmp_path: Path, name: str, change: Callable[[dict[str, Tensor], dict[str, str]], Any], message: str
) -> None:
    tensors, metadata = read_tensors(GOLDEN / f"{name}.safetensors")
    change(tensors, metadata)
    path = tmp_path / f"{name}.safetensors"
    save_file(tensors, path, metadata)
    with pytest.raises(UserError, match=message) as caught:
        list(compare(path, (torch.float32,)))
    assert str(path) in str(caught.value)
