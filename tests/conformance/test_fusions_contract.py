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

from ovikit.networks.joint import JointModel
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


@pytest.fixture(scope="module", autouse=True)
def _freed() -> Iterator[None]:
    yield
    BUILT.clear()
