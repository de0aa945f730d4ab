"""Shards of a prepared dataset: plain tar files in the WebDataset layout, which ovikit reads at any place.

Each clip is two members: ``000000042.safetensors`` with its tensors and ``000000042.json`` with what is known of it.
Tools that stream such files read them as they are; where a clip's tensors lie in its shard is kept in an index, so that
any clip is one read, in whatever order.
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ovikit.errors import UserError
from ovikit.files import atomic_path


@dataclass(frozen=True, slots=True)
class Place:
    """Where the tensors of a clip lie.

    shard:  name of the file, within the dataset
    offset: of the first byte
    size:   bytes
    crc32:  of them
    """

    shard: str
    offset: int
    size: int
    crc32: int


class DamagedClipError(UserError):
    """A clip of a dataset that cannot be read: which one, where, and why.

    index: of the clip, where it is one of many
    """

    index: int | None = None


def write_shard(path: Path, clips: Iterable[tuple[int, Mapping[str, Tensor], Mapping[str, Any]]]) -> list[Place]:
    """Where each clip lies in the shard, which is written whole or not at all. The same clips give the same bytes.

    clips: (number, tensors, facts) of each
    """
    spans: list[tuple[int, int, int]] = []
    with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, tensors, facts in clips:
            data = save({name: tensor.contiguous() for name, tensor in sorted(tensors.items())})
            _add(tar, f"{number:09d}.json", json.dumps(facts, ensure_ascii=False, allow_nan=False).encode())
            start = tar.offset + tarfile.BLOCKSIZE  # behind its header
            _add(tar, f"{number:09d}.safetensors", data)
            spans.append((start, len(data), zlib.crc32(data)))
    return [Place(path.name, *span) for span in spans]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # of nobody, made in 1970, so that bytes depend on clips alone
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def read_tensors_at(folder: Path, place: Place, name: str) -> dict[str, Tensor]:
    """The tensors of the clip ``name``. DamagedClipError where they are not what was written."""
    path = folder / place.shard
    try:
        with path.open("rb", buffering=0) as handle:
            handle.seek(place.offset)
            data = handle.read(place.size)
    except OSError as error:
        raise DamagedClipError(f"clip {name} cannot be read ({error.strerror})", str(path)) from error
    if len(data) != place.size or zlib.crc32(data) != place.crc32:
        short = f"the file ends {place.size - len(data)} bytes too soon" if len(data) < place.size else "checksum"
        raise DamagedClipError(f"clip {name} is damaged ({short})", str(path))
    try:
        return load(data)
    except SafetensorError as error:
        raise DamagedClipError(f"clip {name} is damaged ({error})", str(path)) from error
