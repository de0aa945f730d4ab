"""Who reads whom in a fusion, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ovikit.networks.attention import SpreadAttend
from ovikit.networks.protocols import Attend
from ovikit.types import AV, MODALITIES, Modality, Stream

Direction = Literal["both", "a2v", "v2a"]
Update = Literal["parallel", "audio-first", "video-first"]

OTHER: Mapping[Modality, Modality] = {"video": "audio", "audio": "video"}


def as_it_is(modality: Modality, stream: Stream) -> Stream:
    return stream


@dataclass(frozen=True, slots=True)
class Exchange:
    """Who reads whom, and in which order.

    direction: ``a2v``, audio to video: the video reads the audio. ``v2a``: the audio reads the video
    update:    ``parallel``: each reads the other as it was before the exchange. ``audio-first``: the audio reads, and
               the video then reads what came of it
    """

    direction: Direction = "both"
    update: Update = "parallel"

    @property
    def readers(self) -> tuple[Modality, ...]:
        """The modalities that read the other one."""
        if self.direction == "both":
            return MODALITIES
        return ("video",) if self.direction == "a2v" else ("audio",)

    def __call__(
        self,
        streams: AV[Stream],
        read: Callable[[Modality, Stream, Stream], Stream],
        alone: Callable[[Modality, Stream], Stream] = as_it_is,
    ) -> AV[Stream]:
        """The streams after ``read(modality, its stream, the other stream)`` of each that reads, and
        ``alone(modality, its stream)`` of one that does not."""
        now = streams
        for m in ("audio", "video") if self.update == "audio-first" else MODALITIES:
            other = (streams if self.update == "parallel" else now)[OTHER[m]]
            done = read(m, now[m], other) if m in self.readers else alone(m, now[m])
            now = AV(done, now.audio) if m == "video" else AV(now.video, done)
        return now


PARALLEL = Exchange()
"""Both read the other as it was."""


def refuse_spread(attend: Attend, fusion: str, why: str) -> None:
    """ValueError where tokens are spread over processes and a fusion has to have them whole."""
    if isinstance(attend, SpreadAttend):
        raise ValueError(
            f"fusion '{fusion}' {why}, so a clip's tokens cannot be spread over processes: use "
            "runtime.parallel.sequence=1, or in training training.trainer.sequence=1"
        )
