"""The contract of filters: the same verdict for the same clip, in words that tell why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from ovikit.checkpoints.assets import Assets
from ovikit.data.filters import Comparing, Filter, Verdict
from ovikit.testing.clips import CLIP, beating_clip, noisy_clip, silent_clip
from ovikit.testing.contract import Contract, global_generators_unused
from ovikit.types import Clip, ClipSpec


class FilterContract(Contract):
    """Subclass it and name the component.

    clip:    the form of the clips that are judged
    changed: options, each of which gives other verdicts than those of ``options``
    """

    kind = "filter"
    clip: ClassVar[ClipSpec] = CLIP
    changed: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def context(cls) -> dict[str, Any]:
        return {"assets": Assets(find=lambda name: cls.folder() / name)}

    @classmethod
    def kept(cls) -> Clip | None:
        """A clip that stays."""
        return None

    @classmethod
    def left_out(cls) -> Clip | None:
        """A clip that does not."""
        return None

    def _clips(self) -> list[Clip]:
        beats, noise = beating_clip(self.clip), noisy_clip(self.clip)
        found = [beats, noise, silent_clip(self.clip), replace(beats, audio=None), replace(beats, video=None)]
        return found + [clip for clip in (self.kept(), self.left_out()) if clip is not None]

    def _filter(self) -> Filter:
        built = self.build()
        if not isinstance(built, Filter):
            pytest.skip("it compares clips")
        return built

    def _comparing(self) -> Comparing:
        built = self.build()
        if not isinstance(built, Comparing):
            pytest.skip("it judges each clip by itself")
        return built

    def test_it_is_a_filter(self) -> None:
        """It judges clips by themselves, or compares them; one of the two."""
        built = self.build()
        told = isinstance(built, Filter), isinstance(built, Comparing)
        assert sum(told) == 1, f"{type(built).__name__} is neither Filter nor Comparing, or both; give it one's methods"

    def test_the_same_clip_gets_the_same_verdict(self) -> None:
        """A verdict depends on the options and the clip alone, whatever was judged before."""
        one, again = self._filter(), self._filter()
        forwards = [one.judge(clip) for clip in self._clips()]
        backwards = [again.judge(clip) for clip in reversed(self._clips())][::-1]
        assert forwards == backwards, "verdicts change with the order of the clips; keep nothing from one to the next"

    def test_scores_are_numbers_with_names(self) -> None:
        """Scores are finite, and every clip that has both modalities gets those of the same names."""
        judge = self._filter()
        verdicts = [judge.judge(clip) for clip in self._clips()]
        for verdict in verdicts:
            wrong = [name for name, value in verdict.scores.items() if not math.isfinite(value)]
            assert not wrong, f"{', '.join(wrong)} of {verdict} is no finite number; leave out what cannot be had"
        whole = {tuple(verdict.scores) for clip, verdict in zip(self._clips(), verdicts, strict=True)
                 if clip.video is not None and clip.audio is not None}  # fmt: skip
        assert len(whole) == 1, f"whole clips have the scores {sorted(whole)}; give each the same names"

    def test_what_it_leaves_out_is_told_why(self) -> None:
        """Clips that are left out come with a reason in words; a clip that lacks what is judged is no error."""
        judge = self._filter()
        for clip in self._clips():
            why = judge.judge(clip).why
            assert why is None or why.strip(), f"{clip.name} is left out without a word; say what is wrong with it"

    def test_it_tells_clips_apart(self) -> None:
        """The clip of ``kept`` stays, that of ``left_out`` does not."""
        kept, left_out = self.kept(), self.left_out()
        if kept is None or left_out is None:
            pytest.skip("give kept() and left_out() to have them told apart")
        built = self.build()
        if isinstance(built, Comparing):
            found = built.repeats([built.signature(clip) for clip in (kept, left_out, kept)])
            assert found == [None, None, 0], f"of two clips and the first again, {found} are repeats; only the last is"
            return
        verdicts: list[Verdict] = [built.judge(clip) for clip in (kept, left_out)]
        assert [one.why is None for one in verdicts] == [True, False], f"they get {verdicts}; check the threshold"

    def test_repeats_are_of_clips_that_stay(self) -> None:
        """A clip repeats an earlier one that stays, and a clip is a repeat of itself."""
        judge = self._comparing()
        told = [judge.signature(clip) for clip in self._clips()[:2]] * 3
        found = judge.repeats(told)
        right = all(first is None or (first < place and found[first] is None) for place, first in enumerate(found))
        assert right and None not in found[2:], (  # noqa: PT018
            f"of two clips that come three times, {found} are repeats; the first of each stays, the others repeat it"
        )

    def test_the_fingerprint_tells_options_apart(self) -> None:
        """Verdicts are kept by the fingerprint: equal for equal options, another one for others."""
        own, again = self.build().fingerprint(), self.build().fingerprint()
        assert own == again, f"two equal filters have the fingerprints {own!r} and {again!r}; build it from the options"
        for name, value in self.changed.items():
            other = self.build({name: value}).fingerprint()
            assert other != own, f"with {name}={value!r} verdicts change and the fingerprint does not; take it in"

    def test_global_random_numbers_are_left_alone(self) -> None:
        """Judging clips moves no global generator: verdicts would depend on how many processes there are."""
        built = self.build()
        with global_generators_unused(f"the filter '{self.found().name}'"):
            for clip in self._clips()[:3]:
                built.signature(clip) if isinstance(built, Comparing) else built.judge(clip)
