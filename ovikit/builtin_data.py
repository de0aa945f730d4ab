"""The datasets and captioners that ship with ovikit: their options. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ovikit.kernel.component import Component, Config

if TYPE_CHECKING:
    from ovikit.checkpoints.assets import Assets
    from ovikit.data.captions import Sidecar
    from ovikit.data.folder import FolderClips
    from ovikit.data.prepared import PreparedDataset
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


class PreparedConfig(Config):
    """Options of the ``prepared`` dataset."""

    path: str = Field(min_length=1)
    """Folder that ``ovikit data prepare`` made; starts from the current folder."""


def _prepared(config: PreparedConfig, *, clip: ClipSpec) -> PreparedDataset:
    from ovikit.data.prepared import PreparedDataset

    return PreparedDataset(Path(config.path).expanduser(), clip)


class SidecarConfig(Config):
    """Options of the ``sidecar`` captioner."""

    prompt: str | None = None
    """Prompt of files without a caption; null: as ``otherwise`` says."""
    table: str | None = None
    """CSV file with the columns file, prompt and, for several captions of a file, start_s; starts from the current
    folder; null: none."""
    otherwise: Literal["name", "drop"] = "name"
    """What to do about files without a caption: take their name in words, or leave them out."""


def _sidecar(config: SidecarConfig, *, assets: Assets) -> Sidecar:
    from ovikit.data.captions import Sidecar

    table = None if config.table is None else Path(config.table).expanduser()
    return Sidecar(config.prompt, table, config.otherwise)


DATASETS = (
    Component("folder", FolderConfig, _folder, "aligned clips of the videos in a folder"),
    Component("prepared", PreparedConfig, _prepared, "latents that ovikit data prepare has made, in shards"),
)
CAPTIONERS = (Component("sidecar", SidecarConfig, _sidecar, "captions in files beside the clips, or in a table"),)
