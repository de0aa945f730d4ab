"""Writing files so that nothing partial is ever seen under the final name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ovikit.errors import UserError

_FULL_BYTES = 64 * 1024
"""A disk with less room than this is full."""
_FAILED_WRITE = ("inline_container.cc", "PytorchStreamWriter failed", "Error while serializing: I/O error")
"""By which errors of PyTorch and safetensors are known that were errors of the system."""
_HASHED_BYTES = 16 * 1024 * 1024


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """UserError naming ``path`` where it cannot be written: not allowed, no space left, a folder in its place."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Libraries tell a full disk in words of their own: PyTorch of positions, safetensors of serialising.
        if _full(Path(path).parent):
            raise UserError("it cannot be written: the disk is full", str(path)) from error
        if isinstance(error, OSError):
            raise UserError(f"it cannot be written: {error.strerror or error}", str(path)) from error
        if any(sign in str(error) for sign in _FAILED_WRITE):
            said = str(error).splitlines()[0]
            raise UserError(
                f"it cannot be written: the system stopped it, perhaps a quota ({said})", str(path)
            ) from error
        raise


def _full(folder: Path) -> bool:
    return folder.is_dir() and shutil.disk_usage(folder).free < _FULL_BYTES


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside ``path`` with its suffix: renamed to ``path`` on success, removed on failure.

    UserError where the file cannot be written.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with writing(path):
            yield temporary
            # mkstemp makes files private; a finished file gets the permissions that any new file would have.
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_text(path: Path | str, text: str) -> None:
    """Writes a text as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode())


def atomic_write_json(path: Path | str, data: Mapping[str, Any]) -> None:
    """Writes a JSON object that people can read. ValueError for NaN and Inf, which JSON does not have."""
    atomic_write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_of(path: Path | str, progress: Callable[[int, int], None] | None = None) -> str:
    """Hex digest of a file's content. ``progress(bytes done, bytes in all)`` is told on the way."""
    with open(path, "rb") as handle:
        if progress is None:
            return hashlib.file_digest(handle, "sha256").hexdigest()
        digest, size, done = hashlib.sha256(), os.fstat(handle.fileno()).st_size, 0
        while chunk := handle.read(_HASHED_BYTES):
            digest.update(chunk)
            done += len(chunk)
            progress(done, size)
        return digest.hexdigest()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder that is worked in, which is made if need be, as long as this one lives.

    UserError where another process is at work in it. Systems without ``flock`` have no such guard.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "another process is at work in this folder", str(folder), "wait for it, or end it"
            ) from None
        yield
