"""The path and its conversions are inverses of each other, for every shape of sigma."""

from __future__ import annotations

import pytest
import torch

from ovikit.numerics import path

VIDEO, AUDIO = (3, 2, 3, 4, 2), (3, 5, 3)  # as many clips as latent steps: the shapes that could be confused


def draw(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def levels(per_step: bool) -> torch.Tensor:
    shape = (3, 3) if per_step else (3,)
    return torch.rand(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@pytest.mark.parametrize("shape", [VIDEO, AUDIO])
@pytest.mark.parametrize("per_step", [False, True])
def test_data_and_noise_come_back_from_the_mixture(shape: tuple[int, ...], per_step: bool) -> None:
    data, noise, sigma = draw(shape, 0), draw(shape, 1), levels(per_step)
    x, velocity = path.mix(data, noise, sigma), path.velocity(data, noise)
    torch.testing.assert_close(path.to_data(x, velocity, sigma), data, rtol=0, atol=1e-14)
    torch.testing.assert_close(path.to_noise(x, velocity, sigma), noise, rtol=0, atol=1e-14)
    torch.testing.assert_close(path.mix(path.to_data(x, velocity, sigma), noise, sigma), x, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [VIDEO, AUDIO])
def test_velocity_is_the_derivative_of_the_mixture(shape: tuple[int, ...]) -> None:
    data, noise, sigma = draw(shape, 0), draw(shape, 1), levels(False)
    slope = (path.mix(data, noise, sigma + 1e-3) - path.mix(data, noise, sigma - 1e-3)) / 2e-3
    torch.testing.assert_close(slope, path.velocity(data, noise), rtol=0, atol=1e-11)


@pytest.mark.parametrize("shape", [VIDEO, AUDIO])
def test_a_square_batch_reads_one_level_per_clip_from_a_vector_and_one_per_step_from_a_matrix(
    shape: tuple[int, ...],
) -> None:
    data, noise = draw(shape, 0), draw(shape, 1)
    sigma = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    per_clip = path.mix(data, noise, sigma)
    per_step = path.mix(data, noise, sigma.expand(3, 3))
    for i, level in enumerate(sigma):
        torch.testing.assert_close(per_clip[i], (1 - level) * data[i] + level * noise[i])
        torch.testing.assert_close(per_step[:, :, i], (1 - level) * data[:, :, i] + level * noise[:, :, i])


def test_a_clean_first_step_stays_clean() -> None:
    data, noise = draw(VIDEO, 0), draw(VIDEO, 1)
    sigma = torch.full((3, 3), 0.9, dtype=torch.float64)
    sigma[:, 0] = 0
    assert torch.equal(path.mix(data, noise, sigma)[:, :, 0], data[:, :, 0])


@pytest.mark.parametrize("shape", [(2,), (1,), (3, 1), (3, 4), (3, 3, 1), ()])
def test_a_sigma_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(3,\) or \(3, 3\)"):
        path.mix(draw(VIDEO, 0), draw(VIDEO, 1), torch.zeros(shape))
