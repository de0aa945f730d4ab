"""``ovikit plan``: what a recipe takes, without weights and without a GPU."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovikit.commands.options import Overrides, RecipeFile
from ovikit.commands.plan_training import show_training, training_figures
from ovikit.commands.tables import gb, print_table, tera

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from ovikit.recipe.models import Recipe

CARDS_GB = (24, 40, 80)


def app_command(cli: typer.Typer) -> None:
    """Adds ``plan``."""
    cli.command("plan")(plan)


def plan(
    recipe: RecipeFile,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Height and width in pixels, as generate takes it.")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips made at the same time.")] = 1,
    flops_per_s: Annotated[
        float, typer.Option(metavar="N", min=1.0, help="What the device computes in a second, for the times.")
    ] = 790e12,
    budget_gb: Annotated[
        float | None, typer.Option(metavar="N", min=0.0, help="Also plan for a device with this much memory.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    override: Overrides = None,
) -> None:
    """Show what a recipe takes: parameters, memory of each plan, FLOPs and their time. Needs no weights and no GPU.

    Example: ovikit plan recipes/reference/ovi-720x720-5s.yaml --budget-gb 32
    """
    found = _sized(recipe, override or (), size)
    told = figures(found, clips, flops_per_s, budget_gb)
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    from rich.console import Console

    _show(Console(soft_wrap=True), told)


def _sized(path: Path, overrides: Sequence[str], size: str | None) -> Recipe:
    """The recipe, with clips of the size that was asked for."""
    from ovikit.recipe.load import load_recipe

    found = load_recipe(path, overrides)
    if size is None:
        return found
    from ovikit.generate.size import SizeRule, parse_size
    from ovikit.recipe.build import build_codecs, build_conditioner, build_model

    codecs = build_codecs(found)
    model = build_model(found, codecs, build_conditioner(found), "meta")
    own = found.clip.height_px, found.clip.width_px
    _, rows, columns = model.tower("video").grid(codecs["video"].grid()).shape
    rule = SizeRule(own, (own[0] // rows, own[1] // columns), found.clip.area_px)
    height, width = rule.asked(parse_size(size))
    return load_recipe(path, [*overrides, f"clip.height_px={height}", f"clip.width_px={width}"])


def figures(recipe: Recipe, clips: int, flops_per_s: float, budget_gb: float | None) -> dict[str, Any]:
    """Everything that the command shows, as plain values: bytes, FLOPs and seconds."""
    from ovikit.errors import UserError
    from ovikit.recipe.build import build_codecs, build_conditioner
    from ovikit.runtime.estimate import estimate
    from ovikit.runtime.plan import choose, plans_of

    one = estimate(recipe, build_codecs(recipe), build_conditioner(recipe), clips, float8_products=True)
    form, forward, text = recipe.clip, one.forward_flops, one.text_flops
    work = {"text keys and values": text * one.passes, "forward": forward, "denoising": forward * one.forwards}

    def card(size_gb: float) -> dict[str, Any]:
        memory = recipe.runtime.memory.model_copy(update={"budget_gb": None})
        free = recipe.model_copy(update={"runtime": recipe.runtime.model_copy(update={"memory": memory})})
        try:
            chosen = choose(free, one, int(size_gb * 1e9), "cuda")
        except UserError as error:
            return {"gb": size_gb, "plan": None, "told": error.what}
        return {"gb": size_gb, "plan": chosen.plan, "batched": chosen.batched, "told": chosen.reason,
                "warnings": list(chosen.warnings)}  # fmt: skip

    sizes = [*CARDS_GB, *([] if budget_gb is None else [budget_gb])]
    batched = recipe.runtime.guidance == "batched"
    return {
        "recipe": recipe.name,
        "clip": {"height_px": form.height_px, "width_px": form.width_px, "duration_s": form.duration_s, "clips": clips},
        "tokens": dict(one.tokens.items()),
        "parts": {name: {"parameters": part.parameters, "bytes": part.bytes} for name, part in one.parts.items()},
        "network": {
            "parameters": sum(part.parameters or 0 for part in one.parts.values()),
            "bytes": one.network,
            "layers": len(one.layers),
            "layer_bytes": max(one.layers),
        },
        "text_bytes": one.contexts * one.passes,
        "activation_bytes": one.activations,
        "decode_bytes": dict(one.decode.items()),
        "forwards": one.forwards,
        "flops": work,
        "seconds": {name: flops / flops_per_s for name, flops in work.items()},
        "flops_per_s": flops_per_s,
        "peaks": dict(plans_of(one, batched)),
        "cards": [card(size) for size in sorted(set(sizes))],
        "training": training_figures(recipe),
    }


def _show(console: Console, told: dict[str, Any]) -> None:
    form, network = told["clip"], told["network"]
    tokens = ", ".join(f"{count:,} {modality}" for modality, count in told["tokens"].items())
    several = f"{form['clips']} clips" if form["clips"] > 1 else "a clip"
    console.print(
        f"{told['recipe']}: {several} of {form['height_px']}x{form['width_px']}, {form['duration_s']:.2f} s:"
        f" {tokens} tokens", highlight=False,
    )  # fmt: skip
    parts = [
        (name, f"{part['parameters']:,}" if part["parameters"] else "", gb(part["bytes"]) if part["bytes"] else "none")
        for name, part in told["parts"].items()
    ]
    whole = ("network", f"{network['parameters']:,}", gb(network["bytes"]))
    print_table(console, ("weights", "parameters", "GB"), [*parts, whole])
    work = {
        "text keys and values": "keys and values of the text",
        "forward": "one pass of the network",
        "denoising": f"denoising: {told['forwards']} passes",
    }
    rate = f"{told['flops_per_s'] / 1e12:g} TFLOP/s"
    print_table(
        console,
        ("work", "TFLOP", f"s at {rate}"),
        [(name, tera(told["flops"][key]), f"{told['seconds'][key]:.3g}") for key, name in work.items()],
    )
    print_table(
        console,
        ("memory beyond weights", "GB"),
        [
            ("activations of one pass", gb(told["activation_bytes"])),
            ("keys and values of the text", gb(told["text_bytes"])),
            *((f"{modality} decoding", gb(size)) for modality, size in told["decode_bytes"].items()),
        ],
    )
    phases = list(next(iter(told["peaks"].values())))
    print_table(
        console,
        ("plan: GB on the device", *phases),
        [(name, *(gb(found[phase]) for phase in phases)) for name, found in told["peaks"].items()],
    )
    for card in told["cards"]:
        console.print(f"{card['gb']:g} GB: {card['told']}", highlight=False)
        for warning in card.get("warnings", ()):
            console.print(f"  warning: {warning}", highlight=False)
    if told["training"] is not None:
        show_training(console, told["training"])
