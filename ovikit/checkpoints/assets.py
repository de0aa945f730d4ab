"""Where the weight files that components name are found: a folder of the user's, or wherever a plugin resolves them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ovikit.errors import UserError
from ovikit.files import atomic_write_json, sha256_of

_log = logging.getLogger("ovikit")
MANIFEST = "ovikit.json"
MANIFEST_FORMAT = "ovikit-weights"
MANIFEST_VERSION = 1


class Assets:
    """The files of a weights folder by the names that recipes use, which are those of the official layout.

    root:  the folder; None: files are asked of ``find`` alone
    find:  a path for a name that is not in the folder; it raises a UserError where it knows none
    cache: folder where the digests of large files are remembered; None: only in this process

    ``hashing(path, bytes done, bytes in all)`` is told while a file's digest is computed, if it is set.
    """

    def __init__(
        self, root: Path | None = None, find: Callable[[str], Path] | None = None, cache: Path | None = None
    ) -> None:
        if root is not None and not root.is_dir():
            raise UserError("there is no such weights folder", str(root))
        self.root, self._find, self._cache = root, find, cache
        self.hashing: Callable[[Path, int, int], None] | None = None
        self._digests: dict[str, str] | None = None
        self._manifest: Mapping[str, Any] = {} if root is None else read_manifest(root)

    def path(self, name: str) -> Path:
        """The existing file or folder called ``name``. UserError where there is none, or the name leads elsewhere."""
        if self.root is None:
            if self._find is None:
                raise UserError(f"'{name}' is needed", hint="give the folder of the weights: --weights DIR")
            return self._find(name)
        inside = self._own_name(name)
        path = self.root / inside
        if os.path.isabs(inside) or ".." in Path(inside).parts:
            raise UserError(f"'{inside}' lies outside of the weights folder", str(self.root))
        if not path.exists():
            hint = f"see what is missing: ovikit weights check {self.root}"
            raise UserError(f"the weights folder has no {inside}", str(self.root), hint)
        return path

    def _own_name(self, name: str) -> str:
        """How a converted folder calls the file that the official layout calls ``name``."""
        files: Mapping[str, Any] = self._manifest.get("files", {})
        return str(files[name]["path"]) if name in files else name

    def digest(self, name: str) -> str:
        """sha256 (hex) of a file, or of a folder's files in the order of their names."""
        return self.digest_of(self.path(name))

    def digest_of(self, path: Path) -> str:
        """As ``digest``, of a path. Remembered by path, size and time of change, for hashing 20 GB takes a while."""
        if path.is_dir():
            files = sorted(one for one in path.rglob("*") if one.is_file())
            told = "\n".join(f"{one.relative_to(path).as_posix()} {sha256_of(one)}" for one in files)
            return hashlib.sha256(told.encode()).hexdigest()
        state = path.stat()
        if self._digests is None:
            self._digests = self._remembered()
        known, told = self._digests, self.hashing
        key = f"{path.resolve()}:{state.st_size}:{state.st_mtime_ns}"
        if key not in known:
            known[key] = sha256_of(path, told and (lambda done, total: told(path, done, total)))
            self._remember(known)
        return known[key]

    def _remember(self, known: Mapping[str, str]) -> None:
        if self._cache is None:
            return
        try:
            atomic_write_json(self._cache / "digests.json", known)
        except UserError as error:
            # A folder that cannot be written to costs the next run a while, and this one nothing.
            _log.info("digests are not remembered: %s", error)

    def _remembered(self) -> dict[str, str]:
        if self._cache is None:
            return {}
        try:
            found = json.loads((self._cache / "digests.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError, UnicodeDecodeError):
            return {}
        return found if isinstance(found, dict) else {}


def read_manifest(root: Path) -> Mapping[str, Any]:
    """What a converted folder says of itself; empty for a folder in the official layout. UserError if it is damaged."""
    path = root / MANIFEST
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        whole = found["format"] == MANIFEST_FORMAT and all("path" in one for one in found["files"].values())
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError("this is not a manifest of weights", str(path), "convert the official folder again") from error
    if not whole or found.get("version") != MANIFEST_VERSION:
        raise UserError(f"this manifest is not of version {MANIFEST_VERSION}", str(path))
    return found
