"""The command line: thin, and torch-free until a command needs more."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from ovikit.errors import UserError

_log = logging.getLogger("ovikit")
COMMANDS = (
    "plugins", "new", "recipe", "plan", "data", "train", "validate", "lora", "generate", "cascade", "evaluate",
    "study", "ablate", "figures", "demo",
)  # fmt: skip


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """What the command returns; Ctrl-C ends it with one line and status 130 (128 + SIGINT)."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"ovikit {version('ovikit')}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """The application with ovikit's commands and those of every plugin."""
    from ovikit.kernel.manager import installed_plugins

    app = typer.Typer(
        name="ovikit",
        cls=_Group,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        help="Joint audio-video diffusion. Every part is a plugin, every experiment a recipe. Example: ovikit demo",
    )

    @app.callback()
    def options(
        verbose: bool = typer.Option(False, "--verbose", "-v", help="Say more on the way, and where errors came from."),
        version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
    ) -> None:
        logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s")

    for name in COMMANDS:
        import_module(f"ovikit.commands.{name}").app_command(app)
    installed_plugins().register_commands(app)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 well, 2 for an error that the user can mend, 130 when interrupted."""
    try:
        build_app()(args=list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        if error.__cause__ is not None:  # shown with --verbose, for whoever writes plugins
            _log.info("the error below was caused by:", exc_info=error.__cause__)
        typer.echo(f"error: {error.render()}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        # A file that cannot be opened is the user's to mend, whichever command wanted it.
        typer.echo(f"error: {os.fspath(error.filename)}: {error.strerror}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        # Before a command began: _Group speaks for the rest.
        typer.echo("interrupted", err=True)
        sys.exit(130)
