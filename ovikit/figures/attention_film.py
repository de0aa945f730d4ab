"""A clip with its sound, in which each frame glows where the sound of that moment looks.

Shape legend: a audio tokens, f frames, y x rows, columns of tokens.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from ovikit.figures.attention import Attention
from ovikit.figures.heat import hottest, laid_over, over_pixels, step_at
from ovikit.generate.media import viewing_scale, write_clip


def heat_of_frames(found: Attention) -> Float32[Tensor, "f y x"]:
    """For each frame, how much the audio tokens that sound during it attend to its video step: their mean, by how
    long each of them sounds in that time."""
    assert found.clip.video is not None
    maps, rate = found.over_frames(), found.clip.frame_rate_hz
    sound = torch.tensor(found.grids["audio"].edges_s, dtype=torch.float64)
    frames: list[Tensor] = []
    for i in range(len(found.clip.video)):
        start, end = i / rate, (i + 1) / rate
        shared = (sound[:, 1].clamp(max=end) - sound[:, 0].clamp(min=start)).clamp(min=0)
        if not shared.any():  # the picture may outlast the sound by less than a token
            shared[-1] = 1.0
        step = step_at(found.grids["video"], (start + end) / 2)
        frames.append(torch.einsum("a,ayx->yx", (shared / shared.sum()).float(), maps[:, step]))
    return torch.stack(frames)


def write_film(found: Attention, path: Path) -> None:
    """Writes the MP4. UserError where matplotlib, of the extra ``report``, is missing."""
    clip = found.clip
    assert clip.video is not None
    scale = viewing_scale(*clip.video.shape[1:3])
    size = clip.video.shape[1] * scale, clip.video.shape[2] * scale
    maps = heat_of_frames(found)
    heat, film = maps / hottest(maps), torch.empty(len(maps), *size, 3, dtype=torch.uint8)
    for i, frame in enumerate(clip.video.numpy()):
        large = np.repeat(np.repeat(frame, scale, axis=0), scale, axis=1)
        film[i] = torch.from_numpy(laid_over(large, over_pixels(heat[i], size)))
    write_clip(path, replace(clip, video=film))
