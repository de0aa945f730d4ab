"""Clips to the tensors of a shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from ovikit.data.latents import at_once, encode_first, encode_prompts, encode_signal
from ovikit.data.prepared import FIRST, TEXT
from ovikit.data.scan import Candidate
from ovikit.networks.protocols import Codec, Conditioner
from ovikit.networks.reading import texts_of
from ovikit.types import AV, Clip, ClipSpec


class Encoder:
    """Clips of one form to the tensors of a shard."""

    def __init__(
        self, codecs: AV[Codec], conditioner: Conditioner, forms: Sequence[ClipSpec], first_frames: bool,
        dtype: Literal["float32", "bfloat16"],
    ) -> None:  # fmt: skip
        self.codecs = [codecs.map(lambda codec, form=form: codec.for_clip(form)) for form in forms]
        self.conditioner, self.forms, self.first_frames = conditioner, forms, first_frames
        self.dtype: torch.dtype = getattr(torch, dtype)

    @torch.no_grad()
    def encode(
        self, clips: Iterable[Clip], candidates: Sequence[Candidate], device: torch.device | str
    ) -> Iterator[tuple[dict[str, Tensor], dict[str, bool]]]:
        """(tensors, what is said to whom) of each clip; all are of one form."""
        bucket = candidates[0].bucket
        assert bucket is not None
        codecs, form = self.codecs[bucket], self.forms[bucket]
        chunk: list[Clip] = []
        for place, clip in enumerate(clips, start=1):
            chunk.append(clip)
            if len(chunk) == at_once(form) or place == len(candidates):
                yield from self._chunk(chunk, codecs, form, device)
                chunk = []

    def _chunk(
        self, chunk: Sequence[Clip], codecs: AV[Codec], form: ClipSpec, device: torch.device | str
    ) -> Iterator[tuple[dict[str, Tensor], dict[str, bool]]]:
        found: dict[str, Tensor] = {}
        for modality, codec in codecs.items():
            found[modality] = encode_signal(chunk, modality, codec, form, device)
        if self.first_frames:
            found[FIRST] = encode_first(chunk, codecs["video"], device)
        for k, clip in enumerate(chunk):
            tensors = {key: value[k].to(self.dtype) for key, value in found.items()}
            texts = texts_of(self.conditioner, clip.prompt)
            read = {m: texts[m] for m in codecs.modalities}
            if len(set(read.values())) == 1:
                yield tensors | {TEXT: self.text(next(iter(read.values())))}, {}
            else:
                own = {f"{TEXT}.{m}": self.text(text) for m, text in read.items()}
                yield tensors | own, {m: text != "" for m, text in read.items()}

    @torch.no_grad()
    def text(self, prompt: str) -> Tensor:
        """(l, c) of a prompt alone, as long as it is."""
        found = encode_prompts(self.conditioner, [prompt])
        return found.tokens[0, : int(found.lengths[0])].to(self.dtype)
