"""``ovikit lora``: what adapters hold, adapters for other tools, adapters made part of the weights. Thin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovikit.commands.options import LoraFiles, Overrides, scaled_files
from ovikit.errors import UserError

if TYPE_CHECKING:
    from ovikit.checkpoints.format import CheckpointFormat
    from ovikit.generate.source import Source
    from ovikit.networks.joint import JointModel

Model = Annotated[
    Path, typer.Argument(metavar="RUN|RECIPE", help="Folder of a training run, or a recipe.", show_default=False)
]
Folder = Annotated[
    Path | None, typer.Option("--weights", metavar="DIR", help="Folder with the weights that the recipe names.")
]


def app_command(cli: typer.Typer) -> None:
    """Adds ``lora info``, ``lora merge`` and ``lora export``."""
    group = typer.Typer(help="Look at adapters, merge and export them.", no_args_is_help=True)
    for command in (info, merge, export):
        group.command(command.__name__)(command)
    cli.add_typer(group, name="lora")


def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of adapters, or a folder of PEFT's.")],
) -> None:
    """Show what adapters hold: layers, ranks, and how much they change each weight.

    Example: ovikit lora info runs/mine/lora.safetensors
    """
    from collections import Counter

    from rich.console import Console

    from ovikit.checkpoints.lora import describe_adapters
    from ovikit.commands.tables import print_table

    told, metadata = describe_adapters(file)
    console = Console(soft_wrap=True)
    ranks = ", ".join(f"{count} of rank {rank}" for rank, count in sorted(Counter(one.rank for one in told).items()))
    numbers = sum(one.rank * (one.in_features + one.out_features) for one in told)
    console.print(f"{len(told)} adapters ({ranks}), {numbers:,} parameters", highlight=False)
    for key, value in metadata.items():
        console.print(f"  {key}: {value}", highlight=False, markup=False)
    rows = [
        (one.layer, f"{one.out_features} x {one.in_features}", str(one.rank), f"{one.scale:.4g}", f"{one.change:.4g}")
        for one in told
    ]
    print_table(console, ("layer", "weight", "rank", "scale", "norm of the change"), rows)


def merge(
    source: Model,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .safetensors to write.")],
    lora: LoraFiles = None,
    weights: Folder = None,
    override: Overrides = None,
) -> None:
    """Write the weights of a model with adapters added to them, under the names and in the format that they have.

    Example: ovikit lora merge runs/mine --out merged.safetensors

    Example: ovikit lora merge RECIPE --weights DIR --lora style:0.8 --out merged.safetensors
    """
    from ovikit.checkpoints.lora import merge_file
    from ovikit.recipe.build import load_adapters

    found, model = _found(source, weights, override, lora)
    if not found.adapters:
        raise UserError(
            "there is nothing to merge", hint="give --lora FILE, or the folder of a run that trained adapters"
        )
    base = found.network()
    told = ", ".join(f"{path.name} x {scale:g}" for path, scale in found.adapters)
    adapters = [load_adapters(model, path, scale) for path, scale in found.adapters]
    count = merge_file(base, _names_of(base, model), adapters, out, {"adapters": told})
    typer.echo(f"{count} weights of {base.name} changed by {told}: {out}")


def export(
    source: Model,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")],
    checkpoint: Annotated[
        str | None, typer.Option(metavar="FILE", help="A checkpoint in place of the last step.")
    ] = None,
    names: Annotated[
        str, typer.Option(help="official: names of the recipe's checkpoint; ovikit: our own.")
    ] = "official",
) -> None:
    """Write the adapters of a run as PEFT does, with the layers' official names, for other tools.

    Example: ovikit lora export runs/mine --out mine-lora
    """
    from ovikit.checkpoints.lora import write_peft
    from ovikit.recipe.build import build_slot, load_adapters

    if names not in ("official", "ovikit"):
        raise UserError(f"there are no names '{names}'", "--names", "there are official and ovikit")
    if out.exists() and any(out.iterdir()):
        raise UserError("this folder is not empty", str(out), "choose another one")
    trained = None
    if checkpoint is not None:
        from ovikit.training.checkpoints import weights_of_checkpoint

        trained = weights_of_checkpoint(source, checkpoint)
    found, model = _found(source, None, None, None, trained)
    slot = found.recipe.model.checkpoint
    if not found.adapters or slot is None:
        raise UserError("this run did not train adapters", str(source))
    adapters = load_adapters(model, found.adapters[0][0])
    form: CheckpointFormat | None = build_slot(slot) if names == "official" else None
    write_peft(out, adapters, form, slot.path)
    typer.echo(f"{len(adapters.layers)} adapters: {out}")


def _found(
    source: Path,
    weights: Path | None,
    override: list[str] | None,
    lora: list[str] | None,
    trained: Path | None = None,
) -> tuple[Source, JointModel]:
    """The source with its adapters, and its network without weights."""
    from ovikit.generate.source import build_parts, find_source
    from ovikit.recipe.build import build_model

    found = find_source(source, override or (), weights, trained, scaled_files(lora or ()))
    parts = build_parts(found)
    return found, build_model(found.recipe, parts.codecs, parts.conditioner, "meta")


def _names_of(base: Path, model: JointModel) -> CheckpointFormat | None:
    """How a file of the model's weights names its tensors; None: as the model does."""
    from ovikit.checkpoints.load import check_file
    from ovikit.recipe.build import format_of

    form = format_of(base)
    check_file(model, base, form)
    return form
