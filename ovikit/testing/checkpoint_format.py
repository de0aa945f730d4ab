"""The contract of checkpoint formats: names there and back, tensor for tensor."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from ovikit.checkpoints.format import CheckpointFormat
from ovikit.checkpoints.keymap import UnmappedError
from ovikit.testing.contract import Contract
from ovikit.testing.reference import FLOAT64, assembled, towers
from ovikit.types import AV


class CheckpointFormatContract(Contract):
    """Subclass it, name the component, and give the weights of a small model that it is a format of."""

    kind = "checkpoint_format"

    @classmethod
    def weights(cls) -> Mapping[str, Tensor]:
        """The state dict of a model, by ovikit's names: that of the kit's own towers, if nothing else is given."""
        with torch.device("meta"):
            parts = towers(AV(24, 24), AV(2, 2), AV(2, 2), FLOAT64)
        return assembled(parts, [None, None]).state_dict()

    def test_names_go_there_and_back(self) -> None:
        """Every name has one of the format's, no two the same, and comes back."""
        made: CheckpointFormat = self.build()
        lost: list[str] = []
        theirs: dict[str, str] = {}
        for name in self.weights():
            try:
                theirs[name] = made.keymap.official(name)
            except UnmappedError:
                lost.append(name)
        assert not lost, f"no rule knows {lost[:4]}; add one, for files are read strictly in both directions"
        assert len(set(theirs.values())) == len(theirs), (
            "two names become one; keep every placeholder in both templates"
        )
        wrong = [name for name, other in theirs.items() if self._ours(made, other) != name]
        assert not wrong, f"{wrong[:4]} come back under other names; put special rules before general ones"

    @staticmethod
    def _ours(made: CheckpointFormat, name: str) -> str | None:
        try:
            return made.keymap.ours(name)
        except UnmappedError:
            return None

    def test_tensors_go_there_and_back(self) -> None:
        """Whatever an operation does to a tensor on the way, its inverse undoes, bit by bit."""
        made, weights = self.build(), self.weights()
        back = made.keymap.to_ours(made.keymap.to_official(weights))
        assert back.keys() == weights.keys(), "tensors are lost or new after a round trip"
        wrong = [name for name, value in weights.items() if not torch.equal(back[name], value)]
        assert not wrong, f"{wrong[:4]} are changed by a round trip; to_official has to undo to_ours"

    def test_it_recognises_its_own_files_and_no_other(self) -> None:
        """Files of this format are recognised by their names; ovikit's own names are not."""
        made, weights = self.build(), self.weights()
        assert made.name == self.found().name, f"it calls itself '{made.name}', and recipes '{self.found().name}'"
        if not made.anchors:
            pytest.skip("a format without anchors is chosen by its name alone")
        theirs = list(made.keymap.to_official(weights))
        assert made.recognises(theirs), (
            f"it does not recognise its own names; are the anchors {made.anchors} among them?"
        )
        assert not made.recognises(list(weights)), "it recognises ovikit's own names; choose anchors of its own"
        assert not made.recognises([]), "it recognises a file without tensors"
