"""The autoencoder driven through time, a few latent steps at once, with the features that causal layers remember.

The first latent step is one frame and goes alone; every other one is four (as released). Between calls each causal
convolution keeps its last two frames, so that how many steps go at once changes nothing but rounding, and no more than
those steps are ever in memory.

Each direction is two stages that meet in features at the latents' resolution: the middle block, whose attention reads
the whole picture, and the stages of resampling, which reach only so far (``Architecture.decode_reach``) and take nearly
all of the memory and work. What goes in may lie anywhere: each chunk is brought to the autoencoder's device and dtype.

Shape legend: b batch, c channels, k features, t y x latent steps, rows, columns, f frames.

Source: the released Ovi code at 5b69b25, from Wan2.2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ovikit_ovi.video.weights import PATCH

_REMEMBERED = 2
"""Frames that a causal convolution looks back."""


def spans(steps: int, at_once: int) -> list[tuple[int, int]]:
    """Which latent steps go together: the first alone, then ``at_once`` by ``at_once``."""
    return [(0, 1)] + [(start, min(start + at_once, steps)) for start in range(1, steps, at_once)]


def frames_of(start: int, stop: int, step_frames: int) -> slice:
    """The frames of latent steps ``start`` to ``stop``."""
    return slice(max(0, 1 + (start - 1) * step_frames), 1 + (stop - 1) * step_frames)


class _Memory:
    """What the causal layers of one stage remember, by the order in which they run."""

    def __init__(self) -> None:
        self.features: defaultdict[int, Any] = defaultdict(lambda: None)
        self.next = [0]

    def as_options(self) -> dict[str, Any]:
        """What a block of diffusers is called with: it counts its own layers on."""
        return {"feat_cache": self.features, "feat_idx": self.next}

    def convolved(self, layer: Any, x: Tensor) -> Tensor:
        """What one causal convolution makes of ``x`` after what it remembers."""
        before = self.features[self.next[0]]
        seen = x if before is None else torch.cat((before, x), dim=2)
        self.features[self.next[0]] = seen[:, :, -_REMEMBERED:].clone()
        self.next[0] += 1
        return layer(x, before)

    def head(self, half: Any, x: Tensor) -> Tensor:
        """The end of an encoder or decoder: norm, activation, convolution."""
        return self.convolved(half.conv_out, half.nonlinearity(half.norm_out(x)))


def _chunks(vae: Any, whole: Tensor, slices: list[slice]) -> Iterator[tuple[_Memory, Tensor]]:
    """(memory, chunk on the autoencoder's device and in its dtype) along the first axis but the batch."""
    memory, like = _Memory(), next(vae.parameters())
    for part in slices:
        memory.next = [0]
        yield memory, whole[:, :, part].to(like.device, like.dtype)


def _steps(steps: int, at_once: int) -> list[slice]:
    return [slice(start, stop) for start, stop in spans(steps, at_once)]


def features_of_latents(vae: Any, latents: Float[Tensor, "b c t y x"], at_once: int) -> Iterator[Tensor]:
    """The first stage of decoding: features (b, k, t, y, x) of unnormalised latents, chunk by chunk."""
    for memory, chunk in _chunks(vae, latents, _steps(latents.shape[2], at_once)):
        x = memory.convolved(vae.decoder.conv_in, vae.post_quant_conv(chunk))
        yield vae.decoder.mid_block(x, **memory.as_options())


def pixels_of_features(
    vae: Any, features: Float[Tensor, "b k t y x"], at_once: int
) -> Iterator[Float[Tensor, "b f height width 3"]]:
    """The second stage of decoding: pixels, chunk by chunk. They are not cut off at -1 and 1."""
    first = True
    for memory, x in _chunks(vae, features, _steps(features.shape[2], at_once)):
        for block in vae.decoder.up_blocks:
            x = block(x, **memory.as_options(), first_chunk=first)
        first = False
        made = memory.head(vae.decoder, x)
        yield rearrange(made, "b (c px py) f h w -> b f (h py) (w px) c", px=PATCH, py=PATCH)


def features_of_pixels(
    vae: Any, pixels: Float[Tensor, "b 3 f height width"], at_once: int, step_frames: int
) -> Iterator[Tensor]:
    """The first stage of encoding: features (b, k, t, y, x), chunk by chunk."""
    steps = 1 + (pixels.shape[2] - 1) // step_frames
    slices = [frames_of(start, stop, step_frames) for start, stop in spans(steps, at_once)]
    for memory, chunk in _chunks(vae, pixels, slices):
        cells = rearrange(chunk, "b c f (h py) (w px) -> b (c px py) f h w", px=PATCH, py=PATCH)
        x = memory.convolved(vae.encoder.conv_in, cells)
        for block in vae.encoder.down_blocks:
            x = block(x, **memory.as_options())
        yield x


def latents_of_features(vae: Any, features: Float[Tensor, "b k t y x"], at_once: int) -> Iterator[Tensor]:
    """The second stage of encoding: unnormalised latents (b, c, t, y, x), the mean of the autoencoder's distribution,
    chunk by chunk."""
    for memory, x in _chunks(vae, features, _steps(features.shape[2], at_once)):
        made = memory.head(vae.encoder, vae.encoder.mid_block(x, **memory.as_options()))
        yield vae.quant_conv(made).chunk(2, dim=1)[0]
