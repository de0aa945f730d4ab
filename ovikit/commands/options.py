"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ovikit.errors import UserError

Overrides = Annotated[
    list[str] | None,
    typer.Option("--override", "-o", metavar="PATH=VALUE", help="Change a value, such as sampling.steps=20."),
]
SuiteOverrides = Annotated[
    list[str] | None,
    typer.Option("--override", "-o", metavar="PATH=VALUE", help="Change a value of the suite, as in prompts.count=16."),
]
PromptSetFolder = Annotated[
    Path | None,
    typer.Option(
        "--set",
        metavar="DIR|FILE",
        help="Where the suite's prompts are: short for -o prompts.path=DIR.",
        show_default=False,
    ),
]
LoraFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:SCALE]",
        help="Adapters to add to the weights: a file, or a folder of PEFT's; several are added up.",
        show_default=False,
    ),
]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe or lock file.", show_default=False)]


def with_set(overrides: Sequence[str] | None, prompt_set: Path | None) -> list[str]:
    """A suite's overrides, and where its prompts are."""
    given = list(overrides or ())
    return given if prompt_set is None else [*given, f"prompts.path={json.dumps(str(prompt_set))}"]


def scaled_files(given: Sequence[str]) -> list[tuple[Path, float]]:
    """Files with a factor each, from ``FILE`` and ``FILE:SCALE``. UserError for what is not there."""
    found: list[tuple[Path, float]] = []
    for text in given:
        name, _, scale = text.rpartition(":")
        try:
            path, factor = (Path(name), float(scale)) if name and not Path(text).exists() else (Path(text), 1.0)
        except ValueError:
            path, factor = Path(text), 1.0
        if not path.exists():
            raise UserError("there is no such file of adapters", str(path))
        found.append((path, factor))
    return found
