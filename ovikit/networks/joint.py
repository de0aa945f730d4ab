"""Two towers, one model: a list of pair layers between the towers' embeddings and heads.

Shape legend: b batch, n tokens, w width, c channels, t y x latent steps, rows, columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ovikit.networks.protocols import Attend, Backbone, Block, LaysOut, OwnHeads, Partition, Positions, Visit
from ovikit.networks.rotary import rotation
from ovikit.networks.stages import run_block
from ovikit.types import (
    AV,
    MODALITIES,
    Context,
    KeyValue,
    Modality,
    Perturbation,
    Rotated,
    Rotation,
    RotationUse,
    Stream,
    Text,
    TokenGrid,
)


class PairLayer(nn.Module):
    """Layer i of both towers with its share of the fusion: the unit that checkpointing, compile and FSDP wrap.

    Beyond the last block of the shallower tower there is one block, which runs alone.
    """

    def __init__(self, blocks: AV[nn.Module], fusion: nn.Module | None, attend: Attend) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(dict(blocks.items()))
        self.fusion = fusion if len(self.blocks) == 2 else None
        self.attend = attend

    def block(self, modality: Modality) -> Block:
        return self.blocks[modality]  # type: ignore[return-value]  # ModuleDict forgets the type

    def forward(self, streams: AV[Stream], cut_fusion: bool = False) -> AV[Stream]:
        both = streams.video is not None and streams.audio is not None
        if self.fusion is not None and both and not cut_fusion:
            return self.fusion(AV.of({m: self.block(m) for m in streams.modalities}), streams)
        return AV.of(
            {
                m: run_block(self.block(m), stream, self.attend) if m in self.blocks else stream
                for m, stream in streams.items()
            }
        )


class Whole:
    """The partition of a single process: every token is here."""

    def spread(self, stream: Stream) -> Stream:
        return stream

    def gather(self, tokens: Float[Tensor, "b n w"], total: int) -> Float[Tensor, "b n w"]:
        return tokens


WHOLE = Whole()


def at_hand(i: int) -> AbstractContextManager[None]:
    """The visit to a layer whose weights are always where the computation is."""
    return nullcontext()


class JointModel(nn.Module):
    """The velocity field of video and audio together.

    ``fusion`` holds one FusionLayer per layer (None: the towers never meet). A model of one tower is a
    JointModel whose other tower is None, and either modality may also be left out of a call.
    """

    def __init__(
        self,
        towers: AV[nn.Module],
        fusion: Sequence[nn.Module | None],
        positions: Positions,
        attend: Attend,
        partition: Partition = WHOLE,
        rotated: Rotated = Rotated(),
    ) -> None:
        super().__init__()
        depth = max(self._backbone(tower).depth for tower in towers.values())
        if len(fusion) != depth:
            raise ValueError(f"the towers have {depth} layers, the fusion has {len(fusion)}")
        self.towers = nn.ModuleDict(dict(towers.items()))
        self.layers = nn.ModuleList(
            PairLayer(
                AV.of({m: self.tower(m).block(i) for m in towers.modalities if i < self.tower(m).depth}),
                fusion[i],
                attend,
            )
            for i in range(depth)
        )
        self.positions = positions
        self.partition = partition
        self.rotated = rotated
        self.visit: Visit = at_hand
        self._rotations: dict[tuple[object, ...], Rotation] = {}
        self._layouts: dict[tuple[object, ...], AV[Mapping[str, Tensor]]] = {}

    @staticmethod
    def _backbone(tower: nn.Module) -> Backbone:
        return tower  # type: ignore[return-value]  # nn.Module is all that ModuleDict knows of it

    def tower(self, modality: Modality) -> Backbone:
        return self._backbone(self.towers[modality])

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(m for m in MODALITIES if m in self.towers)

    def embed_text(self, text: AV[Text], cache: bool) -> AV[Context]:
        """The text as each tower sees it. ``cache`` also keeps every layer's keys and values: for sampling,
        where they serve all steps of a clip; not for training, where weights change between calls."""

        tokens = AV.of({m: self.tower(m).context(value) for m, value in text.items()})
        cached: dict[Modality, list[KeyValue]] = {m: [] for m in tokens.modalities}
        for i, layer in enumerate(self.layers if cache else ()):
            with self.visit(i):
                for m, value in tokens.items():
                    if m in layer.blocks:  # type: ignore[operator]  # ModuleList forgets the type
                        cached[m].append(layer.block(m).context_kv(value))  # type: ignore[operator]
        return AV.of({m: Context(value, cached=tuple(cached[m])) for m, value in tokens.items()})

    @property
    def _fusion(self) -> nn.Module | None:
        """The first layer in which the towers meet; None where they never do."""
        return next((layer.fusion for layer in self.layers if layer.fusion is not None), None)  # type: ignore[return-value]  # ModuleList forgets the type

    def head_width(self, modality: Modality, use: RotationUse) -> int:
        """Width of the heads that are turned in one of the uses of rotations."""
        tower, fusion = self.tower(modality), self._fusion
        own = fusion.head_width if use == "fusion" and isinstance(fusion, OwnHeads) else None
        return tower.width // tower.heads if own is None else own

    def rotations(self, grid: TokenGrid, like: Tensor, words: int) -> dict[RotationUse, Rotation]:
        """The rotations of a token grid by use, computed once per grid, device and precision.

        words: text tokens that the grid's tokens read
        """
        uses: tuple[RotationUse, ...] = ("self", "fusion", *(("text", "words") if self.rotated.text else ()))
        found: dict[RotationUse, Rotation] = {}
        for use in uses:
            head_width = self.head_width(grid.modality, use)
            key = (grid, use, head_width, words if use == "words" else None, like.device, like.dtype)
            if key not in self._rotations:
                with torch.inference_mode(False):  # they outlive the call: training may use them after sampling
                    angles = self._angles(grid, head_width, use, words)
                    self._rotations[key] = rotation(angles, like.device, like.dtype)
            found[use] = self._rotations[key]
        return found

    def _angles(self, grid: TokenGrid, head_width: int, use: RotationUse, words: int) -> Float[Tensor, "n p"]:
        if use == "fusion":
            angles = self.positions.angles(grid, head_width, "fusion")
            return angles if self.rotated.fusion else torch.zeros_like(angles)
        if use == "text":  # no word has a place in the picture
            times = TokenGrid(grid.modality, (grid.shape[0], 1, 1), grid.edges_s)
            return self.positions.angles(times, head_width, "self")[grid.index[:, 0]]
        if use == "words":
            grid = TokenGrid.uniform(grid.modality, (words, 1, 1), grid.edges_s[-1][1] / words)
        return self.positions.angles(grid, head_width, "self")

    def layouts(self, grids: AV[TokenGrid], device: torch.device) -> AV[Mapping[str, Tensor]]:
        """What the fusion wants to know of where the tokens lie, computed once per pair of grids."""
        fusion = self._fusion
        if len(grids.modalities) < 2 or not isinstance(fusion, LaysOut):
            return AV()
        key = (grids, device)
        if key not in self._layouts:
            with torch.inference_mode(False):
                made = fusion.layout(grids)
                self._layouts[key] = made.map(lambda one: {name: value.to(device) for name, value in one.items()})
        return self._layouts[key]

    def forget_rotations(self) -> None:
        """Empties the caches of what depends on the tokens' places, for clips of another size or another scheme."""
        self._rotations.clear()
        self._layouts.clear()

    def forward(
        self,
        latents: AV[Float[Tensor, "b c *tyx"]],
        sigma: AV[Float[Tensor, " b"]],
        context: AV[Context],
        grids: AV[TokenGrid],
        *,
        clean_steps: AV[int] = AV(),
        clean: AV[Bool[Tensor, " b"]] = AV(),
        lengths: AV[Int[Tensor, " b"]] = AV(),
        perturbation: Perturbation | tuple[Perturbation, ...] = Perturbation(),
    ) -> AV[Float[Tensor, "b c *tyx"]]:
        """Velocity of each modality, in the layout of its latents.

        latents:     (b, c, t, y, x) and (b, c, t)
        sigma:       noise level of each modality
        grids:       of the latents, from the codecs
        clean_steps: how many leading latent steps hold clean data (a given first frame): their noise level is 0
        clean:       in which items they do; without it, in all
        lengths:     valid tokens of each item, for batches of unequal length
        perturbation: of the whole batch; or one for each of k equal, consecutive parts of it
        """
        tokens_grid = AV.of({m: self.tower(m).grid(grids[m]) for m in latents.modalities})
        layouts = self.layouts(tokens_grid, next(latents.values()).device)
        streams = AV.of(
            {
                m: replace(
                    self._stream(
                        m,
                        x,
                        _levels(sigma[m], clean_steps.get(m) or 0, clean.get(m)),
                        context[m],
                        tokens_grid[m],
                        clean_steps.get(m) or 0,
                        lengths.get(m),
                    ),
                    layout=layouts.get(m) or {},
                )
                for m, x in latents.items()
            }
        )
        ends = {m: stream.noise for m, stream in streams.items()}
        spread = streams.map(self.partition.spread)
        parts = perturbation if isinstance(perturbation, tuple) else (perturbation,)
        for i, layer in enumerate(self.layers):
            if all(i in one.skip_layers for one in parts):  # not even visited: its weights may be far away
                continue
            streams = AV.of({m: _enter(i, s, context[m]) for m, s in spread.items()})
            with self.visit(i):
                spread = _run_layer(i, layer, streams, parts)
        whole = {m: self.partition.gather(s.tokens, len(tokens_grid[m])) for m, s in spread.items()}
        return AV.of({m: self.tower(m).head(tokens, ends[m], tokens_grid[m]) for m, tokens in whole.items()})

    def _stream(
        self,
        modality: Modality,
        x: Float[Tensor, "b c *tyx"],
        levels: Float[Tensor, "b s"],
        context: Context,
        grid: TokenGrid,
        clean: int,
        lengths: Int[Tensor, " b"] | None,
    ) -> Stream:
        tower = self.tower(modality)
        first = clean * grid.tokens_per_step
        noise = tower.noise(levels, (first, len(grid) - first) if clean else (len(grid),))
        by = self.rotations(grid, x, context.tokens.shape[1])
        return Stream(tower.embed(x), noise, context.tokens, by, lengths, context.lengths)


def _levels(sigma: Float[Tensor, " b"], clean_steps: int, clean: Bool[Tensor, " b"] | None) -> Float[Tensor, "b s"]:
    """The noise levels of each item: one, or that of its first steps and that of the rest."""
    if clean_steps == 0:
        return sigma[:, None]
    zero = torch.zeros_like(sigma)
    first = zero if clean is None else torch.where(clean, zero, sigma)
    return torch.stack((first, sigma), dim=1)


def _enter(i: int, stream: Stream, context: Context) -> Stream:
    """The stream as layer ``i`` receives it: with this layer's keys and values where they are cached."""
    return replace(stream, context=context.cached[i] if i < len(context.cached) else context.tokens)


Streams = AV[Stream]
Mode = tuple[bool, bool, bool]
"""What a perturbation does to one layer: skipped, fusion cut, self-attention skipped."""


def _run_layer(i: int, layer: nn.Module, streams: Streams, parts: tuple[Perturbation, ...]) -> Streams:
    """The streams after layer ``i``. The parts of the batch that it treats alike go through it together."""
    modes: list[Mode] = [(i in one.skip_layers, one.cut_fusion, i in one.skip_self) for one in parts]
    if len(set(modes)) == 1:
        return _run_part(layer, streams, modes[0])
    whole = streams.map(lambda stream: stream.tokens)
    size = next(whole.values()).shape[0] // len(parts)
    bounds = [j for j in range(len(modes) + 1) if j in (0, len(modes)) or modes[j] != modes[j - 1]]
    done = [
        _run_part(layer, streams.map(lambda s, a=a, b=b: s.part(a * size, b * size)), modes[a])
        for a, b in pairwise(bounds)
    ]
    return AV.of({m: s.with_tokens(torch.cat([one[m].tokens for one in done])) for m, s in streams.items()})


def _run_part(layer: nn.Module, streams: Streams, mode: Mode) -> Streams:
    skipped, cut_fusion, skip_self = mode
    if skipped:
        return streams
    return layer(streams.map(lambda stream: replace(stream, skip_self=skip_self)), cut_fusion)
