"""A small DINOv3 in the published layout, and pictures for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ovikit.evaluation.protocols import PromptItem

transformers = pytest.importorskip("transformers")
NAME = "dinov3-vitl16-pretrain-lvd1689m"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_weights(folder: Path, **changed: int) -> Path:
    """A network of two layers, drawn by a seed, as the published one is laid out."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2} | changed
    config = transformers.DINOv3ViTConfig(**sizes, image_size=64, patch_size=16, num_register_tokens=4)
    transformers.DINOv3ViTModel(config).save_pretrained(folder / NAME)
    torch.set_rng_state(state)
    told = {"size": {"height": 64, "width": 64}, "image_mean": MEAN, "image_std": STD}
    (folder / NAME / "preprocessor_config.json").write_text(json.dumps(told))
    return folder


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 8, generator=generator)
    return (
        (255 * torch.nn.functional.interpolate(coarse, (48, 64), mode="bicubic").clamp(0, 1)).byte().permute(0, 2, 3, 1)
    )


def item_of(folder: Path, picture: torch.Tensor) -> PromptItem:
    path = folder / "reference.png"
    Image.fromarray(picture.numpy()).save(path)
    return PromptItem("0", "a picture", image=path)
