"""The layout of the released Ovi fusion checkpoints: nine rules for its 2073 tensors, read both ways."""

from __future__ import annotations

from ovikit.checkpoints.format import CheckpointFormat
from ovikit.checkpoints.keymap import KeyMap, Rule

RULES = (
    Rule("{m}_model.blocks.{i}.cross_attn.k_fusion.{r}", "layers.{i}.fusion.reads.{m}.k.{r}"),
    Rule("{m}_model.blocks.{i}.cross_attn.v_fusion.{r}", "layers.{i}.fusion.reads.{m}.v.{r}"),
    Rule("{m}_model.blocks.{i}.cross_attn.norm_k_fusion.{r}", "layers.{i}.fusion.reads.{m}.norm_k.{r}"),
    Rule("{m}_model.blocks.{i}.cross_attn.pre_attn_norm_fusion.{r}", "layers.{i}.fusion.reads.{m}.pre_norm.{r}"),
    Rule("{m}_model.blocks.{i}.cross_attn.{r}", "layers.{i}.blocks.{m}.context_attn.{r}"),
    Rule("{m}_model.blocks.{i}.norm3.{r}", "layers.{i}.blocks.{m}.context_norm.{r}"),
    Rule("{m}_model.blocks.{i}.modulation.modulation", "layers.{i}.blocks.{m}.modulation_bias"),
    Rule("{m}_model.blocks.{i}.{r}", "layers.{i}.blocks.{m}.{r}"),
    Rule("{m}_model.{r}", "towers.{m}.{r}"),
)


def ovi_format() -> CheckpointFormat:
    """The format of ``Ovi/model*.safetensors``."""
    return CheckpointFormat("ovi", KeyMap(RULES), anchors=(ANCHOR,))


ANCHOR = "video_model.blocks.0.cross_attn.k_fusion.weight"
