"""Small networks that listen, their weights under the published names, and sounds for them."""

from __future__ import annotations

import json
import math
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ovikit.types import Clip
from ovikit_versebench.listening import aesthetics, tagging
from ovikit_versebench.listening.cnn14 import FRONTS, Cnn14
from ovikit_versebench.listening.passt import Passt, PasstSize
from ovikit_versebench.listening.wavlm import AXES, Aesthetics, AestheticsSize

KINDS = 12
small_cnn14 = partial(Cnn14, widths=(4, 4, 6, 6, 8, 8), classes=KINDS)
SMALL_PASST = PasstSize(width=16, depth=2, heads=2, classes=KINDS)
small_size = partial(AestheticsSize, channels=8, width=32, depth=2, heads=2)
CONFIG = {
    "proj_num_layer": 2, "proj_ln": True, "proj_act_fn": "gelu", "proj_dropout": 0, "nth_layer": 13,
    "use_weighted_layer_sum": True, "normalize_embed": True, "output_dim": 1, "precision": "bf16",
}  # fmt: skip
SCALE = {axis: {"mean": 5.0 + i, "std": 1.0 + i / 2} for i, axis in enumerate(AXES)}


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with random weights and statistics that keep numbers in bounds; its spectra are left as they are."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if not value.is_floating_point() or "stft" in name or "melW" in name:
            continue
        if name.endswith("running_var") or (value.dim() == 1 and name.endswith("weight")):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.dim() <= 1:
            value.normal_(0, 0.1, generator=generator)
        else:
            value.normal_(0, max(1, value[0].numel()) ** -0.5, generator=generator)
    return network.eval()


def write_small_weights(folder: Path) -> None:
    """Of Cnn14 for both rates, PaSST and AudioBox, as they are published."""
    state = {"iteration": 1, "model": randomised(small_cnn14(FRONTS[16000])).state_dict()}
    sampler = {"indexes": np.arange(8), "pointer": 3}  # as the published file, arrays of NumPy 1 beside the weights
    remaker = np.empty(0).__reduce__()[0]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
        patch.setattr(remaker, "__module__", "numpy.core.multiarray")
        torch.save(state | {"sampler": sampler}, folder / "Cnn14_16k_mAP=0.438.pth")
    state = {"model": randomised(small_cnn14(FRONTS[32000])).state_dict()}
    torch.save(state, folder / "Cnn14_mAP=0.431.pth", _use_new_zipfile_serialization=False)
    torch.save(randomised(Passt(SMALL_PASST), 1).state_dict(), folder / "passt-s-f128-p16-s10-ap.476-swa.pt")
    (folder / "audiobox-aesthetics").mkdir()
    write_aesthetics(folder / "audiobox-aesthetics")


def write_aesthetics(folder: Path) -> Aesthetics:
    net = randomised(Aesthetics(small_size(head_layers=2)), 2)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"target_transform": SCALE}))
    return net


def use_small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tagging, "Cnn14", small_cnn14)
    monkeypatch.setattr(tagging, "PasstNetwork", partial(Passt, SMALL_PASST))
    monkeypatch.setattr(aesthetics, "AestheticsSize", small_size)


def write_clap(folder: Path, fusion: bool = True, safetensors: bool = True) -> None:
    """A folder as laion/clap-htsat-fused and laion/clap-htsat-unfused are."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "rain", "dogs", "bark", "far", "away", ".", "a", "wind"]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder)
    config = transformers.ClapConfig(
        text_config={
            "vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "max_position_embeddings": 96, "projection_dim": 16,
        },
        audio_config={
            "depths": [1, 1], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "hidden_size": 16,
            "projection_dim": 16, "enable_fusion": fusion, "enable_patch_fusion": fusion,
            "fusion_type": "aff_2d", "aff_block_r": 2,
        },
        projection_dim=16,
    )  # fmt: skip
    config.save_pretrained(folder)
    transformers.ClapFeatureExtractor(
        frequency_min=50, frequency_max=14000, truncation="fusion" if fusion else "rand_trunc"
    ).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        net = randomised(transformers.ClapModel(config), 3)
    state = {name: value.contiguous().clone() for name, value in net.state_dict().items()}
    if safetensors:
        save_file(state, folder / "model.safetensors")
    else:  # as an older version wrote it, with counters beside the weights
        state["text_model.embeddings.position_ids"] = torch.arange(96)[None]
        torch.save(state, folder / "pytorch_model.bin")


def clip_of(sound: Tensor | None, rate_hz: int, name: str = "0") -> Clip:
    return Clip(name, "", None, sound, 24.0, rate_hz)


def noise(seconds: float, rate_hz: int, seed: int = 0, level: float = 0.1) -> Tensor:
    return level * torch.randn(round(seconds * rate_hz), generator=torch.Generator().manual_seed(seed))


def tone(seconds: float, rate_hz: int, hz: float = 440.0, level: float = 0.3) -> Tensor:
    return (level * torch.sin(2 * math.pi * hz * torch.arange(round(seconds * rate_hz)).double() / rate_hz)).float()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
