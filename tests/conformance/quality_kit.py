"""Small networks of AS in the published layouts, with weights that anybody can make again, and pictures for them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from binding_kit import wave
from torch import Tensor, nn

from ovikit.types import Clip
from ovikit_versebench.seeing import quality
from ovikit_versebench.seeing.maniqa import Maniqa, ManiqaSize
from ovikit_versebench.seeing.musiq import Musiq, MusiqSize

transformers = pytest.importorskip("transformers")

SMALL_MUSIQ = MusiqSize(width=16, hidden=24, depth=2, heads=2, sides=(48, 80))
SMALL_MANIQA = ManiqaSize(width=16, depth=10, heads=2, image_px=64, hidden=16, window_heads=2, classes=5)
small_musiq, small_maniqa = partial(Musiq, SMALL_MUSIQ), partial(Maniqa, SMALL_MANIQA)
SIDE = 28
MEAN = STD = (0.5, 0.5, 0.5)


def waving(network: nn.Module) -> dict[str, Tensor]:
    """Weights that follow from the order of the names; numbers that are no weights stay as they are."""
    state: dict[str, Tensor] = {}
    for place, (name, value) in enumerate(sorted(network.state_dict().items())):
        if name.endswith(("relative_position_index", "attn_mask")):
            state[name] = value
            continue
        found = wave(tuple(value.shape), float(place))
        if value.dim() == 1:
            found = 0.1 * found + float("norm" in name or "gn" in name) * float(name.endswith("weight"))
        elif value.dim() > 1 and not name.endswith(("pos_embed", "cls_token", "cls", "_emb", "table")):
            found = found * (3 / value[0].numel()) ** 0.5
        state[name] = found
    return state


def write_weights(folder: Path) -> Path:
    """The four files of AS."""
    folder.mkdir(exist_ok=True)
    torch.save(waving(small_musiq()), folder / "musiq_koniq_ckpt-e95806b9.pth")
    maniqa = waving(small_maniqa())
    maniqa["fc_score.3.bias"] = torch.tensor([0.5])
    torch.save(maniqa, folder / "ckpt_koniq10k.pt")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    state = torch.get_rng_state()
    torch.manual_seed(0)
    config = transformers.SiglipConfig(
        vision_config=sizes | {"image_size": SIDE, "patch_size": 14}, text_config=sizes | {"vocab_size": 9}
    )
    home = folder / "siglip-so400m-patch14-384"
    transformers.SiglipModel(config).save_pretrained(home)
    torch.set_rng_state(state)
    told = {"size": {"height": SIDE, "width": SIDE}, "image_mean": MEAN, "image_std": STD}
    (home / "preprocessor_config.json").write_text(json.dumps(told))
    torch.save(waving(quality.AestheticHead(16)), folder / "aesthetic_predictor_v2_5.pth")
    return folder


def use_small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "Musiq", small_musiq)
    monkeypatch.setattr(quality, "Maniqa", small_maniqa)


def film(count: int, height: int = 70, width: int = 90, rate_hz: float = 2.0) -> Clip:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 7, generator=generator)
    frames = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return Clip("film", "", (255 * frames).byte().permute(0, 2, 3, 1).contiguous(), None, rate_hz, 0)
