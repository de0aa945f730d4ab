"""An ``attend`` that also notes where audio tokens look in the picture, while it is told to.

Shape legend: b batch, n m queries, keys, h heads, d head width, a audio tokens, v video tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from math import sqrt

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from ovikit.networks.joint import JointModel
from ovikit.networks.protocols import Attend
from ovikit.types import AV


class Recorder:
    """The attended values of another ``attend``, unchanged.

    Within ``listening`` it also keeps the attention of the audio tokens over the video tokens, the mean over heads, of
    calls whose queries are all audio tokens, or the video's with the audio's behind them, and whose keys are all video
    tokens, or again both. Of both, the part of sound over picture is kept, scaled so that each row sums to 1. Calls are
    told apart by their numbers of tokens; no probabilities of others are computed.
    """

    def __init__(self, attend: Attend) -> None:
        self.attend = attend
        self.found: dict[int, list[Tensor]] = {}
        """By layer, what each of its calls attended to: (a, v), on the CPU."""
        self._tokens: AV[int] | None = None
        self._layers: Collection[int] = ()
        self._layer = -1

    def __call__(
        self,
        query: Float[Tensor, "b n h d"],
        key: Float[Tensor, "b m h d"],
        value: Float[Tensor, "b m h d"],
        lengths: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b n h d"]:
        if self._tokens is not None:
            self._note(query, key, self._tokens)
        return self.attend(query, key, value, lengths)

    def _note(self, query: Tensor, key: Tensor, tokens: AV[int]) -> None:
        video, audio = tokens["video"], tokens["audio"]
        both = video + audio
        if query.shape[1] not in (audio, both) or key.shape[1] not in (video, both):
            return
        query = query[:, video:] if query.shape[1] == both else query
        key = key[:, :video]
        kept = self.found.setdefault(self._layer, [])
        if self._layer in self._layers:
            kept.append(mean_attention(query[0], key[0]).cpu())

    @contextmanager
    def listening(self, model: JointModel, tokens: AV[int], layers: Collection[int]) -> Iterator[None]:
        """A context in which what this model does is noted, in the chosen layers. Of other layers that have such
        attention, the number is."""
        visit = model.visit

        @contextmanager
        def noted(i: int) -> Iterator[None]:
            self._layer = i
            with visit(i):
                yield

        self._tokens, self._layers, model.visit = tokens, layers, noted
        try:
            yield
        finally:
            self._tokens, model.visit = None, visit


def mean_attention(query: Float[Tensor, "n h d"], key: Float[Tensor, "m h d"]) -> Float32[Tensor, "n m"]:
    """softmax(q k / sqrt(d)) over the keys, the mean over heads. One head after the other: of a large clip, those of
    all heads would take gigabytes."""
    mean = torch.zeros(query.shape[0], key.shape[0], device=query.device)
    for head in range(query.shape[1]):
        scores = query[:, head].float() @ key[:, head].float().T / sqrt(query.shape[2])
        mean += scores.softmax(dim=-1)
    return mean / query.shape[1]
