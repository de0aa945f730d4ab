"""Summaries to the content of ``results.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovikit.evaluation.features import DECODER
from ovikit.evaluation.metrics import Summary, gain_over, share_of_way
from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.evaluation.results import (
    FORMAT,
    Derived,
    ItemResult,
    MetricResult,
    Named,
    Number,
    OverallResult,
    PromptFilesRecord,
    Results,
    UnscoredItems,
)
from ovikit.generate.jobs import media_path, read_sidecar
from ovikit.layout import CASCADE
from ovikit.recipe.build import build_overall
from ovikit.recipe.load import load_cascade
from ovikit.recipe.lock import versions
from ovikit.recipe.models import Recipe, Suite
from ovikit.types import Modality


@dataclass(frozen=True, slots=True)
class Chance:
    """What a metric gives where clips are given another one's sound or picture."""

    summary: Summary
    exchanged: Modality


@dataclass(frozen=True, slots=True)
class Outcome:
    """One metric's summaries: of the clips, of exchanged sounds, of the ground truth."""

    evaluator: str
    spec: MetricSpec
    value: Summary
    chance: Chance | None
    ceiling: Summary | None


def assemble(
    suite: Suite,
    recipe: Recipe | None,
    clips: Path,
    items: Sequence[PromptItem],
    files: str | None,
    outcomes: Mapping[str, Outcome],
    exchanges: int,
) -> Results:
    """The content of ``results.json``; its paths are names within the folder ``clips``.

    files: hash of the prompts' files; None: they have none
    """
    there = [item for item in items if media_path(clips, item.id).is_file()]
    asked = {media_path(clips, item.id).name for item in items}
    weights = {str((read_sidecar(clips, item.id) or {}).get("weights_sha256")) for item in there}
    return Results(
        format=FORMAT,
        suite=Named(name=suite.name, digest=suite.digest),
        profile=suite.profile,
        folder=clips.resolve().name,
        recipe=_made_by(recipe, clips),
        weights_sha256=weights.pop() if len(weights) == 1 and weights != {"None"} else None,
        prompt_set=_prompt_set(suite, files),
        prompts=len(items),
        clips=len(there),
        extra_clips=tuple(sorted(path.name for path in clips.glob("[!.]*.mp4") if path.name not in asked)),
        exchanges=exchanges,
        versions=versions(),
        decoder=DECODER,
        metrics=(metrics := {name: _metric(outcome, items) for name, outcome in outcomes.items()}),
        overall=_overall(suite, metrics),
        items=tuple(_item(i, item, outcomes) for i, item in enumerate(items)),
    )


def _made_by(recipe: Recipe | None, clips: Path) -> Named | None:
    """The recipe, or the cascade whose clips these are."""
    if recipe is None and (clips / CASCADE).is_file():
        cascade = load_cascade(clips / CASCADE)
        return Named(name=cascade.name, digest=cascade.digest)
    return None if recipe is None else Named(name=recipe.name, digest=recipe.digest)


def _overall(suite: Suite, metrics: Mapping[str, MetricResult]) -> OverallResult | None:
    judge = build_overall(suite)
    if judge is None or suite.overall is None:
        return None
    found = judge.combine({name: one.value for name, one in metrics.items() if one.value is not None})
    return OverallResult(
        name=suite.overall.type, version=judge.version,
        scores={name: None if isinstance(one, Unscored) else one for name, one in found.items()},
        reasons={name: one.reason for name, one in found.items() if isinstance(one, Unscored)},
    )  # fmt: skip


def _prompt_set(suite: Suite, digest: str | None) -> PromptFilesRecord | None:
    if digest is None or suite.prompts is None:
        return None
    told = suite.set
    if told is None:
        return PromptFilesRecord(
            name=suite.prompts.type, revision=None, licence=None, source=None, digest=digest, whole=None
        )
    whole = None if told.sha256 is None else told.sha256 == digest
    return PromptFilesRecord(
        name=told.name, revision=told.revision, licence=told.licence, source=told.source, digest=digest, whole=whole
    )


def _metric(outcome: Outcome, items: Sequence[PromptItem]) -> MetricResult:
    spec, ceiling = outcome.spec, outcome.ceiling
    chance = None if outcome.chance is None else outcome.chance.summary
    above = None if chance is None else gain_over(outcome.value, chance)
    share = None if chance is None or ceiling is None else share_of_way(outcome.value, chance, ceiling)
    return MetricResult(
        **_number(outcome.value, items).model_dump(),
        evaluator=outcome.evaluator,
        direction=spec.direction,
        unit=spec.unit,
        range=(_finite(spec.range[0]), _finite(spec.range[1])),
        version=spec.version,
        summary=spec.summary,
        ceiling=None if ceiling is None else _number(ceiling, items),
        chance=None if chance is None else _number(chance, items),
        exchanged=None if outcome.chance is None else outcome.chance.exchanged,
        above_chance=None if above is None else Derived(value=above[0], interval=above[1]),
        share=None if share is None else Derived(value=share[0], interval=share[1]),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(summary: Summary, items: Sequence[PromptItem]) -> Number:
    by_reason: dict[str, list[str]] = {}
    for index, reason in sorted(summary.unscored.items()):
        by_reason.setdefault(reason, []).append(items[index].id)
    return Number(
        value=summary.value,
        interval=summary.interval,
        asked=len(items) - len(summary.unasked),
        scored=summary.scored,
        unscored=tuple(
            UnscoredItems(reason=reason, count=len(ids), items=tuple(ids)) for reason, ids in by_reason.items()
        ),
    )


def _item(index: int, item: PromptItem, outcomes: Mapping[str, Outcome]) -> ItemResult:
    return ItemResult(
        id=item.id,
        prompt=item.prompt,
        scores={name: outcome.value.scores.get(index) for name, outcome in outcomes.items()},
        reasons={
            name: reason
            for name, outcome in outcomes.items()
            if (reason := {**outcome.value.unscored, **outcome.value.unasked}.get(index)) is not None
        },
    )
