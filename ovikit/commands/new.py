"""``ovikit new plugin``: a plugin package whose tests pass, to be edited in one module. No torch."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from ovikit.errors import UserError
from ovikit.files import writing
from ovikit.kernel.catalog import suggestion
from ovikit.kernel.manager import installed_plugins

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 30
_SUFFIX = ".tmpl"


@dataclass(frozen=True, slots=True)
class Sample:
    """What the template of a kind makes. ``usage``: lines of a recipe that name it."""

    summary: str
    usage: str


SAMPLES = {
    "backbone": Sample(
        "a small transformer tower, one token for each latent cell",
        "model:\n  video: {type: $name}\n  audio: {type: $name}",
    ),
    "fusion": Sample(
        "gated attention to the other stream, after the text",
        "model:\n  fusion: {type: $name}",
    ),
    "positions": Sample(
        "rotations by the time in seconds, the same for both modalities",
        "model:\n  positions: {type: $name}",
    ),
    "solver": Sample(
        "two-stage Runge-Kutta: the explicit midpoint rule",
        "sampling:\n  solver: {type: $name}",
    ),
    "guidance": Sample(
        "classifier-free guidance that falls with the noise level",
        "sampling:\n  guidance: {type: $name}",
    ),
    "evaluator": Sample(
        "does the sound set in when the picture lights up",
        "# a suite, evals/suites/NAME.yaml\nevaluators:\n  - {type: $name}",
    ),
    "dataset": Sample(
        "squares that light up, each time with a tone",
        "training:\n  data: {type: $name}",
    ),
}
"""The kinds that there is a template of."""


def app_command(cli: typer.Typer) -> None:
    """Adds ``new plugin``."""
    group = typer.Typer(
        help="Begin a plugin. Example: ovikit new plugin late-reader --kind fusion", no_args_is_help=True
    )
    group.callback()(_new)
    group.command("plugin")(plugin)
    cli.add_typer(group, name="new")


def _new() -> None:
    """Begin something of your own."""


def plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the component: lower-case words joined by dashes.")],
    kind: Annotated[str, typer.Option(metavar="KIND", help=f"What it is: {', '.join(SAMPLES)}.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder that the package's folder is put into.")] = Path(),
) -> None:
    """Write a plugin package with one small working component and the tests of its contract.

    Example: ovikit new plugin late-reader --kind fusion
    """
    _refuse(name, kind)
    folder = render(name, kind, out)
    module = f"ovikit_{name.replace('-', '_')}/{kind}.py"
    typer.echo(
        f"{folder}: {kind} '{name}'\n\n"
        f"Its tests pass as they are; the component is in {module}. Next:\n"
        f"  cd {folder}\n"
        '  pip install --editable ".[dev]"\n'
        "  pytest\n"
        f"  ovikit plugins show {kind}/{name}"
    )


def _refuse(name: str, kind: str) -> None:
    """UserError for what cannot be the name or the kind of a new plugin."""
    if kind not in SAMPLES:
        raise UserError(f"there is no template of kind '{kind}'; {suggestion(kind, SAMPLES)}", "--kind")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        rule = f"lower-case words joined by dashes, at most {_LONGEST} characters, such as late-reader"
        raise UserError(f"'{name}' cannot be a name: {rule}", "NAME")
    plugins = installed_plugins()
    if name in plugins.loaded:
        raise UserError(
            f"there is a plugin of that name already: {plugins.loaded[name]}", "NAME", "choose another name"
        )
    if name in plugins.catalog.of(kind):
        owner = plugins.catalog.find(kind, name).plugin
        raise UserError(f"there is a {kind} '{name}' already, of {owner}", "NAME", "choose another name")


def render(name: str, kind: str, out: Path) -> Path:
    """The folder of the new package: it appears there whole, or not at all. UserError when it exists."""
    folder = out / f"ovikit-{name}"
    if os.path.lexists(folder):
        raise UserError("this exists already", str(folder), "choose another name, or another folder with --out")
    words = _words(name, kind)
    with writing(folder):
        out.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=out))
        try:
            for path, text in _files(kind, words["package"]):
                target = temporary / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(Template(text).substitute(words), encoding="utf-8")
            temporary.chmod(0o755)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _words(name: str, kind: str) -> dict[str, str]:
    """What the placeholders of the templates stand for."""
    sample, parts = SAMPLES[kind], name.split("-")
    return {
        "name": name,
        "kind": kind,
        "module": kind,
        "distribution": f"ovikit-{name}",
        "package": f"ovikit_{'_'.join(parts)}",
        "metric": "_".join(parts),
        "title": "".join(part.capitalize() for part in parts),
        "summary": sample.summary,
        "usage": Template(sample.usage).substitute(name=name),
    }


def _files(kind: str, package: str) -> Iterator[tuple[str, str]]:
    """(path in the new package, template) of each file."""
    for one in (*_templates("common"), *_templates(kind)):
        name = one.name.removesuffix(_SUFFIX)
        home = "tests/" if name.startswith("test_") else f"{package}/" if name.endswith(".py") else ""
        yield home + name, one.read_text(encoding="utf-8")


def _templates(folder: str) -> list[Traversable]:
    found = files("ovikit").joinpath("plugin_template", folder).iterdir()
    return sorted((one for one in found if one.name.endswith(_SUFFIX)), key=lambda one: one.name)
