"""The held-out prompts of the toy world, each with the clip that it describes."""

from __future__ import annotations

from ovikit.evaluation.protocols import PromptItem
from ovikit.types import Clip, ClipSpec
from ovikit_toyworld.world import ToyWorld


class HeldOutPrompts:
    """Prompts whose combination of words no training clip has, with event times from random numbers of their own."""

    def __init__(self, clip: ClipSpec, count: int, seed: int, kinds: tuple[str, ...]) -> None:
        self.world = ToyWorld(clip, count, seed, "held-out", kinds)

    def __len__(self) -> int:
        return len(self.world)

    def __getitem__(self, index: int) -> PromptItem:
        story = self.world.story(index)
        return PromptItem(f"{index:05d}", story.cast.prompt(), story.truth(self.world.clip.frame_rate_hz))

    def reference(self, index: int) -> Clip:
        """The ground-truth clip of prompt ``index``."""
        return self.world[index]
