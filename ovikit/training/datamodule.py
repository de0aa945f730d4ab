"""The LightningDataModule: batches from the step that training has reached."""

from __future__ import annotations

from collections.abc import Iterable

import lightning as L  # as its documentation writes it
import torch
from torch.utils.data import DataLoader

from ovikit.data.encoded import EncodedClips
from ovikit.data.sampler import EpochSampler
from ovikit.training.batches import Batch, BatchStream, Share, Turns


class LatentData(L.LightningDataModule):
    """Feeds the batches of a dataset.

    A batch is a function of the step, and Lightning asks for the loader after it has restored the step: a resumed
    run goes on with the very batch that the interrupted one would have had.
    """

    def __init__(self, clips: EncodedClips, sampler: EpochSampler, workers: int = 0, micro_batches: int = 1) -> None:
        super().__init__()
        self.clips, self.sampler, self.workers, self.micro_batches = clips, sampler, workers, micro_batches

    def train_dataloader(self) -> Iterable[Batch]:
        assert self.trainer is not None  # Lightning attaches it before it asks
        share = Share(self.micro_batches, self.trainer.global_rank, self.trainer.world_size)
        stream = BatchStream(self.clips, self.sampler, self.trainer.global_step, share)
        if self.workers == 0:
            return stream
        # Workers get their seeds from the loader's generator; without one they would use up global randomness.
        return DataLoader(
            stream,  # type: ignore[arg-type]  # a Dataset by what it does, with an endless sampler
            batch_size=None,
            sampler=Turns(stream),
            num_workers=self.workers,
            generator=torch.Generator().manual_seed(self.sampler.seed),
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)
