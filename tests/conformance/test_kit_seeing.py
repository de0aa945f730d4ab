"""The contracts of the evaluators that see with published networks, with a small one."""

from __future__ import annotations

from pathlib import Path

from seeing_kit import item_of, pictures, write_weights

from ovikit.evaluation.protocols import PromptItem
from ovikit.testing import EvaluatorContract


class TestIdentity(EvaluatorContract):
    component = "identity"

    @classmethod
    def files(cls, folder: Path) -> None:
        write_weights(folder)
        item_of(folder, pictures(1)[0])
        cls.item = PromptItem("0", "a picture", image=folder / "reference.png")
