"""What must hold of every fusion whatever its weights are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from fusions_kit import (
    APART,
    EVEN,
    FUSIONS,
    LATENTS,
    MEETING,
    OTHER,
    OWN_WEIGHTS,
    PIXELS,
    READERS,
    UNEVEN,
    WHOLE,
    bare,
    build,
    close,
    drawn,
    entering,
    equal,
    inputs,
    neutralise,
    velocity,
    with_tokens,
)
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ovikit.networks.init import initialise
from ovikit.networks.joint import JointModel
from ovikit.networks.precision import Precision
from ovikit.networks.protocols import FusionLayer
from ovikit.types import AV, Perturbation, Stream, Text, TokenGrid

EACH = [(name, EVEN) for name in FUSIONS] + [(name, APART) for name in UNEVEN]
BUILT: dict[tuple[str, bool], JointModel] = {}


@pytest.fixture(params=EACH, ids=lambda case: case[0] + ("-uneven" if case[1] is APART else ""))
def case(request: pytest.FixtureRequest) -> tuple[str, JointModel]:
    name, shape = request.param
    key = (name, shape is APART)
    if key not in BUILT:
        BUILT[key] = build(name, shape)
    return name, BUILT[key]


def tokens(streams: AV[Stream]) -> AV[Tensor]:
    return streams.map(lambda stream: stream.tokens)


def test_items_of_a_batch_do_not_meet(case: tuple[str, JointModel]) -> None:
    latents, sigma, text = inputs()
    lengths = AV(video=torch.tensor([10, 16]), audio=torch.tensor([9, 4]))
    for told in (AV(), lengths):
        together = velocity(case[1], latents, sigma, text, lengths=told)
        for i in range(2):
            alone = velocity(
                case[1],
                latents.map(lambda x, i=i: x[i : i + 1]),
                sigma.map(lambda x, i=i: x[i : i + 1]),
                text.map(lambda t, i=i: Text(t.tokens[i : i + 1], t.lengths[i : i + 1])),
                lengths=told.map(lambda x, i=i: x[i : i + 1]),
            )
            assert close(alone, together.map(lambda x, i=i: x[i : i + 1]))


@pytest.mark.parametrize("cut", [AV(9, 4), AV(PIXELS, 1), AV(16, 2), AV(7, 9)], ids=str)
def test_what_lies_past_the_lengths_is_never_read(case: tuple[str, JointModel], cut: AV[int]) -> None:
    """In the first item; the second is whole. Also where a video step is only partly there."""
    model = case[1]
    lengths = AV(video=torch.tensor([cut["video"], 16]), audio=torch.tensor([cut["audio"], 9]))
    streams = entering(model, lengths=lengths)
    changed = {m: s.tokens.clone() for m, s in streams.items()}
    for m, n in cut.items():
        changed[m][0, n:] = 30 * drawn(*changed[m][0, n:].shape, seed=8)
    first, second = (tokens(model.layers[0](one)) for one in (streams, with_tokens(streams, **changed)))
    for m, n in cut.items():
        assert torch.allclose(first[m][0, :n], second[m][0, :n], atol=1e-12)
        assert torch.allclose(first[m][1], second[m][1], atol=1e-12)


@pytest.mark.parametrize("name", WHOLE)
def test_a_length_is_a_shorter_clip(name: str) -> None:
    model, audio = build(name), 5
    shorter = AV(LATENTS["video"], TokenGrid.uniform("audio", (audio, 1, 1), 0.1))
    streams = entering(model, lengths=AV(audio=torch.tensor([audio, audio])))
    cut = AV(streams["video"], streams["audio"].with_tokens(streams["audio"].tokens[:, :audio]))
    latents, sigma, text = inputs()
    seen: list[AV[Stream]] = []
    hook = model.layers[0].register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    velocity(model, AV(latents["video"], latents["audio"][:, :, :audio]), sigma, text, grids=shorter)
    hook.remove()
    alone = with_tokens(seen[0], **dict(tokens(cut).items()))
    found, expected = (tokens(model.layers[0](one)) for one in (streams, alone))
    assert torch.allclose(found["video"], expected["video"], atol=1e-12)
    assert torch.allclose(found["audio"][:, :audio], expected["audio"], atol=1e-12)


def test_an_item_without_a_valid_token_gives_numbers(case: tuple[str, JointModel]) -> None:
    model = case[1]
    for m, other in OTHER.items():
        for at in (0, 1):
            valid = torch.full((2,), 16 if m == "video" else 9)
            valid[at] = 0
            streams = entering(model, lengths=AV.of({m: valid}))
            free = with_tokens(streams, **{k: s.tokens.clone().requires_grad_() for k, s in streams.items()})
            out = tokens(model.layers[0](free))
            assert torch.isfinite(out[other]).all()
            model.zero_grad()
            out[other].square().sum().backward()
            assert torch.isfinite(free[other].tokens.grad).all()
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("direction", READERS)
@pytest.mark.parametrize("name", MEETING)
def test_a_modality_hears_the_other_in_the_declared_directions_alone(name: str, direction: str) -> None:
    model = build(name, direction=direction)
    streams = entering(model)
    for m, other in OTHER.items():
        mine, theirs = (streams[one].tokens.clone().requires_grad_() for one in (m, other))
        out = model.layers[0](with_tokens(streams, **{m: mine, other: theirs}))[m].tokens
        gradient = torch.autograd.grad(out.square().sum(), theirs, allow_unused=True)[0]
        changed = with_tokens(streams, **{other: theirs.detach() + drawn(*theirs.shape, seed=5)})
        with torch.no_grad():
            change = (model.layers[0](changed)[m].tokens - out).abs().max()
            cut = [model.layers[0](one, True)[m].tokens for one in (streams, changed)]
        if m in READERS[direction]:
            assert gradient.abs().max() > 1e-6
            assert change > 1e-3
        else:
            assert gradient is None or not gradient.any()
            assert change == 0
        assert torch.equal(*cut)


@pytest.mark.parametrize("direction", ["a2v", "v2a"])
@pytest.mark.parametrize("name", MEETING)
def test_who_does_not_read_runs_as_if_alone(name: str, direction: str) -> None:
    model = build(name, direction=direction)
    streams = entering(model)
    (m,) = set(OTHER) - set(READERS[direction])
    assert torch.equal(model.layers[0](streams)[m].tokens, model.layers[0](streams, True)[m].tokens)


def test_gradient_reaches_every_weight_and_both_inputs(case: tuple[str, JointModel]) -> None:
    model = case[1]
    latents, sigma, text = inputs()
    latents = latents.map(lambda x: x.clone().requires_grad_())
    model.zero_grad()
    sum(x.square().sum() for x in velocity(model, latents, sigma, text).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []
    assert all(x.grad is not None and x.grad.abs().max() > 0 for x in latents.values())


@pytest.mark.parametrize("update", ["parallel", "audio-first", "video-first"])
@pytest.mark.parametrize("name", OWN_WEIGHTS)
def test_with_neutral_weights_the_towers_are_alone(name: str, update: str) -> None:
    model = build(name, update=update)
    neutralise(model, name)
    cut = velocity(model, *inputs(), perturbation=Perturbation(cut_fusion=True))
    assert equal(velocity(model, *inputs()), cut)
    assert not equal(velocity(build(name, update=update), *inputs()), cut)


def test_joint_attention_with_nobody_to_meet_is_the_towers_alone() -> None:
    """It has no weights to be neutral. Where the positions turn both uses alike, as these do."""
    model = build("joint")
    for m, other in OTHER.items():
        streams = entering(model, lengths=AV.of({other: torch.tensor([0, 0])}))
        pair = (model.layers[0](streams, cut)[m].tokens for cut in (False, True))
        assert torch.allclose(*pair, atol=1e-12)


@pytest.mark.parametrize("name", FUSIONS)
def test_the_towers_do_not_know_of_it(name: str) -> None:
    """Cut, every fusion leaves the same two towers, weight for weight."""
    plain, model = build("none"), build(name)
    names = plain.state_dict().keys()
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key in names})
    cut = velocity(model, *inputs(), perturbation=Perturbation(cut_fusion=True))
    assert equal(velocity(plain, *inputs()), cut)


def test_it_builds_without_memory_and_runs_without_reading_back(case: tuple[str, JointModel]) -> None:
    """Tensors without storage: whatever would read one back to the host raises."""
    name, model = case
    shape = APART if model.tower("audio").width < 24 else EVEN
    with torch.device("meta"):
        empty = bare(name, **shape).double()
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
def test_weights_come_from_the_generator_alone(name: str, shape: dict) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        with torch.device("meta"):
            model = bare(name, **shape)
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
    exact, model = build(name), bare(name, **EVEN, precision=precision).to(torch.bfloat16)
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
@pytest.mark.parametrize("name", MEETING)
@pytest.mark.parametrize("with_lengths", [False, True])
def test_pair_layer_compiles_without_graph_breaks(name: str, with_lengths: bool) -> None:
    model = build(name, APART if name in UNEVEN else EVEN)
    latents, sigma, text = inputs()
    lengths = AV(video=torch.tensor([10, 16]), audio=torch.tensor([9, 4])) if with_lengths else AV()
    options = {"lengths": lengths, "clean_steps": AV(video=1)}
    expected = velocity(model, latents, sigma, text, **options)
    for i, layer in enumerate(list(model.layers)):
        model.layers[i] = torch.compile(layer, fullgraph=True)
    assert close(velocity(model, latents, sigma, text, **options), expected, atol=1e-9)


@pytest.fixture(scope="module", autouse=True)
def _freed() -> Iterator[None]:
    yield
    BUILT.clear()
