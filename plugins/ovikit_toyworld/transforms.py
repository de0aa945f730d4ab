"""The discrete cosine transform, and the fixed constants that turn its coefficients into latents."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor


@cache
def dct_matrix(size: int, kept: int) -> Tensor:
    """(kept, size) float32: the first rows of the orthonormal DCT-II, lowest frequency first."""
    samples = torch.arange(size, dtype=torch.float64) + 0.5
    rows = torch.cos(math.pi * torch.arange(kept, dtype=torch.float64)[:, None] * samples / size)
    rows *= math.sqrt(2.0 / size)
    rows[0] /= math.sqrt(2.0)
    return rows.float()


@dataclass(frozen=True)
class Zone:
    """Which coefficients a codec keeps, and the affine map between each and its latent.

    index:  (c,) positions in the flattened coefficients of a block, the most important first
    centre: (c,) what is taken off
    scale:  (c,) what the rest is divided by
    """

    index: Tensor
    centre: Tensor
    scale: Tensor

    def forward(self, coefficients: Tensor) -> Tensor:
        """Latents (..., c) of coefficients (..., k)."""
        return (coefficients[..., self.index] - self.centre) / self.scale

    def inverse(self, latents: Tensor, size: int) -> Tensor:
        """Coefficients (..., size) of latents (..., c): zero where none was kept."""
        out = latents.new_zeros(*latents.shape[:-1], size)
        out[..., self.index] = latents * self.scale + self.centre
        return out

    def digest(self) -> str:
        """Changes with the constants."""
        whole = torch.cat((self.index.double(), self.centre.double(), self.scale.double()))
        return hashlib.sha256(whole.numpy().tobytes()).hexdigest()[:12]


def zone(table: str, channels: int, emphasis: float) -> Zone:
    """The ``channels`` most important coefficients of a table in ``normalisation.json``. ValueError beyond its end.

    The latents of the world's clips have variance 1 on average, and a standard deviation proportional to the
    coefficient's own to the power ``emphasis``: at 0 all channels weigh the same in a loss, at 1 as much as in pixels.
    """
    rows = _tables()[table]
    if not 0 < channels <= len(rows):
        raise ValueError(f"{table} has constants for up to {len(rows)} channels, not {channels}")
    index, mean, std = torch.tensor(rows[:channels], dtype=torch.float64).unbind(1)
    wanted = std**emphasis
    wanted = wanted / wanted.square().mean().sqrt()
    return Zone(index.long(), mean.float(), (std / wanted).float())


@cache
def _tables() -> dict[str, list[list[float]]]:
    text = files("ovikit_toyworld").joinpath("normalisation.json").read_text(encoding="utf-8")
    return json.loads(text)["tables"]
