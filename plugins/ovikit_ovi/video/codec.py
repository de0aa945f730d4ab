"""The ``wan-vae`` codec: pixels to the latents of the Wan2.2 autoencoder and back, a few frames and a tile at a time.

Shape legend: b batch, f frames, c channels, k features, t y x latent steps, rows, columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import count
from math import prod

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ovikit.networks.protocols import Progress
from ovikit.types import ClipSpec, Modality, TokenGrid
from ovikit_ovi.video.causal import (
    features_of_latents,
    features_of_pixels,
    frames_of,
    latents_of_features,
    pixels_of_features,
    spans,
)
from ovikit_ovi.video.memory import CellBytes, Side, bytes_per_cell
from ovikit_ovi.video.tiling import Tile, Tiling, tiling_of
from ovikit_ovi.video.weights import Architecture, VideoWeights

VERSION = "1"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a codec may take at once.

    activation_bytes: of latents and activations while a clip is encoded or decoded; None: no bound
    tile_px:          side of a tile; None: no bound
    overlap_px:       of neighbouring tiles, at least; None: so much that tiles change nothing but rounding
    chunk_steps:      latent steps
    """

    activation_bytes: float | None = None
    tile_px: int | None = None
    overlap_px: int | None = None
    chunk_steps: int = 1


class WanVae:
    """Pixels (b, f, height, width, 3) in [-1, 1] to latents (b, c, t, y, x) and back.

    The first frame is a latent step of its own, then every four frames are one (as released): 121 frames, 31 steps.
    Encoding is deterministic: the mean of the autoencoder's distribution. Items of a batch go through one by one, time
    goes through in chunks, and decoded pixels go to host memory chunk by chunk: besides the weights and the latents the
    device never holds more than the activations of ``chunk_steps`` steps of one tile. Chunks change nothing but
    rounding.

    Only the stages of resampling are tiled, which take nearly all of the memory. The middle block, whose attention
    reads the whole picture, runs on the whole picture, and its features wait in host memory. So a tile is wrong only
    where a convolution reaches beyond it: up to 13 latent cells (208 pixels) from its edge in decoding, 10 in encoding.
    Tiles that overlap by twice as much change nothing but rounding either, and that is the default. Shorter overlaps
    save work and leave an error around the seams, blended; its size depends on the weights and shrinks fast as overlaps
    grow. With the random weights of the golden file, relative to the root mean square of the pixels: 1e-2 for
    ``overlap_px`` 64, 1e-3 for 128, 1e-5 for 256 (as root mean square over the picture). The work that overlaps cost:
    960 x 960 pixels in bfloat16, untiled 10 GB, take 1.4 times the work within 8 GB and 3.6 times within 4 GB; with
    ``overlap_px`` 128 it is 1.1 and 1.3 times.

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
        return self.channels, self._steps(clip.frames), clip.height_px // cell, clip.width_px // cell

    def _steps(self, frames: int) -> int:
        return 1 + (frames - 1) // self._sizes.step_frames

    def grid(self) -> TokenGrid:
        _, t, y, x = self.shape()
        rate = self.clip.frame_rate_hz
        return TokenGrid.uniform("video", (t, y, x), self._sizes.step_frames / rate, 1 / rate)

    def for_clip(self, clip: ClipSpec) -> WanVae:
        """The same codec for clips of another form; the weights are shared, loaded or not."""
        return WanVae(clip, self.weights, self.limits)

    def load(self, device: torch.device | str, progress: Progress | None = None) -> None:
        self.weights.load(device)

    def check(self) -> None:
        self.weights.check()

    def unload(self) -> None:
        self.weights.unload()

    def weight_bytes(self) -> int:
        return self.weights.weight_bytes()

    def decode_bytes(self) -> int:
        """What decoding a clip takes on the device besides the weights: latents, and activations as
        ``bytes_per_cell`` counts them. The pixels are in host memory."""
        return self._bytes("decode").of(self._cells(), self.decode_tiling.cells_per_tile) + self._latent_bytes()

    def encode_bytes(self) -> int:
        """As ``decode_bytes``, of encoding."""
        return self._bytes("encode").of(self._cells(), self.encode_tiling.cells_per_tile) + self._latent_bytes()

    def _latent_bytes(self) -> int:
        """Of one clip's latents, normalised and not."""
        return 2 * prod(self.shape()) * self._wide().itemsize

    def _cells(self) -> int:
        _, _, rows, columns = self.shape()
        return rows * columns

    def _bytes(self, side: Side) -> CellBytes:
        return bytes_per_cell(self._sizes, self.weights.dtype, side, self.limits.chunk_steps)

    def _reach(self, side: Side) -> int:
        return self._sizes.decode_reach if side == "decode" else self._sizes.encode_reach

    def _tiling(self, side: Side) -> Tiling:
        """The cut of the clip's picture that is within the limits."""
        limits, cell, (_, _, rows, columns) = self.limits, self._sizes.cell_px, self.shape()
        overlap = 2 * self._reach(side) if limits.overlap_px is None else limits.overlap_px // cell
        if limits.activation_bytes is None or limits.tile_px is not None:
            longest = None if limits.tile_px is None else limits.tile_px // cell
            return tiling_of(rows, columns, overlap=overlap, longest=longest)
        taken, bound = self._bytes(side), limits.activation_bytes - self._latent_bytes()
        most = 0 if taken.untiled_part(self._cells()) > bound else bound // taken.tiled
        try:
            return tiling_of(rows, columns, overlap=overlap, most_cells=int(most))
        except ValueError as error:
            smallest = min(rows, overlap + 1) * min(columns, overlap + 1)
            least = taken.of(self._cells(), smallest) + self._latent_bytes()
            raise ValueError(
                f"to {side} {self.clip.height_px} x {self.clip.width_px} pixels in tiles that overlap by "
                f"{overlap * cell} pixels takes {least / 1e9:.3g} GB at least, more than the bound of "
                f"{limits.activation_bytes / 1e9:.3g}; shorter overlaps (overlap_px) take less"
            ) from error

    @torch.no_grad()
    def encode(self, samples: Float[Tensor, "b f height width 3"]) -> Float[Tensor, "b c t y x"]:
        """Normalised latents, on the codec's device, of clips, of their beginnings or of first frames alone.
        ValueError for pictures of another size and for numbers of frames other than 4 k + 1."""
        self._refuse_samples(samples)
        mean, std = self._statistics()
        items = (self._encoded(rearrange(item, "f h w c -> 1 c f h w")) for item in samples)
        return torch.cat([(item - mean) / std for item in items])

    def _encoded(self, pixels: Float[Tensor, "1 3 f height width"]) -> Float[Tensor, "1 c t y x"]:
        """Unnormalised latents of one item."""
        vae, at_once = self.weights.vae, self.limits.chunk_steps
        chunks = spans(self._steps(pixels.shape[2]), at_once)
        _, _, rows, columns = self.shape()
        features = torch.zeros(1, self._sizes.encoder_features, chunks[-1][1], rows, columns, dtype=self._wide())
        for tile, weight in self._tiles("encode", self.encode_tiling, 1):
            (y, x), (top, left) = tile.area(self._sizes.cell_px), tile.area(1)
            made = features_of_pixels(vae, pixels[..., y, x], at_once, self._sizes.step_frames)
            for (start, stop), part in zip(chunks, made, strict=True):
                features[:, :, start:stop, top, left] += (part.to(weight) * weight).cpu()
        return torch.cat(list(latents_of_features(vae, features, at_once)), dim=2).to(self._wide())

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "b c t y x"], progress: Progress | None = None
    ) -> Float[Tensor, "b f height width 3"]:
        """Pixels in [-1, 1], in host memory, of the normalised latents of whole clips.

        progress: told after every chunk of every tile
        """
        if tuple(latents.shape[1:]) != self.shape():
            raise ValueError(f"latents of {tuple(latents.shape[1:])} were given for clips of {self.shape()}")
        mean, std = self._statistics()
        size = (len(latents), self.clip.frames, self.clip.height_px, self.clip.width_px, 3)
        pixels, done = torch.zeros(size, dtype=self._wide()), count(1)
        total = len(latents) * len(self.decode_tiling.tiles) * len(spans(latents.shape[2], self.limits.chunk_steps))
        for item, into in zip(latents, pixels, strict=True):
            for _ in self._decode_into(into, item[None].to(mean) * std + mean):
                if progress is not None:
                    progress(next(done), total)
        return pixels.clamp_(-1, 1)

    def _decode_into(
        self, pixels: Float[Tensor, "f height width 3"], latents: Float[Tensor, "1 c t y x"]
    ) -> Iterator[None]:
        """Adds one item's pixels to ``pixels``, of zeros, and yields after each chunk."""
        vae, at_once = self.weights.vae, self.limits.chunk_steps
        features = torch.cat([part.cpu() for part in features_of_latents(vae, latents, at_once)], dim=2)
        chunks = spans(latents.shape[2], at_once)
        for tile, weight in self._tiles("decode", self.decode_tiling, self._sizes.cell_px):
            (y, x), (top, left) = tile.area(self._sizes.cell_px), tile.area(1)
            made = pixels_of_features(vae, features[..., top, left], at_once)
            for (start, stop), part in zip(chunks, made, strict=True):
                frames = frames_of(start, stop, self._sizes.step_frames)
                pixels[frames, y, x] += (part[0].to(weight) * weight[..., None]).cpu()
                yield

    def _tiles(self, side: Side, tiling: Tiling, scale: int) -> Iterator[tuple[Tile, Float[Tensor, "height width"]]]:
        """Every tile and the weight of its samples, of which there are ``scale`` to a cell on each axis."""
        for tile, weight in zip(tiling.tiles, tiling.weights(scale, self._reach(side)), strict=True):
            yield tile, weight.to(self.weights.device, self._wide())

    def _wide(self) -> torch.dtype:
        """What latents are normalised and tiles blended in: float32 at least."""
        return torch.promote_types(self.weights.dtype, torch.float32)

    def _statistics(self) -> tuple[Float[Tensor, "1 c 1 1 1"], Float[Tensor, "1 c 1 1 1"]]:
        """Mean and standard deviation of the latents."""
        both = torch.tensor((self._sizes.mean, self._sizes.std), device=self.weights.device, dtype=self._wide())
        mean, std = rearrange(both, "two c -> two 1 c 1 1 1")
        return mean, std

    def _refuse_samples(self, samples: Float[Tensor, "b f height width 3"]) -> None:
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
        dtype = str(self.weights.dtype).removeprefix("torch.")
        tilings = f"encode {self.encode_tiling}, decode {self.decode_tiling}"
        return f"wan-vae/{VERSION}/{self.weights.digest()}/{sizes}/{dtype}/{tilings}"


def _refuse_form(clip: ClipSpec, sizes: Architecture) -> None:
    """ValueError for clips that latents do not fill."""
    for what, size in (("height", clip.height_px), ("width", clip.width_px)):
        if size % sizes.cell_px:
            raise ValueError(f"a clip's {what} of {size} pixels is not a multiple of {sizes.cell_px}")
    beyond = (clip.frames - 1) % sizes.step_frames
    if beyond:
        fitting = (clip.frames - beyond, clip.frames - beyond + sizes.step_frames)
        near = " or ".join(f"{frames} ({frames / clip.frame_rate_hz:.4f} s)" for frames in fitting)
        raise ValueError(
            f"a clip of {clip.frames} frames does not fill latents: the first frame is one, then every "
            f"{sizes.step_frames} are; {near} frames would"
        )
