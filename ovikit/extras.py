"""Optional dependencies, imported where they are used, with an error that names the extra that brings them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from ovikit.errors import UserError


def require(module: str, extra: str) -> ModuleType:
    """The imported module. UserError naming the extra where it is not installed."""
    try:
        with _without_warnings():
            return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise UserError(
            f"{error.name} is not installed", hint=f"it comes with the extra '{extra}': pip install 'ovikit[{extra}]'"
        ) from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """No warning is logged in here: diffusers and transformers import torchao, which reports every kernel that it
    cannot load, and none of them is needed."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
