"""Optional dependencies, imported where they are used, with an error that names the extra that brings them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ovikit.errors import UserError


def require(module: str, extra: str) -> ModuleType:
    """The imported module. UserError naming the extra where it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise UserError(
            f"{error.name} is not installed", hint=f"it comes with the extra '{extra}': pip install 'ovikit[{extra}]'"
        ) from error
