"""Replays of ``bigvgan``: log-mels to waveforms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ovikit.checkpoints.load import parse_json_metadata
from ovikit.errors import UserError
from ovikit.extras import require
from ovikit_ovi.audio.weights import fill_vocoder
from ovikit_ovi.parity.golden import Golden

RELEASED_FORM = {"resblock": "1", "activation": "snakebeta", "snake_logscale": True}
"""The form of BigVGAN that there is here."""


def build(golden: Golden, dtype: torch.dtype) -> nn.Module:
    """The vocoder that the file describes, with its weights."""
    require("diffusers.models.autoencoders.mmaudio_vocoder", "ovi")
    from ovikit_ovi.audio.networks import vocoder
    from ovikit_ovi.audio.weight_norm import with_weight_norm

    where = str(golden.path)
    config: Mapping[str, Any] = parse_json_metadata(golden.metadata, "config", where)
    if unlike := {key: config[key] for key, value in RELEASED_FORM.items() if config.get(key, value) != value}:
        raise UserError(f"the vocoder has options that the released one does not: {unlike}", where)
    try:
        with torch.device("meta"):
            empty = vocoder(
                config["num_mels"],
                config["upsample_initial_channel"],
                config["upsample_rates"],
                config["upsample_kernel_sizes"],
                config["resblock_kernel_sizes"],
                config["resblock_dilation_sizes"],
            )
    except KeyError as error:
        raise UserError(f"the configuration lacks {error}", where) from error
    # diffusers' own ``to`` warns of a change of dtype
    return fill_vocoder(nn.Module.to(with_weight_norm(empty), dtype), golden.weights(), where)


@torch.no_grad()
def replay(golden: Golden, dtype: torch.dtype) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """(case, tensor, ours, recorded) of every waveform in the file."""
    model = build(golden, dtype)
    for case in golden.recorded_cases():
        (wave,) = model(golden.need(case, "mel").to(dtype), return_dict=False)
        yield case, "waveform", wave, golden.need(case, "waveform")
