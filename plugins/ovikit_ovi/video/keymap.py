"""The names of ``Wan2.2_VAE.pth``, read both ways. Ours are those of diffusers' ``AutoencoderKLWan``.

The released file numbers the layers of a stage through, resampling last, and those of a residual block by their place
in a sequence; ours have names for both.
"""

from __future__ import annotations

from ovikit.checkpoints.format import CheckpointFormat
from ovikit.checkpoints.keymap import KeyMap, Rule

ANCHORS = ("encoder.downsamples.0.downsamples.0.residual.0.gamma", "decoder.middle.0.residual.0.gamma")
"""Names that only files of the released layout hold."""

_SIDES = (("encoder", "downsamples", "down", 0), ("decoder", "upsamples", "up", 1))
"""Half of the autoencoder, its stages in the released file and in ours, residual blocks beyond those of the options."""

_IN_A_BLOCK = (("residual.0", "norm1"), ("residual.2", "conv1"), ("residual.3", "norm2"), ("residual.6", "conv2"))
_SHORTCUT = ("shortcut", "conv_shortcut")
"""Of blocks that change the width: those of the middle do not."""

_ENDS = (("conv1", "conv_in"), ("head.0", "norm_out"), ("head.2", "conv_out"))
_MIDDLE = (("middle.0", "resnets.0"), ("middle.2", "resnets.1"))


def rules(blocks: int = 2) -> tuple[Rule, ...]:
    """The rules of an autoencoder with ``blocks`` residual blocks in a stage of the encoder, and one more in the
    decoder's."""
    made = [Rule("conv1.{r}", "quant_conv.{r}"), Rule("conv2.{r}", "post_quant_conv.{r}")]
    for side, stages, direction, more in _SIDES:
        made += [Rule(f"{side}.{theirs}.{{r}}", f"{side}.{ours}.{{r}}") for theirs, ours in _ENDS]
        made.append(Rule(f"{side}.middle.1.{{r}}", f"{side}.mid_block.attentions.0.{{r}}"))
        theirs_stage, ours_stage = f"{side}.{stages}.{{i}}.{stages}", f"{side}.{direction}_blocks.{{i}}"
        for theirs, ours in _IN_A_BLOCK:
            made += [Rule(f"{side}.{a}.{theirs}.{{r}}", f"{side}.mid_block.{b}.{ours}.{{r}}") for a, b in _MIDDLE]
        for theirs, ours in (*_IN_A_BLOCK, _SHORTCUT):
            made.append(Rule(f"{theirs_stage}.{{j}}.{theirs}.{{r}}", f"{ours_stage}.resnets.{{j}}.{ours}.{{r}}"))
        for part in ("resample.1", "time_conv"):
            last = f"{theirs_stage}.{blocks + more}.{part}.{{r}}"
            made.append(Rule(last, f"{ours_stage}.{direction}sampler.{part}.{{r}}"))
    return tuple(made)


def wan_vae_format(blocks: int = 2) -> CheckpointFormat:
    """The format of ``Wan2.2-TI2V-5B/Wan2.2_VAE.pth``."""
    return CheckpointFormat("wan-vae", KeyMap(rules(blocks)), ANCHORS)
