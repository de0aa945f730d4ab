"""Which clips make up which batch: a function of the seed and the step, so that no position has to be restored."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache

import torch

from ovikit.data.seeds import generator_for


@dataclass(frozen=True)
class EpochSampler:
    """The clips of each bucket in a new order every epoch, in batches of one bucket that run on over the end of an
    epoch.

    buckets:    how many clips each has
    batch_size: clips of a step, all of one bucket

    The clips of a bucket are an endless sequence: its epoch 0, its epoch 1, ...; its batch k holds the places
    ``k * batch_size ...`` of it. Every clip comes once an epoch and none is dropped, also where the batch does not
    divide a bucket or is larger than it is. The batches that end in an epoch come in an order of that epoch.
    """

    buckets: tuple[int, ...]
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if not self.buckets or min(self.buckets) < 1 or self.batch_size < 1:
            raise ValueError(f"cannot draw batches of {self.batch_size} from {list(self.buckets)} clips")

    @property
    def clips(self) -> int:
        return sum(self.buckets)

    def batch(self, step: int) -> tuple[int, list[int]]:
        """The bucket of optimizer step ``step``, counted from 0, and the places of its clips in that bucket."""
        bucket, turn = self._turn(step)
        first = turn * self.batch_size
        return bucket, [self._place(bucket, position) for position in range(first, first + self.batch_size)]

    def _turn(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and which of that bucket's batches it is."""
        if len(self.buckets) == 1:  # its own order is order enough
            return 0, step
        enough = (step + len(self.buckets)) * self.batch_size // self.clips + 2
        epoch = bisect_right(range(enough), step, key=self._ended) - 1
        return _order_of_batches(self, epoch)[step - self._ended(epoch)]

    def _ended(self, epoch: int) -> int:
        """How many batches have ended before an epoch."""
        return sum(epoch * clips // self.batch_size for clips in self.buckets)

    def _place(self, bucket: int, position: int) -> int:
        epoch, offset = divmod(position, self.buckets[bucket])
        return _order(self.buckets[bucket], self.seed, bucket, epoch)[offset]


@lru_cache(maxsize=4)
def _order_of_batches(sampler: EpochSampler, epoch: int) -> list[tuple[int, int]]:
    """(bucket, which of its batches) of an epoch, mixed."""
    turns = [
        (bucket, turn)
        for bucket, clips in enumerate(sampler.buckets)
        for turn in range(epoch * clips // sampler.batch_size, (epoch + 1) * clips // sampler.batch_size)
    ]
    order = torch.randperm(len(turns), generator=generator_for(sampler.seed, "buckets", epoch)).tolist()
    return [turns[index] for index in order]


@lru_cache(maxsize=64)
def _order(clips: int, seed: int, bucket: int, epoch: int) -> list[int]:
    place = (epoch,) if bucket == 0 else (bucket, epoch)
    return torch.randperm(clips, generator=generator_for(seed, "order", *place)).tolist()
