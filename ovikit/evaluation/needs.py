"""What an evaluator needs that is not part of ovikit: weights that the user names, packages, and how they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ovikit.checkpoints.assets import Assets
from ovikit.checkpoints.load import load_into
from ovikit.checkpoints.state import read_state
from ovikit.errors import UserError
from ovikit.evaluation.protocols import Need

M = TypeVar("M", bound=nn.Module)
DEVICE = "OVIKIT_EVAL_DEVICE"
"""Names the device that networks of evaluators run on."""


def need_asset(assets: Assets, name: str, licence: str, source: str) -> Need:
    """A file or folder of weights, as it is looked for: an existing path, a name in the folder of the assets, or
    ``hf://OWNER/NAME``."""
    try:
        assets.path(name)
    except UserError as error:
        if name.startswith("hf://"):
            return Need(name, licence, source, f"{error.what}; {error.hint}")
        return Need(name, licence, source, f"it is not here; get it from {source}, into the folder of OVIKIT_ASSETS")
    return Need(name, licence, source)


def need_package(module: str, licence: str, source: str, install: str) -> Need:
    """A package that brings a model. install: what to type where it is missing."""
    there = find_spec(module) is not None
    return Need(module, licence, source, None if there else f"it is not installed: {install}")


def digest_of(assets: Assets, *needs: Need) -> str:
    """Tells the weights of an evaluator apart, as part of the version of its features and metrics; empty where some
    are missing."""
    if any(need.missing is not None for need in needs):
        return ""
    return "+".join(assets.digest(need.name)[:12] for need in needs)


def network(
    make: Callable[[], M],
    path: Path,
    *,
    within: str | None = None,
    named: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda state: state,
) -> M:
    """A network with the weights of a file, for use alone, on the device of evaluators.

    within: key of the state dict in a pickled file that nests it
    named:  the file's tensors by the network's own names; what the network does not have is left out here
    UserError naming the file where a tensor is missing, unknown or of another shape.
    """
    state, _ = read_state(path, within)
    with torch.random.fork_rng(devices=[]):  # initial weights, none of which is kept, move nobody's generator
        built = make()
    load_into(built, named(state), str(path))
    return built.to(device()).eval().requires_grad_(False)


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the ``module.`` that training on several devices puts before each name."""
    return {name.removeprefix("module."): value for name, value in state.items()}


def device() -> torch.device:
    """Where networks of evaluators run: what OVIKIT_EVAL_DEVICE names, else a GPU where there is one."""
    return torch.device(os.environ.get(DEVICE) or ("cuda" if torch.cuda.is_available() else "cpu"))
