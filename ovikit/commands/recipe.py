"""``ovikit recipe``: check, show, compare and lock recipes. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ovikit.commands.options import Overrides, RecipeFile


def app_command(cli: typer.Typer) -> None:
    """Adds ``recipe check``, ``show``, ``diff``, ``lock`` and ``schema``."""
    group = typer.Typer(
        help="Check, show, compare and lock recipes. Example: ovikit recipe show recipes/tiny/ovi.yaml",
        no_args_is_help=True,
    )
    for command in (check, show, diff, lock, schema):
        group.command()(command)
    cli.add_typer(group, name="recipe")


def check(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...", help="Recipe files.")],
    override: Overrides = None,
) -> None:
    """Check that recipes are valid with the installed plugins.

    Example: ovikit recipe check recipes/tiny/ovi.yaml -o sampling.steps=10
    """
    from ovikit.recipe.load import load_recipe

    for path in recipes:
        recipe = load_recipe(path, override or ())
        typer.echo(f"{path}: {recipe.name} is valid, digest {recipe.digest[:16]}")


def show(recipe: RecipeFile, override: Overrides = None) -> None:
    """Print a recipe with everything that it inherits and every default.

    Example: ovikit recipe show recipes/tiny/no-fusion.yaml
    """
    from ovikit.recipe.load import load_recipe
    from ovikit.recipe.lock import dump_yaml

    found = load_recipe(recipe, override or ())
    typer.echo(f"# digest {found.digest}\n{dump_yaml(found.to_dict())}", nl=False)


def diff(old: RecipeFile, new: RecipeFile, override: Overrides = None) -> None:
    """Print what differs between two recipes, defaults included. Overrides change the second one.

    Example: ovikit recipe diff recipes/tiny/ovi.yaml recipes/tiny/no-fusion.yaml
    """
    from ovikit.recipe.diff import recipe_differences
    from ovikit.recipe.load import load_recipe

    for one in recipe_differences(load_recipe(old), load_recipe(new, override or ())):
        typer.echo(f"{one.path}: {_told(one.old)} -> {_told(one.new)}")


def _told(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return repr(value)


def lock(
    recipe: RecipeFile,
    output: Annotated[
        Path | None, typer.Option("--output", "-O", help="Where to write; default: NAME.lock.yaml beside it.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the weights that the recipe names.", show_default=False),
    ] = None,
    override: Overrides = None,
) -> None:
    """Write the resolved recipe with plugin versions, checkpoint hash and digest. The file loads as a recipe.

    Example: ovikit recipe lock recipes/tiny/ovi.yaml --output ovi.lock.yaml
    """
    from ovikit.checkpoints.assets import Assets
    from ovikit.layout import cache_folder
    from ovikit.recipe.load import load_recipe
    from ovikit.recipe.lock import write_lock

    found = load_recipe(recipe, override or ())
    path = output or recipe.with_name(f"{recipe.stem}.lock.yaml")
    named = found.model.checkpoint
    known = None
    if named is not None and weights is not None:
        known = Assets(weights, cache=cache_folder()).digest(named.path)
    write_lock(found, path, checkpoint_sha256=known)
    typer.echo(f"{path}: digest {found.digest}")


def schema(
    suite: Annotated[bool, typer.Option("--suite", help="Of evaluation suites instead.")] = False,
) -> None:
    """Print the JSON schema of recipes with the installed plugins, for editors.

    Example: ovikit recipe schema > recipe.schema.json
    """
    from ovikit.kernel.manager import installed_catalog
    from ovikit.recipe.models import Recipe, Suite
    from ovikit.recipe.schema import document_schema

    typer.echo(
        json.dumps(document_schema(installed_catalog(), Suite if suite else Recipe), indent=2, ensure_ascii=False)
    )
