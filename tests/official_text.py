"""A small text encoder and tokenizer in the files of the released ones: official names and formats, tiny widths."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from torch import Tensor

from ovikit.files import atomic_path

TINY_TEXT_OPTIONS: dict[str, object] = {
    "layers": 2,
    "width": 32,
    "feed_forward_width": 48,
    "heads": 4,
    "head_width": 8,
    "vocabulary": 384,
    "buckets": 8,
    "dtype": "float32",
}
"""Options of the ``umt5`` conditioner that reads these files."""

_SPECIAL = ("<pad>", "</s>", "<unk>")
_WORDS = """
a an and as at ball behind bird blue bounces calm camera car cat clear close closer coat comes dark day deep dog
door falls female flashes from good goes green hand he hear heavy hello her here high his in into is it later
laughs left light lights little long looks loud low male man moves music near night now of on one open out over
park play quiet rain red right room runs says sea she singer slowly small soft sound speaks stage stands street
sun that the then there they thunder tone tones towards traffic tree turns twice two under up voice walks water
we what white wind window with woman yellow you Audio AUDCAP ENDAUDCAP A An He I It She The They There We What
evening. everybody blur bad hands jitter distortion robotic muffled echo distorted
"""
_PIECES = ("ing", "ed", "er", "es", "th", "st", "ou", "ly", "en", "an", "in", "on", "re", "ar")


def write_text_weights(pth_path: Path, tokenizer_dir: Path, seed: int = 0) -> None:
    """Writes ``models_t5_...pth`` and the tokenizer's folder: random weights, the same for the same seed."""
    with atomic_path(pth_path) as temporary:
        torch.save(text_weights(seed), temporary)
    write_tokenizer(tokenizer_dir)


def text_weights(seed: int = 0) -> dict[str, Tensor]:
    """The encoder's tensors under their official names, bfloat16 as released."""
    size = {name: int(str(value)) for name, value in TINY_TEXT_OPTIONS.items() if name != "dtype"}
    width, inner, hidden = size["width"], size["heads"] * size["head_width"], size["feed_forward_width"]
    shapes: dict[str, tuple[int, ...]] = {"token_embedding.weight": (size["vocabulary"], width)}
    for i in range(size["layers"]):
        shapes |= {f"blocks.{i}.norm1.weight": (width,), f"blocks.{i}.norm2.weight": (width,)}
        shapes |= {f"blocks.{i}.attn.{name}.weight": (inner, width) for name in "qkv"}
        shapes |= {f"blocks.{i}.attn.o.weight": (width, inner)}
        shapes |= {f"blocks.{i}.ffn.{name}.weight": (hidden, width) for name in ("gate.0", "fc1")}
        shapes |= {f"blocks.{i}.ffn.fc2.weight": (width, hidden)}
        shapes |= {f"blocks.{i}.pos_embedding.embedding.weight": (size["buckets"], size["heads"])}
    shapes["norm.weight"] = (width,)
    generator = torch.Generator().manual_seed(seed)
    return {name: _drawn(shape, generator) for name, shape in shapes.items()}


def _drawn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    value = 1 + 0.1 * noise if len(shape) == 1 else noise / math.sqrt(shape[-1])
    return value.to(torch.bfloat16)


def vocabulary() -> list[tuple[str, float]]:
    """Pieces and their scores: the special tokens, words, parts of words, and every printable ASCII character."""
    words = [f"\u2581{word}" for word in _WORDS.split()]
    pieces = [(piece, 0.0) for piece in _SPECIAL]
    pieces += [(word, -3.0 - 0.01 * place) for place, word in enumerate(dict.fromkeys(words))]
    pieces += [(piece, -6.0) for piece in _PIECES]
    return pieces + [(letter, -9.0) for letter in ["\u2581", *(chr(code) for code in range(0x21, 0x7F))]]


def write_tokenizer(folder: Path) -> None:
    """Writes ``tokenizer.json`` and what AutoTokenizer wants beside it: pad 0, end 1, unknown 2."""
    tokenizer = Tokenizer(Unigram(vocabulary(), unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(list(_SPECIAL))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": 0,
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
