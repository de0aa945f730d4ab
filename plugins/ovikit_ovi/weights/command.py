"""``ovikit weights``: check a folder of released weights, convert it, and start a model from plain Wan2.2. Thin."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovikit.commands.options import Overrides
from ovikit.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from ovikit_ovi.weights.check import Report


def add_commands(cli: typer.Typer) -> None:
    """Adds ``weights check``, ``weights convert`` and ``weights init-from-wan``."""
    group = typer.Typer(
        help="Check, convert and derive weights. Example: ovikit weights check ckpts", no_args_is_help=True
    )
    group.command()(check)
    group.command()(convert)
    group.command("init-from-wan")(init_from_wan)
    cli.add_typer(group, name="weights")


def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A weights folder, official or ovikit's own.")],
    full: Annotated[
        bool, typer.Option("--full", help="Read every tensor: values finite, sha256. Takes minutes.")
    ] = False,
) -> None:
    """Say which released weights a folder holds, what is wrong with them, and what they can run.

    Reads headers only, so that it answers at once. The exit status is 1 if nothing can be run.

    The 720x720_5s, 960x960_5s and 960x960_10s models have the same tensors: the file's name alone tells them apart.

    Example: ovikit weights check ckpts
    """
    from ovikit_ovi.weights.check import check_folder

    console = _console()
    with _megabytes(console, "reading") as told:
        report = check_folder(folder, full, told)
    _print_files(report, console)
    _print_missing(report, console)
    _print_runnable(report, console)
    if not report.runnable():
        raise typer.Exit(1)


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if Console().is_terminal else 200, highlight=False)


@contextmanager
def _megabytes(console: Console, what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Progress in bytes (file, done, in all), shown in whole megabytes."""
    from ovikit.progress import Meter

    with Meter(console, "MB") as meter:
        shown = -1

        def told(file: str, done: int, total: int) -> None:
            nonlocal shown
            reached, all_of_it = done // 1_000_000, max(total // 1_000_000, 1)
            if shown < 0:
                meter.start(what, all_of_it)
            if reached > shown:
                shown = reached
                meter.update(reached, file)

        yield told


def _size(size: int) -> str:
    for unit, least in (("GB", 1e9), ("MB", 1e6)):
        if size >= least:
            return f"{size / least:.2f} {unit}"
    return f"{size / 1e3:.1f} kB" if size else ""


_SHOWN = {
    "ok": "[green]ok[/]",
    "missing": "[dim]missing[/]",
    "damaged": "[bold red]DAMAGED[/]",
    "wrong": "[bold red]WRONG[/]",
}


def _print_files(report: Report, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("file", "", "size", "for", "licence", "remark")
    for one in report.findings:
        path = one.file.own if report.own else one.file.name
        table.add_row(path, _SHOWN[one.state], _size(one.bytes), one.file.purpose, one.file.licence, escape(one.told))
    layout = "ovikit's own layout" if report.own else "official layout"
    console.print(f"{report.folder}: {layout}", markup=False)
    console.print(table)
    for one in report.findings:
        if one.sha256 is not None:
            console.print(f"sha256 {one.sha256}  {one.path}", markup=False, soft_wrap=True)


def _print_missing(report: Report, console: Console) -> None:
    shared = [one for one in report.findings if one.state != "ok" and not one.file.is_joint_model]
    joint = [one for one in report.findings if one.file.is_joint_model]
    wanted = shared + ([one for one in joint if one.state != "ok"] if all(one.state != "ok" for one in joint) else [])
    for one in wanted:
        console.print(f"needs {one.file.name}: {one.file.told_source}", markup=False)
    if any(one.file.is_joint_model for one in wanted):
        console.print("one of the joint models is enough", markup=False)


def _print_runnable(report: Report, console: Console) -> None:
    from ovikit_ovi.audio.component import LICENCE
    from ovikit_ovi.weights.layout import VARIANTS

    for variant in report.runnable():
        recipe = f"recipes/reference/{VARIANTS[variant][1]}"
        console.print(f"runs {recipe}: clips from text, and from text and a first frame", markup=False)
    if report.runnable():
        console.print(LICENCE, markup=False)
    else:
        console.print("nothing can be run with this folder", markup=False)


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A weights folder, official or ovikit's own; or the folder of a run.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write.")],
    to: Annotated[str, typer.Option("--to", help="ovikit or official.")],
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="Joint models to take: 720x720_5s, 960x960_5s, 960x960_10s, 720x720_5s_fp8. Default: all; of a run, "
            "the one that it started from."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a DST that is not empty.")] = False,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="FILE", help="A checkpoint of the run in place of its last step.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16: number format of what a run has trained. Default: its own.")
    ] = None,
) -> None:
    """Rewrite a weights folder, or what a run has trained, in ovikit's own layout or in the official one.

    Tensor for tensor: values and number formats stay as they are, but for --dtype. A folder in either layout works as
    --weights DIR. Of a run the joint model alone is written; the other files of the layout are not trained.

    Example: ovikit weights convert ckpts ovi-weights --to ovikit

    Example: ovikit weights convert runs/mine mine --to official --dtype bfloat16
    """
    from ovikit.layout import LOCK
    from ovikit_ovi.audio.component import LICENCE
    from ovikit_ovi.weights.convert import LAYOUTS, convert_folder, convert_run
    from ovikit_ovi.weights.layout import SHARED, VARIANTS

    of_run = (source / LOCK).is_file()
    _refuse_unknown([to], LAYOUTS, "layout", "--to")
    _refuse_unknown(variant or (), VARIANTS, "variant", "--variant")
    _refuse_unknown([dtype] if dtype else (), ("float32", "bfloat16"), "number format", "--dtype")
    if not of_run and (checkpoint or dtype):
        raise UserError("this is not the folder of a run", str(source), "leave out --checkpoint and --dtype")
    if of_run and len(variant or ()) > 1:
        raise UserError("a run has trained one joint model", "--variant", "name one")
    console = _console()
    with _megabytes(console, "writing") as told:
        if of_run:
            import torch

            one, kept = (variant or [None])[0], None if dtype is None else getattr(torch, dtype)
            written = convert_run(source, target, to, one, overwrite, told, checkpoint, kept)
        else:
            written = convert_folder(source, target, to, variant, overwrite, told)
    for name in written:
        console.print(f"wrote {target / name}", markup=False)
    if of_run:
        names = ", ".join(file.name for file in SHARED)
        console.print(f"clips are made with the released {names} beside it", markup=False, soft_wrap=True)
    else:
        console.print(LICENCE, markup=False)


def _refuse_unknown(given: Iterable[str], known: Collection[str], what: str, option: str) -> None:
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"no {what} is called {unknown[0]!r}", option, f"known: {', '.join(known)}")


def init_from_wan(
    wan: Annotated[
        Path, typer.Argument(metavar="WAN", help="Wan2.2 TI2V-5B: its folder, index of shards, or one file.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")],
    recipe: Annotated[Path, typer.Option("--recipe", help="Recipe of the model to start.")],
    audio: Annotated[
        Path | None, typer.Option("--audio", help="File with the weights of an audio tower; default: drawn.")
    ] = None,
    override: Overrides = None,
) -> None:
    """Start a joint model whose video tower is plain Wan2.2 TI2V-5B.

    What no file gives, the fusion and by default the audio tower, is drawn from the recipe's model.seed.

    Example: ovikit weights init-from-wan Wan2.2-TI2V-5B start.safetensors --recipe my-recipe.yaml
    """
    from ovikit.recipe.load import load_recipe
    from ovikit_ovi.weights.wan import init_from_wan as start

    given = start(load_recipe(recipe, override or ()), wan, output, audio)
    for name, count in given.items():
        typer.echo(f"{count} tensors from {name}")
    typer.echo(f"wrote {output}")
