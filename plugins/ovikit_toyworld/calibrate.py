"""Writes ``normalisation.json``: which coefficients matter in the toy world, their means and spreads.

    python -m ovikit_toyworld.calibrate

Run once, and again only when the world itself changes; the codecs read the file and never change it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from ovikit.types import Clip, ClipSpec
from ovikit_toyworld.block_dct import BlockDct
from ovikit_toyworld.mel_dct import MelDct
from ovikit_toyworld.world import VERSION, ToyWorld

CLIP = ClipSpec(duration_s=2.0, height_px=64, width_px=64, frame_rate_hz=24.0, sample_rate_hz=16000)
CLIPS, SEED, FRAMES, FLOOR = 256, 12345, 4, -3.0
BLOCKS_PX = {64: 256, 32: 128, 16: 64}
"""Constants are kept for this many coefficients of each block size."""


def _rows(coefficients: Tensor, most: int) -> list[list[float]]:
    """[index, mean, standard deviation] of the coefficients (..., k) that vary most, the first the most."""
    flat = coefficients.flatten(0, -2).double()
    order = flat.var(0).argsort(descending=True)[:most]
    mean, std = flat.mean(0)[order], flat.std(0)[order]
    return [[int(i), round(float(m), 5), round(float(s), 5)] for i, m, s in zip(order, mean, std, strict=True)]


def _bare(codec: BlockDct | MelDct, clips: list[Clip]) -> Tensor:
    return torch.cat([codec.coefficients(clip.signal(codec.modality)[None]) for clip in clips])


def main() -> None:
    """Measure the world and write the constants beside this file."""
    target = Path(__file__).with_name("normalisation.json")
    tables: dict[str, list[list[float]]] = {"mel-dct": [[0, 0.0, 1.0]]}
    tables |= {f"block-dct/{FRAMES}x{block}": [[0, 0.0, 1.0]] for block in BLOCKS_PX}
    if not target.exists():
        target.write_text(
            json.dumps({"tables": tables}), encoding="utf-8"
        )  # the codecs want some constants to be built
    world = ToyWorld(CLIP, CLIPS, SEED)
    clips = [world[i] for i in range(CLIPS)]
    for block, most in BLOCKS_PX.items():
        codec = BlockDct(CLIP, channels=1, block_px=block, frames=FRAMES, emphasis=0.0)
        tables[f"block-dct/{FRAMES}x{block}"] = _rows(_bare(codec, clips), most)
    tables["mel-dct"] = _rows(_bare(MelDct(CLIP, channels=1, floor=FLOOR, emphasis=0.0, iterations=0), clips), 80)
    whole = {
        "world": VERSION,
        "clips": CLIPS,
        "seed": SEED,
        "rows": "[index, mean, standard deviation]",
        "tables": tables,
    }
    target.write_text(json.dumps(whole, separators=(",", ":")).replace("],[", "],\n[") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
