"""Any one first-party plugin package taken away, or left out: the rest works, and errors name what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pytest

from ovikit.kernel.catalog import Catalog
from ovikit.kernel.manager import load_plugins
from ovikit.recipe.document import read_yaml
from ovikit.recipe.load import load_recipe
from ovikit.recipe.lock import slots_of

pytestmark = pytest.mark.skipif("OVIKIT_TEST_WITHOUT_PLUGINS" in os.environ, reason="they are all away in this run")

ROOT = Path(__file__).parents[2]
TINY, RELEASED = "recipes/tiny/ovi.yaml", "recipes/reference/ovi-720x720-5s.yaml"
FUSIONS = "recipes/ablations/fusion.yaml"
PLUGINS = ("filters", "fusions", "guidances", "ovi", "positions", "toyworld", "versebench")
RECIPES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "recipes").rglob("*.yaml")
    if not {"axes", "cascade"} & set(read_yaml(path).data)
)
Way = Literal["removed", "left out"]
WAYS: tuple[Way, ...] = ("removed", "left out")
USING: Mapping[str, Sequence[str]] = {
    "filters": ("preparation={filters: [{type: motion}]}",),
    "fusions": ("model.fusion={type: additive}",),
    "guidances": ("sampling.guidance={type: apg}",),
    "positions": ("model.positions={type: seconds}",),
    "ovi": (),
    "toyworld": (),
}
"""What to change of the tiny recipe so that it names a component of the plugin."""
SUITES = {"versebench": "evals/suites/signals.yaml"}
"""What names a component of a plugin that no recipe names one of."""
BROUGHT = {
    "filters": "motion",
    "fusions": "additive",
    "guidances": "apg",
    "positions": "seconds",
    "ovi": "wan-tower",
    "toyworld": "block-dct",
    "versebench": "sound-signal",
}
ADDED = {"ovi": ("parity", "weights", "prompt")}
"""Commands that a plugin adds."""

KIT = """\
version: 1
name: kit
clip: {duration_s: 2.0, height_px: 16, width_px: 16, frame_rate_hz: 24.0, sample_rate_hz: 16000}
sampling: {schedule: {type: shifted}, solver: {type: euler}, guidance: {type: cfg}, steps: 2}
"""
TRAINED = "batch_size: 2, optimizer: {learning_rate: 1e-3}, trainer: {max_steps: 2, accelerator: cpu}"
PARTS = {
    "ovi": f"""\
model:
  video: {{type: kit-tower}}
  audio: {{type: kit-tower}}
  fusion: {{type: gated-residual}}
  positions: {{type: seconds}}
  codecs: {{video: {{type: block-dct, block_px: 16, channels: 8}}, audio: {{type: mel-dct, channels: 8}}}}
  conditioner: {{type: hashed-words}}
training: {{objective: {{type: flow-matching}}, data: {{type: toyworld, clips: 4}}, {TRAINED}}}
""",
    "toyworld": f"""\
model:
  video: &tower
    {{type: wan-tower, width: 16, feed_forward_width: 32, heads: 2, depth: 1, frequency_width: 8, patch: [1, 1, 1]}}
  audio: *tower
  fusion: {{type: joint}}
  positions: {{type: scaled-audio}}
  codecs: {{video: {{type: kit-pixels}}, audio: {{type: kit-samples}}}}
  conditioner: {{type: kit-letters}}
training: {{objective: {{type: flow-matching}}, data: {{type: kit-clips}}, {TRAINED}}}
""",
}
"""What is trained where the tiny recipe cannot be: parts of the other plugins beside those of a small test plugin."""


def process(plugin: str, way: Way, *tasks: Sequence[Any], only: str | None = None) -> list[Any]:
    """What tasks of ``without_one.py`` give in a process of their own, without that plugin. only: OVIKIT_PLUGINS."""
    environment = {name: value for name, value in os.environ.items() if name != "OVIKIT_PLUGINS"}
    if only or way == "left out":
        environment["OVIKIT_PLUGINS"] = only or all_but(plugin)
    script = str(Path(__file__).with_name("without_one.py"))
    package = f"ovikit_{plugin}" if way == "removed" else "-"
    done = subprocess.run(
        [sys.executable, script, package, json.dumps(tasks)],
        cwd=ROOT, env=environment | {"COLUMNS": "300"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def all_but(plugin: str) -> str:
    return ",".join(("builtins", *(one for one in PLUGINS if one != plugin)))


@cache
def whole() -> Catalog:
    """The catalog of all first-party plugins."""
    return load_plugins(only=",".join(("builtins", *PLUGINS))).checked().catalog


def uses(recipe: str, plugin: str) -> bool:
    named = [(slot.kind, slot.type) for slot in slots_of(load_recipe(ROOT / recipe, catalog=whole()))]
    return any(whole().find(kind, name).plugin.name == plugin for kind, name in named)


def told(plugin: str, way: Way) -> str:
    """How an error speaks of the plugin."""
    why = "left out by OVIKIT_PLUGINS" if way == "left out" else f"its package ovikit_{plugin} is not there"
    return f"Not loaded: plugin '{plugin}' (ovikit {version('ovikit')}), {why}"


def test_the_list_is_what_is_installed() -> None:
    assert set(whole_plugins()) == set(PLUGINS)
    assert all(any(one.plugin.name == plugin and one.name == BROUGHT[plugin] for one in whole()) for plugin in PLUGINS)


def whole_plugins() -> list[str]:
    packages = (path for path in (ROOT / "plugins").glob("ovikit_*") if (path / "plugin.py").is_file())
    return [path.name.removeprefix("ovikit_") for path in packages]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_rest_is_listed_and_checked_and_what_is_missing_is_named(plugin: str, way: Way) -> None:
    naming = ["recipe", "check", TINY, *(word for one in USING.get(plugin, ()) for word in ("-o", one))]
    if plugin in SUITES:
        naming = ["eval", SUITES[plugin], "--clips", "evals"]
    sound = [path for path in RECIPES if not uses(path, plugin)]
    added = [name for names in ADDED.values() for name in names]
    wanted = [["plugins"], naming, ["recipe", "check", *sound]]
    ((listed, refused, checked, *helps),) = process(
        plugin, way, ["commands", [*wanted, *([name, "--help"] for name in added)]]
    )
    assert listed["code"] == 0
    rows = {tuple(line.split("\t")[:2]) for line in listed["out"].splitlines()[1:]}
    assert rows == {(one.kind, one.name) for one in whole() if one.plugin.name != plugin}
    # In one message, once: which plugin of which distribution, what is wrong with it, and how to go on.
    assert listed["err"] == ("" if way == "left out" else warning(plugin))

    assert refused["code"] == 2
    assert "Traceback" not in refused["err"]
    assert f"named '{BROUGHT[plugin]}'; " in refused["err"]
    assert refused["err"].count(told(plugin, way)) == refused["err"].count("there is no ") > 0

    if sound:
        assert (checked["code"], checked["out"].count(" is valid, ")) == (0, len(sound)), checked["err"]
    for name, shown in zip(added, helps, strict=True):
        if name in ADDED.get(plugin, ()):
            assert shown["code"] == 2
            assert f"No such command '{name}'" in shown["err"]
        else:
            assert shown["code"] == 0


def warning(plugin: str) -> str:
    return (
        f"plugin '{plugin}' (ovikit {version('ovikit')}): its package ovikit_{plugin} is not there\n"
        f"  the others work; install it again, or hide this with OVIKIT_PLUGINS={all_but(plugin)}\n"
    )


@pytest.mark.parametrize("plugin", PLUGINS)
def test_every_component_that_it_brought_is_missed_by_name(plugin: str) -> None:
    brought = [(one.kind, one.name) for one in whole() if one.plugin.name == plugin]
    (errors,) = process(plugin, "removed", ["missing", brought])
    for (kind, name), error in zip(brought, errors, strict=True):
        assert error.startswith(f"there is no {kind} named '{name}'; ")
        assert error.endswith(told(plugin, "removed"))


def test_a_package_that_was_asked_for_by_name_is_an_error_with_the_way_on() -> None:
    ((found,),) = process("fusions", "removed", ["commands", [["recipe", "check", TINY]]], only="builtins,fusions,ovi")
    assert found["code"] == 2
    assert found["err"] == (
        f"error: plugin 'fusions' (ovikit {version('ovikit')}): it failed to import: ModuleNotFoundError: "
        "No module named 'ovikit_fusions'\n  to go on without: OVIKIT_PLUGINS=builtins,ovi\n"
    )


ALIKE = ("guidances", "positions", "versebench")
"""What is built and trained without these is what is built and trained without fusions."""


@pytest.mark.parametrize(
    "plugin", [pytest.param(one, marks=pytest.mark.slow if one in ALIKE else ()) for one in PLUGINS]
)
def test_what_does_not_need_it_is_built_and_trains(plugin: str, tmp_path: Path) -> None:
    sound = [path for path in (TINY, RELEASED) if not uses(path, plugin)]
    recipe, changes = TINY, ["batch_size=2", "data.clips=4", "trainer.max_steps=2", "ema=null"]
    if plugin in PARTS:
        recipe, changes = str(tmp_path / "kit.yaml"), []
        Path(recipe).write_text(PARTS[plugin] + KIT)
    overrides = [f"training.{one}" for one in changes]
    counts, trained, *figures = process(
        plugin, "removed", ["build", sound], ["train", recipe, str(tmp_path / "run"), overrides],
        *([["affinity", recipe]] if plugin == "ovi" else []),
    )  # fmt: skip
    assert len(counts) == len(sound)
    assert all(
        count == 11_660_753_108 if path == RELEASED else count > 0 for path, count in zip(sound, counts, strict=True)
    )
    assert trained["finite"]
    assert trained["weights"] > 20
    for found in figures:  # what it would compare with is Ovi's own
        assert found["code"] == 2
        assert found["err"].startswith("error: --before: there is no positions named 'native'; ")
        assert told("ovi", "removed") in found["err"]


@pytest.mark.parametrize("way", WAYS)
def test_a_matrix_tells_the_arms_that_miss_it_and_keeps_the_others(way: Way) -> None:
    (refused,) = process("fusions", way, ["refused_arms", FUSIONS])
    assert [name for name, why in refused.items() if why is None] == ["ovi", "none"]
    assert len(refused) == 8
    for name, why in refused.items():
        if why is not None:
            assert f"there is no fusion named '{name}'; " in why
            assert told("fusions", way) in why
