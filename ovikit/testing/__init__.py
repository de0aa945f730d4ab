"""The conformance kit: for each kind of component a contract that its author subclasses in a test module.

    from ovikit.testing import FusionContract

    class TestBridge(FusionContract):
        component = "bridge"
        neutral = ("*.strength",)
        keys = ("video.strength", ...)

pytest collects the checks as tests, so that a contract that fails is named. ``docs/testing-plugins.md`` lists them.
Nothing of torch is imported before a contract is asked for: the pytest plugin beside this module loads everywhere.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

CONTRACTS = {
    "backbone": ("BackboneContract", "backbone"),
    "fusion": ("FusionContract", "fusion"),
    "positions": ("PositionsContract", "positions"),
    "codec": ("CodecContract", "codec"),
    "conditioner": ("ConditionerContract", "conditioner"),
    "attention": ("AttentionContract", "attention"),
    "schedule": ("ScheduleContract", "schedule"),
    "solver": ("SolverContract", "solver"),
    "guidance": ("GuidanceContract", "guidance"),
    "objective": ("ObjectiveContract", "objective"),
    "dataset": ("DatasetContract", "dataset"),
    "filter": ("FilterContract", "filter"),
    "captioner": ("CaptionerContract", "captioner"),
    "evaluator": ("EvaluatorContract", "evaluator"),
    "overall": ("OverallContract", "overall"),
    "prompt_set": ("PromptSetContract", "prompt_set"),
    "checkpoint_format": ("CheckpointFormatContract", "checkpoint_format"),
}
"""The contract of each kind of component, and the module below ``ovikit.testing`` that holds it."""

if TYPE_CHECKING:
    from ovikit.testing.attention import AttentionContract
    from ovikit.testing.backbone import BackboneContract
    from ovikit.testing.captioner import CaptionerContract
    from ovikit.testing.checkpoint_format import CheckpointFormatContract
    from ovikit.testing.codec import CodecContract
    from ovikit.testing.conditioner import ConditionerContract
    from ovikit.testing.dataset import DatasetContract
    from ovikit.testing.evaluator import EvaluatorContract
    from ovikit.testing.filter import FilterContract
    from ovikit.testing.fusion import FusionContract
    from ovikit.testing.guidance import GuidanceContract
    from ovikit.testing.objective import ObjectiveContract
    from ovikit.testing.overall import OverallContract
    from ovikit.testing.positions import PositionsContract
    from ovikit.testing.prompt_set import PromptSetContract
    from ovikit.testing.schedule import ScheduleContract
    from ovikit.testing.solver import SolverContract

__all__ = [
    "AttentionContract",
    "BackboneContract",
    "CaptionerContract",
    "CheckpointFormatContract",
    "CodecContract",
    "ConditionerContract",
    "DatasetContract",
    "EvaluatorContract",
    "FilterContract",
    "FusionContract",
    "GuidanceContract",
    "ObjectiveContract",
    "OverallContract",
    "PositionsContract",
    "PromptSetContract",
    "ScheduleContract",
    "SolverContract",
]

_HOMES = dict(CONTRACTS.values())


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
