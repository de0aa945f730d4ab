"""What the contracts of fusions and of backbones share: layers under checkpointing and under the compiler, names."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ovikit.networks.joint import JointModel


@contextmanager
def checkpointed(model: JointModel) -> Generator[None, None, None]:
    """Layers under activation checkpointing: they run once more when the gradient is taken."""
    forwards = [layer.forward for layer in model.layers]
    for layer, forward in zip(model.layers, forwards, strict=True):
        layer.forward = lambda *args, forward=forward: checkpoint(forward, *args, use_reentrant=False)
    try:
        yield
    finally:
        for layer in model.layers:
            del layer.forward


@contextmanager
def compiled(model: JointModel) -> Generator[None, None, None]:
    """Layers traced by torch.compile, which raises where it cannot take one as a whole."""
    layers = list(model.layers)
    torch.compiler.reset()
    try:
        for i, layer in enumerate(layers):
            model.layers[i] = torch.compile(layer, fullgraph=True, backend="eager")
        yield
    finally:
        for i, layer in enumerate(layers):
            model.layers[i] = layer
        torch.compiler.reset()


def matching(names: Iterable[str], globs: Iterable[str]) -> list[str]:
    """The names that one of the globs matches."""
    told = tuple(globs)
    return [name for name in names if any(fnmatch(name, one) for one in told)]


def refuse_other_names(module: nn.Module | None, pinned: Sequence[str] | Path | None) -> None:
    """AssertionError when the state dict's names are not those that are pinned, with the names to paste."""
    names = tuple(module.state_dict()) if module is not None else ()
    told = "keys = (\n" + "".join(f'    "{name}",\n' for name in names) + ")" if names else "keys = ()"
    assert pinned is not None, f"the names of the weights are not pinned; in the test class, write\n{told}"
    wanted = tuple(json.loads(pinned.read_text(encoding="utf-8"))) if isinstance(pinned, Path) else tuple(pinned)
    missing, added = sorted(set(wanted) - set(names)), sorted(set(names) - set(wanted))
    assert set(names) == set(wanted), (
        f"names of weights changed: gone {missing}, new {added}. Files that were written before can no longer be read; "
        f"give the old names back, or, if no such file is left, pin the new ones:\n{told}"
    )
