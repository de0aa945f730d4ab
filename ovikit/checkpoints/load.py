"""Tensors from files into models and back: strict in both directions, nothing partial, no pickled code.

Large files are read by ``load_file_into``: the header is held against the model first, then one tensor after the other
goes from the mapped file to where it is to lie, so that there are never two copies of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ovikit.checkpoints.format import CheckpointFormat
from ovikit.checkpoints.state import TensorInfo, metadata_of, open_safetensors, read_header, read_state
from ovikit.errors import UserError, listed
from ovikit.files import atomic_path

_SHOWN = 5
_ALIGNMENT = 64
"""Bytes. What PyTorch's own allocations have on the CPU; where a mapped file has less, products may round otherwise."""

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALED_MARK = "scaled_fp8"
"""An empty tensor that says in some files that the float8 ones have scales."""


@runtime_checkable
class Place(Protocol):
    """Puts one weight where it is to lie, and in the form that it is to have there."""

    def __call__(self, name: str, tensor: Tensor, scale: Tensor | None = None) -> Tensor:
        """The tensor in its place. It may be a quantised one; a plain one may keep its dtype: whoever asks converts it.

        name:   in the model's state dict
        tensor: as the file has it; mapped, so that it takes no memory yet
        scale:  of a float8 tensor; the weight is tensor times scale
        """
        ...


def on_host(name: str, tensor: Tensor, scale: Tensor | None = None) -> Tensor:
    """The tensor in host memory, where a computation on the CPU wants it."""
    tensor = tensor.cpu()
    return tensor if tensor.data_ptr() % _ALIGNMENT == 0 else tensor.clone()


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


def check_names_and_shapes(model: nn.Module, tensors: Mapping[str, Tensor | TensorInfo], where: str) -> None:
    """Raises a UserError that lists every missing, unexpected and misshapen tensor."""
    if problems := differences(model.state_dict(), tensors):
        raise UserError(
            f"these weights are not of this model; {problems}",
            where,
            "check that the recipe is the one the weights were made with",
        )


def differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor | TensorInfo]) -> str:
    """Which names and shapes of a model's tensors are not those of others; empty where all are."""
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    misshapen = [
        f"{name} is {tuple(found[name].shape)}, the model has {tuple(one.shape)}"
        for name, one in wanted.items()
        if name in found and tuple(found[name].shape) != tuple(one.shape)
    ]
    kinds = (("missing", missing), ("not in the model", unexpected), ("of another shape", misshapen))
    return "; ".join(f"{len(names)} tensors {what}: {listed(names, _SHOWN)}" for what, names in kinds if names)


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


def check_file(
    model: nn.Module, path: Path | str, checkpoint: CheckpointFormat | None = None
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """What a file holds of the model's weights, by its names, and the names of their scales; no tensor is read.
    UserError for a file that cannot be read or is not of this model."""
    where, header = str(path), read_header(path)
    scales = scale_names(header)
    stored = {name: info for name, info in header.items() if name not in scales.values() and name != SCALED_MARK}
    blanks = without_values(stored)
    check_names_and_shapes(model, blanks if checkpoint is None else in_our_names(blanks, checkpoint, where), where)
    return stored, scales


def without_values(header: Mapping[str, TensorInfo]) -> dict[str, Tensor]:
    """A file's tensors on the meta device, from its header."""
    return {name: torch.empty(info.shape, dtype=info.dtype, device="meta") for name, info in header.items()}


def load_file_into(
    model: nn.Module,
    path: Path | str,
    checkpoint: CheckpointFormat | None = None,
    place: Place = on_host,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, str]:
    """The metadata of a weights file, after each of its tensors was put into the model, one after the other.

    model:      its weights are replaced, in its own dtypes; it may lie on the meta device
    checkpoint: how the file names its tensors; None: as the model does
    place:      where each goes, and in which form
    progress:   told (bytes read, bytes in all)
    UserError for a file that cannot be read or is not of this model, before any tensor is.
    """
    stored, scales = check_file(model, path, checkpoint)
    dtypes = {name: value.dtype for name, value in model.state_dict().items()}
    tensors, metadata = read_state(path)
    done, total = 0, sum(info.bytes for info in stored.values())
    for name, info in stored.items():
        tensor = tensors.pop(name)
        scale = tensors[scales[name]] if name in scales else None
        ours = name
        if checkpoint is not None:
            ours, tensor, scale = _translated(checkpoint, name, tensor, scale)
        put(model, ours, settled(place(ours, tensor, scale), scale, dtypes[ours]))
        done += info.bytes
        if progress is not None:
            progress(done, total)
    return metadata


def scale_names(header: Mapping[str, TensorInfo] | Mapping[str, Tensor]) -> dict[str, str]:
    """The names of float8 tensors that have a scale beside them, with the name of that scale. Files call it
    ``x.weight_scale`` or ``x.scale_weight``; a float8 tensor without one holds the weight itself."""
    found: dict[str, str] = {}
    for name, info in header.items():
        if info.dtype in _FLOAT8:
            for spelling in (f"{name}_scale", f"{name.removesuffix('.weight')}.scale_weight"):
                if spelling in header:
                    found[name] = spelling
    return found


def _translated(
    checkpoint: CheckpointFormat, name: str, tensor: Tensor, scale: Tensor | None
) -> tuple[str, Tensor, Tensor | None]:
    """Our name of a tensor of the file, and the tensor as its rule has it."""
    [(ours, changed)] = checkpoint.keymap.to_ours({name: tensor}).items()
    if changed is tensor or scale is None:
        return ours, changed, scale
    # A rule that changes the tensor speaks of the weight, not of its float8 part.
    return ours, checkpoint.keymap.to_ours({name: unscaled(tensor, scale)})[ours], None


def unscaled(tensor: Tensor, scale: Tensor | None) -> Tensor:
    """The float32 weight that a float8 tensor and its scale stand for; one scale, or one for each row."""
    if scale is None:
        return tensor.float()
    scale = scale.to(tensor.device, torch.float32)
    return tensor.float() * (scale if scale.numel() == 1 else scale.reshape(-1, *[1] * (tensor.dim() - 1)))


def settled(placed: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A placed tensor in the model's dtype; a quantised one as it is."""
    if type(placed) is not Tensor:
        return placed
    if placed.dtype in _FLOAT8 and dtype not in _FLOAT8:
        placed = unscaled(placed, scale)
    return placed.to(dtype)


def put(model: nn.Module, name: str, value: Tensor) -> None:
    """Makes ``value`` the weight called ``name``, on whatever device each of them lies."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    old = getattr(module, leaf)
    if isinstance(old, nn.Parameter):
        value = nn.Parameter(value, requires_grad=old.requires_grad and type(value) is Tensor)
    setattr(module, leaf, value)


def place_all(model: nn.Module, place: Place, names: Collection[str] | None = None) -> None:
    """Puts every weight of a model (or those named) in its place, one after the other."""
    for name, value in model.state_dict().items():
        if names is None or name in names:
            put(model, name, settled(place(name, value), None, value.dtype))


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
