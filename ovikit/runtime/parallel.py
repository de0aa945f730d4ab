"""One clip on several processes: its tokens spread over them (Ulysses), or its guidance passes.

Each process holds one contiguous share of every stream. All shares of a stream have one size: what is missing at the
end is filled up with empty tokens, which no other token ever reads. Attention over a stream then sees all tokens and a
part of the heads, after one exchange of query, key and value; a second exchange brings its result back. Sizes follow
from shapes, so nothing is communicated but values, and nothing waits for the device.

Gradients go back the way that values came. Every process of a clip has its whole velocity and computes the same loss of
it; what a process finds for a parameter is its part of the gradient of the sum of these losses. So the mean over the
processes, which is what DDP and FSDP make, is the gradient of the loss.

Shape legend: b batch, n tokens of a stream, s tokens of a share, m tokens that a query attends to, w width, h heads,
d head width, p processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from ovikit.errors import UserError
from ovikit.networks.protocols import Attend
from ovikit.numerics.protocols import Network, Pass
from ovikit.recipe.build import Spread
from ovikit.types import AV, Modality, NoiseConditioning, Rotation, Stream

# Newer PyTorch has renamed it and warns of the old name.
_all_gather: Callable[..., object] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass(frozen=True, slots=True)
class Peers:
    """The processes that work on one thing together, and this one's place among them.

    group: None: they have not met; only shapes can be computed, on the meta device
    """

    group: dist.ProcessGroup | None
    rank: int
    size: int

    def exchange(self, x: Shaped[Tensor, "rows ..."], sent: list[int], received: list[int]) -> Shaped[Tensor, "_ ..."]:
        """The rows that each process has for this one, in the order of the processes.

        sent:     how many rows of ``x`` go to each process, in order
        received: how many come from each
        """
        if torch.is_grad_enabled() and x.requires_grad:
            return _Exchanged.apply(x, self, sent, received)  # type: ignore[no-any-return]
        return self._exchange(x, sent, received)

    def gather(self, x: Shaped[Tensor, "rows ..."]) -> Shaped[Tensor, "p rows ..."]:
        """The tensors of all processes, which have one shape."""
        if torch.is_grad_enabled() and x.requires_grad:
            return _Gathered.apply(x, self)  # type: ignore[no-any-return]
        return self._gather(x)

    def _exchange(self, x: Tensor, sent: list[int], received: list[int]) -> Tensor:
        out = x.new_empty((sum(received), *x.shape[1:]))
        _answered(dist.all_to_all_single, out, x, received, sent, group=self.group)
        return out

    def _gather(self, x: Tensor) -> Tensor:
        out = x.new_empty((self.size * x.shape[0], *x.shape[1:]))
        _answered(_all_gather, out, x.contiguous(), group=self.group)
        return out.unflatten(0, (self.size, x.shape[0]))


class _Exchanged(torch.autograd.Function):
    """``Peers.exchange``; the gradient of a row goes to the process that the row came from."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, peers: Peers, sent: list[int], received: list[int]) -> Tensor:
        ctx.peers, ctx.sent, ctx.received = peers, sent, received
        return peers._exchange(x, sent, received)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.peers._exchange(grads[0].contiguous(), ctx.received, ctx.sent), None, None, None


class _Gathered(torch.autograd.Function):
    """``Peers.gather``; the gradient of a process's rows is the sum of what all processes have found for them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, peers: Peers) -> Tensor:
        ctx.peers = peers
        return peers._gather(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        peers, grad = ctx.peers, grads[0]
        rows = [grad.shape[1]] * peers.size
        found = peers._exchange(grad.flatten(0, 1).contiguous(), rows, rows)
        return found.unflatten(0, (peers.size, grad.shape[1])).sum(0), None


def _answered(collective: Callable[..., object], out: Tensor, *given: object, group: dist.ProcessGroup | None) -> None:
    """Runs a collective; of shapes alone nothing is to be said. UserError where another process has ended or does not
    answer in time."""
    if out.is_meta:
        return
    if group is None:
        raise RuntimeError("these processes have not met: the default group would answer in place of theirs")
    tensors = (out, *given)
    if torch.compiler.is_compiling():  # a traced call has no errors to catch
        collective(*tensors, group=group)
        return
    try:
        collective(*tensors, group=group)
    except RuntimeError as error:
        refuse_lost(error)
        raise


def refuse_lost(error: RuntimeError) -> None:
    """UserError where an error of an exchange means that another process is gone."""
    if isinstance(error, dist.DistError) or "gloo/" in str(error):
        raise UserError(
            "another process of this run has failed or does not answer",
            hint=f"its own message says why; this one saw: {str(error).strip().splitlines()[0][:200]}",
        ) from error


def head_counts(heads: int, processes: int) -> list[int]:
    """How many heads each process attends with: equal where they divide, else the first have one more."""
    return [heads // processes + (rank < heads % processes) for rank in range(processes)]


def gathers_keys(query: int, key: int, heads: int, processes: int) -> bool:
    """Whether every process is better given all keys than a part of the heads.

    query, key: tokens of a process's share. All keys on every process are 2 key (p - 1) rows sent; heads are
    2 (query + key) (p - 1) / p. Where there are fewer heads than processes it is the only way.
    """
    return heads < processes or key * (processes - 1) < query


class TokenPartition:
    """The shares of the streams that pass through a model.

    An ``attend`` sees shapes alone, and must learn from a share's size how many tokens there are in all. So the
    streams of a forward never have shares of one size, unless they have as many tokens: the second gets one more
    empty token.
    """

    def __init__(self, peers: Peers) -> None:
        self.peers = peers
        self._totals: tuple[tuple[int, int], ...] = ()  # (share, total) of the latest two streams, the newest last

    def spread(self, stream: Stream) -> Stream:
        """This process's share of a stream."""
        share = self._admit(stream.tokens.shape[1])
        start = self.peers.rank * share
        return replace(
            stream,
            tokens=_cut(stream.tokens, start, share, 1),
            noise=cut_noise(stream.noise, start, share),
            rotations={
                use: by if use == "words" else Rotation(_cut(by.cos, start, share, 0), _cut(by.sin, start, share, 0))
                for use, by in stream.rotations.items()
            },
        )

    def gather(self, tokens: Float[Tensor, "b s w"], total: int) -> Float[Tensor, "b {total} w"]:
        """All ``total`` tokens, from this process's share."""
        return rearrange(self.peers.gather(tokens), "p b s w -> b (p s) w")[:, :total]

    def total(self, share: int) -> int:
        """Tokens of the stream that has shares of this size. UserError where no stream has."""
        for known, total in self._totals:
            if known == share:
                return total
        raise UserError(
            f"attention was asked for {share} tokens, which is no stream's share of a process",
            "runtime.parallel.sequence or training.trainer.sequence",
            "this fusion joins or cuts the streams' tokens, which cannot be spread over processes: use 1",
        )

    def _admit(self, total: int) -> int:
        """The size of the shares of a stream of ``total`` tokens."""
        others = tuple(pair for pair in self._totals if pair[1] != total)[-1:]
        known = [share for share, tokens in self._totals if tokens == total]
        share = known[0] if known else math.ceil(total / self.peers.size)
        while any(share == other for other, _ in others):
            share += 1
        self._totals = (*others, (share, total))
        return share


def _cut(x: Shaped[Tensor, "*_any"], start: int, share: int, axis: int) -> Shaped[Tensor, "*_any"]:
    """``share`` rows from ``start`` on; those past the end are zero."""
    stop = min(start + share, x.shape[axis])
    kept = x.narrow(axis, min(start, stop), max(stop - start, 0))
    return _filled(kept, share, axis)


def _filled(x: Shaped[Tensor, "*_any"], size: int, axis: int) -> Shaped[Tensor, "*_any"]:
    missing = size - x.shape[axis]
    return x if missing == 0 else F.pad(x, (0, 0) * (x.ndim - 1 - axis) + (0, missing))


def cut_noise(noise: NoiseConditioning, start: int, share: int) -> NoiseConditioning:
    """The noise conditioning of ``share`` tokens from ``start`` on; tokens past the end have the last level, which is
    there in every share, since a fusion may ask how noisy a stream is as a whole."""
    ends = list(accumulate(noise.spans))
    ends[-1] = max(ends[-1], start + share)
    begins = [0, *ends[:-1]]
    inside = [max(min(end, start + share) - max(begin, start), 0) for begin, end in zip(begins, ends, strict=True)]
    kept = slice(next(i for i, tokens in enumerate(inside) if tokens), None)
    return NoiseConditioning(noise.embedding[:, kept], noise.projection[:, kept], tuple(inside[kept]))


class UlyssesAttend:
    """``attend`` for queries and keys that are spread over processes; ``local`` for keys that each holds whole."""

    def __init__(self, local: Attend, partition: TokenPartition) -> None:
        self.local, self._partition = local, partition

    def __call__(
        self,
        query: Float[Tensor, "b s h d"],
        key: Float[Tensor, "b s2 h d"],
        value: Float[Tensor, "b s2 h d"],
        lengths: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b s h d"]:
        """The attended values of this process's queries. lengths: of all valid keys of an item, or None."""
        peers = self._partition.peers
        query, key, value = (_as_attended(x) for x in (query, key, value))
        if gathers_keys(query.shape[1], key.shape[1], query.shape[2], peers.size):
            both = rearrange(peers.gather(torch.stack((key, value))), "p two b s h d -> two b (p s) h d")
            key, value = both[:, :, : self._partition.total(key.shape[1])].unbind()
            return self.local(query, key, value, lengths)
        return self._over_heads(query, key, value, lengths)

    def _over_heads(
        self,
        query: Float[Tensor, "b s h d"],
        key: Float[Tensor, "b s2 h d"],
        value: Float[Tensor, "b s2 h d"],
        lengths: Int[Tensor, " b"] | None,
    ) -> Float[Tensor, "b s h d"]:
        peers, share, other = self._partition.peers, query.shape[1], key.shape[1]
        total, keys = self._partition.total(share), self._partition.total(other)
        counts = head_counts(query.shape[2], peers.size)
        here = [counts[peers.rank]] * peers.size
        # Heads first: what goes to a process lies together, and heads need not divide.
        packed = torch.cat([rearrange(x, "b s h d -> h b s d") for x in (query, key, value)], dim=2)
        parts = peers.exchange(packed, counts, here).split((share, other, other), dim=2)
        query, key, value = (rearrange(x, "(p h) b s d -> b (p s) h d", p=peers.size) for x in parts)
        attended = self.local(query[:, :total], key[:, :keys], value[:, :keys], lengths)
        filled = _filled(attended, peers.size * share, 1)
        back = rearrange(filled, "b (p s) h d -> (p h) b s d", p=peers.size).contiguous()
        return rearrange(peers.exchange(back, here, counts), "h b s d -> b s h d")


def _as_attended(x: Float[Tensor, "*_any"]) -> Float[Tensor, "*_any"]:
    """In the format that attention casts to under autocast: half the message."""
    kind = x.device.type
    autocast = x.dtype == torch.float32 and not x.is_meta and torch.is_autocast_enabled(kind)
    return x.to(torch.get_autocast_dtype(kind)) if autocast else x


def meet(rank: int, world: int, size: int, timeout: timedelta | None = None) -> Peers:
    """The peers of this process, where each ``size`` neighbouring ones work together. All processes of the run have to
    ask for it.

    timeout: how long an exchange waits for an answer
    """
    rows = [list(range(first, first + size)) for first in range(0, world, size)]
    made = [dist.new_group(row, timeout=timeout) for row in rows]  # all make all
    group = made[rank // size]
    assert isinstance(group, dist.ProcessGroup)
    return Peers(group, rank % size, size)


def spread_over(peers: Peers) -> Spread:
    """How a model is built whose tokens are shared by these processes."""
    partition = TokenPartition(peers)
    return Spread(partition, lambda attend: UlyssesAttend(attend, partition))


@dataclass(frozen=True, slots=True)
class PassesInParallel:
    """A network that makes its share of a step's passes and takes the others' from its peers.

    All of them get all velocities, bit for bit the same, so that sampling goes on alike in each. Of three passes the
    first of two processes makes two; a step of one pass is computed by each of them.
    """

    network: Network
    peers: Peers

    def __call__(self, x: AV[Tensor], told: AV[float], passes: tuple[Pass, ...]) -> Mapping[str, AV[Tensor]]:
        if len(passes) == 1:
            return self.network(x, told, passes)
        slots = math.ceil(len(passes) / self.peers.size)
        first = self.peers.rank * slots
        # A process without a pass of its own repeats one: its peers count on as many values from everyone.
        own = passes[first : first + slots] or passes[:1]
        found = self.network(x, told, own)
        sent = [found[run.name] for run in own] + [found[own[0].name]] * (slots - len(own))

        def gathered(modality: Modality) -> Sequence[Tensor]:
            return self.peers.gather(torch.stack([velocity[modality] for velocity in sent])).flatten(0, 1).unbind()

        every = {modality: gathered(modality) for modality in sent[0].modalities}
        return {run.name: AV.of({m: values[i] for m, values in every.items()}) for i, run in enumerate(passes)}


def attention_bytes(query: int, key: int, *, heads: int, head_width: int, processes: int, item_bytes: int) -> int:
    """What the first process sends to the others in one attention of one clip.

    query, key: tokens of the whole streams. The shares of the two are taken to differ, or the streams to be one.
    """
    share, other = math.ceil(query / processes), math.ceil(key / processes)
    row = head_width * item_bytes
    if gathers_keys(share, other, heads, processes):
        return 2 * other * heads * (processes - 1) * row
    own = head_counts(heads, processes)[0]
    return ((share + 2 * other) * (heads - own) + share * own * (processes - 1)) * row


def layer_bytes(tokens: AV[int], *, heads: int, head_width: int, processes: int, item_bytes: int) -> dict[str, int]:
    """What the first process sends in one layer of a clip, by attention: each stream's own, and what it reads of the
    other (named after the reader)."""

    def sent(query: int, key: int) -> int:
        options = {"heads": heads, "head_width": head_width, "processes": processes, "item_bytes": item_bytes}
        return attention_bytes(query, key, **options)

    own = {f"{m} self": sent(n, n) for m, n in tokens.items()}
    if tokens.video is None or tokens.audio is None:
        return own
    return own | {
        "video fusion": sent(tokens.video, tokens.audio),
        "audio fusion": sent(tokens.audio, tokens.video),
    }


def gather_bytes(tokens: AV[int], *, width: int, processes: int, item_bytes: int) -> int:
    """What a process sends once in a forward, to bring all tokens together before the heads."""
    return sum(math.ceil(n / processes) for n in tokens.values()) * width * (processes - 1) * item_bytes
