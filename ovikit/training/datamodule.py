"""The LightningDataModule: batches from the step that training has reached."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import lightning as L  # as its documentation writes it
import torch
from torch.utils.data import DataLoader

from ovikit.data.encoded import EncodedClips
from ovikit.data.sampler import EpochSampler
from ovikit.errors import UserError
from ovikit.training.batches import Batch, BatchStream, Share, Turns


class LatentData(L.LightningDataModule):
    """Feeds the batches of a dataset.

    A batch is a function of the step, and Lightning asks for the loader after it has restored the step: a resumed
    run goes on with the very batch that the interrupted one would have had, whatever prepares batches now.

    share:    the micro-batches of this process
    skip_bad: what to do about clips that cannot be read
    """

    def __init__(
        self,
        clips: EncodedClips,
        sampler: EpochSampler,
        share: Share,
        workers: int = 0,
        skip_bad: bool = False,
    ) -> None:
        super().__init__()
        self.clips, self.sampler, self.workers = clips, sampler, workers
        self.share, self.skip_bad = share, skip_bad

    def train_dataloader(self) -> Iterable[Batch]:
        assert self.trainer is not None  # Lightning attaches it before it asks
        stream = BatchStream(self.clips, self.sampler, self.trainer.global_step, self.share, self.skip_bad)
        if self.workers == 0:
            return stream
        # Workers get their seeds from the loader's generator; without one they would use up global randomness.
        return DataLoader(
            _Worked(stream),  # type: ignore[arg-type]  # a Dataset by what it does, with an endless sampler
            batch_size=None,
            sampler=Turns(stream),
            num_workers=self.workers,
            generator=torch.Generator().manual_seed(self.sampler.seed),
        )

    def transfer_batch_to_device(self, batch: Batch | Refused, device: torch.device, dataloader_idx: int) -> Batch:
        if isinstance(batch, Refused):
            raise batch.error
        return batch.to(device)


@dataclass(frozen=True, slots=True)
class Refused:
    """A UserError on its way out of a worker process, which would send a traceback in its place."""

    error: UserError


class _Worked:
    """A stream in a worker process."""

    def __init__(self, stream: BatchStream) -> None:
        self._stream = stream

    def __getitem__(self, turn: int) -> Batch | Refused:
        try:
            return self._stream[turn]
        except UserError as error:
            return Refused(error)
