"""Which clips make up which batch: a function of the seed and the step, so that no position has to be restored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from ovikit.data.seeds import generator_for


@dataclass(frozen=True)
class EpochSampler:
    """Clips in a new order every epoch, in batches that run on over the end of an epoch.

    Batch ``step`` holds samples ``step * batch_size ...`` of the endless sequence epoch 0, epoch 1, ...; every clip
    comes once per epoch and none is dropped, also where the batch does not divide the clips or is larger than they are.
    """

    clips: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.clips < 1 or self.batch_size < 1:
            raise ValueError(f"cannot draw batches of {self.batch_size} from {self.clips} clips")

    def batch(self, step: int) -> list[int]:
        """Clip indices of the batch of optimizer step ``step``, counted from 0."""
        first = step * self.batch_size
        return [self.clip(position) for position in range(first, first + self.batch_size)]

    def clip(self, position: int) -> int:
        """Index of the clip at a position of the endless sequence."""
        epoch, offset = divmod(position, self.clips)
        return _order(self.clips, self.seed, epoch)[offset]


@lru_cache(maxsize=4)
def _order(clips: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(clips, generator=generator_for(seed, "order", epoch)).tolist()
