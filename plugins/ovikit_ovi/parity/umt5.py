"""Replays of ``umt5``: numbered tokens, in a padded batch, to embeddings that are zero past each prompt's length.

transformers takes norms in float32 whatever the weights are, so the replay in float64 is close to that in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ovikit.checkpoints.load import parse_json_metadata
from ovikit.errors import UserError
from ovikit_ovi.parity.golden import Golden
from ovikit_ovi.text.conditioner import padded
from ovikit_ovi.text.encoder import Umt5Shape, embed, empty_encoder, fill_encoder


def shape_of(config: Mapping[str, object], where: str) -> Umt5Shape:
    """The sizes in a released configuration. UserError for what the released encoder is not."""
    if config.get("shared_pos", False) is not False:
        raise UserError("its layers share their relative positions; those of the released encoder do not", where)
    try:
        vocabulary, width, inner, hidden, heads, layers, buckets = (
            int(str(config[key]))
            for key in ("vocab", "dim", "dim_attn", "dim_ffn", "num_heads", "num_layers", "num_buckets")
        )
    except KeyError as error:
        raise UserError(f"the configuration lacks {error}", where) from error
    if inner % heads:
        raise UserError(f"{heads} heads do not divide an attention width of {inner}", where)
    return Umt5Shape(layers, width, hidden, heads, inner // heads, vocabulary, buckets)


def build(golden: Golden, dtype: torch.dtype) -> nn.Module:
    """The encoder that the file describes, with its weights."""
    where = str(golden.path)
    shape = shape_of(parse_json_metadata(golden.metadata, "config", where), where)
    encoder = empty_encoder(shape, dtype)
    fill_encoder(encoder, golden.weights(), "cpu", where)
    return encoder


def replay(golden: Golden, dtype: torch.dtype) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """(case, tensor, ours, recorded) of every batch in the file."""
    encoder = build(golden, dtype)
    for case in golden.recorded_cases():
        ids, mask = golden.need(case, "ids"), golden.need(case, "mask") > 0
        recorded = golden.need(case, "embedding")
        rows = [embed(encoder, row[kept].tolist()) for row, kept in zip(ids, mask, strict=True)]
        ours = torch.zeros(recorded.shape, dtype=dtype)
        tokens = padded(rows).tokens
        ours[:, : tokens.shape[1]] = tokens
        yield case, "embedding", ours, recorded
