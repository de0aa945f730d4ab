"""Broken plugins: each is an error that names the plugin, its distribution and version, and spares the others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from plugin_kit import Shelf

from ovikit.errors import UserError
from ovikit.kernel.catalog import UnknownComponentError
from ovikit.kernel.manager import Plugins, installed_plugins, load_plugins

FUSION = """
    @hookimpl
    def ovikit_register_fusions() -> Sequence[Component]:
        return (Component("{name}", NoOptions, lambda config, **_: (), "a fusion"),)
"""


def load(*names: str) -> Plugins:
    return load_plugins(only=",".join(("builtins", *names)))


def failure(*names: str) -> str:
    """The one failure of loading built-ins and these plugins; the built-ins are there in spite of it."""
    plugins = load(*names)
    assert "none" in plugins.catalog.of("fusion")
    (only,) = plugins.failures
    with pytest.raises(UserError) as caught:
        plugins.checked()
    assert only.what in str(caught.value)
    return only.render()


def test_a_sound_plugin_is_listed_with_its_distribution(shelf: Shelf) -> None:
    shelf.put("mine", FUSION.format(name="braid"), version="2.1")
    one = load("mine").checked().catalog.find("fusion", "braid")
    assert (one.plugin.name, one.plugin.distribution, one.plugin.version) == ("mine", "dist-mine", "2.1")


def test_import_failure(shelf: Shelf) -> None:
    shelf.put("broken", "import no_such_module_anywhere", version="0.3")
    assert failure("broken") == (
        "plugin 'broken' (dist-broken 0.3): it failed to import: ModuleNotFoundError: "
        "No module named 'no_such_module_anywhere'"
    )


def test_an_error_in_the_module_is_an_import_failure_too(shelf: Shelf) -> None:
    shelf.put("broken", "1 / 0")
    assert failure("broken") == (
        "plugin 'broken' (dist-broken 1.0): it failed to import: ZeroDivisionError: division by zero"
    )


def test_a_module_that_ends_the_program_is_an_import_failure_too(shelf: Shelf) -> None:
    shelf.put("broken", "raise SystemExit(3)")
    assert failure("broken") == "plugin 'broken' (dist-broken 1.0): it failed to import: SystemExit: 3"


def test_a_broken_plugin_spares_the_others(shelf: Shelf) -> None:
    shelf.put("a-broken", "1 / 0")
    shelf.put("sound", FUSION.format(name="braid"))
    plugins = load("a-broken", "sound")
    assert "braid" in plugins.catalog.of("fusion")
    with pytest.raises(UserError, match=r"to go on without: OVIKIT_PLUGINS=builtins,sound$"):
        plugins.checked()


def test_several_failures_are_told_at_once(shelf: Shelf) -> None:
    shelf.put("one", "1 / 0")
    shelf.put("two", "import no_such_module_anywhere")
    with pytest.raises(UserError, match=r"2 plugin errors\n  plugin 'one' .*\n  plugin 'two' ") as caught:
        load("one", "two").checked()
    assert str(caught.value).endswith("to go on without: OVIKIT_PLUGINS=builtins")


@pytest.fixture
def removed(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plugin ``gone``, whose module was deleted; this process's plugins are found anew."""
    shelf.put("gone", FUSION.format(name="plait"), version="0.3")
    (shelf.folder / "plug_gone.py").unlink()
    monkeypatch.delenv("OVIKIT_PLUGINS", raising=False)
    installed_plugins.cache_clear()
    yield
    installed_plugins.cache_clear()


def test_a_plugin_whose_package_is_gone_is_told_and_is_no_error(
    removed: None, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.put("sound", FUSION.format(name="braid"))
    found = installed_plugins()
    assert "plugin 'gone' (dist-gone 0.3)" in [one.where for one in found.removed]
    assert "braid" in found.checked().catalog.of("fusion")
    assert installed_plugins() is found
    told = [record.getMessage() for record in caplog.records if "'gone'" in record.getMessage()]
    assert len(told) == 1  # once a process
    assert told[0].startswith("plugin 'gone' (dist-gone 0.3): its package plug_gone is not there\n  the others work; ")
    assert told[0].endswith(f"install it again, or hide this with OVIKIT_PLUGINS={','.join(found.loaded)}")


def test_only_the_first_rank_tells_of_it(
    removed: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert installed_plugins().removed
    assert caplog.records == []


def test_a_plugin_whose_package_is_gone_is_an_error_where_it_is_asked_for(removed: None) -> None:
    assert failure("gone") == (
        "plugin 'gone' (dist-gone 0.3): it failed to import: ModuleNotFoundError: No module named 'plug_gone'"
    )


def test_a_folder_with_nothing_in_it_is_a_package_that_is_gone(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled files outlive the package that they were made from."""
    monkeypatch.delenv("OVIKIT_PLUGINS", raising=False)
    shelf.put("mine", FUSION.format(name="braid"), entry=".plugin")
    (shelf.folder / "plug_mine.py").unlink()
    (shelf.folder / "plug_mine" / "__pycache__").mkdir(parents=True)
    assert "plugin 'mine' (dist-mine 1.0)" in [one.where for one in load_plugins().removed]


def test_a_package_without_the_module_of_its_entry_point_is_broken(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OVIKIT_PLUGINS", raising=False)
    shelf.put("mine", FUSION.format(name="braid"), entry=".plugn")
    (told,) = load_plugins().failures
    assert told.where == "plugin 'mine' (dist-mine 1.0)"
    assert "it failed to import: ModuleNotFoundError: No module named 'plug_mine.plugn'" in told.what


def test_a_missing_name_tells_which_plugins_are_not_loaded(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OVIKIT_PLUGINS", raising=False)
    shelf.put("gone", FUSION.format(name="plait"), version="0.3")
    (shelf.folder / "plug_gone.py").unlink()
    shelf.put("broken", "1 / 0")
    shelf.put("left", FUSION.format(name="braid"), version="2.0")

    def told(plugins: Plugins, name: str) -> str:
        with pytest.raises(UnknownComponentError) as caught:
            plugins.catalog.find("fusion", name)
        return caught.value.what

    assert "Not loaded: " in (whole := told(load_plugins(), "plait"))
    assert "plugin 'gone' (dist-gone 0.3), its package plug_gone is not there" in whole
    assert "plugin 'broken' (dist-broken 1.0), it failed to import" in whole
    assert "'left'" not in whole
    listed = told(load("broken"), "nono")
    assert "there are: none. Did you mean 'none'? Not loaded: plugin 'broken' (dist-broken 1.0), it failed" in listed
    assert "; plugin 'left' (dist-left 2.0), left out by OVIKIT_PLUGINS" in listed


def test_nothing_is_added_where_every_plugin_is_loaded() -> None:
    plugins = Plugins()
    with pytest.raises(UnknownComponentError, match=r"^there is no fusion named 'braid'; there are none$"):
        plugins.catalog.find("fusion", "braid")


def test_duplicate_component_names_name_both_plugins(shelf: Shelf) -> None:
    shelf.put("one", FUSION.format(name="braid"))
    shelf.put("two", FUSION.format(name="braid"), version="3.0")
    assert failure("one", "two") == (
        "plugin 'two' (dist-two 3.0): fusion 'braid' exists already, of plugin 'one' (dist-one 1.0)"
    )


def test_a_built_in_name_cannot_be_taken(shelf: Shelf) -> None:
    shelf.put("mine", FUSION.format(name="none"))
    told = failure("mine")
    assert told.startswith("plugin 'mine' (dist-mine 1.0): fusion 'none' exists already, of plugin 'builtins' (ovikit ")


def test_duplicate_entry_points_name_both_distributions(shelf: Shelf) -> None:
    shelf.put("mine", FUSION.format(name="braid"), distribution="first")
    shelf.put("mine", FUSION.format(name="plait"), distribution="second", version="2.0")
    plugins = load("mine")
    assert set(plugins.catalog.of("fusion")) == {"none"}
    assert plugins.failures[0].render() in (
        "two distributions have a plugin named 'mine': first 1.0 and second 2.0",
        "two distributions have a plugin named 'mine': second 2.0 and first 1.0",
    )


def test_unknown_hook(shelf: Shelf) -> None:
    shelf.put("mine", FUSION.format(name="braid").replace("register_fusions", "register_fusion"))
    assert failure("mine") == (
        "plugin 'mine' (dist-mine 1.0): there is no hook 'ovikit_register_fusion'. "
        "Did you mean 'ovikit_register_fusions'?"
    )


def test_unmarked_hook(shelf: Shelf) -> None:
    shelf.put("mine", FUSION.format(name="braid").replace("@hookimpl", ""))
    assert failure("mine") == "plugin 'mine' (dist-mine 1.0): ovikit_register_fusions is not marked with @hookimpl"


def test_wrong_signature(shelf: Shelf) -> None:
    shelf.put("mine", FUSION.format(name="braid").replace("fusions()", "fusions(depth)"))
    told = failure("mine")
    assert told.startswith("plugin 'mine' (dist-mine 1.0): wrong hook signature: ")
    assert "ovikit_register_fusions(depth)" in told
    assert "\n" not in told


def test_no_hook_at_all(shelf: Shelf) -> None:
    shelf.put("mine", "")
    assert failure("mine").startswith("plugin 'mine' (dist-mine 1.0): it implements no hook\n")


def test_a_class_is_refused(shelf: Shelf) -> None:
    shelf.put("mine", "class Mine:\n    pass", entry=":Mine")
    assert failure("mine") == (
        "plugin 'mine' (dist-mine 1.0): the entry point names the class Mine\n  name a module or an instance"
    )


def test_an_instance_is_taken(shelf: Shelf) -> None:
    source = """
    class Mine:
        @hookimpl
        def ovikit_register_fusions(self):
            return [Component("braid", NoOptions, lambda config, **_: (), "a fusion")]
    mine = Mine()
    """
    shelf.put("mine", source, entry=":mine")
    assert "braid" in load("mine").checked().catalog.of("fusion")


def test_a_wrapper_is_refused(shelf: Shelf) -> None:
    source = """
    @hookimpl(wrapper=True)
    def ovikit_register_fusions():
        return (yield)
    """
    shelf.put("mine", source)
    assert failure("mine") == (
        "plugin 'mine' (dist-mine 1.0): ovikit_register_fusions is a wrapper: hooks of ovikit add, "
        "they do not change each other"
    )


def test_a_raising_hook_names_its_plugin(shelf: Shelf) -> None:
    source = """
    @hookimpl
    def ovikit_register_fusions():
        raise RuntimeError("not today")
    """
    shelf.put("mine", source)
    assert failure("mine") == ("plugin 'mine' (dist-mine 1.0): ovikit_register_fusions failed: RuntimeError: not today")


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ("'braid'", "ovikit_register_fusions gave 'braid', which is not a Component"),
        ("Component('Braid', NoOptions, print, '')", "fusion 'Braid': a name is lower-case words joined by dashes"),
        ("Component('braid', Loose, print, '')", "fusion 'braid': Loose must refuse unknown keys and be frozen\n"
         "  derive it from ovikit.kernel.component.Config"),
        ("Component('braid', Typed, print, '')",
         "fusion 'braid': an option cannot be named 'type', which names the component itself"),
    ],
)  # fmt: skip
def test_a_bad_component_is_refused(shelf: Shelf, component: str, message: str) -> None:
    source = f"""
    from pydantic import BaseModel
    class Loose(BaseModel):
        pass
    class Typed(Config):
        type: str = "x"
    @hookimpl
    def ovikit_register_fusions():
        return [{component}]
    """
    shelf.put("mine", source)
    assert failure("mine") == f"plugin 'mine' (dist-mine 1.0): {message}"


def test_what_is_not_a_sequence_is_refused(shelf: Shelf) -> None:
    shelf.put("mine", "@hookimpl\ndef ovikit_register_fusions():\n    return None")
    assert failure("mine") == (
        "plugin 'mine' (dist-mine 1.0): ovikit_register_fusions gave None, which is not a sequence of Components"
    )


def test_the_variable_limits_what_is_loaded(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.put("sound", FUSION.format(name="braid"))
    shelf.put("broken", "1 / 0")
    monkeypatch.setenv("OVIKIT_PLUGINS", "builtins, sound")
    assert list(load_plugins().checked().loaded) == ["builtins", "sound"]


def test_the_variable_must_name_what_exists(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.put("sound", FUSION.format(name="braid"))
    monkeypatch.setenv("OVIKIT_PLUGINS", "sond")
    with pytest.raises(UserError, match=r"^OVIKIT_PLUGINS: there is no plugin named 'sond'; .*Did you mean 'sound'\?$"):
        load_plugins()


def test_the_command_lists_what_works_and_tells_what_does_not(shelf: Shelf) -> None:
    shelf.put("broken", "1 / 0")
    shelf.put("sound", FUSION.format(name="braid"))
    environment = os.environ | {"PYTHONPATH": str(shelf.folder), "OVIKIT_PLUGINS": "builtins,broken,sound"}
    done = subprocess.run(
        [sys.executable, "-c", "from ovikit.cli import main; main()", "plugins"],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "fusion\tbraid\ta fusion\tdist-sound\t1.0" in done.stdout
    assert done.stderr == (
        "error: plugin 'broken' (dist-broken 1.0): it failed to import: ZeroDivisionError: division by zero\n"
        "  to go on without: OVIKIT_PLUGINS=builtins,sound\n"
    )
