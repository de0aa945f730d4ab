"""The ``wan-vae`` codec: pixels to the latents of the Wan2.2 autoencoder and back, a few frames and a tile at a time.

Shape legend: b batch, f frames, c channels, t y x latent steps, rows, columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from itertools import count

import torch
from jaxtyping import Float
from torch import Tensor

from ovikit.networks.protocols import Progress
from ovikit.types import ClipSpec, Modality, TokenGrid
from ovikit_ovi.video.causal import decoded, encoded, frames_of, spans
from ovikit_ovi.video.memory import PeakBytes
from ovikit_ovi.video.tiling import Tile, Tiling, tiling_of
from ovikit_ovi.video.weights import Architecture, VideoWeights, empty_vae

VERSION = "1"
PROBE_CELLS = 8
"""Side of the tile that activations are counted on."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a codec may take at once.

    activation_bytes: of the tensors that live while one tile is encoded or decoded; None: no bound
    tile_px:          side of a tile; None: no bound
    overlap_px:       of neighbouring tiles, at least
    chunk_steps:      latent steps
    """

    activation_bytes: float | None = None
    tile_px: int | None = None
    overlap_px: int = 64
    chunk_steps: int = 1


class WanVae:
    """Pixels (b, f, height, width, 3) in [-1, 1] to latents (b, c, t, y, x) and back.

    The first frame is a latent step of its own, then every four frames are one (as released): 121 frames, 31 steps.
    Encoding is deterministic: the mean of the autoencoder's distribution. Items of a batch go through one by one, time
    goes through in chunks and decoded pixels go to host memory chunk by chunk: on the device there are never more than
    the weights, the latents and the activations of ``chunk_steps`` steps of one tile. Chunks change nothing but
    rounding.

    Tiles do change the result. A tile does not see what lies outside of it: its convolutions reach about 17 latent
    cells (270 pixels), and the attention in the middle of the autoencoder reads the whole picture. Overlaps are blended
    so that there are no seams, which hides the difference and does not remove it. How large it is depends on the
    weights and on the picture, and it shrinks as tiles and overlaps grow; there is no bound that holds for all weights.
    Without a limit, or with one that the whole picture is within, nothing is tiled.

    ValueError for a picture that latents do not fill, a number of frames other than 4 k + 1, or limits that even the
    smallest tiles are beyond.
    """

    modality: Modality = "video"

    def __init__(self, clip: ClipSpec, weights: VideoWeights, limits: Limits) -> None:
        self.clip, self.weights, self.limits = clip, weights, limits
        self._sizes = weights.architecture
        self.channels = self._sizes.channels
        _refuse_form(clip, self._sizes)
        self.decode_tiling, self.encode_tiling = self._tiling("decode"), self._tiling("encode")

    def shape(self) -> tuple[int, int, int, int]:
        clip, cell = self.clip, self._sizes.cell_px
        steps = 1 + (clip.frames - 1) // self._sizes.step_frames
        return self.channels, steps, clip.height_px // cell, clip.width_px // cell

    def grid(self) -> TokenGrid:
        _, *cells = self.shape()
        rate = self.clip.frame_rate_hz
        return TokenGrid.uniform("video", (cells[0], cells[1], cells[2]), self._sizes.step_frames / rate, 1 / rate)

    def for_clip(self, clip: ClipSpec) -> WanVae:
        """The same codec for clips of another form; the weights are shared, loaded or not."""
        return WanVae(clip, self.weights, self.limits)

    def load(self, device: torch.device | str) -> None:
        self.weights.load(device)

    def unload(self) -> None:
        self.weights.unload()

    def weight_bytes(self) -> int:
        return self.weights.weight_bytes()

    def decode_bytes(self) -> int:
        """What decoding a clip takes on the device besides the weights, as ``Limits.activation_bytes`` counts it."""
        return self._activation_bytes("decode", self.decode_tiling)

    def encode_bytes(self) -> int:
        """As ``decode_bytes``, of encoding a whole clip."""
        return self._activation_bytes("encode", self.encode_tiling)

    def _activation_bytes(self, side: str, tiling: Tiling) -> int:
        per_cell = bytes_per_cell(self._sizes, self.weights.dtype, side, self.limits.chunk_steps)
        return per_cell * tiling.cells_per_tile

    def _tiling(self, side: str) -> Tiling:
        """The cut of the clip's picture that is within the limits."""
        limits, cell, (_, _, rows, columns) = self.limits, self._sizes.cell_px, self.shape()
        most = longest = None
        if limits.tile_px is not None:
            longest = limits.tile_px // cell
        elif limits.activation_bytes is not None:
            most = int(limits.activation_bytes // self._activation_bytes(side, Tiling.untiled(1, 1)))
        try:
            overlap = limits.overlap_px // cell
            return tiling_of(rows, columns, overlap=overlap, most_cells=most, longest=longest)
        except ValueError as error:
            least = (overlap + 1) ** 2 * self._activation_bytes(side, Tiling.untiled(1, 1))
            raise ValueError(
                f"{self.clip.height_px} x {self.clip.width_px} pixels cannot be {side}d in tiles that overlap by "
                f"{limits.overlap_px} pixels within these limits; the smallest such tile takes {least / 1e9:.2f} GB"
            ) from error

    @torch.no_grad()
    def encode(self, samples: Float[Tensor, "b f height width 3"]) -> Float[Tensor, "b c t y x"]:
        """Normalised latents, on the codec's device, of clips, of their beginnings or of first frames alone.
        ValueError for pictures of another size and for numbers of frames other than 4 k + 1."""
        self._refuse_samples(samples)
        frames, (channels, _, rows, columns) = samples.shape[1], self.shape()
        steps = 1 + (frames - 1) // self._sizes.step_frames
        device, wide = self.weights.device, self._wide()
        latents = torch.zeros(len(samples), channels, steps, rows, columns, device=device, dtype=wide)
        for i, tile, weight in self._parts(len(samples), self.encode_tiling, 1):
            (y, x), (top, left) = tile.area(self._sizes.cell_px), tile.area(1)
            made = encoded(
                self.weights.vae, samples[i, None, :, y, x], self.limits.chunk_steps, self._sizes.step_frames
            )
            for (start, stop), part in zip(spans(steps, self.limits.chunk_steps), made, strict=True):
                latents[i, None, :, start:stop, top, left] += part.to(wide) * weight
        mean, std = self._statistics()
        return (latents - mean) / std

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "b c t y x"], progress: Progress | None = None
    ) -> Float[Tensor, "b f height width 3"]:
        """Pixels in [-1, 1], in host memory, of the normalised latents of whole clips.

        progress: told after every chunk of every tile
        """
        if tuple(latents.shape[1:]) != self.shape():
            raise ValueError(f"latents of {tuple(latents.shape[1:])} were given for clips of {self.shape()}")
        device, wide, at_once = self.weights.device, self._wide(), self.limits.chunk_steps
        mean, std = self._statistics()
        chunks = spans(latents.shape[2], at_once)
        size = (len(latents), self.clip.frames, self.clip.height_px, self.clip.width_px, 3)
        pixels, done = torch.zeros(size, dtype=wide), count(1)
        total = len(latents) * len(self.decode_tiling.tiles) * len(chunks)
        for i, tile, weight in self._parts(len(latents), self.decode_tiling, self._sizes.cell_px):
            (y, x), (top, left) = tile.area(self._sizes.cell_px), tile.area(1)
            part = latents[i, None, :, :, top, left].to(device, wide) * std + mean
            made = decoded(self.weights.vae, part.to(self.weights.dtype), at_once)
            for (start, stop), chunk in zip(chunks, made, strict=True):
                where = pixels[i, frames_of(start, stop, self._sizes.step_frames), y, x]
                where += (chunk[0].to(wide) * weight[..., None]).cpu()
                if progress is not None:
                    progress(next(done), total)
        return pixels.clamp_(-1, 1)

    def _parts(self, batch: int, tiling: Tiling, scale: int) -> Iterator[tuple[int, Tile, Tensor]]:
        """(item, tile, weight of the tile's samples) of everything that goes through the autoencoder at once."""
        for i in range(batch):
            for tile, weight in zip(tiling.tiles, tiling.weights(scale), strict=True):
                yield i, tile, weight.to(self.weights.device, self._wide())

    def _wide(self) -> torch.dtype:
        """What latents are normalised and tiles blended in: float32 at least."""
        return torch.promote_types(self.weights.dtype, torch.float32)

    def _statistics(self) -> tuple[Float[Tensor, "1 c 1 1 1"], Float[Tensor, "1 c 1 1 1"]]:
        mean, std = (
            torch.tensor(values, device=self.weights.device, dtype=self._wide()).view(1, -1, 1, 1, 1)
            for values in (self._sizes.mean, self._sizes.std)
        )
        return mean, std

    def _refuse_samples(self, samples: Tensor) -> None:
        _, frames, height, width, _ = samples.shape
        if (height, width) != (self.clip.height_px, self.clip.width_px):
            wanted = f"{self.clip.height_px} x {self.clip.width_px}"
            raise ValueError(f"pictures of {height} x {width} pixels were given for clips of {wanted}")
        if (frames - 1) % self._sizes.step_frames or frames > self.clip.frames:
            raise ValueError(
                f"{frames} frames cannot be encoded: up to {self.clip.frames} can, one more than a multiple of "
                f"{self._sizes.step_frames}"
            )

    def fingerprint(self) -> str:
        sizes = sha256(json.dumps(asdict(self._sizes)).encode()).hexdigest()[:16]
        tiles = f"decode {self.decode_tiling}, encode {self.encode_tiling}"
        dtype = str(self.weights.dtype).removeprefix("torch.")
        return f"wan-vae/{VERSION}/{self.weights.digest()}/{sizes}/{dtype}/{tiles}"


def _refuse_form(clip: ClipSpec, sizes: Architecture) -> None:
    """ValueError for clips that latents do not fill."""
    for what, size in (("height", clip.height_px), ("width", clip.width_px)):
        if size % sizes.cell_px:
            raise ValueError(f"a clip's {what} of {size} pixels is not a multiple of {sizes.cell_px}")
    if (clip.frames - 1) % sizes.step_frames:
        before = clip.frames - 1 - (clip.frames - 1) % sizes.step_frames
        near = " or ".join(
            f"{n + 1} ({(n + 1) / clip.frame_rate_hz:.4f} s)" for n in (before, before + sizes.step_frames)
        )
        raise ValueError(
            f"a clip of {clip.frames} frames does not fill latents: the first frame is one, then every "
            f"{sizes.step_frames} are; {near} frames would"
        )


@cache
def bytes_per_cell(architecture: Architecture, dtype: torch.dtype, side: str, chunk_steps: int) -> int:
    """Bytes that live at once for each latent cell of a tile while it is encoded or decoded (``side``), at most.

    Nearly every activation has a whole number of values to a latent cell, so that their sum is one figure times the
    tile's cells. It is counted on the meta device, on a tile of 8 x 8 cells and three chunks (from the third on, all
    layers remember what they can): 5.6 MB in float32 and 2.8 MB in bfloat16 for decoding at full size, 20 GB and 10 GB
    for 960 x 960 pixels. Larger tiles take up to 1 % less, since a convolution's padding is a smaller part of them.
    Not counted: what convolution kernels take for themselves, which is the library's choice, the allocator's slack, and
    the latents; leave a fifth of the bound for them.
    """
    vae, steps = empty_vae(architecture, dtype), 1 + 2 * chunk_steps
    with torch.no_grad(), torch.device("meta"):
        if side == "decode":
            cells = torch.empty(1, architecture.channels, steps, PROBE_CELLS, PROBE_CELLS, dtype=dtype)
            chunks = decoded(vae, cells, chunk_steps)
        else:
            frames, side_px = frames_of(0, steps, architecture.step_frames).stop, PROBE_CELLS * architecture.cell_px
            pixels = torch.empty(1, frames, side_px, side_px, 3, dtype=dtype)
            chunks = encoded(vae, pixels, chunk_steps, architecture.step_frames)
        with PeakBytes() as counted:
            for chunk in chunks:
                del chunk
    return -(-counted.peak // PROBE_CELLS**2)
