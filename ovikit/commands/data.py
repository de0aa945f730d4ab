"""``ovikit data``: a folder of media files to a dataset, and what is in one. Thin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ovikit.commands.options import Overrides
from ovikit.errors import UserError

if TYPE_CHECKING:
    from ovikit.data.prepared import PreparedDataset

Dataset = Annotated[Path, typer.Argument(metavar="DATASET", help="Folder that 'data prepare' made.")]


def app_command(cli: typer.Typer) -> None:
    """Adds ``data prepare``, ``data check`` and ``data show``."""
    group = typer.Typer(help="Prepare datasets, check them, look at them.", no_args_is_help=True)
    for command in (prepare, check, show):
        group.command(command.__name__)(command)
    cli.add_typer(group, name="data")


def prepare(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of videos, or of sound, at any depth.")],
    recipe: Annotated[
        Path, typer.Option("--recipe", metavar="RECIPE", help="The recipe that will be trained.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DATASET", help="Folder of the dataset.", show_default=False)],
    workers: Annotated[int, typer.Option(min=1, help="Processes that look through files.")] = 2,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with the weights that the recipe names.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="Where clips are encoded: cpu, cuda, or auto.")] = "auto",
    on_bad_clip: Annotated[
        Literal["skip", "stop"], typer.Option(help="What to do about files that cannot be read.")
    ] = "skip",
    override: Overrides = None,
) -> None:
    """Cut clips from a folder of files, filter them, and encode them. Goes on where it was interrupted.

    Example: ovikit data prepare clips --recipe recipes/tiny/prepared.yaml --out dataset
    """
    from ovikit.recipe.load import load_recipe

    found = load_recipe(recipe, override or ())
    from rich.console import Console

    from ovikit.commands.device import pick_device
    from ovikit.data.prepare import Preparing
    from ovikit.data.prepared import PreparedDataset
    from ovikit.progress import Meter

    console = Console(soft_wrap=True)
    with Meter(console, "files") as meter:
        shown: list[str] = []

        def report(what: str, done: int, total: int) -> None:
            if shown != [what]:
                shown[:] = [what]
                meter.start({"files": "looking through files", "clips": "encoding clips"}[what], total, done, what)
            meter.update(done)

        Preparing(
            found, folder, out, workers=workers, weights=weights, device=pick_device(device), on_bad=on_bad_clip,
            report=report,
        ).run()  # fmt: skip
    _tell(console, PreparedDataset(out))
    chosen = "" if found.training and found.training.data.type == "prepared" else "-o training.data.type=prepared "
    console.print(f"train with: ovikit train {recipe} {chosen}-o training.data.path={out}", markup=False)


def check(dataset: Dataset) -> None:
    """Read every clip of a dataset and compare it with what was written.

    Example: ovikit data check dataset
    """
    from rich.console import Console

    from ovikit.data.prepared import PreparedDataset, check_dataset
    from ovikit.progress import Meter

    console = Console(soft_wrap=True)
    found, wrong = PreparedDataset(dataset), []
    with Meter(console, "clips") as meter:
        meter.start("reading clips", len(found))
        for done, damage in enumerate(check_dataset(found), start=1):
            meter.update(min(done, len(found)))  # the empty prompt is no clip
            if damage is not None:
                wrong.append(damage)
    if wrong:
        told = "\n    ".join(one.why for one in wrong[:20])
        raise UserError(
            f"{len(wrong)} of {len(found)} clips are not what was written\n    {told}", str(dataset),
            "prepare the dataset again; or train without them: ovikit train ... --on-bad-clip skip",
        )  # fmt: skip
    console.print(f"{len(found)} clips are what was written", highlight=False)


def show(
    dataset: Dataset,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the page; by default DATASET/show.")
    ] = None,
    clips: Annotated[int, typer.Option(min=0, help="How many clips to put on the page.")] = 12,
) -> None:
    """Write a page with histograms, players, and what was left out and why.

    Example: ovikit data show dataset
    """
    from rich.console import Console

    from ovikit.data.prepared import PreparedDataset
    from ovikit.evaluation.dataset_page import write_page

    console = Console(soft_wrap=True)
    found = PreparedDataset(dataset)
    _tell(console, found)
    page = write_page(found, out or dataset / "show", clips)
    console.print(f"page: {page}", markup=False, highlight=False)


def _tell(console: object, dataset: PreparedDataset) -> None:
    """Says what a dataset holds and what was left out."""
    from collections import Counter

    from rich.console import Console

    from ovikit.commands.tables import print_table
    from ovikit.data.prepared import told

    assert isinstance(console, Console)
    rows = dataset.rows
    kept = Counter(row.candidate.bucket for row in dataset.kept)
    seconds = sum(dataset.forms[bucket].duration_s * count for bucket, count in kept.items() if bucket is not None)
    console.print(
        f"{len(dataset)} clips, {seconds:,.1f} s, of {len(dataset.facts['files'])} files: {dataset.path}",
        highlight=False,
    )
    print_table(
        console, ("form", "clips"), [(told(form), f"{kept.get(k, 0):,}") for k, form in enumerate(dataset.forms)]
    )
    left_out = Counter(row.candidate.by for row in rows if row.candidate.by is not None)
    examples = {row.candidate.by: row.candidate for row in reversed(rows)}
    for by, count in left_out.most_common():
        one = examples[by]
        console.print(f"{count:,} left out by {by}; {one.name}: {one.why}", markup=False, highlight=False)
    notes = Counter(note for row in dataset.kept for note in row.candidate.notes)
    for note, count in notes.most_common():
        console.print(f"{count} of {len(dataset)} captions: {note}", markup=False, highlight=False)
