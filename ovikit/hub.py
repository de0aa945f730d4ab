"""Files of the Hugging Face hub: those that are here already, and others only where the user says so."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ovikit.errors import UserError
from ovikit.extras import require

DOWNLOAD = "OVIKIT_DOWNLOAD"
"""Set to 1, it lets files be fetched from the hub."""
SCHEME = "hf"
_URI = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>[^@]+))?")
_log = logging.getLogger("ovikit")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository, or all of it where ``file`` is None."""

    repo: str
    revision: str
    file: str | None

    @classmethod
    def parse(cls, uri: str) -> HubFile:
        """``hf://OWNER/NAME``, with ``@REVISION`` and ``/FILE`` behind it or not."""
        found = _URI.fullmatch(uri)
        if found is None or ".." in (found["file"] or "").split("/"):
            raise UserError(f"'{uri}' names nothing on the hub", hint="write hf://OWNER/NAME@REVISION/FILE")
        return cls(found["repo"], found["revision"] or "main", found["file"])

    def path(self) -> Path:
        """Where it lies in the hub's own cache, fetched into it where OVIKIT_DOWNLOAD allows that."""
        told = f"hf://{self.repo}@{self.revision}" + ("" if self.file is None else f"/{self.file}")
        kept = self._kept(Path(require("huggingface_hub.constants", extra="eval").HF_HUB_CACHE))
        if kept.exists():
            return kept
        if os.environ.get(DOWNLOAD) != "1":
            hint = f"set {DOWNLOAD}=1 to fetch it, or name a file of your own"
            raise UserError(f"{told} is not in the hub's cache, and nothing is fetched unasked", hint=hint)
        hub = require("huggingface_hub", extra="eval")
        _log.warning("fetching %s", told)
        try:
            if self.file is None:
                return Path(hub.snapshot_download(self.repo, revision=self.revision))
            return Path(hub.hf_hub_download(self.repo, self.file, revision=self.revision))
        except (OSError, ValueError) as error:  # all that the package raises are of these
            raise UserError(f"{told} cannot be fetched: {str(error).splitlines()[0]}") from error

    def _kept(self, cache: Path) -> Path:
        """Where the cache has it, if it does. Looked up here: asking the package for it calls the hub."""
        home = cache / f"models--{self.repo.replace('/', '--')}"
        ref = home / "refs" / self.revision
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else self.revision
        snapshot = home / "snapshots" / commit
        return snapshot if self.file is None else snapshot / self.file
