"""Every fusion in a tiny model of real parts, with every weight random: also those that training starts at zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ovikit.kernel.manager import installed_catalog
from ovikit.networks.attention import sdpa
from ovikit.networks.init import initialise
from ovikit.networks.joint import JointModel
from ovikit.networks.precision import FLOAT32, Precision
from ovikit.networks.protocols import Attend
from ovikit.types import AV, MODALITIES, Modality, Stream, Text, TokenGrid
from ovikit_ovi.positions import IndexPositions
from ovikit_ovi.tower import OviTower

FUSIONS = ("none", "ovi", "gated-residual", "bridge", "joint", "asymmetric-window", "global-local", "additive")
MEETING = FUSIONS[1:]
OWN_WEIGHTS = tuple(name for name in MEETING if name != "joint")
ORDERED = OWN_WEIGHTS
UNEVEN = ("gated-residual", "bridge", "asymmetric-window", "global-local", "additive")
WHOLE = ("ovi", "gated-residual", "bridge", "joint")
"""Fusions in which each token reads all of the other stream."""

OTHER: dict[Modality, Modality] = {"video": "audio", "audio": "video"}
READERS: dict[str, tuple[Modality, ...]] = {"both": MODALITIES, "a2v": ("video",), "v2a": ("audio",)}

# A causal codec's short first step; the last audio token lies beyond the video's end.
LATENTS = AV(
    video=TokenGrid.uniform("video", (4, 4, 4), 0.25, first_s=0.05),
    audio=TokenGrid.uniform("audio", (9, 1, 1), 0.1),
)
PIXELS = 4
"""Tokens of a video step."""


class Shape(NamedTuple):
    """Sizes of the two towers."""

    width: AV[int]
    heads: AV[int]
    depth: AV[int]


EVEN = Shape(AV(24, 24), AV(2, 2), AV(2, 2))
APART = Shape(AV(24, 16), AV(3, 2), AV(3, 2))


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fusion_of(
    name: str, shape: Shape = EVEN, attend: Attend = sdpa, precision: Precision = FLOAT32, **options: object
) -> Sequence[nn.Module | None]:
    """The layers that a component builds, with options as a recipe gives them."""
    component = installed_catalog().find("fusion", name).component
    config = component.config.model_validate(options)
    depth = min(shape.depth.values())
    return component.build(
        config, depth=depth, width=shape.width, heads=shape.heads, attend=attend, precision=precision
    )


def bare(
    name: str, shape: Shape = EVEN, attend: Attend = sdpa, precision: Precision = FLOAT32, **options: object
) -> JointModel:
    """A model as recipes build it, its weights still to be drawn."""
    width, heads, depth = shape
    towers = {
        m: OviTower(
            m, channels, 10, width=width[m], feed_forward_width=32, heads=heads[m], depth=depth[m], text_length=5,
            frequency_width=16, precision=precision,
        )
        for m, channels in (("video", 3), ("audio", 5))
    }  # fmt: skip
    alone = max(depth.values()) - min(depth.values())
    fusion = [*fusion_of(name, shape, attend, precision, **options), *[None] * alone]
    return JointModel(AV.of(towers), fusion, IndexPositions(0.4), attend)


def build(name: str, shape: Shape = EVEN, attend: Attend = sdpa, **options: object) -> JointModel:
    model = bare(name, shape, attend, **options)
    generator = torch.Generator().manual_seed(0)
    initialise(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model.double()


def inputs(batch: int = 2) -> tuple[AV[Tensor], AV[Tensor], AV[Text]]:
    latents = AV(video=drawn(batch, 3, *LATENTS["video"].shape, seed=1), audio=drawn(batch, 5, 9, seed=2))
    sigma = torch.linspace(0.2, 0.9, batch, dtype=torch.float64)
    text = Text(drawn(batch, 4, 10, seed=3), torch.full((batch,), 4))
    return latents, AV(sigma, sigma.flip(0)), AV(text, text)


def velocity(model: JointModel, latents: AV[Tensor], sigma: AV[Tensor], text: AV[Text], **options) -> AV[Tensor]:
    grids = options.pop("grids", LATENTS)
    return model(latents, sigma, model.embed_text(text, cache=False), grids, **options)


def entering(model: JointModel, **options) -> AV[Stream]:
    """The streams as the first layer receives them."""
    seen: list[AV[Stream]] = []
    hook = model.layers[0].register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    with torch.no_grad():
        velocity(model, *inputs(), **options)
    hook.remove()
    return seen[0]


def with_tokens(streams: AV[Stream], **tokens: Tensor) -> AV[Stream]:
    return AV.of({m: s.with_tokens(tokens.get(m, s.tokens)) for m, s in streams.items()})


def neutralise(model: JointModel, name: str) -> None:
    """Zero in the weights that all that is read goes through."""
    last = {
        "none": (), "ovi": (".v.",), "gated-residual": (".o.",), "bridge": (".strength",),
        "asymmetric-window": (".o.",), "global-local": (".o.",), "additive": (".project.",),
    }[name]  # fmt: skip
    with torch.no_grad():
        for known, parameter in model.named_parameters():
            if ".fusion." in known and any(mark in known for mark in last):
                parameter.zero_()


def close(first: AV[Tensor], second: AV[Tensor], atol: float = 1e-12) -> bool:
    return all(torch.allclose(a, b, atol=atol, rtol=atol) for a, b in zip(first.values(), second.values(), strict=True))


def equal(first: AV[Tensor], second: AV[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))
