"""``ovikit validate``: a checkpoint of a run, as its recipe's validation says. Thin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def app_command(cli: typer.Typer) -> None:
    """Adds ``validate``."""
    cli.command("validate")(validate)


def validate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run.", show_default=False)],
    suite: Annotated[
        Path, typer.Option("--suite", metavar="SUITE", help="The suite to make and score.", show_default=False)
    ],
    checkpoint: Annotated[str, typer.Option(metavar="NAME", help="Which checkpoint.")] = "last",
    weights: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with the weights that the recipe names.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
) -> None:
    """Make and score the clips that a run's training.validation asks for, of one checkpoint.

    ovikit train does so by itself; this is for checkpoints that it had no time for.

    Example: ovikit validate runs/mine --suite evals/suites/toyworld.yaml --checkpoint step-000400
    """
    from rich.console import Console

    from ovikit.commands.device import pick_device
    from ovikit.commands.evaluate import results_table
    from ovikit.commands.progress import evaluation_progress, generation_progress
    from ovikit.commands.tables import print_whole
    from ovikit.errors import UserError
    from ovikit.evaluation.validation import validate as run_validation
    from ovikit.training.runfolder import RunFolder

    console = Console(soft_wrap=True)
    name = checkpoint
    if checkpoint == "last":
        newest = RunFolder(run).newest()
        if newest is None:
            raise UserError("this run has no checkpoint", str(run))
        name = f"step-{newest[0]:06d}"
    with generation_progress(console) as shown, evaluation_progress(console) as told:
        results = run_validation(
            run, name, suite, weights=weights, device=pick_device(device), watcher=shown, told=told
        )  # fmt: skip
    print_whole(console, results_table(results))
