"""Parts of a model that start from the weights of others: a tower from its own stage, another from a released model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from ovikit.checkpoints.load import differences, in_our_names, put, settled
from ovikit.checkpoints.state import read_state
from ovikit.errors import UserError, listed
from ovikit.files import sha256_of
from ovikit.layout import LOCK, WEIGHTS
from ovikit.recipe.build import format_of
from ovikit.recipe.training import Initial
from ovikit.training.parameters import Part, part_of


def initial_file(path: str) -> Path:
    """The weights file that a path means: itself, or that of a run's folder. UserError where there is none."""
    found = Path(path).expanduser()
    if not found.is_dir():
        if not found.exists():
            raise UserError("there is no such weights file", path, "training.initial starts from where you run ovikit")
        return found
    if (found / WEIGHTS).is_file():
        return found / WEIGHTS
    indices = sorted(found.glob("*.safetensors.index.json")) or sorted(found.glob("*.safetensors"))
    if not (found / LOCK).exists() and len(indices) == 1:
        return indices[0]
    what = "this run has not ended: it has no final weights" if (found / LOCK).exists() else "no weights are in here"
    raise UserError(what, path, "name a weights file, or the folder of a finished run")


def fill_parts(model: nn.Module, initial: Sequence[Initial]) -> None:
    """Puts the weights of each named part into the model, in the model's own dtypes, and nothing else of the files.

    UserError, before the part is touched, where a file holds not exactly the tensors of that part.
    """
    for one in initial:
        path = initial_file(one.path)
        tensors, _ = read_state(path)
        if (checkpoint := format_of(path)) is not None:
            tensors = in_our_names(tensors, checkpoint, str(path))
        wanted = _of(one.part, model.state_dict())
        found = _of(one.part, tensors)
        if not wanted:
            raise UserError(f"the model has no {one.part}", "training.initial")
        if not found:
            held = listed(list(tensors), 3)
            raise UserError(f"this file holds nothing of {one.part}: its first tensors are {held}", str(path))
        if problems := differences(wanted, found):
            raise UserError(
                f"this is not the recipe's {one.part}; {problems}", str(path), "check the sizes in the recipe"
            )
        for name, tensor in found.items():
            put(model, name, settled(tensor.clone(), None, wanted[name].dtype))


def initial_digests(initial: Sequence[Initial]) -> dict[str, str]:
    """The sha256 of each file that parts start from, by the path in the recipe. Of shards: of their index."""
    return {one.path: sha256_of(initial_file(one.path)) for one in initial}


def _of(part: Part, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: one for name, one in tensors.items() if part_of(name) == part}
