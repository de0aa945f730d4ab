"""How fast clips are read back: from our index into tar shards, from WebDataset's stream of the same shards, and from a
file for each clip. Sizes are those of a clip's latents; the page cache serves all three alike.

    python benchmarks/shards.py --clips 300 --kilobytes 6000
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load, load_file, save_file

from ovikit.commands.tables import print_table
from ovikit.data.shards import read_tensors_at, write_shard
from ovikit.extras import require

PER_SHARD = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--kilobytes", type=int, default=2000, help="of a clip")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        rows = measure(Path(place), chosen.clips, chosen.kilobytes * 250)
    base = rows[0][1]
    table = [(name, f"{rate:,.0f}", f"{rate / base:.2f}") for name, rate in rows]
    print_table(Console(), ("read", "clips/s", "of ours"), table)


def measure(folder: Path, clips: int, numbers: int) -> list[tuple[str, float]]:
    """(name, clips a second) of each way."""
    generator = torch.Generator().manual_seed(1)
    data = [{"video": torch.randn(numbers, generator=generator)} for _ in range(8)]
    places = []
    for first in range(0, clips, PER_SHARD):
        members = [(k, data[k % 8], {"name": str(k)}) for k in range(first, min(clips, first + PER_SHARD))]
        places += write_shard(folder / f"{first // PER_SHARD:05d}.tar", members)
    (folder / "files").mkdir()
    for k in range(clips):
        save_file(data[k % 8], folder / "files" / f"{k}.safetensors")
    order = random.Random(1).sample(range(clips), clips)

    def ours() -> int:
        return sum("video" in read_tensors_at(folder, places[k], str(k)) for k in order)

    def files() -> int:
        # a copy, because the file is only mapped
        return sum(load_file(folder / "files" / f"{k}.safetensors")["video"].clone().ndim for k in order)

    def stream() -> int:
        shards = [str(path) for path in sorted(folder.glob("*.tar"))]
        found = require("webdataset", "dev").WebDataset(shards, shardshuffle=False).shuffle(PER_SHARD)
        return sum("video" in load(one["safetensors"]) for one in found)

    ways: list[tuple[str, Callable[[], int]]] = [
        ("any order, by our index, checksums compared", ours),
        ("WebDataset's stream, shuffled in a buffer of 64", stream),
        ("any order, a file for each clip", files),
    ]
    return [(name, _rate(way, clips)) for name, way in ways]


def _rate(way: Callable[[], int], clips: int) -> float:
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        if way() != clips:
            raise SystemExit("not every clip came back")
        seconds.append(time.perf_counter() - began)
    return clips / min(seconds)


if __name__ == "__main__":
    main()
