"""The contract of captioners: a prompt for a clip, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from ovikit.checkpoints.assets import Assets
from ovikit.data.filters import Captioner
from ovikit.testing.clips import CLIP, beating_clip, noisy_clip
from ovikit.testing.contract import Contract, global_generators_unused
from ovikit.types import Clip, ClipSpec


class CaptionerContract(Contract):
    """Subclass it and name the component.

    clip:    the form of the clips that get a prompt
    changed: options, each of which gives other prompts than those of ``options``
    """

    kind = "captioner"
    clip: ClassVar[ClipSpec] = CLIP
    changed: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def context(cls) -> dict[str, Any]:
        return {"assets": Assets(find=lambda name: cls.folder() / name)}

    def _clips(self) -> list[tuple[Clip, Path]]:
        """Clips without a prompt, and the files that they were cut from, of which one has nothing beside it."""
        clips = [beating_clip(self.clip), noisy_clip(self.clip)]
        told = [replace(clip, prompt="", truth={"file": f"{clip.name}.mp4", "start_s": 0.0}) for clip in clips]
        return [(clip, self.folder() / f"{clip.name}.mp4") for clip in told]

    def _captions(self) -> list[str | None]:
        captioner: Captioner = self.build()
        return [captioner.caption(clip, file) for clip, file in self._clips()]

    def test_it_is_a_captioner(self) -> None:
        """It has the methods of a Captioner."""
        built = self.build()
        assert isinstance(built, Captioner), f"{type(built).__name__} is no Captioner; give it caption and fingerprint"

    def test_the_same_clip_gets_the_same_prompt(self) -> None:
        """A prompt depends on the options, the clip and the files beside it alone."""
        assert self._captions() == self._captions(), "prompts change; seed what draws them by the options and the clip"

    def test_a_prompt_is_a_text_or_none(self) -> None:
        """A clip gets words, or None where none are to be had."""
        for caption in self._captions():
            assert caption is None or (isinstance(caption, str) and caption.strip()), (
                f"a clip's prompt is {caption!r}; give None where there is nothing to say"
            )

    def test_the_fingerprint_tells_options_apart(self) -> None:
        """Prompts are kept by the fingerprint: equal for equal options, another one for others."""
        own, again = self.build().fingerprint(), self.build().fingerprint()
        assert own == again, f"two equal captioners have the fingerprints {own!r} and {again!r}"
        for name, value in self.changed.items():
            other = self.build({name: value}).fingerprint()
            assert other != own, f"with {name}={value!r} prompts change and the fingerprint does not; take it in"

    def test_global_random_numbers_are_left_alone(self) -> None:
        """Captioning moves no global generator: prompts would depend on how many processes there are."""
        with global_generators_unused(f"the captioner '{self.found().name}'"):
            self._captions()
