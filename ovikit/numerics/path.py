"""The straight path from data to noise, and the conversions along it.

    x = (1 - sigma) data + sigma noise            (1)   Ovi, arXiv 2510.01284, Eq. 1, in the direction of the
    velocity = dx / dsigma = noise - data         (2)   released code: sigma 1 is noise
    data = x - sigma velocity                     (3)   (1) and (2) solved for data
    noise = x + (1 - sigma) velocity              (4)   ... and for noise

Everywhere, latents are video ``(b, c, t, y, x)`` or audio ``(b, c, t)``, and ``sigma`` is ``(b,)``, one level per
clip, or ``(b, t)``, one level per latent step (a clean first frame is ``sigma[:, 0] = 0``). Which of the two it is
follows from its number of dimensions alone, so that a batch as long as its clips (b == t) is not ambiguous.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def expand(sigma: Float[Tensor, "*levels"], latents: Float[Tensor, "*latents"]) -> Float[Tensor, "b 1 ..."]:
    """``sigma`` with the dimensions of ``latents``, sizes 1 where it is constant: a view, not a copy.

    sigma: (b,) or (b, t); latents: (b, c, t, ...). ValueError when the sizes do not fit.
    """
    if latents.ndim < 3:
        raise ValueError(f"latents are (b, c, t) or (b, c, t, y, x), not {tuple(latents.shape)}")
    wanted = {1: latents.shape[:1], 2: (latents.shape[0], latents.shape[2])}.get(sigma.ndim)
    if wanted is None or tuple(sigma.shape) != tuple(wanted):
        batch, steps = latents.shape[0], latents.shape[2]
        raise ValueError(
            f"sigma of latents {tuple(latents.shape)} is ({batch},) or ({batch}, {steps}), not {tuple(sigma.shape)}"
        )
    spread = (1,) * (latents.ndim - 3)
    if sigma.ndim == 1:
        return sigma.view(-1, 1, 1, *spread)
    return sigma[:, None].view(sigma.shape[0], 1, sigma.shape[1], *spread)


def mix(
    data: Float[Tensor, "b c t *yx"], noise: Float[Tensor, "b c t *yx"], sigma: Float[Tensor, "*levels"]
) -> Float[Tensor, "b c t *yx"]:
    """The latents at noise level ``sigma``, Eq. (1)."""
    level = expand(sigma, data)
    return (1 - level) * data + level * noise


def velocity(data: Float[Tensor, "b c t *yx"], noise: Float[Tensor, "b c t *yx"]) -> Float[Tensor, "b c t *yx"]:
    """The velocity of the path, Eq. (2), which the network learns; the same at every sigma."""
    return noise - data


def to_data(
    x: Float[Tensor, "b c t *yx"], velocity: Float[Tensor, "b c t *yx"], sigma: Float[Tensor, "*levels"]
) -> Float[Tensor, "b c t *yx"]:
    """The data that latents ``x`` with this velocity come from, Eq. (3)."""
    return x - expand(sigma, x) * velocity


def to_noise(
    x: Float[Tensor, "b c t *yx"], velocity: Float[Tensor, "b c t *yx"], sigma: Float[Tensor, "*levels"]
) -> Float[Tensor, "b c t *yx"]:
    """The noise that latents ``x`` with this velocity go to, Eq. (4)."""
    return x + (1 - expand(sigma, x)) * velocity
