"""The names of the released audio weights, read both ways.

diffusers kept the official names, so that ours are theirs: the rules say which there are. Files hold weights before
weight norm is folded, in either layout; so a file that is converted and converted back has the same tensors, bit by
bit. The vocoder's weight norm has two spellings, as it was saved by an older or a newer PyTorch. Each keeps its own in
our layout, too; ``SPELLING`` brings them together when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable

from ovikit.checkpoints.format import CheckpointFormat
from ovikit.checkpoints.keymap import KeyMap, Rule


def _kept(templates: Iterable[str]) -> KeyMap:
    return KeyMap(Rule(template, template) for template in templates)


VAE = CheckpointFormat(
    "mmaudio-vae",
    _kept(("data_mean", "data_std", "encoder.{r}", "decoder.{r}")),
    anchors=("data_mean", "data_std", "encoder.learnable_gain", "decoder.learnable_gain"),
)
"""``v1-16.pth``."""

VOCODER = CheckpointFormat(
    "bigvgan",
    _kept(("conv_pre.{r}", "ups.{i}.0.{r}", "resblocks.{i}.{r}", "activation_post.{r}", "conv_post.{r}")),
    anchors=("conv_pre.bias", "conv_post.bias", "activation_post.act.alpha"),
)
"""``best_netG.pt``, what it holds under ``generator``."""

GENERATOR = "generator"
"""Where ``best_netG.pt`` holds the weights."""

SPELLING = KeyMap(
    (
        Rule("{r}.weight_g", "{r}.parametrizations.weight.original0"),
        Rule("{r}.weight_v", "{r}.parametrizations.weight.original1"),
        Rule("{r}", "{r}"),
    )
)
"""Weight norm in the older spelling (here: official) to the newer one (ours), which PyTorch's own modules have."""
