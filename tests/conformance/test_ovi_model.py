"""What must hold of Ovi's joint model whatever its weights are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ovikit.networks.attention import sdpa
from ovikit.networks.axes import axis_channels
from ovikit.networks.init import initialise
from ovikit.networks.joint import JointModel
from ovikit.numerics.guidance import NEGATIVE, PROMPT, ClassifierFree
from ovikit.numerics.protocols import Network, Solver
from ovikit.numerics.sample import sample
from ovikit.numerics.schedule import ShiftedSchedule
from ovikit.numerics.solver.dpmpp_2m import DpmPlusPlus2M
from ovikit.numerics.solver.euler import Euler
from ovikit.numerics.solver.heun import Heun
from ovikit.numerics.solver.unipc import UniPC
from ovikit.runtime.passes import BoundNetwork
from ovikit.types import AV, Perturbation, Text, TokenGrid
from ovikit_ovi.fusion import ovi_fusion
from ovikit_ovi.positions import IndexPositions
from ovikit_ovi.tower import OviTower

DEPTH, WIDTH, HEADS = 3, 32, 2
GRIDS = AV(video=TokenGrid.uniform("video", (4, 4, 4), 0.25), audio=TokenGrid.uniform("audio", (9, 1, 1), 0.1))


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(modalities: tuple[str, ...] = ("video", "audio"), fused: bool = True, audio_depth: int = DEPTH) -> JointModel:
    """A tiny model with every weight random: also those that training starts at zero."""
    options = {
        "width": WIDTH, "feed_forward_width": 48, "heads": HEADS, "text_length": 6, "frequency_width": 16,
    }  # fmt: skip
    towers = {
        "video": OviTower("video", 3, 10, depth=DEPTH, **options),
        "audio": OviTower("audio", 5, 10, depth=audio_depth, **options),
    }
    pair = AV(WIDTH, WIDTH), AV(HEADS, HEADS)
    fusion = ovi_fusion(DEPTH, *pair, sdpa) if fused else [None] * DEPTH
    model = JointModel(AV.of({m: towers[m] for m in modalities}), fusion, IndexPositions(0.4), sdpa)
    generator = torch.Generator().manual_seed(0)
    initialise(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model.double()


def inputs(batch: int = 2) -> tuple[AV[Tensor], AV[Tensor], AV[Text]]:
    latents = AV(video=drawn(batch, 3, 4, 4, 4, seed=1), audio=drawn(batch, 5, 9, seed=2))
    sigma = torch.linspace(0.2, 0.9, batch, dtype=torch.float64)
    tokens = drawn(batch, 4, 10, seed=3)
    text = Text(tokens, torch.full((batch,), 4))
    return latents, AV(sigma, sigma), AV(text, text)


def velocity(model: JointModel, latents: AV, sigma: AV, text: AV, cache: bool = True, **options) -> AV[Tensor]:
    keep = model.modalities
    latents, sigma, text = (AV.of({m: v for m, v in pair.items() if m in keep}) for pair in (latents, sigma, text))
    return model(latents, sigma, model.embed_text(text, cache), GRIDS, **options)


def close(first: AV[Tensor], second: AV[Tensor]) -> bool:
    return all(
        torch.allclose(a, b, atol=1e-12, rtol=1e-12) for a, b in zip(first.values(), second.values(), strict=True)
    )


@pytest.fixture(scope="module")
def model() -> JointModel:
    return build()


def test_items_of_a_batch_do_not_meet(model: JointModel) -> None:
    latents, sigma, text = inputs()
    together = velocity(model, latents, sigma, text)
    for i in range(2):
        alone = velocity(
            model,
            latents.map(lambda x, i=i: x[i : i + 1]),
            sigma.map(lambda x, i=i: x[i : i + 1]),
            text.map(lambda t, i=i: Text(t.tokens[i : i + 1], t.lengths[i : i + 1])),
        )
        assert close(alone, together.map(lambda x, i=i: x[i : i + 1]))


def test_cached_keys_and_values_change_nothing(model: JointModel) -> None:
    assert close(velocity(model, *inputs(), cache=True), velocity(model, *inputs(), cache=False))


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_each_modality_hears_the_other_through_the_fusion_alone(model: JointModel, modality: str) -> None:
    latents, sigma, text = inputs()
    other = "audio" if modality == "video" else "video"
    changed = AV.of({m: x + (drawn(*x.shape, seed=9) if m == other else 0) for m, x in latents.items()})

    def difference(**options) -> float:
        pair = (
            velocity(model, latents, sigma, text, **options)[modality],
            velocity(model, changed, sigma, text, **options)[modality],
        )
        return (pair[0] - pair[1]).abs().max().item()

    assert difference() > 1e-3
    assert difference(perturbation=Perturbation(cut_fusion=True)) == 0.0


def test_cut_fusion_equals_the_towers_alone(model: JointModel) -> None:
    cut = velocity(model, *inputs(), perturbation=Perturbation(cut_fusion=True))
    for modality in ("video", "audio"):
        lone = build((modality,), fused=False)
        names = lone.state_dict().keys()
        lone.load_state_dict({name: value for name, value in model.state_dict().items() if name in names})
        assert torch.allclose(velocity(lone, *inputs())[modality], cut[modality], atol=1e-12)


def test_a_fusion_that_reads_nothing_is_neutral(model: JointModel) -> None:
    """Zero values from the other stream: the towers alone."""
    silent = build()
    with torch.no_grad():
        for name, parameter in silent.named_parameters():
            if ".fusion." in name and ".v." in name:
                parameter.zero_()
    cut = velocity(silent, *inputs(), perturbation=Perturbation(cut_fusion=True))
    assert close(velocity(silent, *inputs()), cut)


@pytest.mark.parametrize(
    "solver", [Euler(), Heun(), DpmPlusPlus2M(), UniPC()], ids=lambda solver: type(solver).__name__
)
def test_the_denoising_loop_never_waits_for_the_device(solver: Solver) -> None:
    """Tensors without storage stand for the device's: whatever would read one back to the host raises."""
    silent = build().to("meta")
    latents, _, text = inputs()
    noise, text = latents.map(lambda x: x.to("meta")), text.map(lambda one: one.to("meta", torch.float64))
    contexts = dict.fromkeys((PROMPT, NEGATIVE), silent.embed_text(text, cache=True))
    clean = AV(video=noise["video"][:, :, :1])

    def run(network: Network) -> AV[Tensor]:
        guidance = ClassifierFree(AV(4.0, 3.0), skip_layers=(1,))
        return sample(network, noise, ShiftedSchedule(whole_timesteps=True), solver, guidance, 3, clean=clean)

    network = BoundNetwork(silent, contexts, GRIDS, torch.float64, AV(video=1))
    assert [x.device.type for x in run(network).values()] == ["meta", "meta"]
    with pytest.raises(RuntimeError, match="meta"):
        run(lambda x, told, passes: network(x.map(lambda value: value / value.std().item()), told, passes))


@pytest.mark.parametrize("cache", [True, False])
def test_beyond_the_shallower_tower_the_deeper_one_runs_alone(cache: bool) -> None:
    uneven = build(audio_depth=DEPTH - 1)
    assert uneven.layers[DEPTH - 2].fusion is not None
    assert not any(name.startswith(f"layers.{DEPTH - 1}.fusion") for name in uneven.state_dict())
    out = velocity(uneven, *inputs(), cache=cache)
    even = build()
    names = uneven.state_dict().keys()
    even.load_state_dict(uneven.state_dict(), strict=False)
    last = Perturbation(skip_layers=(DEPTH - 1,))
    assert names < even.state_dict().keys()
    assert close(velocity(uneven, *inputs(), perturbation=last), velocity(even, *inputs(), perturbation=last))
    assert torch.equal(out["audio"], velocity(even, *inputs(), perturbation=last)["audio"])
    assert not torch.allclose(out["video"], velocity(even, *inputs(), perturbation=last)["video"])


def test_skipping_every_layer_leaves_embedding_and_head(model: JointModel) -> None:
    latents, sigma, text = inputs()
    out = velocity(model, latents, sigma, text, perturbation=Perturbation(skip_layers=tuple(range(DEPTH))))
    tower = model.tower("audio")
    noise = tower.noise(sigma["audio"][:, None], (9,))
    assert torch.allclose(out["audio"], tower.head(tower.embed(latents["audio"]), noise, tower.grid(GRIDS["audio"])))


def test_skip_self_is_not_attention_and_touches_only_its_layers(model: JointModel) -> None:
    plain = velocity(model, *inputs())
    assert not close(plain, velocity(model, *inputs(), perturbation=Perturbation(skip_self=(1,))))
    assert close(plain, velocity(model, *inputs(), perturbation=Perturbation(skip_self=(DEPTH + 1,))))


def test_clean_steps_are_told_level_zero(model: JointModel) -> None:
    """With sigma 0 everywhere a clean start changes nothing; with all steps clean sigma no longer matters."""
    latents, sigma, text = inputs()
    zero = sigma.map(torch.zeros_like)
    assert close(velocity(model, latents, zero, text), velocity(model, latents, zero, text, clean_steps=AV(video=2)))
    one = velocity(model, latents, AV(sigma["video"], zero["audio"]), text, clean_steps=AV(video=1))
    none = velocity(model, latents, AV(sigma["video"], zero["audio"]), text)
    assert not close(one, none)


def test_tokens_past_the_length_do_not_matter(model: JointModel) -> None:
    latents, sigma, text = inputs()
    lengths = AV(audio=torch.tensor([5, 9]))
    changed = latents["audio"].clone()
    changed[0, :, 5 + 6 :] += 1.0  # the convolutions of the audio embedding see 6 steps ahead
    tower_sees = AV(latents["video"], changed)
    first, second = (velocity(model, x, sigma, text, lengths=lengths) for x in (latents, tower_sees))
    assert torch.allclose(first["video"], second["video"], atol=1e-12)
    assert torch.allclose(first["audio"][0, :, :5], second["audio"][0, :, :5], atol=1e-12)


def test_gradient_reaches_every_weight_and_both_inputs(model: JointModel) -> None:
    latents, sigma, text = inputs()
    latents = latents.map(lambda x: x.clone().requires_grad_())
    model.zero_grad()
    sum(x.square().sum() for x in velocity(model, latents, sigma, text, cache=False).values()).backward()
    # A key's bias adds the same to every score of a query unless the key is normalised or rotated; these are.
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []
    assert all(x.grad is not None and x.grad.abs().max() > 0 for x in latents.values())


def test_layers_under_activation_checkpointing_give_the_same(model: JointModel) -> None:
    latents, sigma, text = inputs()

    def gradients() -> list[Tensor]:
        model.zero_grad()
        velocity(model, latents, sigma, text, cache=False)["video"].square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plain = gradients()
    forwards = [layer.forward for layer in model.layers]
    for layer, forward in zip(model.layers, forwards, strict=True):
        layer.forward = lambda *args, forward=forward: checkpoint(forward, *args, use_reentrant=False)
    try:
        assert all(torch.allclose(a, b) for a, b in zip(plain, gradients(), strict=True))
    finally:
        for layer, forward in zip(model.layers, forwards, strict=True):
            layer.forward = forward


def test_positions_share_one_time_axis() -> None:
    """Audio step i x ratio and video step i turn alike; rows, columns and an audio token's other channels are still."""
    positions, head_width = IndexPositions(0.25), 24
    video = positions.angles(TokenGrid.uniform("video", (5, 1, 1), 1.0), head_width, "fusion")
    audio = positions.angles(TokenGrid.uniform("audio", (17, 1, 1), 0.25), head_width, "fusion")
    assert torch.equal(audio[::4], video)
    time = axis_channels(head_width)[0] // 2
    assert (time, audio[:, time:].abs().max().item()) == (4, 0.0)
    assert axis_channels(128) == (44, 42, 42)


def test_sampling_before_training_leaves_no_inference_tensors_behind() -> None:
    model = build()
    with torch.inference_mode():
        velocity(model, *inputs())
    sum(x.square().sum() for x in velocity(model, *inputs(), cache=False).values()).backward()
