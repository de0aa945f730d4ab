"""Tensors from files into models and back: strict in both directions, nothing partial, no pickled code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from ovikit.checkpoints.format import CheckpointFormat
from ovikit.checkpoints.state import metadata_of, open_safetensors
from ovikit.errors import UserError, listed
from ovikit.files import atomic_path

_SHOWN = 5


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a .safetensors file. UserError if it is missing, truncated or not one."""
    with open_safetensors(path) as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}, metadata_of(handle)  # noqa: SIM118


def read_metadata(path: Path | str) -> dict[str, str]:
    """The metadata of a .safetensors file, its tensors left on disk; errors as in ``read_tensors``."""
    with open_safetensors(path) as handle:
        return metadata_of(handle)


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a .safetensors file under a temporary name and renames it. The same content gives the same bytes."""
    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(temporary), dict(metadata))
        _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Puts a file's metadata, which safetensors writes in any order, into that of its keys."""
    with path.open("r+b") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(size))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            handle.seek(8)
            handle.write(text.ljust(size))


def check_names_and_shapes(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises a UserError that lists every missing, unexpected and misshapen tensor."""
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    misshapen = [
        f"{name} is {tuple(tensors[name].shape)}, the model has {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    problems = []
    for label, names in (("missing", missing), ("not in the model", unexpected), ("of another shape", misshapen)):
        if names:
            problems.append(f"{len(names)} tensors {label}: {listed(names, _SHOWN)}")
    if problems:
        raise UserError(
            "these weights are not of this model; " + "; ".join(problems),
            where,
            "check that the recipe is the one the weights were made with",
        )


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Puts the tensors into a model (on the meta device, too), every one and no other, in the model's own dtype.
    ``where`` names their source in errors."""
    check_names_and_shapes(model, tensors, where)
    dtypes = {name: value.dtype for name, value in model.state_dict().items()}
    model.load_state_dict({name: value.to(dtypes[name]) for name, value in tensors.items()}, assign=True)


def in_our_names(tensors: Mapping[str, Tensor], checkpoint: CheckpointFormat, where: str) -> dict[str, Tensor]:
    """The tensors of a file of that format, under our names. UserError for a name that the format does not know."""
    try:
        return checkpoint.keymap.to_ours(tensors)
    except KeyError as error:
        raise UserError(f"the {checkpoint.name} format knows no tensor {error}", where) from error


def parse_json_metadata(metadata: Mapping[str, str], key: str, where: str) -> dict[str, object]:
    """A JSON object kept in a file's metadata. UserError if it is absent or damaged."""
    try:
        value = json.loads(metadata[key])
    except KeyError:
        raise UserError(f"the file's metadata lacks {key!r}", where) from None
    except json.JSONDecodeError as error:
        raise UserError(f"the file's metadata {key!r} is not JSON ({error})", where) from error
    if not isinstance(value, dict):
        raise UserError(f"the file's metadata {key!r} is not a JSON object", where)
    return value
