"""A suite over a folder of clips: decode once, score, and set the scores between chance and ceiling.

Run under torch.distributed, every process decodes and scores its share of the items, and all get the same results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from torch import distributed

from ovikit.errors import UserError
from ovikit.evaluation.assemble import Chance, Outcome, assemble
from ovikit.evaluation.features import ItemFeatures, Measure, clip_features
from ovikit.evaluation.folder import FolderPrompts
from ovikit.evaluation.metrics import ItemScores, Summary, derangements
from ovikit.evaluation.protocols import PromptItem, PromptSet, Unscored
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
    """The parts of a suite, built. UserError where two evaluators or two metrics share a name, or a suite with prompts
    comes without a recipe.

    recipe: whose form the clips have; None: they come without one
    clips:  the folder that a suite without prompts measures
    """
    form = None if recipe is None else clip_spec(recipe)
    if suite.prompts is None and clips is not None:
        prompts: PromptSet = FolderPrompts(clips)
    elif form is None:
        raise UserError(
            "the suite's prompts are for clips of a recipe, and there is none", str(suite.source or suite.name)
        )
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
    """The results of ``suite`` on the folder ``clips``, made by ``recipe`` or in its form; without a recipe they are
    taken as they are, and there is no ceiling.

    truth:     where ground-truth clips are kept, so that a second run finds them; default: ``truth`` beside ``clips``
    exchanges: ways of giving each clip another one's sound, which chance is the mean of

    A clip that is missing, unreadable or made from another prompt is unscored with its reason. UserError where the
    folder does not exist.
    """
    if not clips.is_dir():
        raise UserError("there is no such folder of clips", str(clips))
    name, digest = (clips.name, "") if recipe is None else (recipe.name, recipe.digest)
    with observed("eval", clips, name, digest) as run:
        codecs = None if recipe is None else build_codecs(recipe)
        measured = evaluate_bench(build_bench(suite, recipe, clips), codecs, clips, truth, exchanges, told)
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
        return assemble(suite, recipe, self.clips, self.bench.items, outcomes, self.exchanges)


def evaluate_bench(
    bench: Bench, codecs: AV[Codec] | None, clips: Path, truth: Path | None, exchanges: int, told: Told
) -> Measured:  # fmt: skip
    """The scores of a folder, of its exchanged sounds, and of the ground truth through the codecs."""
    measured = _features(bench, clips, told, "clips")
    readable = [i for i, one in enumerate(measured) if not isinstance(one, Unscored)]
    orders = [
        {readable[i]: readable[int(other)] for i, other in enumerate(order)}
        for order in derangements(len(readable), exchanges, EXCHANGE_SEED)
    ]
    folder = clips.parent / "truth" if truth is None else truth
    there: list[int] = []
    if _rank() == 0 and codecs is not None and bench.form is not None:
        there = write_truth(bench.prompts, codecs, bench.form, folder, lambda n, total: told("ground truth", n, total))
    there = _from_first(there)
    value = _scores(bench, measured, [Pairing({i: i for i in readable})])
    return Measured(
        bench,
        clips,
        value,
        _chance(bench, measured, value, orders) if orders else {},
        _ceiling(bench, folder, there, told) if there else None,
        len(orders),
    )


def _chance(
    bench: Bench, measured: Sequence[ItemFeatures], value: Mapping[str, Summary], orders: Sequence[Mapping[int, int]]
) -> dict[str, Chance]:
    """What each metric gives where a clip's sound is another one's.

    A metric that none of this changes reads only the picture: its chance is measured by exchanging pictures.
    """
    sounds = _scores(bench, measured, [Pairing(order, "audio") for order in orders])
    pictures = _scores(bench, measured, [Pairing(order, "video") for order in orders])
    return {
        name: Chance(pictures[name], "video") if one.scores == value[name].scores else Chance(one, "audio")
        for name, one in sounds.items()
    }


def _ceiling(bench: Bench, folder: Path, there: Sequence[int], told: Told) -> Mapping[str, Summary]:
    found = _features(bench, folder, told, "ground-truth clips")
    known = set(there)
    features = [one if i in known else Unscored("it has no ground truth") for i, one in enumerate(found)]
    readable = [i for i, one in enumerate(features) if not isinstance(one, Unscored)]
    return _scores(bench, features, [Pairing({i: i for i in readable})])


def _features(bench: Bench, folder: Path, told: Told, what: str) -> list[ItemFeatures]:
    """The features of every item, each decoded by one of the processes."""
    items, share = bench.items, _share(len(bench.prompts))
    mine: dict[int, ItemFeatures] = {}
    for done, i in enumerate(share, start=1):
        mine[i] = _item_features(bench, folder, items[i])
        told(what, done, len(share))
    everyone: list[dict[int, ItemFeatures]] = [mine]
    if distributed.is_initialized():
        everyone = [{} for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(everyone, mine)
    merged = {i: one for part in everyone for i, one in part.items()}
    return [merged[i] for i in range(len(items))]


def _item_features(bench: Bench, folder: Path, item: PromptItem) -> ItemFeatures:
    sidecar = read_sidecar(folder, item.id)
    if sidecar is not None and sidecar.get("prompt") != item.prompt:
        return Unscored("the clip's sidecar says that it was made from another prompt")
    return clip_features(media_path(folder, item.id), bench.measures, bench.form, bench.need)


def _scores(bench: Bench, features: Sequence[ItemFeatures], pairings: Sequence[Pairing]) -> dict[str, Summary]:
    """The summary of each metric, an item's score being its mean over the pairings that could be scored."""
    items = bench.items
    totals = {spec.name: ItemScores() for one in bench.measures for spec in one.evaluator.metrics}
    for i in _share(len(items)):
        for measure in bench.measures:
            told = [
                found
                for pairing in pairings
                if (found := _score(measure, features, i, pairing, items[i])) is not None
            ]  # fmt: skip
            for spec in measure.evaluator.metrics:
                own = features[i]
                score = own if isinstance(own, Unscored) else _mean([one[spec.name] for one in told])
                totals[spec.name].update(i, score)
    return {name: total.summary() for name, total in totals.items()}


def _score(
    measure: Measure, features: Sequence[ItemFeatures], i: int, pairing: Pairing, item: PromptItem
) -> Mapping[str, float | Unscored] | None:
    """The scores of an item's picture with the paired sound; None where the item is not in the pairing."""
    if i not in pairing.others:
        return None
    pair = pairing.pair(i)
    video, audio = features[pair["video"]], features[pair["audio"]]
    assert not isinstance(video, Unscored)
    assert not isinstance(audio, Unscored)
    scores = measure.evaluator.score(video[measure.name], audio[measure.name], item)
    wanted = {spec.name for spec in measure.evaluator.metrics}
    if set(scores) != wanted:
        raise ValueError(f"evaluator '{measure.name}' scored {sorted(scores)}, its metrics are {sorted(wanted)}")
    return scores


def _mean(scores: Sequence[float | Unscored]) -> float | Unscored:
    numbers = [one for one in scores if not isinstance(one, Unscored)]
    reasons = [one for one in scores if isinstance(one, Unscored)]
    return fmean(numbers) if numbers else next(iter(reasons), Unscored("there is no other clip to compare with"))


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
