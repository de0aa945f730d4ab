"""Video codec without training: a cosine transform over blocks of pixels and frames, of which the lowest part is kept.

Shape legend: b batch, f frames, t y x latent steps, rows, columns, c channels.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from ovikit.errors import UserError
from ovikit.networks.protocols import Progress
from ovikit.types import ClipSpec, Modality, TokenGrid
from ovikit_toyworld.transforms import dct_matrix, zone

VERSION = "1"
FREQUENCIES = 16
"""Spatial frequencies per axis that a block may keep."""

_YCBCR = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_RGB = torch.linalg.inv(_YCBCR.double()).float()


class BlockDct:
    """Pixels (b, f, height, width, 3) in [-1, 1] to latents (b, c, t, y, x) and back.

    A block is ``frames`` frames of ``block_px`` squared pixels, in luma and two chromas. ValueError when blocks do not
    fill the clip.
    """

    modality: Modality = "video"

    def __init__(self, clip: ClipSpec, *, channels: int, block_px: int, frames: int, emphasis: float) -> None:
        sides = (
            ("frames", clip.frames, frames),
            ("height", clip.height_px, block_px),
            ("width", clip.width_px, block_px),
        )
        for what, size, block in sides:
            if size % block:
                raise ValueError(f"a clip's {what} of {size} cannot be cut into blocks of {block}")
        self.clip, self.channels, self.block_px, self.frames, self.emphasis = clip, channels, block_px, frames, emphasis
        self.kept = min(FREQUENCIES, block_px)
        self.zone = zone(f"block-dct/{frames}x{block_px}", channels, emphasis)

    def for_clip(self, clip: ClipSpec) -> BlockDct:
        return BlockDct(
            clip, channels=self.channels, block_px=self.block_px, frames=self.frames, emphasis=self.emphasis
        )

    def shape(self) -> tuple[int, int, int, int]:
        clip = self.clip
        steps = clip.frames // self.frames
        return self.channels, steps, clip.height_px // self.block_px, clip.width_px // self.block_px

    def grid(self) -> TokenGrid:
        return TokenGrid.uniform("video", self.shape()[1:], self.frames / self.clip.frame_rate_hz)

    def encode(self, samples: Tensor) -> Tensor:
        """Latents (b, c, t, y, x) of pixels (b, f, height, width, 3) in [-1, 1].

        UserError for frames that do not fill blocks, such as a first frame alone."""
        if samples.shape[1] % self.frames:
            raise UserError(
                f"a latent holds {self.frames} frames, and {samples.shape[1]} cannot be encoded",
                "codec 'block-dct'",
                "clips of this codec cannot begin with a given picture",
            )
        return rearrange(self.zone.forward(self.coefficients(samples)), "b t y x c -> b c t y x").contiguous()

    def coefficients(self, samples: Tensor) -> Tensor:
        """(b, t, y, x, k): the low coefficients of every block, flattened over (time, row, column, colour)."""
        in_time, in_space = dct_matrix(self.frames, self.frames), dct_matrix(self.block_px, self.kept)
        # Rows first, as one product over the picture as it lies in memory: it leaves a quarter of the numbers or less.
        rows = rearrange(samples, "b f (y i) x c -> b f y i (x c)", i=self.block_px)
        out = (in_space @ rows).unflatten(-1, (-1, self.block_px, 3)).unflatten(1, (-1, self.frames))
        out = torch.einsum("btfymxjc,nj->btfymxnc", out, in_space)
        out = torch.einsum("btfymxnc,kf->btkymxnc", out, in_time)
        out = torch.einsum("btkymxnc,dc->btyxkmnd", out, _YCBCR)
        return out.flatten(-4)

    def decode(self, latents: Tensor, progress: Progress | None = None) -> Tensor:
        """Pixels (b, f, height, width, 3) in [-1, 1] of latents (b, c, t, y, x)."""
        in_time, in_space = dct_matrix(self.frames, self.frames), dct_matrix(self.block_px, self.kept)
        sizes = (self.frames, self.kept, self.kept, 3)
        size = self.frames * self.kept * self.kept * 3
        out = self.zone.inverse(rearrange(latents.float(), "b c t y x -> b t y x c"), size).unflatten(-1, sizes)
        out = torch.einsum("btyxkmnd,cd->btyxkmnc", out, _RGB)
        out = torch.einsum("btyxkmnc,kf->btyxfmnc", out, in_time)
        out = torch.einsum("btyxfmnc,mi->btyxfinc", out, in_space)
        out = torch.einsum("btyxfinc,nj->btyxfijc", out, in_space)
        return rearrange(out, "b t y x f i j c -> b (t f) (y i) (x j) c").clamp(-1.0, 1.0)

    def fingerprint(self) -> str:
        return f"block-dct/{VERSION}/{self.frames}x{self.block_px}/{self.channels}/{self.emphasis}/{self.zone.digest()}"
