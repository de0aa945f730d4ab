"""``ovikit cascade``: pictures of one model with sounds of another, as clips. Thin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovikit.commands.options import Overrides
from ovikit.errors import UserError, listed


def app_command(cli: typer.Typer) -> None:
    """Adds ``cascade``."""
    cli.command("cascade")(cascade)


def cascade(
    recipe: Annotated[Path, typer.Argument(metavar="CASCADE", help="What comes from where.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the clips; default: runs/NAME/clips.")
    ] = None,
    override: Overrides = None,
) -> None:
    """Put the sounds of one model to the pictures of another: the baseline of joint models.

    Clips that are there already are kept. Measure them as those of any model: ovikit eval SUITE --clips DIR.

    Example: ovikit cascade recipes/cascade/wan-mmaudio.yaml -o cascade.video.folder=DIR -o cascade.audio.folder=DIR
    """
    from ovikit.recipe.load import load_cascade

    found = load_cascade(recipe, override or ())
    from rich.console import Console

    from ovikit.commands.progress import evaluation_progress
    from ovikit.generate.cascade import run

    console = Console(soft_wrap=True)
    folder = out or Path("runs") / found.name / "clips"
    with evaluation_progress(console) as shown:
        done = run(found, folder, lambda n, total: shown("clips", n, total))
    console.print(f"{len(done.made)} clips made, {len(done.kept)} kept: {folder}", highlight=False)
    for side, names in done.alone.items():
        console.print(f"only {side}, and left out: {listed(names)}", highlight=False, markup=False)
    if done.failed:
        lines = [f"{name}: {why}" for name, why in done.failed.items()]
        raise UserError("\n  ".join([f"{len(lines)} clips could not be made", *lines]))
