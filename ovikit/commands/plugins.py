"""``ovikit plugins``: what is installed, and the options of each component."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ovikit.errors import UserError
from ovikit.kernel.catalog import Registered, suggestion
from ovikit.kernel.kinds import KINDS
from ovikit.kernel.manager import installed_plugins


def app_command(cli: typer.Typer) -> None:
    """Adds ``plugins`` and ``plugins show``."""
    group = typer.Typer(help="List what is installed. Example: ovikit plugins, ovikit plugins show fusion/ovi")
    group.callback(invoke_without_command=True)(list_plugins)
    group.command("show")(show)
    cli.add_typer(group, name="plugins")


def list_plugins(context: typer.Context) -> None:
    """List every component that the installed plugins offer.

    Example: ovikit plugins
    """
    if context.invoked_subcommand is not None:
        return
    plugins = installed_plugins()
    rows = [
        (one.kind, one.name, one.component.summary, one.plugin.distribution, one.plugin.version)
        for one in plugins.catalog
    ]
    _print_table(("kind", "name", "summary", "distribution", "version"), rows)
    plugins.checked()


def show(
    component: Annotated[str, typer.Argument(metavar="KIND/NAME", help="A component, such as fusion/ovi.")],
) -> None:
    """Show the options of a component: types, defaults and meaning.

    Example: ovikit plugins show fusion/ovi
    """
    catalog = installed_plugins().catalog
    kind, _, name = component.partition("/")
    if kind not in KINDS:
        raise UserError(
            f"there is no kind '{kind}'; {suggestion(kind, KINDS)}", hint="write KIND/NAME, such as fusion/ovi"
        )
    one = catalog.find(kind, name)
    typer.echo(f"{one.kind}/{one.name}: {one.component.summary}\n{one.plugin}\n")
    _print_table(("option", "type", "default", "meaning"), list(_options(one)) or [("(none)", "", "", "")])
    typer.echo(f"\nIn a recipe: {{type: {one.name}{_required(one)}}}")


def _options(one: Registered) -> list[tuple[str, ...]]:
    return _fields(one.component.config, "")


def _fields(model: type[BaseModel], above: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        rows.append((above + name, type_name(field), _default(field), field.description or ""))
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            rows += _fields(inner, f"{above}{name}.")
    return rows


def type_name(field: FieldInfo) -> str:
    """The type of a field as people write it, with its bounds: ``int > 0``, ``float | null``, ``list of int``."""
    return " ".join(filter(None, (_type_text(field.annotation), _bounds(field.metadata))))


def _type_text(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [mark for item in inner[1:] for mark in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return " ".join(filter(None, (_type_text(inner[0]), _bounds(bounds))))
    if origin is Literal:
        return " | ".join(str(value) for value in inner)
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(_type_text(one) for one in inner))
    if origin in (tuple, list) and inner:
        same = origin is list or inner[-1] is ...
        return f"list of {_type_text(inner[0])}" if same else f"[{', '.join(_type_text(one) for one in inner)}]"
    if origin in (dict, Mapping):
        return f"mapping of {_type_text(inner[1])}"
    if annotation is None or annotation is type(None):
        return "null"
    if isinstance(annotation, type):
        return "mapping" if issubclass(annotation, BaseModel) else annotation.__name__
    return str(annotation)


_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "multiple of", "min_length": "length >="}


def _bounds(metadata: Iterable[object]) -> str:
    found = ((sign, getattr(mark, key, None)) for mark in metadata for key, sign in _SIGNS.items())
    return ", ".join(f"{sign} {value}" for sign, value in found if value is not None)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "{...}"
    if isinstance(value, tuple):
        return str(list(value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _required(one: Registered) -> str:
    names = [name for name, field in one.component.config.model_fields.items() if field.is_required()]
    return "".join(f", {name}: ..." for name in names)


def _print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table on a terminal; tab-separated lines, uncut, where the output goes to a file or a pipe."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        typer.echo("\n".join("\t".join(row) for row in [head, *rows]))
        return
    table = Table(*head, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    console.print(table)
