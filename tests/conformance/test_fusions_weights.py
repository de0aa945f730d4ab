"""The names and the number of every fusion's weights, and how they start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fusions_kit import (
    APART,
    EVEN,
    MEETING,
    ORDERED,
    OTHER,
    OWN_WEIGHTS,
    READERS,
    UNEVEN,
    Shape,
    bare,
    entering,
    fusion_of,
)
from torch import Tensor

from ovikit.networks.init import initialise
from ovikit.types import AV

RANK = 64


def linear(name: str) -> set[str]:
    return {f"{name}.weight", f"{name}.bias"}


def reader(name: str) -> set[str]:
    linears = set.union(*(linear(f"{name}.{one}") for one in "qkvo"))
    return linears | {f"{name}.norm_q.weight", f"{name}.norm_k.weight"}


def rows(name: str) -> set[str]:
    return linear(f"{name}.down") | linear(f"{name}.up")


NORMS = linear("norm") | linear("other_norm")
NAMES = {
    "ovi": linear("pre_norm") | linear("k") | linear("v") | {"norm_k.weight"},
    "gated-residual": rows("affine") | rows("other_affine") | rows("gate") | reader("reader"),
    "bridge": NORMS | {"strength"} | reader("reader"),
    "joint": set(),
    "asymmetric-window": NORMS | reader("reader"),
    "global-local": NORMS | reader("near") | reader("whole"),
    "additive": linear("other_norm") | linear("project"),
}


def count(name: str, w: int, u: int, i: int) -> int:
    """Weights of one direction: w of who reads, u of who is read, i of the heads between."""
    read = (w + 1) * i + 2 * (u + 1) * i + (i + 1) * w + 2 * i

    def noise(e: int, out: int) -> int:
        return (e + 1) * RANK + (RANK + 1) * out

    return {
        "ovi": 2 * u + 2 * (u + 1) * w + w,
        "gated-residual": noise(w, 2 * w) + noise(u, 2 * u) + noise(u, w) + read,
        "bridge": 2 * w + 2 * u + 1 + read,
        "joint": 0,
        "asymmetric-window": 2 * w + 2 * u + read,
        "global-local": 2 * w + 2 * u + 2 * read,
        "additive": 2 * u + (u + 1) * w,
    }[name]


@pytest.mark.parametrize("direction", READERS)
@pytest.mark.parametrize("name", MEETING)
def test_names_are_pinned(name: str, direction: str) -> None:
    state = bare(name, EVEN, direction=direction).state_dict()
    found = {key for key in state if ".fusion." in key}
    assert found == {
        f"layers.{i}.fusion.reads.{m}.{leaf}" for i in range(2) for m in READERS[direction] for leaf in NAMES[name]
    }


@pytest.mark.parametrize("direction", READERS)
@pytest.mark.parametrize(
    ("name", "shape"), [(name, EVEN) for name in MEETING] + [(name, APART) for name in UNEVEN], ids=str
)
def test_counts_follow_from_the_sizes(name: str, shape: Shape, direction: str) -> None:
    model = bare(name, shape, direction=direction)
    width, heads = shape.width, shape.heads
    narrower = "audio" if width["audio"] < width["video"] else "video"
    expected = 2 * sum(count(name, width[m], width[OTHER[m]], width[narrower]) for m in READERS[direction])
    assert heads[narrower] * (width[narrower] // heads[narrower]) == width[narrower]
    assert sum(p.numel() for key, p in model.named_parameters() if ".fusion." in key) == expected


def test_heads_of_their_own_are_counted_and_turned() -> None:
    for name in ("gated-residual", "bridge", "asymmetric-window", "global-local"):
        layer, _ = fusion_of(name, APART, heads=5, head_width=6)
        reading = layer.reads["video"].near if name == "global-local" else layer.reads["video"].reader
        assert (reading.q.weight.shape, reading.k.weight.shape) == ((30, 24), (30, 16))
        assert layer.head_width == 6
        model = bare(name, APART, heads=5, head_width=6)
        assert (model.head_width("video", "fusion"), model.head_width("video", "self")) == (6, 8)


SCALED = {
    "ovi": (".k.weight", ".v.weight"), "gated-residual": (".o.weight",), "bridge": (".o.weight",),
    "asymmetric-window": (".o.weight",), "global-local": (".o.weight",), "additive": (".project.weight",),
}  # fmt: skip
AS_PUBLISHED = {"ovi": 0.1, "asymmetric-window": 0.0}


def fresh(name: str, **options: object) -> dict[str, Tensor]:
    model = bare(name, EVEN, **options)
    initialise(model, torch.Generator().manual_seed(3))
    return {key: value for key, value in model.state_dict().items() if ".fusion." in key}


@pytest.mark.parametrize("name", OWN_WEIGHTS)
def test_init_scale_is_a_factor_on_what_is_added(name: str) -> None:
    one, half, zero = (fresh(name, init_scale=scale) for scale in (1.0, 0.5, 0.0))
    for key, value in one.items():
        scaled = key.endswith(SCALED[name])
        assert value.any() or not scaled
        assert torch.allclose(half[key], 0.5 * value if scaled else value)
        assert torch.equal(zero[key], 0 * value if scaled else value)
    usual = fresh(name)
    assert all(
        torch.equal(usual[key], value) for key, value in fresh(name, init_scale=AS_PUBLISHED.get(name, 1.0)).items()
    )


@pytest.mark.parametrize("name", ORDERED)
def test_from_nothing_the_gradient_reaches_what_is_zero(name: str) -> None:
    """So that training leaves the neutral point. Ovi's keys and values share it: there values alone start to move."""
    model = bare(name, EVEN, init_scale=0.0)
    initialise(model, torch.Generator().manual_seed(3))
    model = model.double()
    streams = entering(model)
    out = model.layers[0](streams)
    assert all(torch.equal(out[m].tokens, model.layers[0](streams, True)[m].tokens) for m in OTHER)
    sum(stream.tokens.square().sum() for stream in out.values()).backward()
    moving = {key for key, p in model.layers[0].named_parameters() if key.startswith("fusion.") and p.grad.any()}
    wanted = (".v.weight",) if name == "ovi" else SCALED[name]
    assert {key for key in moving if key.endswith(wanted)} == {
        key for key, _ in model.layers[0].named_parameters() if key.startswith("fusion.") and key.endswith(wanted)
    }


def test_the_documentation_states_the_weights_at_the_released_size() -> None:
    """The last column of the first table of docs/fusions.md, in millions."""
    page = (Path(__file__).parents[2] / "docs" / "fusions.md").read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.endswith(" M |")]
    told = {cells[0].strip("`"): int(cells[-1].removesuffix(" M")) for cells in lines}
    with torch.device("meta"):
        built = {name: fusion_of(name, Shape(AV(3072, 3072), AV(24, 24), AV(30, 30))) for name in MEETING}
    found = {name: sum(p.numel() for layer in layers for p in layer.parameters()) for name, layers in built.items()}
    assert told == {"none": 0} | {name: round(number / 1e6) for name, number in found.items()}
