"""Replays of ``mmaudio_vae``: log-mels to mean and standard deviation, latents to log-mels.

The autoencoder takes its norms in float32 whatever its weights are, and refuses float64; so the replay in float64 is
that in float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ovikit.checkpoints.load import parse_json_metadata
from ovikit.errors import UserError
from ovikit.extras import require
from ovikit_ovi.audio.weights import fill_autoencoder
from ovikit_ovi.parity.golden import Golden

LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE = -30.0, 20.0
"""Between which the released code keeps the log-variance."""


def build(golden: Golden) -> nn.Module:
    """The autoencoder that the file describes, with its weights."""
    require("diffusers.models.autoencoders.autoencoder_mmaudio", "ovi")
    from ovikit_ovi.audio.networks import autoencoder

    where = str(golden.path)
    config = parse_json_metadata(golden.metadata, "config", where)
    try:
        sizes = [int(str(config[key])) for key in ("data_dim", "embed_dim", "hidden_dim")]
    except KeyError as error:
        raise UserError(f"the configuration lacks {error}", where) from error
    with torch.device("meta"):
        empty = autoencoder(*sizes)
    return fill_autoencoder(empty, golden.weights(), where)


@torch.no_grad()
def replay(golden: Golden, dtype: torch.dtype) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """(case, tensor, ours, recorded) of every output in the file."""
    model = build(golden)
    for case in golden.recorded_cases():
        made: dict[str, Tensor] = {}
        if golden.get(case, "latent") is not None:
            made["mel"] = model.decode(golden.need(case, "latent").float())
        else:
            made["mean"], log_variance = model.encode(golden.need(case, "mel").float()).chunk(2, dim=1)
            made["std"] = torch.exp(0.5 * log_variance.clamp(LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE))
        for name, ours in made.items():
            yield case, name, ours.to(dtype), golden.need(case, name)
