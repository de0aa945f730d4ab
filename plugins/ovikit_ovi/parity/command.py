"""``ovikit parity FILE...``: what this machine computes beside what the released code recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovikit.errors import UserError

PRECISIONS = ("float64", "float32")

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="Golden files, as tests/parity/golden has them.", show_default=False),
]
Precisions = Annotated[list[str] | None, typer.Option("--dtype", help="float64 or float32; repeatable. Default: both.")]


def parity(files: Files, dtype: Precisions = None) -> None:
    """Compare this machine with recordings of the released Ovi code.

    Prints the largest relative error, max |a - b| / max |b|, of each case and tensor.

    A file's kind is the start of its name; generate_X takes its weights from the fusion_X beside it.

    The exit status is 1 if anything is above tolerance.

    Example: ovikit parity tests/parity/golden/{fusion,generate}_tiny.safetensors
    """
    wanted = tuple(dtype or PRECISIONS)
    if unknown := [name for name in wanted if name not in PRECISIONS]:
        raise UserError(f"no precision is called {unknown[0]!r}", "--dtype", f"known: {', '.join(PRECISIONS)}")

    import torch
    from rich.console import Console
    from rich.table import Table

    from ovikit_ovi.parity.run import compare, kind_of

    for path in files:
        kind_of(path)

    table = Table("file", "case", "tensor", "precision")
    for heading in ("largest relative error", "tolerance", "agrees"):
        table.add_column(heading, justify="right")
    rows = [row for path in files for row in compare(path, tuple(getattr(torch, name) for name in wanted))]
    for row in rows:
        verdict = "yes" if row.agrees else "[bold red]NO[/]"
        table.add_row(
            row.file, row.case, row.tensor, row.precision, f"{row.error:.1e}", f"{row.tolerance:.0e}", verdict
        )
    wide = Console(width=None if Console().is_terminal else 160)
    wide.print(table)
    apart = [row for row in rows if not row.agrees]
    typer.echo(f"{len(rows) - len(apart)} of {len(rows)} comparisons agree (torch {torch.__version__}, cpu)")
    if apart:
        raise typer.Exit(1)
