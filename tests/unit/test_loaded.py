"""Parts with weights are ready inside, and free of them afterwards, however that ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from ovikit.errors import UserError
from ovikit.networks.loaded import loaded
from ovikit.networks.protocols import Prepared
from ovikit.types import Text


class Plain:
    """A conditioner without weights."""

    width = 2

    def prepare(self, prompt: str) -> Prepared:
        return Prepared(prompt)

    def encode(self, prompts: Sequence[str]) -> Text:
        return Text(torch.zeros(len(prompts), 1, 2), torch.ones(len(prompts), dtype=torch.int64))

    def fingerprint(self) -> str:
        return "plain"


class Heavy(Plain):
    """One with weights, or, where ``missing``, without their file."""

    def __init__(self, missing: bool = False) -> None:
        self.missing, self.device = missing, None

    def load(self, device: torch.device | str, progress: object = None) -> None:
        if self.missing:
            raise UserError("no such weights file")
        self.device = torch.device(device)

    def unload(self) -> None:
        self.device = None

    def weight_bytes(self) -> int:
        return 8


def test_weights_are_there_inside_only():
    one, other = Heavy(), Heavy()
    with loaded(one, Plain(), other, device="meta"):
        assert one.device == other.device == torch.device("meta")
    assert one.device is None
    assert other.device is None


def test_weights_go_when_the_work_or_another_part_fails():
    one = Heavy()
    with pytest.raises(RuntimeError), loaded(one):
        raise RuntimeError
    assert one.device is None
    with pytest.raises(UserError), loaded(one, Heavy(missing=True)):
        pass
    assert one.device is None
