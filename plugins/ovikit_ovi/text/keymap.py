"""Names of the released UMT5 encoder file, and what transformers' ``UMT5EncoderModel`` calls the same tensors."""

from __future__ import annotations

from ovikit.checkpoints.format import CheckpointFormat
from ovikit.checkpoints.keymap import KeyMap, Rule

_LAYER = "encoder.block.{i}.layer"

RULES = (
    Rule("token_embedding.{r}", "shared.{r}"),
    Rule("norm.{r}", "encoder.final_layer_norm.{r}"),
    Rule("blocks.{i}.norm1.{r}", _LAYER + ".0.layer_norm.{r}"),
    Rule("blocks.{i}.norm2.{r}", _LAYER + ".1.layer_norm.{r}"),
    Rule("blocks.{i}.pos_embedding.embedding.{r}", _LAYER + ".0.SelfAttention.relative_attention_bias.{r}"),
    Rule("blocks.{i}.attn.{r}", _LAYER + ".0.SelfAttention.{r}"),
    # The gate is the half that goes through the GELU.
    Rule("blocks.{i}.ffn.gate.0.{r}", _LAYER + ".1.DenseReluDense.wi_0.{r}"),
    Rule("blocks.{i}.ffn.fc1.{r}", _LAYER + ".1.DenseReluDense.wi_1.{r}"),
    Rule("blocks.{i}.ffn.fc2.{r}", _LAYER + ".1.DenseReluDense.wo.{r}"),
)

TIED = "encoder.embed_tokens.weight"
"""A second name of ``shared.weight`` in the module; files hold the tensor once."""


def umt5_format() -> CheckpointFormat:
    """The format of ``models_t5_umt5-xxl-enc-bf16.pth``."""
    return CheckpointFormat("umt5", KeyMap(RULES), anchors=("token_embedding.weight",))
