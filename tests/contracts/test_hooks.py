"""Each hook does what docs/hooks.md says, tried with a plugin that implements it and nothing else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import typer
from plugin_kit import Shelf
from typer.testing import CliRunner

from ovikit.errors import UserError
from ovikit.kernel.events import ClipFinished, Event, RecipeValidated, RunFailed, RunFinished, RunStarted
from ovikit.kernel.kinds import KINDS
from ovikit.kernel.manager import Plugins, load_plugins
from ovikit.kernel.observe import observed

EVENTS: dict[str, Event] = {
    event.hook: event
    for event in (
        RecipeValidated("r", "d" * 64, Path("r.yaml")),
        RunStarted("train", Path("run"), "r", "d" * 64),
        ClipFinished("generate", Path("run"), "00001", Path("run/00001.mp4"), "a red ball", 7, 1.5),
        RunFinished("eval", Path("run"), 2.0, {"onset_f1": 0.5}),
        RunFailed("train", Path("run"), 2.0, "loss is NaN"),
    )
}


def plugins_with(shelf: Shelf, source: str) -> Plugins:
    shelf.put("mine", source)
    return load_plugins(only="builtins,mine").checked()


def check_registers(shelf: Shelf, kind: str) -> None:
    """A component that the kind's hook returns is in the catalog, under its plugin, and builds with its keywords."""
    source = f"""
    class Options(Config):
        size: int = 3
    def build(config, *, {", ".join(KINDS[kind].keywords)}):
        return config.size
    @hookimpl
    def {KINDS[kind].hook}() -> Sequence[Component]:
        return (Component("thing", Options, build, "a thing"),)
    """
    source = source.replace("(config, *, )", "(config)")
    found = plugins_with(shelf, source).catalog.find(kind, "thing")
    assert (found.kind, found.plugin.name) == (kind, "mine")
    component = found.component
    assert component.build(component.config(size=5), **dict.fromkeys(KINDS[kind].keywords)) == 5


def check_observes(shelf: Shelf, hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The observer is given the event, whole and frozen, on rank 0; on other ranks it is not called."""
    monkeypatch.chdir(shelf.folder)
    event = EVENTS[hook]
    plugins = plugins_with(
        shelf, f"seen = []\n@hookimpl\ndef {hook}(event) -> None:\n    seen.append(event)\n"
    )  # fmt: skip
    import plug_mine  # type: ignore[import-not-found]  # made by the shelf

    plugins.fire(event)
    monkeypatch.setenv("RANK", "1")
    plugins.fire(event)
    assert plug_mine.seen == [event]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, dataclasses.fields(event)[0].name, "x")


def test_ovikit_register_backbones(shelf: Shelf) -> None:
    check_registers(shelf, "backbone")


def test_ovikit_register_fusions(shelf: Shelf) -> None:
    check_registers(shelf, "fusion")


def test_ovikit_register_positions(shelf: Shelf) -> None:
    check_registers(shelf, "positions")


def test_ovikit_register_codecs(shelf: Shelf) -> None:
    check_registers(shelf, "codec")


def test_ovikit_register_conditioners(shelf: Shelf) -> None:
    check_registers(shelf, "conditioner")


def test_ovikit_register_attentions(shelf: Shelf) -> None:
    check_registers(shelf, "attention")


def test_ovikit_register_schedules(shelf: Shelf) -> None:
    check_registers(shelf, "schedule")


def test_ovikit_register_solvers(shelf: Shelf) -> None:
    check_registers(shelf, "solver")


def test_ovikit_register_guidances(shelf: Shelf) -> None:
    check_registers(shelf, "guidance")


def test_ovikit_register_objectives(shelf: Shelf) -> None:
    check_registers(shelf, "objective")


def test_ovikit_register_datasets(shelf: Shelf) -> None:
    check_registers(shelf, "dataset")


def test_ovikit_register_filters(shelf: Shelf) -> None:
    check_registers(shelf, "filter")


def test_ovikit_register_captioners(shelf: Shelf) -> None:
    check_registers(shelf, "captioner")


def test_ovikit_register_evaluators(shelf: Shelf) -> None:
    check_registers(shelf, "evaluator")


def test_ovikit_register_overalls(shelf: Shelf) -> None:
    check_registers(shelf, "overall")


def test_ovikit_register_prompt_sets(shelf: Shelf) -> None:
    check_registers(shelf, "prompt_set")


def test_ovikit_register_checkpoint_formats(shelf: Shelf) -> None:
    check_registers(shelf, "checkpoint_format")


def test_ovikit_resolve_asset(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
    @hookimpl
    def ovikit_resolve_asset(uri, cache_dir):
        return cache_dir / uri[5:] if uri.startswith("mine:") else None
    """
    plugins = plugins_with(shelf, source)
    assert plugins.resolve_asset("mine:w.bin", tmp_path) == tmp_path / "w.bin"
    kept = tmp_path / "assets"
    kept.mkdir()
    (kept / "a b.bin").write_bytes(b"")
    assert plugins.resolve_asset(str(kept / "a b.bin")) == kept / "a b.bin"
    assert plugins.resolve_asset(f"file://{kept}/a%20b.bin") == kept / "a b.bin"
    monkeypatch.setenv("OVIKIT_ASSETS", str(kept))
    assert plugins.resolve_asset("a b.bin") == kept / "a b.bin"
    with pytest.raises(UserError, match=r"^there is no asset 'nothing\.bin'\n  give an existing path"):
        plugins.resolve_asset("nothing.bin")


def test_ovikit_detect_checkpoint(shelf: Shelf) -> None:
    source = """
    @hookimpl
    def ovikit_detect_checkpoint(keys):
        return "mine" if "my.weight" in keys else None
    """
    plugins = plugins_with(shelf, source)
    assert plugins.detect_checkpoint(["my.weight", "x"], {}) == "mine"
    assert plugins.detect_checkpoint(["x"], {}) is None


def test_ovikit_recipe_validated(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    check_observes(shelf, "ovikit_recipe_validated", monkeypatch)


def test_ovikit_run_started(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    check_observes(shelf, "ovikit_run_started", monkeypatch)


def test_ovikit_clip_finished(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    check_observes(shelf, "ovikit_clip_finished", monkeypatch)


def test_ovikit_run_finished(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    check_observes(shelf, "ovikit_run_finished", monkeypatch)


def test_ovikit_run_failed(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    check_observes(shelf, "ovikit_run_failed", monkeypatch)


def test_ovikit_register_commands(shelf: Shelf) -> None:
    source = """
    @hookimpl
    def ovikit_register_commands(cli):
        @cli.command("hello")
        def hello():
            print("hello")
        @cli.command("bye")
        def bye():
            print("bye")
    """
    cli = typer.Typer()
    plugins_with(shelf, source).register_commands(cli)
    assert CliRunner().invoke(cli, ["hello"]).output == "hello\n"


def test_an_observer_that_raises_is_named(shelf: Shelf) -> None:
    plugins = plugins_with(shelf, "@hookimpl\ndef ovikit_recipe_validated(event):\n    raise KeyError('x')\n")
    told = r"^plugin 'mine' \(dist-mine 1\.0\): ovikit_recipe_validated failed: KeyError: 'x'$"
    with pytest.raises(UserError, match=told):
        plugins.fire(EVENTS["ovikit_recipe_validated"])


def test_the_built_ins_keep_a_journal_of_each_run(tmp_path: Path) -> None:
    plugins = load_plugins(only="builtins").checked()
    for event in EVENTS.values():
        if not isinstance(event, RecipeValidated):
            plugins.fire(dataclasses.replace(event, run=tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == [
        "ovikit_run_started", "ovikit_clip_finished", "ovikit_run_finished", "ovikit_run_failed"
    ]  # fmt: skip
    assert lines[1]["prompt"] == "a red ball"
    assert lines[2]["results"] == {"onset_f1": 0.5}


def test_observers_are_told_how_a_run_ended(tmp_path: Path) -> None:
    def ended(name: str) -> dict[str, object]:
        started, end = ((tmp_path / name) / "events.jsonl").read_text().splitlines()
        assert json.loads(started)["event"] == "ovikit_run_started"
        return json.loads(end)

    with observed("eval", tmp_path / "well", "r", "d") as run:
        run.results = {"onset_f1": 0.5}
    assert (ended("well")["event"], ended("well")["results"]) == ("ovikit_run_finished", {"onset_f1": 0.5})
    with observed("train", tmp_path / "early", "r", "d") as run:
        run.stopped = "stopped by SIGINT"
    assert (ended("early")["event"], ended("early")["error"]) == ("ovikit_run_failed", "stopped by SIGINT")
    with pytest.raises(KeyboardInterrupt), observed("generate", tmp_path / "cut", "r", "d"):
        raise KeyboardInterrupt
    assert (ended("cut")["event"], ended("cut")["error"]) == ("ovikit_run_failed", "KeyboardInterrupt")
