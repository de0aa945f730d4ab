"""What a recipe takes: parameters, bytes and FLOPs of each part, without weights and without a device.

The network is built on the meta device and run there once, with every tensor that an operation makes counted while it
lives; so the figures hold for any tower and fusion, and for any number format. What the count means:

- ``activations``: the most bytes that live at one time in a forward of one pass, beyond weights and text. For Ovi it
  is reached in the feed-forward network of the video tower, about tokens x (2 x hidden width + 3 x width) x bytes; it
  grows with tokens and clips in step, and not with layers, because nothing is kept for a backward.
- attention takes its output and nothing else: fused kernels make no score matrix (4 x queries x keys x width FLOPs).
- ``contexts``: keys and values of the text, for one conditioning: layers x towers x 2 x text tokens x width x bytes.
- float8 products also hold some thousand tokens of one matrix as float32 while they round them (``rounding``).

Compiled layers take less than this; allocators and kernels take some more, which the plan's margin is for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ovikit.kernel.manager import installed_catalog
from ovikit.networks.joint import JointModel
from ovikit.networks.peak import PeakBytes
from ovikit.networks.protocols import Codec, Conditioner, Decoding, Weighted
from ovikit.numerics.evaluations import count_evaluations
from ovikit.recipe.build import ONE_PROCESS, Spread, build_model, build_sampling, clip_spec, precision_of
from ovikit.recipe.models import Recipe
from ovikit.recipe.sections import Slot
from ovikit.runtime.quantize import ROWS, covers, rounds_activations, stored_bytes
from ovikit.types import AV, ClipSpec, Context, Modality, Text

_FALLBACK = 4
"""Copies of its samples in float32 that a codec is thought to need which does not say."""
_ROUNDING = 13
"""Bytes for each value that is rounded to float8 on the fly: three in float32 and the result."""


@dataclass(frozen=True, slots=True)
class Part:
    """A component. bytes: of its weights as they are stored; parameters: None where it does not say."""

    parameters: int | None
    bytes: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a recipe takes, for ``clips`` at a time. Bytes and FLOPs.

    parts:       by name: what the weights take
    layers:      weights of each layer of the network
    resident:    weights of the network outside of its layers
    decode:      the most that decoding a clip takes beyond weights, by modality
    contexts:    of one conditioning
    activations: of one pass
    passes:      of a step, in this process
    forward_flops, text_flops: of one pass; of one conditioning's keys and values
    forwards:    evaluations of the network for a batch of clips
    """

    clips: int
    parts: Mapping[str, Part]
    layers: tuple[int, ...]
    resident: int
    decode: AV[int]
    tokens: AV[int]
    contexts: int
    activations: int
    passes: int
    forward_flops: int
    text_flops: int
    forwards: int

    @property
    def network(self) -> int:
        """Bytes of the network's weights."""
        return self.resident + sum(self.layers)

    @property
    def text(self) -> int:
        """Bytes of the text encoder's weights."""
        return self.parts["text encoder"].bytes

    def codec(self, modality: Modality) -> int:
        """Bytes of a codec's weights."""
        return self.parts[f"{modality} codec"].bytes

    @property
    def codecs(self) -> int:
        """Bytes of all codecs' weights."""
        return sum(self.codec(modality) for modality in self.decode.modalities)


def estimate(
    recipe: Recipe,
    codecs: AV[Codec],
    conditioner: Conditioner,
    clips: int = 1,
    float8_products: bool = False,
) -> Estimate:
    """What the recipe takes for ``clips`` at a time, on a device that multiplies float8 or not."""
    attend = _Attend()
    plain = Spread(ONE_PROCESS.partition, lambda _: attend)
    model = build_model(with_plain_attention(recipe), codecs, conditioner, "meta", plain).eval()
    layers, resident, parts = _weights(model, recipe)
    parts |= {"text encoder": _part(conditioner)}
    parts |= {f"{modality} codec": _part(codec) for modality, codec in codecs.items() if modality in model.modalities}
    own = AV.of({m: codecs[m] for m in model.modalities})
    run = _Run(model, own, conditioner, precision_of(recipe).dtype, clips, attend)
    parallel, sampling = recipe.runtime.parallel, build_sampling(recipe)
    passes, dtype = sampling.guidance.evaluations, precision_of(recipe).dtype
    rounds = float8_products and rounds_activations(recipe.model.quantization, dtype)
    activations = run.activations + (run.rounding if rounds else 0)
    return Estimate(
        clips=clips,
        parts=parts,
        layers=layers,
        resident=resident,
        decode=own.map(lambda codec: decode_bytes(codec, clip_spec(recipe))),
        tokens=run.tokens,
        contexts=run.contexts,
        activations=math.ceil(activations / parallel.sequence),
        passes=math.ceil(passes / parallel.guidance),
        forward_flops=run.forward_flops,
        text_flops=run.text_flops,
        forwards=count_evaluations(
            sampling.schedule, sampling.solver, sampling.guidance, sampling.steps, own.modalities
        ),
    )


def decode_bytes(codec: Codec, clip: ClipSpec) -> int:
    """What decoding one clip takes beyond the codec's weights: as it says, or a few copies of the samples."""
    if isinstance(codec, Decoding):
        return codec.decode_bytes()
    pixels = clip.frames * clip.height_px * clip.width_px * 3
    return _FALLBACK * 4 * (pixels if codec.modality == "video" else clip.samples)


def _part(component: object) -> Part:
    return Part(None, component.weight_bytes() if isinstance(component, Weighted) else 0)


def with_plain_attention(recipe: Recipe) -> Recipe:
    """The recipe with the attention that every machine has: which kernel computes it changes no figure here."""
    plain = installed_catalog().find("attention", "sdpa").component
    attention = Slot("attention", "sdpa", plain.config())
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"attention": attention})})


def _weights(model: JointModel, recipe: Recipe) -> tuple[tuple[int, ...], int, dict[str, Part]]:
    """Bytes of each layer, bytes outside of the layers, and the parts of the network."""
    layers, resident = [0] * len(model.layers), 0
    counted: dict[str, list[int]] = {}
    for name, value in model.named_parameters():
        size = stored_bytes(name, value, recipe.model.quantization)
        words = name.split(".")
        if words[0] == "layers":
            layers[int(words[1])] += size
            part = f"{words[3]} blocks" if words[2] == "blocks" else words[2]
        else:
            resident += size
            part = f"{words[1]} embeddings and head" if words[0] == "towers" else words[0]
        sums = counted.setdefault(part, [0, 0])
        sums[0], sums[1] = sums[0] + value.numel(), sums[1] + size
    return tuple(layers), resident, {name: Part(*counted[name]) for name in sorted(counted, reverse=True)}


class _Attend:
    """An ``attend`` of the right shape that counts what a fused kernel would do."""

    def __init__(self) -> None:
        self.flops = 0

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None = None) -> Tensor:
        batch, queries, heads, width = query.shape
        self.flops += 4 * batch * heads * queries * key.shape[1] * width
        return torch.empty(query.shape, dtype=query.dtype, device=query.device)


class _Run:
    """One forward on the meta device, and what was counted."""

    def __init__(
        self,
        model: JointModel,
        codecs: AV[Codec],
        conditioner: Conditioner,
        dtype: torch.dtype,
        clips: int,
        attend: _Attend,
    ) -> None:
        grids = codecs.map(lambda codec: codec.grid())
        self.tokens = AV.of({m: len(model.tower(m).grid(grid)) for m, grid in grids.items()})
        with torch.device("meta"), torch.no_grad():
            text = Text(torch.empty(clips, 1, conditioner.width, dtype=dtype), torch.empty(clips, dtype=torch.int64))
            with FlopCounterMode(display=False) as flops:
                contexts = model.embed_text(codecs.map(lambda _: text), cache=True)
            self.text_flops = flops.get_total_flops()
            self.contexts = sum(one.numel() * one.element_size() for one in _tensors(contexts))
            latents = codecs.map(lambda codec: torch.empty(clips, *codec.shape(), dtype=dtype))
            sigma = codecs.map(lambda _: torch.empty(clips, dtype=torch.float64))
            attend.flops = 0
            with FlopCounterMode(display=False) as flops, PeakBytes() as counted:
                model(latents, sigma, contexts, grids)
        self.forward_flops = flops.get_total_flops() + attend.flops
        self.activations = counted.peak
        widest = max((max(p.shape) for name, p in model.named_parameters() if covers(name, p.shape)), default=0)
        self.rounding = _ROUNDING * min(ROWS, clips * max(self.tokens.values())) * widest


def _tensors(contexts: AV[Context]) -> list[Tensor]:
    return [one for context in contexts.values() for one in (context.tokens, *_cached(context))]


def _cached(context: Context) -> list[Tensor]:
    return [tensor for one in context.cached for tensor in (one.key, one.value)]
