"""The contract of prompt sets: prompts in a fixed order, each with a name that a file can have."""

from __future__ import annotations

from typing import Any, ClassVar

from ovikit.evaluation.protocols import PromptItem, PromptSet
from ovikit.testing.clips import CLIP, is_file_name, is_json, wrong_form
from ovikit.testing.contract import Contract, global_generators_unused, refuses
from ovikit.types import ClipSpec


class PromptSetContract(Contract):
    """Subclass it and name the component.

    clip: the form of the clips that are asked for
    references_looked_at: how many ground-truth clips the checks make
    """

    kind = "prompt_set"
    clip: ClassVar[ClipSpec] = CLIP
    references_looked_at: ClassVar[int] = 2

    @classmethod
    def context(cls) -> dict[str, Any]:
        return {"clip": cls.clip}

    def _items(self) -> list[PromptItem]:
        prompts: PromptSet = self.build()
        return [prompts[i] for i in range(len(prompts))]

    def test_the_same_index_is_the_same_prompt(self) -> None:
        """Two sets of the same options are the same, in the same order."""
        with global_generators_unused(f"the prompt set '{self.found().name}'"):
            first, again = self._items(), self._items()
        assert first, "it has no prompts; refuse options that give none"
        assert first == again, "a second set of the same options has other prompts; draw from a seed among the options"

    def test_ids_name_files(self) -> None:
        """Ids are unique, also where case does not count, and can be the names of files."""
        ids = [item.id for item in self._items()]
        assert len({one.lower() for one in ids}) == len(ids), f"two prompts have one id: {sorted(ids)}"
        bad = [one for one in ids if not is_file_name(one)]
        assert not bad, f"{bad} cannot be names of files everywhere; use letters, digits, dots, dashes and underscores"

    def test_prompts_say_something(self) -> None:
        """No prompt is empty, and what is known of its clip is plain JSON."""
        for item in self._items():
            assert item.prompt.strip(), f"the prompt of {item.id} is empty"
            assert is_json(item.truth), f"the truth of {item.id} is {item.truth}; use plain numbers, texts and lists"
            assert item.image is None or item.image.is_file(), f"the image of {item.id}, {item.image}, is not there"

    def test_it_ends_where_its_length_says(self) -> None:
        """Indices at and beyond the end raise IndexError, so that loops over a set end."""
        prompts: PromptSet = self.build()
        for index in (len(prompts), len(prompts) + 7):
            refuses(lambda index=index: prompts[index], f"index {index} of {len(prompts)} prompts", IndexError)

    def test_references_have_the_form_of_the_clips(self) -> None:
        """A ground-truth clip, where there is one, has the form that is asked for."""
        prompts: PromptSet = self.build()
        for i in range(min(self.references_looked_at, len(prompts))):
            clip = prompts.reference(i)
            wrong = [] if clip is None else wrong_form(clip, self.clip)
            assert not wrong, f"the reference of {prompts[i].id}: {'; '.join(wrong)}"
