"""Replay of a ``wan_vae`` golden file: pixels to latents and back, through the codec.

The file holds ``cases.<case>.pixels`` (1, 3, f, height, width) and ``cases.<case>.latent`` (1, c, t, y, x), and the
released configuration as ``config`` in its metadata. The latents of a case whose name begins with ``decode`` were
decoded; the pixels of any other were encoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ovikit.checkpoints.assets import Assets
from ovikit.checkpoints.load import parse_json_metadata
from ovikit.errors import UserError
from ovikit.types import ClipSpec
from ovikit_ovi.parity.golden import Golden
from ovikit_ovi.video.codec import Limits, WanVae
from ovikit_ovi.video.weights import Architecture, VideoWeights

RATE_HZ = 24.0


def _architecture(golden: Golden) -> Architecture:
    where = str(golden.path)
    config: Any = parse_json_metadata(golden.metadata, "config", where)
    try:
        made = Architecture(
            encoder_width=config["dim"],
            decoder_width=config["dec_dim"],
            width_factors=tuple(config["dim_mult"]),
            time_halved=tuple(config["temperal_downsample"]),
            blocks=config["num_res_blocks"],
            mean=tuple(config["latent_mean"]),
            std=tuple(config["latent_std"]),
        )
    except KeyError as error:
        raise UserError(f"the autoencoder's configuration lacks {error}", where) from error
    if (
        config.get("z_dim", made.channels) != made.channels
        or len(made.std) != made.channels
        or config.get("attn_scales")
    ):
        raise UserError("the autoencoder has options that the released one does not", where)
    return made


def replay(golden: Golden, dtype: torch.dtype) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """(case, tensor, ours, recorded) of every case of the file."""
    sizes = _architecture(golden)
    weights = VideoWeights(Assets(None), "", sizes, dtype)
    weights.put(golden.weights(), str(golden.path))
    for case in golden.recorded_cases():
        latent, pixels = golden.need(case, "latent"), golden.need(case, "pixels")
        frames, height, width = pixels.shape[2:]
        codec = WanVae(ClipSpec(frames / RATE_HZ, height, width, RATE_HZ, 16000), weights, Limits())
        if case.startswith("decode"):
            ours = rearrange(codec.decode(latent.to(dtype)), "b f h w c -> b c f h w")
            yield case, "pixels", ours, pixels
        else:
            yield case, "latent", codec.encode(rearrange(pixels.to(dtype), "b c f h w -> b f h w c")), latent
