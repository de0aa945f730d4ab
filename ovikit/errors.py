"""The error that a user can cause and mend: one clear message, no traceback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class UserError(Exception):
    """What is wrong, where, and what to do about it."""

    def __init__(self, what: str, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(self.render())

    def __reduce__(self) -> tuple[Any, ...]:
        """On its way from one process to another it stays what it is, whatever a subclass takes."""
        return _again, (type(self), self.args, self.__dict__)

    def render(self) -> str:
        """``where: what`` and, on a line of its own, the hint."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  {self.hint}" if self.hint else head


def _again(kind: type[UserError], args: tuple[Any, ...], state: dict[str, Any]) -> UserError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


def listed(names: Sequence[str], most: int = 10) -> str:
    """``a, b and 3 more``: as many names as a message bears."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
