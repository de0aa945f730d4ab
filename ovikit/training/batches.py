"""Batches of latents: the micro-batches of each optimizer step."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from ovikit.data.encoded import Encoded, EncodedClips
from ovikit.data.sampler import EpochSampler
from ovikit.data.shards import DamagedClipError
from ovikit.errors import UserError
from ovikit.networks.reading import each
from ovikit.types import Text

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Share:
    """Which of a step's micro-batches a process computes, or a group of them that shares the tokens of clips: every
    ``processes``-th, from its own rank on.

    UserError where the processes cannot share them equally.
    """

    micro_batches: int = 1
    rank: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if self.micro_batches % self.processes:
            raise UserError(
                f"{self.micro_batches} micro-batches cannot be shared equally by {self.processes} processes (or groups "
                "that share tokens)",
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
    first:   (b, c, 1, y, x) of each clip's first frame alone; None where the run never gives it
    empty:   the text of the empty prompt, a batch of one
    bucket:  which one its clips are of
    step:    the optimizer step that it is a part of, counted from 0
    part:    which of the step's micro-batches it is
    last:    whether it is the last one of the step that its process computes
    """

    __slots__ = ("bucket", "clips", "empty", "first", "last", "latents", "part", "step", "text")

    def __init__(
        self,
        clips: Sequence[int],
        encoded: Encoded,
        empty: Text,
        bucket: int = 0,
        step: int = 0,
        part: int = 0,
        last: bool = True,
    ) -> None:
        self.clips, self.latents, self.text, self.first = clips, encoded.latents, encoded.text, encoded.first
        self.empty, self.bucket, self.step, self.part, self.last = empty, bucket, step, part, last

    def to(self, device: torch.device) -> Batch:
        def move(text: Text) -> Text:
            return text.to(device, text.tokens.dtype)

        first = None if self.first is None else self.first.to(device)
        moved = Encoded(self.latents.map(lambda x: x.to(device)), each(self.text, move), first)
        return Batch(self.clips, moved, move(self.empty), self.bucket, self.step, self.part, self.last)


class BatchStream:
    """The endless micro-batches of a process from step ``start`` on. Has no length, so that Lightning sees one epoch:
    the whole run. They are numbered by their turn: ``stream[0]`` is the first of step 0, wherever the stream starts.

    sampler:  of the clips of whole steps, which the micro-batches share equally
    skip_bad: put the next clip of the bucket in the place of one that cannot be read, and say so
    """

    def __init__(
        self,
        clips: EncodedClips,
        sampler: EpochSampler,
        start: int = 0,
        share: Share = Share(),
        skip_bad: bool = False,
    ) -> None:
        self.clips, self.sampler, self.start, self.share, self.skip_bad = clips, sampler, start, share, skip_bad
        self._bad: set[int] = set()
        self.buckets = [bucket.clips for bucket in clips.buckets]
        self.empty = clips.empty

    def __iter__(self) -> Iterator[Batch]:
        for turn in self.turns():
            yield self[turn]

    def turns(self) -> Iterator[int]:
        return count(self.start * self.share.own)

    def __getitem__(self, turn: int) -> Batch:
        step, part = self.share.place(turn)
        bucket, places = self.sampler.batch(step)
        size = len(places) // self.share.micro_batches
        indices = [self._good(bucket, place) for place in places[part * size : (part + 1) * size]]
        last = (turn + 1) % self.share.own == 0
        while True:
            try:
                return Batch(indices, self.clips.read(indices), self.empty, bucket, step, part, last)
            except DamagedClipError as error:
                if not self.skip_bad or error.index is None:
                    raise
                log.warning("%s; another one takes its place", error)
                self._bad.add(error.index)
            indices = [self._good(bucket, places[part * size + k]) for k in range(size)]

    def _good(self, bucket: int, place: int) -> int:
        """The clip at a place of a bucket, or the next one there that is not known to be bad."""
        own = self.buckets[bucket]
        for index in (own[(place + k) % len(own)] for k in range(len(own))):
            if index not in self._bad:
                return index
        raise UserError("no clip of a bucket can be read", "training.data", "prepare the dataset again")


class Turns:
    """The turns of a stream as a sampler, for a DataLoader with workers."""

    def __init__(self, stream: BatchStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[int]:
        return self.stream.turns()


def drop_text(text: Text, empty: Text, dropped: Tensor) -> Text:
    """``text`` with the empty prompt in the rows where ``dropped`` (b,) bool on the CPU is True."""
    rows = dropped.nonzero().flatten()
    if len(rows) == 0:
        return text
    rows = rows.to(text.tokens.device)
    tokens = text.tokens.index_copy(0, rows, empty.tokens.expand(len(rows), -1, -1))
    return Text(tokens, text.lengths.index_copy(0, rows, empty.lengths.expand(len(rows))))
