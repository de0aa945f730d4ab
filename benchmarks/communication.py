"""What the processes of one clip send each other, by count alone: nothing is run, and no weights are needed.

    python benchmarks/communication.py
    python benchmarks/communication.py recipes/reference/ovi-960x960-10s.yaml -o clip.height_px=704 --gb-per-s 300

For each number of processes that share a clip's tokens: megabytes that one of them sends in a layer, by attention, and
in a forward of one pass; and how long that takes at a given rate, were nothing else done meanwhile.
"""

from __future__ import annotations

import argparse
from math import ceil
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ovikit.recipe.build import build_codecs, build_conditioner, build_model, precision_of
from ovikit.recipe.load import load_recipe
from ovikit.runtime.parallel import gather_bytes, layer_bytes
from ovikit.types import AV

RECIPE = Path(__file__).parents[1] / "recipes" / "reference" / "ovi-720x720-5s.yaml"
SIZE = ["clip.height_px=704", "clip.width_px=704"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=RECIPE)
    parser.add_argument("-o", dest="overrides", action="append", help="change the recipe (default: 704 x 704)")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--gb-per-s", type=float, default=300.0, help="what a process sends, GB/s")
    given = parser.parse_args()
    recipe = load_recipe(given.recipe, SIZE if given.overrides is None else given.overrides)
    codecs = build_codecs(recipe)
    model = build_model(recipe, codecs, build_conditioner(recipe), "meta")
    towers = AV.of({m: model.tower(m) for m in model.modalities})
    tower = next(towers.values())
    tokens = AV.of({m: len(one.grid(codecs[m].grid())) for m, one in towers.items()})
    item_bytes = precision_of(recipe).dtype.itemsize
    depth, heads = len(model.layers), tower.heads
    head_width = tower.width // heads

    table = Table(title=f"{dict(tokens.items())} tokens, {depth} layers, {heads} heads, {item_bytes} bytes an item")
    rows = []
    for processes in given.processes:
        layer = layer_bytes(tokens, heads=heads, head_width=head_width, processes=processes, item_bytes=item_bytes)
        # Tokens are kept in float32 by the clean policy: the last gathering sends them so.
        end = gather_bytes(tokens, width=tower.width, processes=processes, item_bytes=4)
        total = sum(layer.values()) * depth + end
        shares = [str(ceil(n / processes)) for n in tokens.values()]
        rows.append([str(processes), " + ".join(shares), *(f"{n / 1e6:.1f}" for n in layer.values()),
                     f"{sum(layer.values()) / 1e6:.1f}", f"{end / 1e6:.1f}", f"{total / 1e9:.2f}",
                     f"{total / given.gb_per_s / 1e6:.0f}"])  # fmt: skip
        names = [*layer]
    for heading in ("processes", "tokens of each", *(f"{n}, MB" for n in names), "a layer, MB", "the end, MB",
                    "a forward, GB", f"ms at {given.gb_per_s:g} GB/s"):  # fmt: skip
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    Console(width=220).print(table)


if __name__ == "__main__":
    main()
