"""The catalog: every component that installed plugins offer, by kind and name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ovikit.errors import UserError
from ovikit.kernel.component import Component
from ovikit.kernel.kinds import KINDS

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin and the distribution that it came with."""

    name: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"plugin '{self.name}' ({self.distribution} {self.version})"


@dataclass(frozen=True, slots=True)
class Registered:
    """A component, its kind, and the plugin that registered it."""

    kind: str
    component: Component
    plugin: Plugin

    @property
    def name(self) -> str:
        return self.component.name


@dataclass(frozen=True, slots=True)
class NotLoaded:
    """A plugin that is installed and not loaded, and why: a name that nobody knows may be one of its components."""

    plugin: Plugin
    reason: str

    def __str__(self) -> str:
        return f"{self.plugin}, {self.reason}"


class PluginError(UserError):
    """A plugin that cannot be used: which one, its version, and why."""


class UnknownComponentError(UserError):
    """A name that no plugin registered."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """``there are: a, b. Did you mean 'a'?`` -- what exists and, where one is close, the closest."""
    names = sorted(known)
    if not names:
        return "there are none"
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"there are: {', '.join(names)}" + (f". Did you mean '{close[0]}'?" if close else "")


def refuse_bad_component(kind: str, component: object, plugin: Plugin) -> Component:
    """The component, if it is one. PluginError when its name, config or build could not serve a recipe."""
    if not isinstance(component, Component):
        raise PluginError(f"{KINDS[kind].hook} gave {component!r}, which is not a Component", str(plugin))
    what = f"{kind} '{component.name}'"
    if not _NAME.fullmatch(component.name):
        raise PluginError(f"{what}: a name is lower-case words joined by dashes", str(plugin))
    if component.config.model_config.get("extra") != "forbid" or not component.config.model_config.get("frozen"):
        raise PluginError(
            f"{what}: {component.config.__name__} must refuse unknown keys and be frozen",
            str(plugin),
            "derive it from ovikit.kernel.component.Config",
        )
    if "type" in component.config.model_fields:
        raise PluginError(f"{what}: an option cannot be named 'type', which names the component itself", str(plugin))
    return component


class Catalog:
    """Components by kind and name. Nothing is active by being here: a recipe names what it uses.

    not_loaded: plugins whose components are not here, to be told of where a name is missing
    """

    def __init__(self, registered: Iterable[Registered] = ()) -> None:
        self._by_kind: dict[str, dict[str, Registered]] = {kind: {} for kind in KINDS}
        self.not_loaded: list[NotLoaded] = []
        for one in registered:
            self.add(one)

    def add(self, new: Registered) -> None:
        """Adds a component. PluginError naming both plugins when its kind and name are taken."""
        refuse_bad_component(new.kind, new.component, new.plugin)
        old = self._by_kind[new.kind].get(new.name)
        if old is not None:
            raise PluginError(f"{new.kind} '{new.name}' exists already, of {old.plugin}", str(new.plugin))
        self._by_kind[new.kind][new.name] = new

    def of(self, kind: str) -> Mapping[str, Registered]:
        """The components of a kind by name."""
        return MappingProxyType(self._by_kind[kind])

    def __iter__(self) -> Iterator[Registered]:
        """Every component, by kind in the order of ``KINDS``, then by name."""
        for names in self._by_kind.values():
            yield from (names[name] for name in sorted(names))

    def find(self, kind: str, name: str) -> Registered:
        """The component of that kind and name.

        UnknownComponentError says what exists, what is closest, and which plugins are not loaded.
        """
        names = self._by_kind[kind]
        if name not in names:
            told = f"there is no {kind} named '{name}'; {suggestion(name, names)}"
            if self.not_loaded:
                stop = "" if told.endswith("?") else "."
                told += f"{stop} Not loaded: {'; '.join(map(str, self.not_loaded))}"
            raise UnknownComponentError(told)
        return names[name]
