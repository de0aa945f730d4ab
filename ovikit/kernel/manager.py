"""Finding plugins, one by one, so that a broken one is named instead of taking the others with it.

pluggy's own ``load_setuptools_entrypoints`` stops at the first plugin that fails to import, lets two
distributions shadow each other, and aborts a whole call when one implementation raises.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast

import pluggy
import typer

from ovikit.errors import UserError
from ovikit.kernel import hookspecs
from ovikit.kernel.catalog import Catalog, Plugin, PluginError, Registered, refuse_bad_component, suggestion
from ovikit.kernel.events import Event
from ovikit.kernel.kinds import KINDS
from ovikit.layout import cache_folder

GROUP = "ovikit"
ONLY = "OVIKIT_PLUGINS"
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


class Plugins:
    """The plugins that loaded, what they registered, and what went wrong with the others."""

    def __init__(self) -> None:
        self._hooks = _new_manager()
        self.loaded: dict[str, Plugin] = {}
        self.failures: list[PluginError] = []
        self.catalog = Catalog()

    def add(self, plugin: Plugin, implementation: object) -> None:
        """Takes a plugin in: its hooks, then its components. What is wrong with it goes to ``failures``."""
        try:
            _refuse_bad_plugin(plugin, implementation)
            self._hooks.register(implementation, plugin.name)
            self.loaded[plugin.name] = plugin
            for kind in KINDS:
                self._collect(kind, plugin)
        except PluginError as error:
            self.failures.append(error)

    def _collect(self, kind: str, plugin: Plugin) -> None:
        for owner, call in self._implementations(KINDS[kind].hook):
            if owner != plugin:
                continue
            found = call({})
            if not isinstance(found, Sequence) or isinstance(found, str):
                raise PluginError(
                    f"{KINDS[kind].hook} gave {found!r}, which is not a sequence of Components", str(plugin)
                )
            for component in cast(Sequence[object], found):
                self.catalog.add(Registered(kind, refuse_bad_component(kind, component, plugin), plugin))

    def checked(self) -> Plugins:
        """These plugins. PluginError listing everything that went wrong, if anything did."""
        if not self.failures:
            return self
        hint = f"to go on without: {ONLY}={','.join(self._sound())}"
        if len(self.failures) == 1:
            only = self.failures[0]
            raise PluginError(only.what, only.where, "\n  ".join(filter(None, (only.hint, hint))))
        listed = "\n".join(f"  {error.render()}" for error in self.failures)
        raise PluginError(f"{len(self.failures)} plugin errors\n{listed}", hint=hint)

    def _sound(self) -> list[str]:
        blamed = {error.where for error in self.failures}
        return [name for name, plugin in self.loaded.items() if str(plugin) not in blamed]

    def fire(self, event: Event) -> None:
        """Tells every observer, on rank 0 only. PluginError naming the observer that raised."""
        if any(os.environ.get(name, "0") != "0" for name in _RANKS):
            return
        for _, call in self._implementations(event.hook):
            call({"event": event})

    def resolve_asset(self, uri: str, cache_dir: Path | None = None) -> Path:
        """The local path of an asset, from the first plugin that knows it. UserError when none does."""
        kept = cache_dir or cache_folder()
        found = self._first("ovikit_resolve_asset", {"uri": uri, "cache_dir": kept})
        if found is None:
            raise UserError(
                f"there is no asset '{uri}'",
                hint="give an existing path, or the whole folder of the weights (--weights DIR), or put the file into"
                " the folder that OVIKIT_ASSETS names",
            )
        return Path(found)

    def detect_checkpoint(self, keys: Iterable[str], metadata: Mapping[str, str]) -> str | None:
        """Name of the checkpoint format that a plugin recognises, or None."""
        return self._first("ovikit_detect_checkpoint", {"keys": frozenset(keys), "metadata": dict(metadata)})

    def register_commands(self, cli: typer.Typer) -> None:
        """Lets every plugin add its commands."""
        for _, call in self._implementations("ovikit_register_commands"):
            call({"cli": cli})

    def _first(self, hook: str, arguments: Mapping[str, Any]) -> Any:
        results = (call(arguments) for _, call in self._implementations(hook))
        return next((result for result in results if result is not None), None)

    def _implementations(self, hook: str) -> Iterator[tuple[Plugin, Callable[[Mapping[str, Any]], Any]]]:
        """(plugin, call) of a hook in pluggy's order, each call raising PluginError in its plugin's name."""
        caller: pluggy.HookCaller = getattr(self._hooks.hook, hook)
        for implementation in reversed(caller.get_hookimpls()):
            plugin = self.loaded[implementation.plugin_name]
            yield plugin, _guarded(plugin, hook, implementation)


def _guarded(plugin: Plugin, hook: str, implementation: pluggy.HookImpl) -> Callable[[Mapping[str, Any]], Any]:
    def call(arguments: Mapping[str, Any]) -> Any:
        try:
            return implementation.function(*(arguments[name] for name in implementation.argnames))
        except UserError:
            raise
        except Exception as error:
            raise PluginError(f"{hook} failed: {type(error).__name__}: {error}", str(plugin)) from error

    return call


def _new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def hook_names() -> frozenset[str]:
    """The name of every hook."""
    return frozenset(name for name in vars(hookspecs) if name.startswith("ovikit_"))


def _refuse_bad_plugin(plugin: Plugin, implementation: object) -> None:
    """PluginError when pluggy would misread the plugin: tried on a manager of its own, to leave nothing behind."""
    if inspect.isclass(implementation):
        raise PluginError(
            f"the entry point names the class {implementation.__name__}", str(plugin), "name a module or an instance"
        )
    probe = _new_manager()
    try:
        probe.register(implementation, plugin.name)
    except pluggy.PluginValidationError as error:
        raise PluginError(f"wrong hook signature: {_signature_trouble(error)}", str(plugin)) from error
    callers = probe.get_hookcallers(implementation) or []
    for caller in callers:
        if not caller.has_spec():
            raise PluginError(f"there is no hook '{caller.name}'. {_closest(caller.name)}", str(plugin))
        if any(one.wrapper or one.hookwrapper for one in caller.get_hookimpls()):
            raise PluginError(
                f"{caller.name} is a wrapper: hooks of ovikit add, they do not change each other", str(plugin)
            )
    implemented = {caller.name for caller in callers}
    for name in sorted(hook_names() - implemented):
        if inspect.isroutine(getattr(implementation, name, None)):
            raise PluginError(f"{name} is not marked with @hookimpl", str(plugin))
    if not implemented:
        raise PluginError(
            "it implements no hook", str(plugin), "mark implementations with ovikit.kernel.hookspecs.hookimpl"
        )


def _signature_trouble(error: pluggy.PluginValidationError) -> str:
    """The part of pluggy's message that says what is wrong, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(line for line in lines if not line.startswith("Plugin "))


def _closest(name: str) -> str:
    told = suggestion(name, hook_names())
    return told.rpartition(". ")[2] if "Did you mean" in told else "docs/hooks.md lists what there is"


def load_plugins(found: Iterable[EntryPoint] | None = None, only: str | None = None) -> Plugins:
    """The plugins of the entry-point group ``ovikit``, or those that ``only`` (or OVIKIT_PLUGINS) names.

    Nothing is raised for a broken plugin: see ``Plugins.failures`` and ``Plugins.checked``. UserError when
    ``only`` names a plugin that is not installed.
    """
    plugins = Plugins()
    by_name: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP) if found is None else found:
        by_name.setdefault(point.name, []).append(point)
    wanted = _wanted(os.environ.get(ONLY, "") if only is None else only, by_name)
    for name in wanted:
        owners = [_plugin_of(point) for point in by_name[name]]
        if len(owners) > 1:
            listed = " and ".join(f"{owner.distribution} {owner.version}" for owner in owners)
            plugins.failures.append(PluginError(f"two distributions have a plugin named '{name}': {listed}"))
            continue
        try:
            implementation = by_name[name][0].load()
        except (Exception, SystemExit) as error:
            failure = PluginError(f"it failed to import: {type(error).__name__}: {error}", str(owners[0]))
            failure.__cause__ = error
            plugins.failures.append(failure)
            continue
        plugins.add(owners[0], implementation)
    return plugins


def _wanted(only: str, installed: Mapping[str, object]) -> list[str]:
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in installed:
            raise UserError(f"there is no plugin named '{name}'; {suggestion(name, installed)}", ONLY)
    # Built-ins first: the order of registration is the order of hooks and of messages.
    return names or sorted(installed, key=lambda name: (name != "builtins", name))


def _plugin_of(point: EntryPoint) -> Plugin:
    distribution = point.dist
    if distribution is None:
        return Plugin(point.name, "unknown", "unknown")
    return Plugin(point.name, distribution.name, distribution.version)


@cache
def installed_plugins() -> Plugins:
    """The plugins of this process, loaded once."""
    return load_plugins()


def installed_catalog() -> Catalog:
    """The catalog of this process. PluginError when a plugin is broken."""
    return installed_plugins().checked().catalog


def fire(event: Event) -> None:
    """Tells the observers of this process, on rank 0 only."""
    installed_plugins().fire(event)
