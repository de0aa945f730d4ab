"""What the tests of ``umt5`` share: small official files, a conditioner on them, the encoder written out plainly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from official_text import TINY_TEXT_OPTIONS, write_text_weights
from torch import Tensor, nn

from ovikit.checkpoints.assets import Assets
from ovikit_ovi.text.component import COMPONENT, TOKENIZER, WEIGHTS, Umt5Config
from ovikit_ovi.text.conditioner import Umt5Conditioner

GOLDEN = Path(__file__).parent / "parity" / "golden"
PROMPTS = [
    "A red ball bounces on the street. <S>Hello there<E> <AUDCAP>rain, soft music<ENDAUDCAP>",
    "",
    "quite unknown words, caf\u00e9 \u65e5\u672c",
    "robotic, muffled, echo, distorted",
]


def write_folder(root: Path, seed: int = 0) -> Path:
    write_text_weights(root / WEIGHTS, root / TOKENIZER, seed)
    return root


def conditioner_of(root: Path | None, **options: Any) -> Umt5Conditioner:
    return COMPONENT.build(Umt5Config(**{**TINY_TEXT_OPTIONS, **options}), assets=Assets(root))


def by_hand(weights: dict[str, Tensor], ids: list[int]) -> Tensor:
    """The released encoder in float64, as its paper and file say: norms without mean, biases by relative position,
    no scale on the products, a gated tanh-GELU."""
    w = {name: value.double() for name, value in weights.items()}
    heads, width, buckets = (int(str(TINY_TEXT_OPTIONS[key])) for key in ("heads", "head_width", "buckets"))

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def bucket(distance: int) -> int:
        half, exact, away = buckets // 2, buckets // 4, abs(distance)
        far = exact + int(
            torch.tensor(max(away, exact) / exact).log() / torch.tensor(128 / exact).log() * (half - exact)
        )
        return (half if distance > 0 else 0) + (away if away < exact else min(far, half - 1))

    x = w["token_embedding.weight"][ids]
    n = len(ids)
    places = torch.tensor([[bucket(key - query) for key in range(n)] for query in range(n)])
    for i in range(int(str(TINY_TEXT_OPTIONS["layers"]))):
        part = {
            name.removeprefix(f"blocks.{i}."): value for name, value in w.items() if name.startswith(f"blocks.{i}.")
        }
        y = norm(x, part["norm1.weight"])
        q, k, v = ((y @ part[f"attn.{name}.weight"].T).view(n, heads, width).transpose(0, 1) for name in "qkv")
        bias = part["pos_embedding.embedding.weight"][places].permute(2, 0, 1)
        mixed = (q @ k.transpose(1, 2) + bias).softmax(-1) @ v
        x = x + mixed.transpose(0, 1).reshape(n, -1) @ part["attn.o.weight"].T
        y = norm(x, part["norm2.weight"])
        gate = nn.functional.gelu(y @ part["ffn.gate.0.weight"].T, approximate="tanh")
        x = x + (gate * (y @ part["ffn.fc1.weight"].T)) @ part["ffn.fc2.weight"].T
    return norm(x, w["norm.weight"])
