"""Weights files as they come: .safetensors, .pth and .pt, whole or by their header, and no pickled code.

A file's kind is told by its content, never by its name. Tensors are mapped from disk where the format allows it
(.safetensors, and what PyTorch has written since 1.6): they take memory when they are used, not when they are read.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ovikit.errors import UserError, listed

_AGAIN = "download or copy it again"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


_ENDS_EARLY = (
    RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, struct.error
)  # fmt: skip
"""What PyTorch raises on a file that ends early or is not its own."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What is known of a tensor without its numbers."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """What it takes on disk and in memory."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def read_state(path: Path | str, within: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a weights file by name, and its metadata (only .safetensors has any).

    path:   .safetensors, .pth or .pt, or the .safetensors.index.json of several shards
    within: key of the state dict in a pickled file that nests it; .safetensors never nests, and ignores it
    UserError: missing, empty, truncated, not a weights file, a pickle that wants to run code, ``within`` absent, an
    entry that is not a tensor.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == "index":
        tensors: dict[str, Tensor] = {}
        for shard, names in _shards(path).items():
            found, _ = read_state(shard)
            _refuse_incomplete(shard, names, found)
            tensors |= {name: found[name] for name in names}
        return tensors, {}
    if kind == "safetensors":
        with open_safetensors(path) as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}, metadata_of(handle)  # noqa: SIM118
    return _pickled(path, within, kind), {}


def read_header(path: Path | str, within: str | None = None) -> dict[str, TensorInfo]:
    """Names, shapes and dtypes of a weights file; no tensor is read. Arguments and errors as in ``read_state``."""
    path = Path(path)
    kind = _kind(path)
    if kind == "index":
        header: dict[str, TensorInfo] = {}
        for shard, names in _shards(path).items():
            found = read_header(shard)
            _refuse_incomplete(shard, names, found)
            header |= {name: found[name] for name in names}
        return header
    if kind == "safetensors":
        with open_safetensors(path) as handle:
            return {name: _info(handle, name, path) for name in handle.keys()}  # noqa: SIM118
    return {name: TensorInfo(tuple(one.shape), one.dtype) for name, one in _pickled(path, within, kind).items()}


@contextmanager
def open_safetensors(path: Path | str) -> Iterator[safe_open]:
    """An open .safetensors file. UserError if it is missing, truncated or not one."""
    kind = _kind(Path(path))
    if kind != "safetensors":
        raise UserError(f"this is not a safetensors file but {_TOLD[kind]}", str(path))
    try:
        with safe_open(str(path), "pt") as handle:
            yield handle
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"this is not a whole safetensors file ({error})", str(path), f"perhaps truncated: {_AGAIN}"
        ) from error


def metadata_of(handle: safe_open) -> dict[str, str]:
    """A file's metadata by key: safetensors gives it in any order, which would go on into what is written of it."""
    return dict(sorted((handle.metadata() or {}).items()))


def _info(handle: safe_open, name: str, path: Path) -> TensorInfo:
    part = handle.get_slice(name)
    if part.get_dtype() not in _DTYPES:
        raise UserError(f"{name} is of type {part.get_dtype()}, which PyTorch does not have here", str(path))
    return TensorInfo(tuple(part.get_shape()), _DTYPES[part.get_dtype()])


_TOLD = {
    "zip": "a PyTorch file (a zip archive)",
    "pickle": "a PyTorch file (a pickle)",
    "index": "an index of shards",
}


def _kind(path: Path) -> str:
    """What a file is by its first bytes: safetensors, zip, pickle or index. UserError where it is none of them."""
    if path.is_dir():
        raise UserError("this is a folder, and a weights file is wanted", str(path))
    if not path.is_file():
        raise UserError("no such weights file", str(path))
    try:
        with path.open("rb") as handle:
            head = handle.read(512)
    except OSError as error:
        raise UserError(f"this file cannot be read: {error.strerror or error}", str(path)) from error
    if not head:
        raise UserError("this file is empty", str(path), _AGAIN)
    if head.startswith(b"version https://git-lfs"):
        raise UserError(
            "this is a git-lfs pointer, not the weights that it points to",
            str(path),
            "fetch the file itself: git lfs pull, or download it from the repository's files",
        )
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(
            "this is a web page, not a weights file",
            str(path),
            "the download gave a page (an error or a log-in): download the file itself",
        )
    if text.startswith(b"{"):
        if path.name.endswith(".index.json"):
            return "index"
        raise UserError("this is a JSON text, not a weights file", str(path), _AGAIN)
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if len(head) > 8 and head[8:9] == b"{":
        return "safetensors"
    if head.startswith(b"\x80"):
        return "pickle"
    if not any(head):
        raise UserError("this file begins with zeros: it was never filled", str(path), _AGAIN)
    if path.suffix == ".safetensors":
        raise UserError("this is not a whole safetensors file", str(path), _AGAIN)
    raise UserError("this is not a weights file: neither .safetensors nor PyTorch's", str(path), _AGAIN)


def _pickled(path: Path, within: str | None, kind: str) -> dict[str, Tensor]:
    """The state dict of a file that PyTorch wrote."""
    content = _unpickled(path, kind)
    if within is not None:
        if not isinstance(content, Mapping) or within not in content:
            raise UserError(f"it holds nothing under {within!r}", str(path), f"it holds {_held(content)}")
        content = content[within]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"this is not a state dict: it holds {_held(content)}", str(path))
    others = [str(name) for name, one in content.items() if not (isinstance(name, str) and isinstance(one, Tensor))]
    if others:
        raise UserError(f"this is not a state dict: not tensors are {listed(others, 5)}", str(path))
    return {name: one.detach() for name, one in content.items()}


def _held(content: object) -> str:
    if isinstance(content, Mapping):
        return listed([str(name) for name in content], 5) if content else "nothing"
    return f"a {type(content).__name__}"


def _unpickled(path: Path, kind: str) -> Any:
    """What a pickle holds, by PyTorch's restricted unpickler, which builds tensors and plain containers only."""
    zipped = kind == "zip"
    if zipped and not zipfile.is_zipfile(path):
        raise UserError("this file is truncated: the end of the archive is missing", str(path), _AGAIN)
    if path.suffix == ".safetensors":  # PyTorch would go by the name
        raise UserError(
            "this is a PyTorch file under the name of a safetensors file", str(path), "rename it to end in .pth"
        )
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except _ENDS_EARLY as error:
        raise _damaged(path, error) from error


def _refused(path: Path, error: pickle.UnpicklingError) -> UserError:
    """The error for a pickle that asks for anything but tensors and plain containers."""
    hint = "weights need no code: download them from where their authors publish them, as .safetensors if there"
    if named := re.search(r"(?:GLOBAL|class|function|global):?\s+([\w]+(?:\.\w+)+)", str(error)):
        what = f"this file wants to run code when it is opened ({named.group(1)}), and was refused"
    elif "Unsupported" in str(error):
        what = "this file was refused: it is damaged, or a pickle with more in it than tensors, which could run code"
    else:
        return _damaged(path, error)
    return UserError(what, str(path), hint)


def _damaged(path: Path, error: Exception) -> UserError:
    told = "" if isinstance(error, pickle.UnpicklingError) else str(error).strip()
    reason = told.splitlines()[0][:200] if told else type(error).__name__
    return UserError(f"this weights file is truncated or damaged ({reason})", str(path), _AGAIN)


def _shards(index: Path) -> dict[Path, list[str]]:
    """Which tensors each shard holds, by an index of Hugging Face's form."""
    try:
        where = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        pairs = [(str(name), str(shard)) for name, shard in where.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("this is not an index of shards: it has no 'weight_map'", str(index), _AGAIN) from error
    shards: dict[Path, list[str]] = {}
    for name, shard in pairs:
        if Path(shard).name != shard:
            raise UserError(f"a shard must lie beside its index: {shard!r}", str(index))
        shards.setdefault(index.parent / shard, []).append(name)
    return shards


def _refuse_incomplete(shard: Path, names: list[str], found: Mapping[str, object]) -> None:
    if missing := [name for name in names if name not in found]:
        raise UserError(f"the index names tensors that are not in this shard: {listed(missing, 5)}", str(shard), _AGAIN)
