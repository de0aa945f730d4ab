"""When parts are loaded and unloaded, and what is reported of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch

from ovikit.networks.protocols import Prepared
from ovikit.runtime.placement import Placement, forget_resident_peak, resident_peak
from ovikit.runtime.plan import PLANS, Chosen
from ovikit.types import Text


@dataclass
class Encoder:
    """A conditioner with weights, that keeps a record of where they went."""

    width: int = 4
    there: list[str] = field(default_factory=list)
    weights: torch.Tensor | None = None

    def load(self, device: torch.device | str, progress: object = None) -> None:
        self.there.append(str(device))
        self.weights = torch.ones(1000, self.width)

    def unload(self) -> None:
        self.there.append("gone")
        self.weights = None

    def weight_bytes(self) -> int:
        return 4 * 1000 * self.width

    def prepare(self, prompt: str) -> Prepared:
        return Prepared(prompt)

    def encode(self, prompts: Sequence[str]) -> Text:
        assert self.weights is not None
        return Text(self.weights[None, : len(prompts)], torch.tensor([len(prompts)]))

    def fingerprint(self) -> str:
        return "record"


@pytest.mark.parametrize("plan", PLANS)
def test_the_text_encoder_is_gone_afterwards_under_every_plan(plan: str) -> None:
    placement, encoder = Placement(Chosen(plan), "cpu"), Encoder()
    with placement.text(encoder):
        assert encoder.encode(["a"]).tokens.shape == (1, 1, 4)
    assert encoder.there == ["cpu", "gone"]
    with pytest.raises(ZeroDivisionError), placement.text(encoder):
        raise ZeroDivisionError
    assert encoder.there == ["cpu", "gone"] * 2
    [phase] = placement.report()
    assert (phase.name, phase.entered) == ("text", 2)


def test_the_peak_of_resident_memory_is_that_of_the_phase() -> None:
    size = 300_000_000
    forget_resident_peak()
    before = resident_peak()
    held = torch.ones(size // 4)
    peak = resident_peak()
    assert peak - before == pytest.approx(size, rel=0.2)
    del held
    forget_resident_peak()
    if resident_peak() > before + size // 2:
        pytest.skip("this system does not let the peak be counted anew")
    assert resident_peak() < peak - size // 2
