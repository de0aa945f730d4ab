"""The autoencoder driven through time, a few latent steps at once, with the features that causal layers remember.

The first latent step is one frame and goes alone; every other one is four (as released). Between calls each causal
convolution keeps its last two frames, so that how many steps go at once changes nothing but rounding, and no more than
those steps are ever in memory.

Shape legend: b batch, c channels, t y x latent steps, rows, columns, f frames, h w input cells of 2 x 2 pixels.

Source: the released Ovi code at 5b69b25, from Wan2.2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ovikit_ovi.video.weights import PATCH


def spans(steps: int, at_once: int) -> list[tuple[int, int]]:
    """Which latent steps go together: the first alone, then ``at_once`` by ``at_once``."""
    return [(0, 1)] + [(start, min(start + at_once, steps)) for start in range(1, steps, at_once)]


def frames_of(start: int, stop: int, step_frames: int) -> slice:
    """The frames of latent steps ``start`` to ``stop``."""
    return slice(max(0, 1 + (start - 1) * step_frames), 1 + (stop - 1) * step_frames)


def _memory() -> defaultdict[int, Any]:
    """What the causal layers remember, by their number: nothing yet."""
    return defaultdict(lambda: None)


def decoded(
    vae: Any, latents: Float[Tensor, "b c t y x"], at_once: int
) -> Iterator[Float[Tensor, "b f height width 3"]]:
    """Pixels of unnormalised latents, chunk by chunk. Not clamped to [-1, 1]."""
    memory = _memory()
    for start, stop in spans(latents.shape[2], at_once):
        features = vae.post_quant_conv(latents[:, :, start:stop])
        made = vae.decoder(features, feat_cache=memory, feat_idx=[0], first_chunk=start == 0)
        yield rearrange(made, "b (c px py) f h w -> b f (h py) (w px) c", px=PATCH, py=PATCH)


def encoded(
    vae: Any, pixels: Float[Tensor, "b f height width 3"], at_once: int, step_frames: int
) -> Iterator[Float[Tensor, "b c t y x"]]:
    """Unnormalised latents, the mean of the autoencoder's distribution, chunk by chunk. The pixels may lie anywhere:
    those of a chunk are brought to the autoencoder's device and dtype."""
    memory, like = _memory(), next(vae.parameters())
    for start, stop in spans(1 + (pixels.shape[1] - 1) // step_frames, at_once):
        part = pixels[:, frames_of(start, stop, step_frames)].to(like.device, like.dtype)
        cells = rearrange(part, "b f (h py) (w px) c -> b (c px py) f h w", px=PATCH, py=PATCH)
        made = vae.quant_conv(vae.encoder(cells, feat_cache=memory, feat_idx=[0]))
        yield made.chunk(2, dim=1)[0]
