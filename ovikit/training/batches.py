"""Batches of latents, in memory, one per optimizer step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ovikit.data.latents import LatentClips
from ovikit.data.sampler import EpochSampler
from ovikit.networks.reading import each
from ovikit.types import AV, Text


class Batch:
    """One batch. Not a dataclass: Lightning would take it apart and fail to put it together again.

    clips:   indices of its clips
    latents: (b, c, t, y, x) and (b, c, t)
    text:    of each clip, as each tower reads it; the same one where both read all
    empty:   the text of the empty prompt, a batch of one
    """

    __slots__ = ("clips", "empty", "latents", "text")

    def __init__(self, clips: Sequence[int], latents: AV[Tensor], text: AV[Text], empty: Text) -> None:
        self.clips, self.latents, self.text, self.empty = clips, latents, text, empty

    def to(self, device: torch.device) -> Batch:
        def move(text: Text) -> Text:
            return text.to(device, text.tokens.dtype)

        return Batch(self.clips, self.latents.map(lambda x: x.to(device)), each(self.text, move), move(self.empty))


class BatchStream:
    """The endless batches from step ``start`` on. Has no length, so that Lightning sees one epoch: the whole run."""

    def __init__(self, clips: LatentClips, sampler: EpochSampler, start: int = 0) -> None:
        self.clips, self.sampler, self.start = clips, sampler, start
        self.empty = _rows(clips.text, torch.zeros(1, dtype=torch.int64))

    def __iter__(self) -> Iterator[Batch]:
        for step in self.steps():
            yield self[step]

    def steps(self) -> Iterator[int]:
        step = self.start
        while True:
            yield step
            step += 1

    def __getitem__(self, step: int) -> Batch:
        indices = self.sampler.batch(step)
        index = torch.tensor(indices)
        latents = self.clips.latents.map(lambda value: value.index_select(0, index))
        text = each(self.clips.text_rows, lambda rows: _rows(self.clips.text, rows[index]))
        return Batch(indices, latents, text, self.empty)


class Steps:
    """The steps of a stream as a sampler, for a DataLoader with workers."""

    def __init__(self, stream: BatchStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[int]:
        return self.stream.steps()


def _rows(text: Text, index: Tensor) -> Text:
    return Text(text.tokens.index_select(0, index), text.lengths.index_select(0, index))


def drop_text(text: Text, empty: Text, dropped: Tensor) -> Text:
    """``text`` with the empty prompt in the rows where ``dropped`` (b,) bool on the CPU is True."""
    rows = dropped.nonzero().flatten()
    if len(rows) == 0:
        return text
    rows = rows.to(text.tokens.device)
    tokens = text.tokens.index_copy(0, rows, empty.tokens.expand(len(rows), -1, -1))
    return Text(tokens, text.lengths.index_copy(0, rows, empty.lengths.expand(len(rows))))
