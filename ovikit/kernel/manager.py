"""Finding plugins, one by one, so that a broken one is named instead of taking the others with it.

pluggy's own ``load_setuptools_entrypoints`` stops at the first plugin that fails to import, lets two
distributions shadow each other, and aborts a whole call when one implementation raises.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast

import pluggy
import typer

from ovikit.errors import UserError
from ovikit.kernel import hookspecs
from ovikit.kernel.catalog import Catalog, NotLoaded, Plugin, PluginError, Registered, refuse_bad_component, suggestion
from ovikit.kernel.events import Event
from ovikit.kernel.kinds import KINDS
from ovikit.layout import cache_folder

GROUP = "ovikit"
ONLY = "OVIKIT_PLUGINS"
_log = logging.getLogger("ovikit")
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


class Plugins:
    """The plugins that loaded, what they registered, and what went wrong with the others.

    failures: of plugins that are broken
    removed:  plugins whose package is gone, although an entry point still names it: what needs none of them works
    """

    def __init__(self) -> None:
        self._hooks = _new_manager()
        self.loaded: dict[str, Plugin] = {}
        self.failures: list[PluginError] = []
        self.removed: list[PluginError] = []
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

    def leave(self, plugin: Plugin, reason: str) -> None:
        """Notes a plugin that is not loaded, so that errors about missing names can tell of it."""
        self.catalog.not_loaded.append(NotLoaded(plugin, reason))

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
        hint = f"to go on without: {self.sound()}"
        if len(self.failures) == 1:
            only = self.failures[0]
            raise PluginError(only.what, only.where, "\n  ".join(filter(None, (only.hint, hint))))
        listed = "\n".join(f"  {error.render()}" for error in self.failures)
        raise PluginError(f"{len(self.failures)} plugin errors\n{listed}", hint=hint)

    def sound(self) -> str:
        """The setting of OVIKIT_PLUGINS that loads the plugins with which nothing is wrong."""
        blamed = {error.where for error in self.failures}
        return f"{ONLY}={','.join(name for name, plugin in self.loaded.items() if str(plugin) not in blamed)}"

    def fire(self, event: Event) -> None:
        """Tells every observer, on rank 0 only. PluginError naming the observer that raised."""
        if not _first_rank():
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


def _first_rank() -> bool:
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


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

    Nothing is raised for a broken plugin: see ``Plugins.failures`` and ``Plugins.checked``. One whose package is gone
    is an error only when ``only`` names it. UserError when ``only`` names a plugin that is not installed.
    """
    plugins = Plugins()
    by_name: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP) if found is None else found:
        by_name.setdefault(point.name, []).append(point)
    asked = os.environ.get(ONLY, "") if only is None else only
    wanted = _wanted(asked, by_name)
    for name in wanted:
        owners = [_plugin_of(point) for point in by_name[name]]
        if len(owners) > 1:
            listed = " and ".join(f"{owner.distribution} {owner.version}" for owner in owners)
            plugins.failures.append(PluginError(f"two distributions have a plugin named '{name}': {listed}"))
            continue
        _load(plugins, by_name[name][0], owners[0], named=bool(asked.strip(" ,")))
    for name in sorted(by_name.keys() - set(wanted)):
        plugins.leave(_plugin_of(by_name[name][0]), f"left out by {ONLY}")
    return plugins


def _load(plugins: Plugins, point: EntryPoint, plugin: Plugin, named: bool) -> None:
    """Imports a plugin and takes it in. named: it was asked for by name, so it is an error that it is gone."""
    try:
        implementation = point.load()
    except (Exception, SystemExit) as error:
        if not named and _removed(point, error):
            gone = f"its package {_package(point)} is not there"
            plugins.leave(plugin, gone)
            plugins.removed.append(PluginError(gone, str(plugin)))
            return
        plugins.leave(plugin, "it failed to import")
        failure = PluginError(f"it failed to import: {type(error).__name__}: {error}", str(plugin))
        failure.__cause__ = error
        plugins.failures.append(failure)
        return
    plugins.add(plugin, implementation)


def _package(point: EntryPoint) -> str:
    return point.module.partition(".")[0]


def _removed(point: EntryPoint, error: BaseException) -> bool:
    """Whether a plugin's package is not there at all, instead of broken."""
    if not isinstance(error, ModuleNotFoundError) or not f"{point.module}.".startswith(f"{error.name}."):
        return False
    left = sys.modules.get(_package(point))
    # A folder with nothing but compiled files in it imports as a namespace, which has no file of its own.
    return left is None or left.__spec__ is None or left.__spec__.origin is None


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
    """The plugins of this process, loaded once; of those whose package is gone the user is told."""
    plugins = load_plugins()
    if plugins.removed and _first_rank():
        hint = f"the others work; install it again, or hide this with {plugins.sound()}"
        for one in plugins.removed:
            _log.warning(PluginError(one.what, one.where, hint).render())
    return plugins


def installed_catalog() -> Catalog:
    """The catalog of this process. PluginError when a plugin is broken."""
    return installed_plugins().checked().catalog


def fire(event: Event) -> None:
    """Tells the observers of this process, on rank 0 only."""
    installed_plugins().fire(event)
