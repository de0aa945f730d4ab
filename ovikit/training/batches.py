"""Batches of latents, in memory: the micro-batches of each optimizer step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from ovikit.data.latents import LatentClips
from ovikit.data.sampler import EpochSampler
from ovikit.errors import UserError
from ovikit.networks.reading import each
from ovikit.types import AV, Text


@dataclass(frozen=True, slots=True)
class Share:
    """Which of a step's micro-batches a process computes: every ``processes``-th, from its own rank on.

    UserError where the processes cannot share them equally.
    """

    micro_batches: int = 1
    rank: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if self.micro_batches % self.processes:
            raise UserError(
                f"{self.micro_batches} micro-batches cannot be shared equally by {self.processes} processes",
                "training.micro_batches",
                f"-o training.micro_batches={math.ceil(self.micro_batches / self.processes) * self.processes}",
            )

    @property
    def own(self) -> int:
        """How many of each step's micro-batches this process computes."""
        return self.micro_batches // self.processes

    def place(self, turn: int) -> tuple[int, int]:
        """Step and part of the micro-batch that is this process's ``turn``-th of the run, counted from 0."""
        step, mine = divmod(turn, self.own)
        return step, self.rank + mine * self.processes


class Batch:
    """One micro-batch. Not a dataclass: Lightning would take it apart and fail to put it together again.

    clips:   indices of its clips
    latents: (b, c, t, y, x) and (b, c, t)
    text:    of each clip, as each tower reads it; the same one where both read all
    empty:   the text of the empty prompt, a batch of one
    step:    the optimizer step that it is a part of, counted from 0
    part:    which of the step's micro-batches it is
    last:    whether it is the last one of the step that its process computes
    first:   (b, c, 1, y, x) of each clip's first frame alone; None where the run never gives it
    """

    __slots__ = ("clips", "empty", "first", "last", "latents", "part", "step", "text")

    def __init__(
        self,
        clips: Sequence[int],
        latents: AV[Tensor],
        text: AV[Text],
        empty: Text,
        step: int = 0,
        part: int = 0,
        last: bool = True,
        first: Tensor | None = None,
    ) -> None:
        self.clips, self.latents, self.text, self.empty = clips, latents, text, empty
        self.step, self.part, self.last, self.first = step, part, last, first

    def to(self, device: torch.device) -> Batch:
        def move(text: Text) -> Text:
            return text.to(device, text.tokens.dtype)

        latents = self.latents.map(lambda x: x.to(device))
        first = None if self.first is None else self.first.to(device)
        place = self.step, self.part, self.last
        return Batch(self.clips, latents, each(self.text, move), move(self.empty), *place, first)


class BatchStream:
    """The endless micro-batches of a process from step ``start`` on. Has no length, so that Lightning sees one epoch:
    the whole run. They are numbered by their turn: ``stream[0]`` is the first of step 0, wherever the stream starts."""

    def __init__(self, clips: LatentClips, sampler: EpochSampler, start: int = 0, share: Share = Share()) -> None:
        self.clips, self.sampler, self.start, self.share = clips, sampler, start, share
        self.empty = _rows(clips.text, torch.zeros(1, dtype=torch.int64))

    def __iter__(self) -> Iterator[Batch]:
        for turn in self.turns():
            yield self[turn]

    def turns(self) -> Iterator[int]:
        return count(self.start * self.share.own)

    def __getitem__(self, turn: int) -> Batch:
        step, part = self.share.place(turn)
        indices = self.sampler.batch(step * self.share.micro_batches + part)
        index = torch.tensor(indices)
        latents = self.clips.latents.map(lambda value: value.index_select(0, index))
        text = each(self.clips.text_rows, lambda rows: _rows(self.clips.text, rows[index]))
        last = (turn + 1) % self.share.own == 0
        first = None if self.clips.first is None else self.clips.first.index_select(0, index)
        return Batch(indices, latents, text, self.empty, step, part, last, first)


class Turns:
    """The turns of a stream as a sampler, for a DataLoader with workers."""

    def __init__(self, stream: BatchStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[int]:
        return self.stream.turns()


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
