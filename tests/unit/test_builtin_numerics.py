"""The numerics as a recipe names them: defaults build, every option is explained, bad values are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ovikit.builtin_numerics import COMPONENTS
from ovikit.kernel.component import Component
from ovikit.kernel.kinds import KINDS
from ovikit.numerics.schedule import Window
from ovikit.types import AV

NAMED = [(kind, component) for kind, components in COMPONENTS.items() for component in components]


def find(kind: str, name: str) -> Component:
    return next(component for component in COMPONENTS[kind] if component.name == name)


def build(kind: str, name: str, **options: Any) -> Any:
    component = find(kind, name)
    return component.build(component.config.model_validate_json(json.dumps(options)))


@pytest.mark.parametrize(("kind", "component"), NAMED, ids=lambda value: getattr(value, "name", value))
def test_every_component_builds_from_its_defaults_and_explains_its_options(kind: str, component: Component) -> None:
    assert kind in KINDS
    assert component.build(component.config()) == component.build(component.config.model_validate_json("{}"))
    for name, option in component.config.model_fields.items():
        assert option.description, f"{component.name}.{name} has no description"


def test_options_reach_what_is_built() -> None:
    schedule = build("schedule", "shifted", shift=3, audio_shift=2.0, start=0.999, whole_timesteps=True)
    assert (schedule.shift, schedule.audio_shift, schedule.start, schedule.whole_timesteps) == (3, 2.0, 0.999, True)
    assert build("schedule", "shifted-twice", shift=4.0).shift == 4.0
    schedule = build("schedule", "decoupled", video={"shift": 3, "end": 0.5}, audio={"begin": 0.4}, start=0.9)
    assert schedule.windows == AV(Window(3.0, 0.0, 0.5), Window(5.0, 0.4, 1.0))
    assert (schedule.start, schedule.whole_timesteps) == (0.9, False)
    for name in ("euler", "dpmpp-2m", "unipc"):
        assert build("solver", name, coefficients="float32").coefficients == "float32"
    guidance = build("guidance", "cfg", video=2.0, audio=1.5, skip_layers=[1, 2])
    assert (guidance.scale["video"], guidance.scale["audio"], guidance.skip_layers) == (2.0, 1.5, (1, 2))
    objective = build("objective", "flow-matching", video_weight=0.5, audio_weight=0.4, shared_sigma=False, shift=2.0)
    assert (objective.weights["video"], objective.weights["audio"]) == (0.5, 0.4)
    assert (objective.shared_sigma, objective.shift) == (False, 2.0)


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("schedule", "shifted", {"shift": 0}),
        ("schedule", "shifted", {"start": 1.5}),
        ("schedule", "shifted", {"shfit": 5.0}),
        ("schedule", "shifted-twice", {"start": 0.9}),
        ("schedule", "decoupled", {"shift": 5.0}),
        ("schedule", "decoupled", {"video": {"end": 1.1}}),
        ("solver", "unipc", {"coefficients": "float16"}),
        ("solver", "res-2s", {"coefficients": "float32"}),
        ("solver", "heun", {"coefficients": "float32"}),
        ("guidance", "cfg", {"skip_layers": [-1]}),
        ("guidance", "cfg", {"video": "4"}),
        ("objective", "flow-matching", {"video_weight": -0.1}),
    ],
)
def test_options_that_mean_nothing_are_refused(kind: str, name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build(kind, name, **options)
