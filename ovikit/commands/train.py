"""``ovikit train``: a recipe to a trained model in a run folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from ovikit.commands.options import Overrides, RecipeFile


def app_command(cli: typer.Typer) -> None:
    """Adds ``train``."""
    cli.command("train")(train)


def train(
    recipe: RecipeFile,
    run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the run; by default runs/NAME.", show_default=False)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in this folder stopped, if it did.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with the weights that the recipe names.", show_default=False),
    ] = None,
    on_bad_clip: Annotated[
        Literal["skip", "stop"], typer.Option(help="What to do about clips of a prepared dataset that are damaged.")
    ] = "stop",
    override: Overrides = None,
) -> None:
    """Train the model of a recipe. Ctrl-C stops it with a checkpoint.

    Example: ovikit train recipes/tiny/ovi.yaml --run runs/mine -o training.trainer.max_steps=200
    """
    from ovikit.recipe.load import load_recipe

    # Before torch and Lightning are imported: an error in the recipe is told at once.
    found = load_recipe(recipe, override or ())
    from rich.console import Console

    from ovikit.recipe.build import find_assets
    from ovikit.training.run import train as run_training

    console = Console(soft_wrap=True)
    home = run or Path("runs") / found.name
    result = run_training(
        found, home, resume=resume, console=console, assets=find_assets(weights), skip_bad=on_bad_clip == "skip"
    )
    if result.stopped_by is not None:
        again = ["ovikit", "train", str(recipe), *(["--run", str(run)] if run else [])]
        again += ["--weights", str(weights)] if weights else []
        again += ["--on-bad-clip", "skip"] if on_bad_clip == "skip" else []
        again += [part for one in override or () for part in ("-o", one)]
        console.print(f"stopped at step {result.step} of {result.steps}; checkpoint: {result.checkpoint}")
        console.print(f"go on with: {shlex.join(again)} --resume", markup=False)
        raise typer.Exit(128 + result.stopped_by)
