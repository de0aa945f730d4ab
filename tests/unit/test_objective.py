"""The flow-matching objective: its levels come from the generator alone, its losses are masked means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ovikit.numerics import path
from ovikit.numerics.objective import FlowMatching
from ovikit.types import AV

WEIGHTS = AV(0.85, 0.15)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(seed: int) -> AV[Tensor]:
    source = generator(seed)
    return AV(torch.randn(3, 2, 4, 3, 2, generator=source), torch.randn(3, 5, 6, generator=source))


@pytest.mark.parametrize("shared", [True, False])
def test_levels_repeat_with_the_generator_and_with_nothing_else(shared: bool) -> None:
    objective = FlowMatching(WEIGHTS, shared_sigma=shared)
    first = objective.sample_sigma(generator(3), 5)
    torch.manual_seed(99)
    again = objective.sample_sigma(generator(3), 5)
    assert torch.equal(first["video"], again["video"])
    assert torch.equal(first["audio"], again["audio"])
    assert not torch.equal(first["video"], objective.sample_sigma(generator(4), 5)["video"])
    assert first["video"].dtype == torch.float32


def test_a_shared_level_is_one_number_per_clip_and_an_independent_one_is_not_correlated() -> None:
    shared = FlowMatching(WEIGHTS).sample_sigma(generator(), 4096)
    assert torch.equal(shared["video"], shared["audio"])
    apart = FlowMatching(WEIGHTS, shared_sigma=False).sample_sigma(generator(), 4096)
    correlation = torch.corrcoef(torch.stack([apart["video"], apart["audio"]]))[0, 1]
    assert abs(float(correlation)) < 0.05


def test_sharing_the_level_leaves_later_draws_as_they_were() -> None:
    after = []
    for shared in (True, False):
        source = generator()
        FlowMatching(WEIGHTS, shared_sigma=shared).sample_sigma(source, 8)
        after.append(torch.rand(4, generator=source))
    assert torch.equal(*after)


def test_levels_are_uniform_and_the_shift_moves_their_median() -> None:
    uniform = FlowMatching(WEIGHTS).sample_sigma(generator(), 20_000)["video"]
    quantiles = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(uniform.quantile(quantiles), quantiles, rtol=0, atol=0.015)
    shifted = FlowMatching(WEIGHTS, shift=3.0).sample_sigma(generator(), 20_000)["video"]
    torch.testing.assert_close(shifted, 3 * uniform / (1 + 2 * uniform))
    assert float(shifted.median()) == pytest.approx(0.75, abs=0.01)
    assert 0 <= float(shifted.min()) <= float(shifted.max()) < 1


def test_the_loss_is_the_mean_squared_error_of_each_item() -> None:
    prediction, target = pair(0), pair(1)
    losses = FlowMatching(WEIGHTS).loss(prediction, target, AV())
    for modality, loss in losses.items():
        for i in range(3):
            expected = (prediction[modality][i] - target[modality][i]).square().mean()
            torch.testing.assert_close(loss[i], expected)


def test_masked_steps_neither_count_nor_dilute() -> None:
    prediction, target = pair(0), pair(1)
    video = torch.ones(3, 4, dtype=torch.bool)
    video[1, 2:] = False
    video[2] = False
    losses = FlowMatching(WEIGHTS).loss(prediction, target, AV(video=video))
    whole = FlowMatching(WEIGHTS).loss(prediction, target, AV())
    expected = (prediction["video"][1, :, :2] - target["video"][1, :, :2]).square().mean()
    torch.testing.assert_close(losses["video"][0], whole["video"][0])
    torch.testing.assert_close(losses["video"][1], expected)
    assert float(losses["video"][2]) == 0.0
    assert torch.equal(losses["audio"], whole["audio"])


def test_a_mask_in_the_shape_of_the_latents_is_the_same_mask() -> None:
    prediction, target = pair(0), pair(1)
    steps = torch.tensor([[1, 1, 0, 1, 0, 1]] * 3)
    objective = FlowMatching(WEIGHTS)
    by_step = objective.loss(prediction, target, AV(audio=steps))["audio"]
    by_latent = objective.loss(prediction, target, AV(audio=steps[:, None].expand(3, 5, 6)))["audio"]
    torch.testing.assert_close(by_step, by_latent)


def test_a_loss_of_bfloat16_predictions_is_float32() -> None:
    prediction = pair(0).map(lambda value: value.bfloat16())
    assert FlowMatching(WEIGHTS).loss(prediction, pair(1), AV())["audio"].dtype == torch.float32


def test_the_best_velocity_is_the_mean_of_noise_minus_data() -> None:
    """The expectation of the loss is least at E[noise - data | x]: here, for standard normal data, (2 s - 1) x / v."""
    sigma, count = torch.tensor(0.7, dtype=torch.float64), 40_000
    data, noise = torch.randn(2, count, 1, 1, generator=generator(), dtype=torch.float64)
    x, target = path.mix(data, noise, sigma.expand(count)), path.velocity(data, noise)
    best = (2 * sigma - 1) / (sigma**2 + (1 - sigma) ** 2)

    def loss(slope: Tensor) -> float:
        return float(FlowMatching(WEIGHTS).loss(AV(audio=slope * x), AV(audio=target), AV())["audio"].mean())

    assert loss(best) < min(loss(best + 0.1), loss(best - 0.1))
    assert loss(best) == pytest.approx(float(2 - best * (2 * sigma - 1)), rel=0.03)


def test_predictions_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="predicted"):
        FlowMatching(WEIGHTS).loss(AV(audio=torch.zeros(3, 5, 6)), AV(audio=torch.zeros(3, 1, 6)), AV())
