"""A filter of clips that show what an earlier one shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch.nn import functional as F

from ovikit.data.levels import brightness
from ovikit.types import Clip

FRAMES = 4
SIDE = 8
BITS = FRAMES * SIDE * SIDE


class Duplicate:
    """Compares difference hashes of four frames: whether each of 8 x 8 cells is brighter than its right neighbour.
    Clips that differ in no more than ``bits`` of the 256 bits show the same; of these the first stays. Clips of sound
    alone are compared by the course of their volume in the same way."""

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def signature(self, clip: Clip) -> str:
        found = _of_sound(clip) if clip.video is None else _of_picture(clip)
        bits = "".join("1" if one else "0" for one in found.flatten().tolist())
        return f"{int(bits, 2):0{BITS // 4}x}"

    def repeats(self, signatures: Sequence[str]) -> list[int | None]:
        """Exact, without comparing all with all: two numbers of 256 bits that differ in at most k bits agree in at
        least one of k + 1 bands."""
        bands = _bands(self.bits + 1)
        kept: dict[tuple[int, int], list[int]] = defaultdict(list)
        numbers = [int(signature, 16) for signature in signatures]
        found: list[int | None] = []
        for place, number in enumerate(numbers):
            keys = [(band, number >> low & (1 << size) - 1) for band, (low, size) in enumerate(bands)]
            near = sorted({other for key in keys for other in kept[key]})
            first = next((other for other in near if (numbers[other] ^ number).bit_count() <= self.bits), None)
            found.append(first)
            if first is None:
                for key in keys:
                    kept[key].append(place)
        return found

    def fingerprint(self) -> str:
        return f"duplicate/1/{self.bits}"


def _bands(count: int) -> list[tuple[int, int]]:
    """(lowest bit, bits) of the bands; more bands than bits are as many."""
    count = min(count, BITS)
    edges = [round(BITS * k / count) for k in range(count + 1)]
    return [(low, high - low) for low, high in pairwise(edges)]


def _of_picture(clip: Clip) -> torch.Tensor:
    assert clip.video is not None
    at = torch.linspace(0, len(clip.video) - 1, FRAMES).round().long()
    cells = F.adaptive_avg_pool2d(brightness(clip.video[at])[:, None], (SIDE, SIDE + 1))
    return cells[..., 1:] > cells[..., :-1]


def _of_sound(clip: Clip) -> torch.Tensor:
    assert clip.audio is not None
    course = F.adaptive_avg_pool1d(clip.audio.abs()[None], BITS + 1)[0]
    return course[1:] > course[:-1]
