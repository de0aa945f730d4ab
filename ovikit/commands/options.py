"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--override", "-o", metavar="PATH=VALUE", help="Change a value, such as sampling.steps=20."),
]
SuiteOverrides = Annotated[
    list[str] | None,
    typer.Option("--override", "-o", metavar="PATH=VALUE", help="Change a value of the suite, as in prompts.count=16."),
]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe or lock file.", show_default=False)]
