"""CLAP as transformers and LAION have it, with small networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from listening_kit import noise, write_clap
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovikit.errors import UserError


@pytest.fixture(scope="module", params=[True, False], ids=["fused", "unfused"])
def clap(request, tmp_path_factory) -> tuple[Path, bool]:
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clap")
    write_clap(folder, fusion=request.param, safetensors=request.param)
    return folder, request.param


def their_embedding(folder: Path, inputs: dict[str, Tensor]) -> Tensor:
    import transformers

    net = transformers.ClapModel(transformers.ClapConfig.from_pretrained(folder)).eval()
    path = folder / "model.safetensors"
    net.load_state_dict(load_file(path) if path.is_file() else torch.load(folder / "pytorch_model.bin"))
    with torch.no_grad():
        return net.get_audio_features(**inputs).pooler_output[0]


@pytest.mark.parametrize("seconds", [0.7, 4.0, 10.0])
def test_clap_hears_as_transformers_does(clap, seconds: float) -> None:
    import transformers

    from ovikit_versebench.listening.clap import Clap

    folder, fusion = clap
    sound = noise(seconds, 48000)
    form = transformers.ClapFeatureExtractor.from_pretrained(folder)
    given = form(sound.double().numpy(), sampling_rate=48000, return_tensors="pt")
    assert bool(given["is_longer"]) == fusion  # which it is not; the tool has it False
    inputs = {"input_features": given["input_features"].float(), "is_longer": torch.tensor([[False]])}
    found = Clap(folder).of_sound(sound)
    torch.testing.assert_close(found, their_embedding(folder, inputs), atol=1e-5, rtol=1e-4)
    assert float(found.norm()) == pytest.approx(1, abs=1e-6)


def test_clap_hears_long_sounds_in_whole_and_always_alike(clap) -> None:
    from ovikit_versebench.listening.clap import Clap

    folder, _ = clap
    net, sound = Clap(folder), noise(23.0, 48000)
    first = net.of_sound(sound)
    assert torch.equal(first, net.of_sound(sound))
    changed = sound.clone()
    changed[-48000 * 12 : -48000 * 11] *= 30
    assert not torch.allclose(first, net.of_sound(changed), atol=1e-4)


def test_claps_texts_are_those_of_transformers(clap) -> None:
    import transformers

    from ovikit_versebench.listening.clap import Clap

    folder, _ = clap
    ours = Clap(folder)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ("rain far away.", "dogs bark " * 60):
        given = words([text], truncation=True, max_length=77, return_tensors="pt")
        with torch.no_grad():
            expected = ours._network.get_text_features(**given).pooler_output[0]
        torch.testing.assert_close(ours.of_text(text), expected, atol=1e-6, rtol=1e-5)
    padded = words(["rain far away."], padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():  # as the tool pads them
        expected = ours._network.get_text_features(**padded).pooler_output[0]
    torch.testing.assert_close(ours.of_text("rain far away."), expected, atol=1e-5, rtol=1e-4)


def in_laions_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state of transformers' network as LAION writes it."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        parts = ("query", "key", "value")
        if "audio_encoder" in name and any(f".{part}." in name for part in parts):
            if ".query." not in name:
                continue
            value = torch.cat([state[name.replace("query", part)] for part in parts])
            name = name.replace(".attention.self.query.", ".attn.qkv.")
        if "audio_encoder" in name:
            for ours, theirs in (
                (".attention.output.dense.", ".attn.proj."), (".attention.self.", ".attn."),
                (".layernorm_before.", ".norm1."), (".layernorm_after.", ".norm2."),
                (".intermediate.dense.", ".mlp.fc1."), (".output.dense.", ".mlp.fc2."), (".batch_norm.", ".bn0."),
            ):  # fmt: skip
                name = name.replace(ours, theirs)
        for ours, theirs in (
            ("audio_model.audio_encoder.", "audio_branch."), ("text_model.", "text_branch."),
            ("_projection.linear1.", "_projection.0."), ("_projection.linear2.", "_projection.2."),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        found[f"module.{name}"] = value
    unused = ("audio_branch.logmel_extractor.melW", "audio_branch.head.weight", "text_transform.sequential.0.bias")
    return found | {f"module.{name}": torch.zeros(2) for name in unused}


def test_laions_own_file_may_be_in_the_folder(clap, tmp_path) -> None:
    from ovikit_versebench.listening.clap import Clap

    folder, fusion = clap
    write_clap(tmp_path, fusion=fusion)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    checkpoint = {"epoch": 3, "best": np.float64(0.5), "state_dict": in_laions_names(state)}
    torch.save(checkpoint, tmp_path / "630k-audioset-fusion-best.pt")
    expected, found = (Clap(one)._network.state_dict() for one in (folder, tmp_path))
    assert set(expected) == set(found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    del checkpoint["state_dict"]["module.audio_branch.norm.bias"]
    torch.save(checkpoint, tmp_path / "630k-audioset-fusion-best.pt")
    with pytest.raises(UserError, match=r"audio_encoder\.norm\.bias"):
        Clap(tmp_path)


def test_what_is_no_folder_of_clap_is_told(tmp_path) -> None:
    pytest.importorskip("transformers")
    from ovikit_versebench.listening.clap import Clap

    with pytest.raises(UserError, match="no folder of CLAP"):
        Clap(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no weights in this folder"):
        Clap(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="cannot be used"):
        Clap(tmp_path)
    write_clap(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["audio_projection.linear1.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"audio_projection\.linear1\.bias"):
        Clap(tmp_path)
