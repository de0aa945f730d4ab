"""Clips as the networks see them, wherever they are kept: what training reads batches from.

Shape legend: n clips, b of them, l text tokens, c channels, t y x latent steps, rows, columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from ovikit.networks.protocols import Codec, Conditioner
from ovikit.types import AV, ClipSpec, Text


@dataclass(frozen=True, slots=True)
class Encoded:
    """Some clips of one form.

    latents: (b, c, t, y, x) and (b, c, t), float32
    text:    of each clip, as each tower reads it; the same one where both read all
    first:   (b, c, 1, y, x) of each clip's first frame alone; None where it is not kept
    """

    latents: AV[Tensor]
    text: AV[Text]
    first: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Bucket:
    """The clips of one form, which can be in one batch.

    form:  of the clips
    clips: their indices, in order
    """

    form: ClipSpec
    clips: Sequence[int]


@runtime_checkable
class EncodedClips(Protocol):
    """Every clip of a dataset, encoded. Random access; processes of a DataLoader may have copies of it.

    names:   of the clips
    buckets: which of them have which form; every clip is in one
    empty:   the text of the empty prompt, a batch of one
    """

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def buckets(self) -> Sequence[Bucket]: ...
    @property
    def empty(self) -> Text: ...
    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> Encoded:
        """Clips of one bucket, in the order asked for. DamagedClipError for one that cannot be read."""
        ...

    def silent(self) -> AV[int]:
        """How many clips say something to one tower and nothing to this one; nothing where all towers read all."""
        ...


@runtime_checkable
class EncodedSource(Protocol):
    """A dataset whose clips are encoded already."""

    def open(self, codecs: AV[Codec], conditioner: Conditioner, first_frames: bool) -> EncodedClips:
        """What training reads. UserError, saying what is different, where the clips were encoded by anything else."""
        ...
