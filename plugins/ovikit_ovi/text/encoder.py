"""transformers' UMT5 encoder: built without storage, filled from the released file or from one of ours, and run.

Shape legend: l tokens of a prompt, w width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ovikit.checkpoints.load import check_names_and_shapes, in_our_names
from ovikit.checkpoints.state import read_state
from ovikit.extras import require
from ovikit.networks.protocols import Progress
from ovikit_ovi.text.keymap import TIED, umt5_format

DISTANCE = 128
"""Tokens beyond which relative positions are all the same."""


@dataclass(frozen=True, slots=True)
class Umt5Shape:
    """The sizes of an encoder; see ``component.Umt5Config``."""

    layers: int
    width: int
    feed_forward_width: int
    heads: int
    head_width: int
    vocabulary: int
    buckets: int

    def parameters(self) -> int:
        """How many weights there are."""
        attention = 4 * self.width * self.heads * self.head_width + self.buckets * self.heads
        layer = attention + 3 * self.width * self.feed_forward_width + 2 * self.width
        return self.vocabulary * self.width + self.layers * layer + self.width


@contextmanager
def _silent() -> Iterator[None]:
    """transformers says nothing below an error in here: it would report the tied embedding as missing."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def empty_encoder(shape: Umt5Shape, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A ``UMT5EncoderModel`` on the meta device. UserError where transformers is not installed."""
    config_of = require("transformers.models.umt5.configuration_umt5", "ovi").UMT5Config
    model_of = require("transformers.models.umt5.modeling_umt5", "ovi").UMT5EncoderModel
    config = config_of(
        vocab_size=shape.vocabulary,
        d_model=shape.width,
        d_kv=shape.head_width,
        d_ff=shape.feed_forward_width,
        num_layers=shape.layers,
        num_heads=shape.heads,
        relative_attention_num_buckets=shape.buckets,
        relative_attention_max_distance=DISTANCE,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        # In bfloat16 this one rounds where the released code does.
        attn_implementation="eager",
    )
    with _silent(), torch.device("meta"):
        encoder = model_of(config)
    # One module with two names, so that moving or freeing it cannot make two of it.
    encoder.encoder.embed_tokens = encoder.shared
    return encoder.to(dtype).eval().requires_grad_(False)


def fill_encoder(
    encoder: nn.Module,
    tensors: Mapping[str, Tensor],
    device: torch.device | str,
    where: str,
    progress: Progress | None = None,
) -> None:
    """Puts tensors of either naming into an empty encoder, on ``device`` and in the encoder's dtype, one by one.
    UserError listing what is missing, unexpected or misshapen; ``where`` names the source."""
    checkpoint = umt5_format()
    ours = in_our_names(tensors, checkpoint, where) if checkpoint.recognises(tensors) else dict(tensors)
    ours.pop(TIED, None)
    check_names_and_shapes(encoder, _with_tied(ours), where)
    dtype = next(encoder.parameters()).dtype
    placed: dict[str, Tensor] = {}
    done, total = 0, sum(tensor.nbytes for tensor in ours.values())
    for name in list(ours):
        tensor = ours.pop(name)
        placed[name] = tensor.to(device=device, dtype=dtype)
        done += tensor.nbytes
        if progress is not None:
            progress(done, total)
    encoder.load_state_dict(_with_tied(placed), assign=True)
    encoder.requires_grad_(False)


def _with_tied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, TIED: tensors["shared.weight"]} if "shared.weight" in tensors else dict(tensors)


def read_encoder(
    path: Path, shape: Umt5Shape, dtype: torch.dtype, device: torch.device | str, progress: Progress | None = None
) -> nn.Module:
    """The encoder of a file, on a device. UserError for a file that is not one of this encoder."""
    encoder = empty_encoder(shape, dtype)
    tensors, _ = read_state(path)
    fill_encoder(encoder, tensors, device, str(path), progress)
    return encoder


def embed(encoder: nn.Module, ids: Sequence[int]) -> Float[Tensor, "l w"]:
    """The embedding of one prompt. Alone, so that it is the same to the bit in whatever company it is asked for."""
    device = next(encoder.parameters()).device
    with torch.no_grad():
        return encoder(torch.tensor([ids], device=device)).last_hidden_state[0]
