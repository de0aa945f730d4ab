"""Files of the hub: what its cache has is found, and nothing is fetched unasked."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ovikit.errors import UserError
from ovikit.hub import HubFile

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENT = b"some weights"


class Hub(BaseHTTPRequestHandler):
    """One repository, ``me/model``, with one file."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        type(self).asked.append(self.path)
        if self.path.startswith("/api/models/me/model"):
            told = {"id": "me/model", "sha": COMMIT, "siblings": [{"rfilename": "w/net.bin"}]}
            content, kind = json.dumps(told).encode(), "application/json"
        elif self.path.startswith("/me/model/resolve/"):
            content, kind = CONTENT, "application/octet-stream"
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    handler = type("Handler", (Hub,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
        server.shutdown()


def resolved(uri: str, home: Path, endpoint: str, download: bool) -> subprocess.CompletedProcess[str]:
    """What another process makes of an URI; the hub's package reads its settings when it is imported."""
    program = (
        "import sys\nfrom ovikit.errors import UserError\nfrom ovikit.kernel.manager import installed_plugins\n"
        "try:\n    print(installed_plugins().resolve_asset(sys.argv[1]))\n"
        "except UserError as error:\n    sys.exit(str(error))"
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
    own |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "OVIKIT_PLUGINS": "builtins", "HF_HUB_DISABLE_XET": "1"}
    own |= {"OVIKIT_DOWNLOAD": "1"} if download else {}
    return subprocess.run([sys.executable, "-c", program, uri], env=own, capture_output=True, text=True, timeout=120)


def test_a_file_is_fetched_when_that_is_allowed_and_then_it_is_there(tmp_path, hub):
    endpoint, asked = hub
    uri = "hf://me/model/w/net.bin"
    refused = resolved(uri, tmp_path, endpoint, download=False)
    assert refused.returncode == 1
    assert "hf://me/model@main/w/net.bin is not in the hub's cache" in refused.stderr
    assert "OVIKIT_DOWNLOAD=1" in refused.stderr
    assert asked == []
    fetched = resolved(uri, tmp_path, endpoint, download=True)
    assert fetched.returncode == 0, fetched.stderr
    path = Path(fetched.stdout.strip())
    assert path.read_bytes() == CONTENT
    assert "fetching hf://me/model@main/w/net.bin" in fetched.stderr
    asked.clear()
    assert Path(resolved(uri, tmp_path, endpoint, download=False).stdout.strip()) == path
    assert asked == []
    pinned = resolved(f"hf://me/model@{COMMIT}", tmp_path, endpoint, download=False)
    assert Path(pinned.stdout.strip()) == path.parents[1]


def test_what_the_hub_lacks_is_told(tmp_path, hub):
    told = resolved("hf://me/other/net.bin", tmp_path, hub[0], download=True)
    assert told.returncode == 1
    assert "hf://me/other@main/net.bin cannot be fetched" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize("uri", ["hf://me", "hf://me/model/../x", "hf://me/model@", "hf:me/model", "hf://a b/c"])
def test_other_uris_are_refused(uri):
    with pytest.raises(UserError, match="names nothing on the hub"):
        HubFile.parse(uri)


def test_revisions_and_files():
    assert HubFile.parse("hf://me/model") == HubFile("me/model", "main", None)
    assert HubFile.parse("hf://me/model@v1.0/a/b.bin") == HubFile("me/model", "v1.0", "a/b.bin")
