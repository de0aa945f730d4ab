"""The contract of conditioners: prompts to context tokens, each prompt by itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import torch

from ovikit.checkpoints.assets import Assets
from ovikit.networks.protocols import Conditioner, Weighted
from ovikit.testing.contract import Contract, global_generators_unused
from ovikit.types import Text


class ConditionerContract(Contract):
    """Subclass it and name the component; ``files`` writes the weights that it reads.

    prompts: that the checks encode, the empty one among them
    changed: options, each of which changes what a prompt becomes
    tolerance: how far a prompt in company may be off from alone
    """

    kind = "conditioner"
    prompts: ClassVar[tuple[str, ...]] = ("a red ball bounces on the street", "", "rain", "Zwölf Boxkämpfer, 12 日本!")
    changed: ClassVar[Mapping[str, Any]] = {}
    tolerance: ClassVar[float] = 1e-5

    @classmethod
    def context(cls) -> dict[str, Any]:
        return {"assets": Assets(cls.folder())}

    @classmethod
    @cache
    def loaded(cls) -> Conditioner:
        """The conditioner with its weights."""
        made: Conditioner = cls.build()
        if isinstance(made, Weighted):
            made.load("cpu")
        return made

    def _encoded(self) -> Text:
        with torch.no_grad():
            return self.loaded().encode(self.prompts)

    def test_tokens_have_their_width_and_lengths(self) -> None:
        """(prompts, longest, width) tokens; each prompt, also an empty one, has at least one and at most all."""
        text, made = self._encoded(), self.loaded()
        tokens, lengths = text.tokens, text.lengths
        wanted = (len(self.prompts), int(lengths.max()), made.width)
        assert tuple(tokens.shape) == wanted, f"tokens are {tuple(tokens.shape)}; (prompts, longest, width) is {wanted}"
        assert bool(torch.isfinite(tokens).all()), "tokens are NaN or Inf"
        assert tuple(lengths.shape) == (len(self.prompts),), f"lengths are {tuple(lengths.shape)}"
        assert not lengths.is_floating_point(), f"lengths are {lengths.dtype}; give whole numbers"
        short = [p for p, n in zip(self.prompts, lengths.tolist(), strict=True) if n < 1]
        assert not short, f"{short} have no tokens; give one, for attention has to read something"

    def test_rows_past_the_length_are_zero(self) -> None:
        """Padding is zero, so that towers that read it read the same in every batch."""
        text = self._encoded()
        for prompt, tokens, length in zip(self.prompts, text.tokens, text.lengths.tolist(), strict=True):
            worst = float(tokens[length:].abs().max()) if length < len(tokens) else 0.0
            assert worst == 0, f"past the end of {prompt!r} tokens are up to {worst:.2g}; write zeros there"

    def test_prompts_of_a_batch_do_not_meet(self) -> None:
        """A prompt in company is what it is alone: texts are cached by prompt."""
        text = self._encoded()
        for i, prompt in enumerate(self.prompts):
            with torch.no_grad():
                alone = self.loaded().encode([prompt])
            length = int(text.lengths[i])
            assert int(alone.lengths[0]) == length, (
                f"{prompt!r} has {int(alone.lengths[0])} tokens alone, {length} in company"
            )
            off = float((alone.tokens[0, :length] - text.tokens[i, :length]).abs().max())
            assert off <= self.tolerance, f"{prompt!r} is {off:.2g} off in company from alone; mask padding"

    def test_prompts_are_told_apart(self) -> None:
        """Different prompts have different tokens."""
        text = self._encoded()
        seen = [tokens.flatten().tolist() for tokens in text.tokens]
        same = [(i, j) for i in range(len(seen)) for j in range(i) if seen[i] == seen[j]]
        assert not same, f"prompts {[(self.prompts[i], self.prompts[j]) for i, j in same]} have the same tokens"

    def test_the_same_prompt_is_encoded_the_same(self) -> None:
        """Twice the same prompt, twice the same tokens, without random numbers."""
        with global_generators_unused(f"the conditioner '{self.found().name}'"):
            first, again = self._encoded(), self._encoded()
        assert torch.equal(first.tokens, again.tokens), "a second call gives other tokens; switch dropout off"

    def test_prompts_are_prepared_without_weights(self) -> None:
        """``prepare`` gives a text, the same when it is prepared again, before any weights are read."""
        made: Conditioner = self.build()
        for prompt in self.prompts:
            once = made.prepare(prompt)
            assert isinstance(once.text, str), f"{prompt!r} is prepared to {once.text!r}, no text"
            again = made.prepare(once.text)
            assert again.text == once.text, f"prepared twice, {prompt!r} is {again.text!r}, once {once.text!r}"

    def test_the_fingerprint_tells_conditioners_apart(self) -> None:
        """Texts are cached by the fingerprint: equal for equal tokens, another one for others."""
        own, again = self.build().fingerprint(), self.build().fingerprint()
        assert own == again, f"two equal conditioners have the fingerprints {own!r} and {again!r}"
        for name, value in self.changed.items():
            other = self.build({name: value}).fingerprint()
            assert other != own, (
                f"with {name}={value!r} tokens change and the fingerprint does not; take {name} into it"
            )
