"""The published guidances as their tests use them: with options of their own, on random velocities."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from ovikit.kernel.component import Component
from ovikit.numerics.guidance import ClassifierFree
from ovikit.types import AV
from ovikit_guidances.guided import Guided
from ovikit_guidances.plugin import ovikit_register_guidances

COMPONENTS: dict[str, Component] = {one.name: one for one in ovikit_register_guidances()}
SIGMA = AV(0.6, 0.3)
BATCH = 3
CFG = {"video": 4.0, "audio": 2.5}
TERM_OPTIONS: dict[str, dict[str, Any]] = {
    "skip-layer": {"layers": [3, 1], "video": 1.5, "audio": 0.5},
    "stg": {"layers": [2], "video": 1.2, "audio": 0.7},
    "modality-isolating": {"video": 2.0, "audio": 3.0},
    "sync-cfg": {"video": 1.5, "audio": 2.5},
}
MODIFIER_OPTIONS: dict[str, dict[str, Any]] = {
    "apg": {"eta": 0.25, "threshold": 0.4},
    "cfg-zero-star": {"zero_above": 0.9},
    "rescale": {"phi": 0.6},
    "interval": {"video": [0.2, 0.8], "audio": [0.1, 0.7]},
}
each_term = pytest.mark.parametrize("name", TERM_OPTIONS)
each_modifier = pytest.mark.parametrize("name", MODIFIER_OPTIONS)
each = pytest.mark.parametrize("name", [*TERM_OPTIONS, *MODIFIER_OPTIONS])


def pair(seed: int, dtype: torch.dtype = torch.float64) -> AV[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return AV(
        torch.randn(BATCH, 3, 4, 2, 2, generator=generator, dtype=torch.float64).to(dtype),
        torch.randn(BATCH, 5, 6, generator=generator, dtype=torch.float64).to(dtype),
    )


def single(name: str, **options: Any) -> Guided:
    component = COMPONENTS[name]
    return component.build(component.config.model_validate_json(json.dumps(options)))


def composed(*parts: dict[str, Any]) -> Guided:
    return single("composed", parts=list(parts))


def part(name: str, **options: Any) -> dict[str, Any]:
    return {"part": name, **options}


def usual(name: str) -> Guided:
    """The component with the options of this file; modifiers act on cfg."""
    return single(name, **(TERM_OPTIONS | MODIFIER_OPTIONS)[name], cfg=CFG)


def said(guidance: Guided | ClassifierFree, sigma: AV[float] = SIGMA, **options: Any) -> dict[str, AV[Tensor]]:
    """A velocity for each pass that the guidance asks for; of one pass always the same."""
    seeds = {"prompt": 0, "negative": 1}
    found = {}
    for run in guidance.passes(sigma):
        seed = seeds.get(run.name, sum(map(ord, run.name)))
        found[run.name] = AV.of({m: pair(seed, **options)[m] for m in sigma.modalities})
    return found


def of(guidance: Guided | ClassifierFree, sigma: AV[float] = SIGMA, **options: Any) -> AV[Tensor]:
    x = AV.of({m: pair(99)[m] for m in sigma.modalities})
    return guidance.combine(said(guidance, sigma, **options), x, sigma)


def assert_same(found: AV[Tensor], expected: AV[Tensor]) -> None:
    """Bit for bit."""
    assert found.modalities == expected.modalities
    for modality, value in found.items():
        assert torch.equal(value, expected[modality])


def assert_close(found: AV[Tensor], expected: AV[Tensor]) -> None:
    assert found.modalities == expected.modalities
    for modality, value in found.items():
        torch.testing.assert_close(value, expected[modality], rtol=1e-12, atol=1e-12)


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


EVERYTHING: Mapping[str, Guided] = {
    **{name: usual(name) for name in (*TERM_OPTIONS, *MODIFIER_OPTIONS)},
    "composed": composed(
        part("cfg", **CFG), *(part(name, **options) for name, options in TERM_OPTIONS.items()),
        *(part(name, **options) for name, options in MODIFIER_OPTIONS.items() if name != "cfg-zero-star"),
    ),
}  # fmt: skip
