"""How every fusion runs: without memory, under checkpointing, compiled, in short formats, from one generator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from fusions_kit import APART, EVEN, FUSIONS, MEETING, OWN_WEIGHTS, UNEVEN, Shape, bare, build, close, inputs, velocity
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ovikit.networks.init import initialise
from ovikit.networks.joint import JointModel
from ovikit.networks.precision import Precision
from ovikit.networks.protocols import FusionLayer
from ovikit.types import AV

EACH = [(name, EVEN) for name in FUSIONS] + [(name, APART) for name in UNEVEN]
BUILT: dict[tuple[str, bool], JointModel] = {}


@pytest.fixture(params=EACH, ids=lambda case: case[0] + ("-uneven" if case[1] is APART else ""))
def case(request: pytest.FixtureRequest) -> tuple[str, JointModel]:
    name, shape = request.param
    key = (name, shape is APART)
    if key not in BUILT:
        BUILT[key] = build(name, shape)
    return name, BUILT[key]


def test_it_builds_without_memory_and_runs_without_reading_back(case: tuple[str, JointModel]) -> None:
    """Tensors without storage: whatever would read one back to the host raises."""
    name, model = case
    shape = APART if model.tower("audio").width < 24 else EVEN
    with torch.device("meta"):
        empty = bare(name, shape).double()
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    assert {k: v.shape for k, v in empty.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    latents, sigma, text = inputs()
    lengths = AV(video=torch.tensor([10, 16]), audio=torch.tensor([9, 4]))
    for told in (AV(), lengths.map(lambda x: x.to("meta"))):
        out = velocity(
            empty,
            latents.map(lambda x: x.to("meta")),
            sigma.map(lambda x: x.to("meta")),
            text.map(lambda one: one.to("meta", torch.float64)),
            lengths=told,
            clean_steps=AV(video=1),
        )
        assert {m: x.shape for m, x in out.items()} == {m: x.shape for m, x in latents.items()}


def test_layers_under_activation_checkpointing_give_the_same(case: tuple[str, JointModel]) -> None:
    model = case[1]

    def gradients() -> list[Tensor]:
        model.zero_grad()
        out = velocity(model, *inputs(), lengths=AV(video=torch.tensor([10, 16]), audio=torch.tensor([9, 4])))
        sum(x.square().sum() for x in out.values()).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plain = gradients()
    forwards = [layer.forward for layer in model.layers]
    for layer, forward in zip(model.layers, forwards, strict=True):
        layer.forward = lambda *args, forward=forward: checkpoint(forward, *args, use_reentrant=False)
    try:
        assert all(torch.allclose(a, b) for a, b in zip(plain, gradients(), strict=True))
    finally:
        for layer in model.layers:
            del layer.__dict__["forward"]


@pytest.mark.parametrize(("name", "shape"), EACH, ids=str)
def test_weights_come_from_the_generator_alone(name: str, shape: Shape) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        with torch.device("meta"):
            model = bare(name, shape)
        model.to_empty(device="cpu")
        before = torch.random.get_rng_state()
        initialise(model, torch.Generator().manual_seed(seed))
        assert torch.equal(before, torch.random.get_rng_state()), "the global generator was used"
        return model.state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(torch.isfinite(value).all() for value in first.values())
    drawn_anew = [key for key in first if not torch.equal(first[key], other[key])]
    if name in OWN_WEIGHTS:
        assert any(".fusion." in key for key in drawn_anew)


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("policy", ["clean", "official"])
def test_precision_is_respected(name: str, policy: str) -> None:
    """In bfloat16 the stream between the layers has the policy's format, and the velocity is near the exact one."""
    precision = Precision(torch.bfloat16, policy)
    exact, model = build(name), bare(name, EVEN, precision=precision).to(torch.bfloat16)
    model.load_state_dict({key: value.bfloat16() for key, value in exact.state_dict().items()})
    exact.load_state_dict(model.state_dict())
    latents, sigma, text = inputs()
    short = latents.map(lambda x: x.bfloat16()), sigma, text.map(lambda one: one.to("cpu", torch.bfloat16))
    seen: list[torch.dtype] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda layer, given, out: seen.extend(s.tokens.dtype for s in out.values()))
    with torch.no_grad():
        found = velocity(model, *short, clean_steps=AV(video=1))
        expected = velocity(exact, short[0].map(Tensor.double), sigma, text, clean_steps=AV(video=1))
    assert set(seen) == {torch.float32 if policy == "clean" else torch.bfloat16}
    for a, b in zip(found.values(), expected.values(), strict=True):
        assert (a.double() - b).norm() < 0.1 * b.norm()


@pytest.mark.parametrize("name", MEETING)
def test_layers_are_fusion_layers(name: str) -> None:
    assert all(isinstance(layer.fusion, FusionLayer) for layer in build(name).layers)


@pytest.mark.slow
@pytest.mark.unchecked_shapes
def test_pair_layers_are_traced_without_graph_breaks() -> None:
    """With padding, which is the longer way; up to where code would be generated."""
    options = {"lengths": AV(video=torch.tensor([10, 16]), audio=torch.tensor([9, 4])), "clean_steps": AV(video=1)}
    for name in MEETING:
        torch._dynamo.reset()  # each fusion is a model of its own: what was compiled before does not count against it
        model = build(name, APART if name in UNEVEN else EVEN)
        expected = velocity(model, *inputs(), **options)
        model.layers[0] = torch.compile(model.layers[0], fullgraph=True, backend="aot_eager")
        assert close(velocity(model, *inputs(), **options), expected, atol=1e-9), name


@pytest.fixture(scope="module", autouse=True)
def _freed() -> Iterator[None]:
    yield
    BUILT.clear()
