"""The contract of datasets: the same clip for the same index, in the form that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ovikit.networks.protocols import ClipSource
from ovikit.testing.clips import CLIP, is_json, wrong_form
from ovikit.testing.contract import Contract, global_generators_unused, refuses
from ovikit.types import Clip, ClipSpec


class DatasetContract(Contract):
    """Subclass it and name the component.

    clip:    the form of the clips that are asked for
    changed: options, each of which gives other clips than those of ``options``
    looked_at: how many clips the checks read
    """

    kind = "dataset"
    clip: ClassVar[ClipSpec] = CLIP
    changed: ClassVar[Mapping[str, Any]] = {}
    looked_at: ClassVar[int] = 3

    @classmethod
    def context(cls) -> dict[str, Any]:
        return {"clip": cls.clip}

    def _clips(self) -> list[Clip]:
        source: ClipSource = self.build()
        return [source[i] for i in range(min(self.looked_at, len(source)))]

    def test_the_same_index_is_the_same_clip(self) -> None:
        """A clip depends on the options and its index alone, whatever was read before it."""
        source: ClipSource = self.build()
        assert len(source) > 0, "it has no clips; refuse options that give none"
        count = min(self.looked_at, len(source))
        forwards = [source[i] for i in range(count)]
        backwards = [self.build()[i] for i in reversed(range(count))][::-1]
        for i, (first, again) in enumerate(zip(forwards, backwards, strict=True)):
            assert _equal(first, again), (
                f"clip {i} is another one when clips are read in another order; draw it from a generator that is "
                "seeded "
                "by the options and the index"
            )

    def test_it_ends_where_its_length_says(self) -> None:
        """Indices at and beyond the end raise IndexError, so that loops over a dataset end."""
        source: ClipSource = self.build()
        for index in (len(source), len(source) + 7):
            refuses(lambda index=index: source[index], f"index {index} of {len(source)} clips", IndexError)

    def test_clips_have_the_form_that_was_asked_for(self) -> None:
        """Frames, size and rates are those of the recipe; pixels are uint8, samples lie in [-1, 1]."""
        for i, clip in enumerate(self._clips()):
            wrong = wrong_form(clip, self.clip)
            assert not wrong, (
                f"clip {i}: {'; '.join(wrong)}; give what the ClipSpec asks for, or refuse it when building"
            )

    def test_clips_have_names_of_their_own(self) -> None:
        """Names are unique: caches and reports tell clips by them."""
        names = [clip.name for clip in self._clips()]
        assert len(set(names)) == len(names) and all(names), f"names are {names}; give each clip one"  # noqa: PT018

    def test_truth_is_plain_json(self) -> None:
        """What is known of a clip can be written down."""
        for clip in self._clips():
            assert is_json(clip.truth), f"the truth of {clip.name} is {clip.truth}; use plain numbers, texts and lists"

    def test_the_fingerprint_tells_datasets_apart(self) -> None:
        """Latents are cached by the fingerprint (and the form): equal for equal clips, another one for others."""
        own, again = self.build().fingerprint(), self.build().fingerprint()
        assert own == again, (
            f"two equal datasets have the fingerprints {own!r} and {again!r}; build it from the options"
        )
        for name, value in self.changed.items():
            other = self.build({name: value}).fingerprint()
            assert other != own, f"with {name}={value!r} clips change and the fingerprint does not; take {name} into it"

    def test_global_random_numbers_are_left_alone(self) -> None:
        """Reading clips moves no global generator: training would draw other noise with other workers."""
        with global_generators_unused(f"the dataset '{self.found().name}'"):
            self._clips()


def _equal(first: Clip, second: Clip) -> bool:
    same = first.name == second.name and first.prompt == second.prompt and first.truth == second.truth
    pairs = ((first.video, second.video), (first.audio, second.audio))
    return same and all(a is None or torch.equal(a, b) if a is not None and b is not None else a is b for a, b in pairs)
