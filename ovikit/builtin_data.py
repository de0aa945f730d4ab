"""The datasets that ship with ovikit: their options. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ovikit.kernel.component import Component, Config

if TYPE_CHECKING:
    from ovikit.data.folder import FolderClips
    from ovikit.types import ClipSpec


class FolderConfig(Config):
    """Options of the ``folder`` dataset."""

    path: str = Field(min_length=1)
    """Folder of videos with sound, of any size, rate and format that FFmpeg reads; starts from the current folder."""
    prompt: str | None = None
    """Prompt of videos without a caption file (NAME.txt, or "prompt" in NAME.json); null: the file's name in words."""
    from_s: NonNegativeFloat = 0.0
    """Where the first clip of each video starts, in seconds."""
    stride_s: PositiveFloat | None = None
    """Seconds from the start of one clip to the start of the next; null: clips follow each other."""
    windows: PositiveInt | None = None
    """Most clips cut from one video; null: as many as fit."""
    recursive: bool = False
    """Look into the folders below as well."""
    without_sound: Literal["refuse", "skip"] = "refuse"
    """What to do about videos without sound."""
    too_short: Literal["refuse", "skip"] = "refuse"
    """What to do about videos shorter than a clip."""


def _folder(config: FolderConfig, *, clip: ClipSpec) -> FolderClips:
    from ovikit.data.folder import FolderClips

    return FolderClips(
        Path(config.path).expanduser(),
        clip,
        prompt=config.prompt,
        from_s=config.from_s,
        stride_s=config.stride_s,
        windows=config.windows,
        recursive=config.recursive,
        without_sound=config.without_sound,
        too_short=config.too_short,
    )


DATASETS = (Component("folder", FolderConfig, _folder, "aligned clips of the videos in a folder"),)
