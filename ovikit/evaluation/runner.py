"""A suite over a folder of clips: decode once, score, and set the scores between chance and ceiling.

Run under torch.distributed, every process decodes and scores its share of the items, and all get the same results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from torch import distributed

from ovikit.errors import UserError
from ovikit.evaluation.assemble import Chance, Outcome, assemble
from ovikit.evaluation.features import CACHE, Features, ItemFeatures, Measure, clip_features
from ovikit.evaluation.folder import FolderPrompts
from ovikit.evaluation.metrics import ItemScores, Summary, derangements, pooled, summarise
from ovikit.evaluation.protocols import OnDisk, Part, Pooling, PromptItem, PromptSet, Score, Unscored
from ovikit.evaluation.results import Results
from ovikit.evaluation.truth import write_truth
from ovikit.generate.jobs import media_path, read_sidecar
from ovikit.kernel.observe import observed
from ovikit.networks.protocols import Codec
from ovikit.recipe.build import build_codecs, build_evaluators, build_prompts, clip_spec
from ovikit.recipe.models import Recipe, Suite
from ovikit.types import AV, ClipSpec, Modality

EXCHANGES = 16
EXCHANGE_SEED = 7
NO_TRUTH = Unscored("it has no ground truth", asked=False)

Told = Callable[[str, int, int], None]
"""``told(what, done, total)``: how the evaluation goes on."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Whose sound, or whose picture, each item is judged with."""

    others: Mapping[int, int]
    exchanged: Modality = "audio"

    def pair(self, i: int) -> AV[int]:
        """The items that give item ``i`` its picture and its sound."""
        return AV(i, self.others[i]) if self.exchanged == "audio" else AV(self.others[i], i)


@dataclass(frozen=True, slots=True)
class Bench:
    """The built parts of a suite for a folder of clips.

    form: of the clips of a recipe; None: they come without one
    need: modalities that every clip has to have
    """

    prompts: PromptSet
    measures: tuple[Measure, ...]
    form: ClipSpec | None
    need: tuple[Modality, ...]

    @property
    def items(self) -> list[PromptItem]:
        return [self.prompts[i] for i in range(len(self.prompts))]


def build_bench(suite: Suite, recipe: Recipe | None, clips: Path | None = None) -> Bench:
    """The parts of a suite, built. UserError where two evaluators or two metrics share a name.

    recipe: whose form the clips have; None: they come without one
    clips:  the folder that a suite without prompts measures
    """
    form = None if recipe is None else clip_spec(recipe)
    if suite.prompts is None and clips is not None:
        prompts: PromptSet = FolderPrompts(clips)
    else:
        prompts = build_prompts(suite, form)
    return Bench(prompts, build_measures(suite, form), form, () if recipe is None else recipe.model.modalities)


def build_measures(suite: Suite, form: ClipSpec | None) -> tuple[Measure, ...]:
    """The evaluators of a suite, built. UserError where two of them or two metrics share a name."""
    measures = tuple(
        Measure(slot.type, slot.to_dict(), evaluator)
        for slot, evaluator in zip(suite.evaluators, build_evaluators(suite, form), strict=True)
    )
    for what, names in (
        ("evaluator", [one.name for one in measures]),
        ("metric", [spec.name for one in measures for spec in one.evaluator.metrics]),
    ):
        twice = [name for name, times in Counter(names).items() if times > 1]
        if twice:
            where = str(suite.source) if suite.source else None
            raise UserError(f"the suite has two {what}s named '{twice[0]}'", where)
    return measures


def evaluate(
    suite: Suite,
    recipe: Recipe | None,
    clips: Path,
    truth: Path | None = None,
    *,
    exchanges: int = EXCHANGES,
    told: Told = lambda what, done, total: None,
) -> Results:
    """The results of ``suite`` on the folder ``clips``, made by ``recipe`` or in its form. Without a recipe they are
    taken as they are, and so is the ground truth where the prompts have files of it.

    truth:     where ground-truth clips are kept, so that a second run finds them; default: ``truth`` beside ``clips``
    exchanges: ways of giving each clip another one's sound, which chance is the mean of

    A clip that is missing, unreadable or made from another prompt is unscored with its reason. UserError where the
    folder does not exist.
    """
    if not clips.is_dir():
        raise UserError("there is no such folder of clips", str(clips))
    name, digest = (clips.name, "") if recipe is None else (recipe.name, recipe.digest)
    bench = build_bench(suite, recipe, clips)  # what is wrong with a suite is told before anything has begun
    with observed("eval", clips, name, digest) as run:
        codecs = None if recipe is None else build_codecs(recipe)
        measured = evaluate_bench(bench, codecs, clips, truth, exchanges, told)
        results = measured.results(suite, recipe)
        run.results = {name: one.value for name, one in results.metrics.items() if one.value is not None}
    return results


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured, before it is labelled with the suite and the recipe."""

    bench: Bench
    clips: Path
    value: Mapping[str, Summary]
    chance: Mapping[str, Chance]
    ceiling: Mapping[str, Summary] | None
    exchanges: int

    def results(self, suite: Suite, recipe: Recipe | None) -> Results:
        """The content of ``results.json``."""
        outcomes = {
            spec.name: Outcome(
                one.name,
                spec,
                self.value[spec.name],
                self.chance.get(spec.name),
                None if self.ceiling is None else self.ceiling[spec.name],
            )
            for one in self.bench.measures
            for spec in one.evaluator.metrics
        }
        prompts = self.bench.prompts
        files = prompts.fingerprint() if isinstance(prompts, OnDisk) else None
        return assemble(suite, recipe, self.clips, self.bench.items, files, outcomes, self.exchanges)


def evaluate_bench(
    bench: Bench, codecs: AV[Codec] | None, clips: Path, truth: Path | None, exchanges: int, told: Told
) -> Measured:  # fmt: skip
    """The scores of a folder, of its exchanged sounds, and of the ground truth: through the codecs, or where there
    are none as its files are."""
    measured = _features(bench, [_Place(clips, item) for item in bench.items], told, "clips")
    readable = [i for i, one in enumerate(measured) if not isinstance(one, Unscored)]
    orders = [
        {readable[i]: readable[int(other)] for i, other in enumerate(order)}
        for order in derangements(len(readable), exchanges, EXCHANGE_SEED)
    ]
    folder = clips.parent / "truth" if truth is None else truth
    truth_files = _truth_files(bench, codecs, folder, told)
    true = _features(bench, truth_files, told, "ground-truth clips") if any(truth_files) else []
    truths = true or [NO_TRUTH] * len(measured)
    value = _scores(bench, measured, truths, [Pairing({i: i for i in readable})])
    return Measured(
        bench,
        clips,
        value,
        _chance(bench, measured, truths, value, orders) if orders else {},
        _ceiling(bench, true) if true else None,
        len(orders),
    )


def _truth_files(bench: Bench, codecs: AV[Codec] | None, folder: Path, told: Told) -> list[_Place | None]:
    """Where the ground truth of each prompt is: clips that went through the codecs, written by the first process; or
    without codecs the files that the prompts have."""
    if codecs is not None and bench.form is not None:
        there: list[int] = []
        if _rank() == 0:
            there = write_truth(
                bench.prompts, codecs, bench.form, folder, lambda n, total: told("ground truth", n, total)
            )
        known = set(_from_first(there))
        return [_Place(folder, item) if i in known else None for i, item in enumerate(bench.items)]
    prompts = bench.prompts
    if not isinstance(prompts, OnDisk):
        return [None] * len(prompts)
    files = [prompts.reference_file(i) for i in range(len(prompts))]
    return [None if file is None else _Place(folder, None, file) for file in files]


def _chance(
    bench: Bench,
    measured: Sequence[ItemFeatures],
    truths: Sequence[ItemFeatures],
    value: Mapping[str, Summary],
    orders: Sequence[Mapping[int, int]],
) -> dict[str, Chance]:
    """What each metric gives where a clip's sound is another one's; metrics of the whole set do not see that.

    A metric that none of this changes reads only the picture: its chance is measured by exchanging pictures.
    """
    found: dict[str, Chance] = {}
    for measure in bench.measures:

        def exchanged(what: Modality, measure: Measure = measure) -> dict[str, Summary]:
            pairings = [Pairing(order, what) for order in orders[: measure.exchanges]]
            return _measure_scores(measure, bench.items, measured, truths, pairings, exchanged=True)

        names = [spec.name for spec in measure.evaluator.metrics if not value[spec.name].pooled]
        sounds = exchanged("audio") if names else {}
        seen = [name for name in names if sounds[name].scores == value[name].scores]
        pictures = exchanged("video") if seen else {}
        found |= {
            name: Chance(pictures[name], "video") if name in seen else Chance(sounds[name], "audio") for name in names
        }
    return found


def _ceiling(bench: Bench, true: Sequence[ItemFeatures]) -> Mapping[str, Summary]:
    readable = [i for i, one in enumerate(true) if not isinstance(one, Unscored)]
    return _scores(bench, true, true, [Pairing({i: i for i in readable})])


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the clip of an item is.

    folder: of the clips; of ``file``'s features, where there is one
    item:   whose prompt the clip must have been made from
    file:   ground truth as it lies in a prompt set, whose folder is left as it is
    """

    folder: Path
    item: PromptItem | None
    file: Path | None = None


def _features(bench: Bench, places: Sequence[_Place | None], told: Told, what: str) -> list[ItemFeatures]:
    """The features of every item, each decoded by one of the processes."""
    share = _share(len(places))
    mine: dict[int, ItemFeatures] = {}
    for done, i in enumerate(share, start=1):
        mine[i] = _place_features(bench, places[i])
        told(what, done, len(share))
    everyone: list[dict[int, ItemFeatures]] = [mine]
    if distributed.is_initialized():
        everyone = [{} for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(everyone, mine)
    merged = {i: one for part in everyone for i, one in part.items()}
    return [merged[i] for i in range(len(places))]


def _place_features(bench: Bench, place: _Place | None) -> ItemFeatures:
    if place is None:
        return NO_TRUTH
    if place.file is not None:
        return clip_features(place.file, bench.measures, bench.form, (), place.folder / CACHE)
    assert place.item is not None
    sidecar = read_sidecar(place.folder, place.item.id)
    if sidecar is not None and sidecar.get("prompt", place.item.prompt) != place.item.prompt:
        return Unscored("the clip's sidecar says that it was made from another prompt")
    return clip_features(media_path(place.folder, place.item.id), bench.measures, bench.form, bench.need)


def _scores(
    bench: Bench, features: Sequence[ItemFeatures], truths: Sequence[ItemFeatures], pairings: Sequence[Pairing]
) -> dict[str, Summary]:
    """The summary of each metric, an item's score being its mean over the pairings that could be scored."""
    found: dict[str, Summary] = {}
    for measure in bench.measures:
        found |= _measure_scores(measure, bench.items, features, truths, pairings)
    return found


def _measure_scores(
    measure: Measure,
    items: Sequence[PromptItem],
    features: Sequence[ItemFeatures],
    truths: Sequence[ItemFeatures],
    pairings: Sequence[Pairing],
    exchanged: bool = False,
) -> dict[str, Summary]:
    """exchanged: the pairings are not those of the clips themselves, which metrics of the whole set do not see."""
    names = [spec.name for spec in measure.evaluator.metrics]
    if measure.lacking is not None:
        return {name: _without(measure, measure.lacking, items, name) for name in names}
    judge = measure.evaluator
    totals = {name: ItemScores() for name in names}
    parts: dict[str, dict[int, Any]] = {name: {} for name in names}
    # A metric of the whole set needs every item, and all processes have the features: each computes it by itself.
    for i in range(len(items)) if isinstance(judge, Pooling) else _share(len(items)):
        out = {name: measure.leaves_out(items[i], name) for name in names}
        asked = None in out.values()
        pairs = [one for pairing in pairings if asked and (one := _pair(features, i, pairing)) is not None]
        told = [measure.scores(one, truths[i], items[i]) for one in pairs]
        own = features[i]
        for name in names:
            score = out[name] or (own if isinstance(own, Unscored) else _mean([one[name] for one in told]))
            if isinstance(score, Part):
                parts[name][i] = score.data
            else:
                totals[name].update(i, score)
    found = {name: total.summary() for name, total in totals.items()}
    if isinstance(judge, Pooling) and not exchanged:
        for name in names:
            if parts[name]:
                found[name] = pooled(parts[name], partial(judge.pool, name), found[name].unscored, found[name].unasked)
    return found


def _without(measure: Measure, lacking: str, items: Sequence[PromptItem], metric: str) -> Summary:
    """Of a metric that cannot be had here."""
    out = {i: why.reason for i, item in enumerate(items) if (why := measure.leaves_out(item, metric)) is not None}
    return summarise({}, {i: lacking for i in range(len(items)) if i not in out}, out)


def _pair(features: Sequence[ItemFeatures], i: int, pairing: Pairing) -> AV[Mapping[str, Features]] | None:
    """The features of an item's picture and of the sound that it is paired with; None where it is in no pair."""
    if i not in pairing.others:
        return None
    found = pairing.pair(i).map(lambda j: features[j])
    assert not any(isinstance(one, Unscored) for one in found.values())
    return cast("AV[Mapping[str, Features]]", found)


def _mean(scores: Sequence[Score]) -> Score:
    numbers = [one for one in scores if isinstance(one, float)]
    others = [one for one in scores if not isinstance(one, float)]
    return fmean(numbers) if numbers else next(iter(others), Unscored("there is no other clip to compare with"))


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def _share(count: int) -> range:
    """The items of this process."""
    if not distributed.is_initialized():
        return range(count)
    return range(distributed.get_rank(), count, distributed.get_world_size())


def _from_first(value: list[int]) -> list[int]:
    """The value that the first process has; the others wait for it."""
    if not distributed.is_initialized():
        return value
    told = [value]
    distributed.broadcast_object_list(told, src=0)
    return told[0]
