"""How much memory the autoencoder's activations take, counted from what a run on the meta device allocates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from ovikit.networks.peak import PeakBytes
from ovikit_ovi.video.causal import (
    features_of_latents,
    features_of_pixels,
    frames_of,
    latents_of_features,
    pixels_of_features,
)
from ovikit_ovi.video.weights import Architecture, empty_vae

Side = Literal["encode", "decode"]
_PROBE_CELLS = 8
"""Side of the tile that activations are counted on."""


@dataclass(frozen=True, slots=True)
class CellBytes:
    """Bytes for each latent cell, at most.

    whole:  of the middle block, for each cell of the whole picture
    scores: of its attention, for each pair of cells
    tiled:  of the stages of resampling, for each cell of one tile
    """

    whole: int
    scores: int
    tiled: int

    def untiled_part(self, cells: int) -> int:
        """What the middle block takes on a picture of so many cells."""
        return self.whole * cells + self.scores * cells**2

    def of(self, cells: int, tile_cells: int) -> int:
        """What a picture of so many cells takes in tiles of so many, one stage after the other."""
        return max(self.untiled_part(cells), self.tiled * tile_cells)


@cache
def bytes_per_cell(architecture: Architecture, dtype: torch.dtype, side: Side, chunk_steps: int) -> CellBytes:
    """What lives at once for each latent cell while a clip is encoded or decoded.

    Nearly every activation has a whole number of values to a latent cell, so that a stage takes one figure times its
    cells. It is counted on a tile of 8 x 8 cells and three chunks (from the third on, all layers remember what they
    can). Larger tiles take up to 1 % less, since the padding of convolutions is a smaller part of them. Only the
    attention grows with the square: its scores live three times where a backend keeps them. Decoding at full size, one
    step at a time: 5.5 MB a cell in float32 and 2.8 MB in bfloat16, so that 960 x 960 pixels take 20 GB and 10 GB
    untiled.

    Not counted: what convolution kernels take for themselves, which is the library's choice, and the allocator's slack.
    """
    vae, steps = empty_vae(architecture, dtype), 1 + 2 * chunk_steps
    cells = (steps, _PROBE_CELLS, _PROBE_CELLS)

    def probe(width: int) -> Tensor:
        return torch.empty(1, width, *cells, dtype=dtype, device="meta")

    if side == "decode":
        whole = features_of_latents(vae, probe(architecture.channels), chunk_steps)
        tiled = pixels_of_features(vae, probe(architecture.decoder_features), chunk_steps)
    else:
        side_px, frames = _PROBE_CELLS * architecture.cell_px, frames_of(0, steps, architecture.step_frames).stop
        pixels = torch.empty(1, 3, frames, side_px, side_px, dtype=dtype, device="meta")
        whole = latents_of_features(vae, probe(architecture.encoder_features), chunk_steps)
        tiled = features_of_pixels(vae, pixels, chunk_steps, architecture.step_frames)
    return CellBytes(_a_cell(whole), 3 * dtype.itemsize * chunk_steps, _a_cell(tiled))


@torch.no_grad()
def peak_bytes(chunks: Iterator[Tensor]) -> int:
    """The most that lives at once while each chunk is made, the one before it still at hand."""
    with PeakBytes() as counted:
        for _ in chunks:
            pass
    return counted.peak


def _a_cell(chunks: Iterator[Tensor]) -> int:
    return -(-peak_bytes(chunks) // _PROBE_CELLS**2)
