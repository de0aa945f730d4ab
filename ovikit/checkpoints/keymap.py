"""Names of tensors from one layout to another, by rules that are read in both directions.

A rule is a pair of templates. ``{m}`` stands for a modality, ``{i}`` and ``{j}`` for layer numbers and ``{r}`` for any
rest; each placeholder of one template appears in the other. The first rule that matches wins, so the special ones come
first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

_PLACEHOLDERS = {"m": r"video|audio", "i": r"\d+", "j": r"\d+", "r": r".+"}


def _pattern(template: str) -> re.Pattern[str]:
    """A regular expression that matches the names of a template and captures its placeholders."""
    parts = re.split(r"\{(\w)\}", template)
    return re.compile(
        "".join(f"(?P<{part}>{_PLACEHOLDERS[part]})" if i % 2 else re.escape(part) for i, part in enumerate(parts))
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """One renaming. ``to_ours`` and ``to_official`` change the tensor on the way and must undo each other."""

    official: str
    ours: str
    to_ours: Callable[[Tensor], Tensor] | None = None
    to_official: Callable[[Tensor], Tensor] | None = None


class UnmappedError(KeyError):
    """A name that no rule knows."""


class KeyMap:
    """An ordered list of rules, applied to names or to whole state dicts, both ways."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._to_ours = [(_pattern(rule.official), rule.ours, rule.to_ours) for rule in self.rules]
        self._to_official = [(_pattern(rule.ours), rule.official, rule.to_official) for rule in self.rules]

    def ours(self, name: str) -> str:
        """Our name of an official one; UnmappedError if no rule knows it."""
        return _find(self._to_ours, name)[0]

    def official(self, name: str) -> str:
        """The official name of one of ours; UnmappedError if no rule knows it."""
        return _find(self._to_official, name)[0]

    def to_ours(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _convert(self._to_ours, tensors)

    def to_official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _convert(self._to_official, tensors)


_Compiled = list[tuple[re.Pattern[str], str, Callable[[Tensor], Tensor] | None]]


def _find(rules: _Compiled, name: str) -> tuple[str, Callable[[Tensor], Tensor] | None]:
    for pattern, template, operation in rules:
        if match := pattern.fullmatch(name):
            return template.format(**match.groupdict()), operation
    raise UnmappedError(name)


def _convert(rules: _Compiled, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new, operation = _find(rules, name)
        if new in converted:
            raise ValueError(f"two tensors would be named {new}; the second is {name}")
        converted[new] = operation(tensor) if operation else tensor
    return converted
