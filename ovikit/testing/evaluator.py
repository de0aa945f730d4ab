"""The contract of evaluators: numbers in their range, or a reason why there are none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from ovikit.checkpoints.assets import Assets
from ovikit.evaluation.protocols import Comparing, Evaluator, Part, Pooling, PromptItem, Score, Unscored
from ovikit.testing.clips import CLIP, beating_clip, is_json, noisy_clip, silent_clip
from ovikit.testing.contract import Contract, global_generators_unused
from ovikit.types import Clip, ClipSpec

Scores = dict[str, float | Unscored]


class EvaluatorContract(Contract):
    """Subclass it and name the component.

    clip:   the form of the clips that are judged
    item:   the prompt that they belong to, with the truth that the evaluator asks of it
    judged: the metrics that tell ``better()`` from ``worse()``
    """

    kind = "evaluator"
    clip: ClassVar[ClipSpec] = CLIP
    item: ClassVar[PromptItem] = PromptItem("0", "two beats")
    judged: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def context(cls) -> dict[str, Any]:
        return {"clip": cls.clip, "assets": Assets(cls.folder())}

    @classmethod
    def better(cls) -> Clip | None:
        """A clip that the metrics of ``judged`` like better than ``worse()``."""
        return None

    @classmethod
    def worse(cls) -> Clip | None:
        """A clip that they like less."""
        return None

    def _clips(self) -> list[Clip]:
        """Clips that evaluators meet: good ones, broken ones, ones that lack something."""
        beats, noise, silent = beating_clip(self.clip), noisy_clip(self.clip), silent_clip(self.clip)
        assert noise.audio is not None
        spoilt = replace(noise, name="nan", audio=torch.full_like(noise.audio, torch.nan))
        found = [
            beats, noise, silent, spoilt,
            replace(beats, name="mute", audio=None), replace(beats, name="blind", video=None),
            replace(beats, name="black", video=silent.video), replace(beats, name="still", audio=silent.audio),
        ]  # fmt: skip
        return found + [clip for clip in (self.better(), self.worse()) if clip is not None]

    def _scores(self, clip: Clip) -> Scores:
        judge: Evaluator = self.build()
        features = judge.features(clip)
        return self._numbers(judge, self._asked(judge, features, features, self.item))

    @staticmethod
    def _asked(
        judge: Evaluator, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> Mapping[str, Score]:
        """What the runner is told; evaluators that compare are given the sound as its own ground truth."""
        if isinstance(judge, Comparing):
            return judge.compare(video, audio, audio, item)
        return judge.score(video, audio, item)

    @staticmethod
    def _numbers(judge: Evaluator, scores: Mapping[str, Score]) -> Scores:
        """Of parts of metrics of the whole set, those of a set of this one clip."""
        return {
            name: judge.pool(name, [score.data]) if isinstance(score, Part) and isinstance(judge, Pooling) else score
            for name, score in scores.items()
        }  # type: ignore[return-value]  # _check refuses parts of what does not pool

    def test_metrics_are_specified(self) -> None:
        """Each metric has a name of its own, a direction, a range, a version and a summary."""
        judge: Evaluator = self.build()
        names = [one.name for one in judge.metrics]
        assert names, "it has no metrics"
        assert len(set(names)) == len(names), f"two metrics share a name: {names}"
        assert judge.version, "its version is empty; cached features are told apart by it"
        for one in judge.metrics:
            low, high = one.range
            assert low < high, f"the range of {one.name} is {one.range}; write the lowest value, then the highest"
            assert one.direction in ("higher", "lower", "neither"), f"{one.name}: direction is {one.direction!r}"
            assert one.version and one.summary, f"{one.name} has no version or no summary"  # noqa: PT018

    def test_features_are_plain_json(self) -> None:
        """Features are cached in files: plain numbers, texts and lists, no NaN; the same for the same clip."""
        judge: Evaluator = self.build()
        for clip in self._clips():
            features = self._try(lambda clip=clip: judge.features(clip), clip)
            assert is_json(features), f"features of the {clip.name} clip are no JSON: {features}; None where nothing is"
            assert features == self.build().features(clip), f"features of the {clip.name} clip differ a second time"

    def test_every_metric_is_a_number_in_its_range_or_unscored(self) -> None:
        """Whatever the clip: one entry per metric, a finite number in its range, or Unscored with the reason."""
        judge: Evaluator = self.build()
        for clip in self._clips():
            scores = self._try(lambda clip=clip: self._scores(clip), clip)
            self._check(judge, scores, f"the {clip.name} clip")

    def test_the_sound_of_another_clip_can_be_judged(self) -> None:
        """Chance is measured by giving pictures the sound of other clips."""
        judge: Evaluator = self.build()
        clips = self._clips()
        features = [judge.features(clip) for clip in clips]
        for i, video in enumerate(features):
            for j, audio in enumerate(features):
                scores = self._try(lambda v=video, a=audio: self._asked(judge, v, a, self.item), clips[i])
                self._check(
                    judge,
                    self._numbers(judge, scores),
                    f"the picture of {clips[i].name} with the sound of {clips[j].name}",
                )

    def test_a_missing_ground_truth_is_a_reason(self) -> None:
        """Evaluators that compare with the ground truth say so where there is none; other metrics do not need it."""
        judge: Evaluator = self.build()
        if not isinstance(judge, Comparing):
            pytest.skip("it compares with no ground truth")
        for clip in self._clips():
            features = judge.features(clip)
            none = Unscored("there is no such clip")
            scores = self._try(lambda f=features, t=none: judge.compare(f, f, t, self.item), clip)
            self._check(judge, self._numbers(judge, scores), f"the {clip.name} clip without a ground truth")

    def test_the_order_of_a_set_does_not_matter(self) -> None:
        """A metric of the whole set is the same number for the same items in another order."""
        judge: Evaluator = self.build()
        if not isinstance(judge, Pooling):
            pytest.skip("it has no metric of the whole set")
        found: dict[str, list[Any]] = {}
        for clip in self._clips():
            features = judge.features(clip)
            for name, score in self._asked(judge, features, features, replace(self.item, id=clip.name)).items():
                if isinstance(score, Part):
                    found.setdefault(name, []).append(score.data)
        for name, parts in found.items():
            first, second = judge.pool(name, parts), judge.pool(name, parts[::-1])
            same = (
                first == second
                if isinstance(first, Unscored) or isinstance(second, Unscored)
                else math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-6)
            )
            assert same, f"{name} of the same clips is {first}, and {second} in another order"

    def test_better_clips_score_better(self) -> None:
        """The declared direction is the one in which clips get better."""
        better, worse = self.better(), self.worse()
        if better is None or worse is None:
            assert not self.judged, f"judged names {self.judged}, but better() and worse() give no clips"
            pytest.skip("better() and worse() give no clips")
        assert self.judged, "better() and worse() give clips; name the metrics that tell them apart in judged"
        good, bad = self._scores(better), self._scores(worse)
        for spec in self.build().metrics:
            if spec.name not in self.judged:
                continue
            first, second = good[spec.name], bad[spec.name]
            told = f"{spec.name} is {first} for the better clip and {second} for the worse one"
            assert isinstance(first, float), told
            assert isinstance(second, float), told
            wins = first > second if spec.direction == "higher" else first < second
            assert wins, f"{told}, and {spec.direction} is declared as better"

    def test_global_random_numbers_are_left_alone(self) -> None:
        """Judging a clip moves no global generator."""
        with global_generators_unused(f"the evaluator '{self.found().name}'"):
            self._scores(beating_clip(self.clip))

    @staticmethod
    def _check(judge: Evaluator, scores: Mapping[str, float | Unscored], what: str) -> None:
        wanted = {one.name for one in judge.metrics}
        assert set(scores) == wanted, (
            f"{what}: scores are {sorted(scores)}, metrics {sorted(wanted)}; give one for each"
        )
        for one in judge.metrics:
            score = scores[one.name]
            if isinstance(score, Unscored):
                assert score.reason, f"{what}: {one.name} is Unscored without a reason"
                continue
            low, high = one.range
            assert isinstance(score, float), f"{what}: {one.name} is {score!r}; give a float, or Unscored(reason)"
            assert math.isfinite(score), (
                f"{what}: {one.name} is {score}; give Unscored(reason) where there is no number"
            )
            assert low <= score <= high, f"{what}: {one.name} is {score}, beyond its range [{low}, {high}]"

    @staticmethod
    def _try(call: Any, clip: Clip) -> Any:
        try:
            return call()
        except (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            pytest.fail(
                f"the {clip.name} clip ends in {type(error).__name__}: {error}; give Unscored(reason) for clips that "
                "lack a modality, are silent, black or broken"
            )
