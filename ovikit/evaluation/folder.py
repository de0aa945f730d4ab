"""A folder of clips as a prompt set: what lies there is what is measured."""

from __future__ import annotations

from pathlib import Path

from ovikit.errors import UserError
from ovikit.evaluation.protocols import PromptItem
from ovikit.generate.jobs import media_path, read_sidecar
from ovikit.types import Clip


class FolderPrompts:
    """The clips of a folder in the order of their names, each with the prompt of its sidecar where there is one.
    UserError where there are no clips."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = sorted(path.stem for path in folder.glob("[!.]*.mp4") if path.is_file())
        if not self._names:
            example = media_path(Path(), "00001").name
            raise UserError("there are no clips in this folder", str(folder), f"they are to be named like {example}")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> PromptItem:
        name = self._names[index]
        told = (read_sidecar(self._folder, name) or {}).get("prompt")
        return PromptItem(name, told if isinstance(told, str) else "")

    def reference(self, index: int) -> Clip | None:
        return None
