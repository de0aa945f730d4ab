"""The study's pages over HTTP: only its own clips, to raters with a link of their own."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from ovikit.errors import UserError
from ovikit.extras import require
from ovikit.study.records import CLIPS, DIMENSIONS, Study, Winner, read_study
from ovikit.study.votes import Place, Votes

PAGES = Path(__file__).parent / "pages"
FILES = {"study.css": "text/css", "study.js": "text/javascript"}
MOST_BYTES = 10_000
"""Of an answer; a longer one is none."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self';"
    " connect-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def serve(folder: Path, host: str, port: int) -> None:
    """Serves the study of a folder until it is stopped. UserError where the extra ``study`` is missing, or the address
    is taken."""
    import socket

    uvicorn = require("uvicorn", extra="study")
    app = application(folder)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            own.bind((host, port))
        except OSError as error:
            raise UserError(f"port {port} cannot be used: {error.strerror}", host, "choose another: --port") from error
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[own])


def application(folder: Path) -> Any:
    """The study of a folder as an ASGI application."""
    applications = require("starlette.applications", extra="study")
    routing = require("starlette.routing", extra="study")
    site = _Site(folder)
    route = routing.Route
    return applications.Starlette(
        routes=[
            route("/", site.start),
            route("/join", site.join, methods=["POST"]),
            route("/r/{token}", site.rater),
            route("/r/{token}/next", site.next),
            route("/r/{token}/vote", site.vote, methods=["POST"]),
            route("/pages/{name}", site.page),
            route("/clips/{name}", site.clip),
        ]
    )


class _Site:
    """What is answered. Handlers are plain functions: Starlette runs each in a thread, so raters do not wait for each
    other's disk."""

    def __init__(self, folder: Path) -> None:
        self.study: Study = read_study(folder)
        self.votes = Votes(folder, self.study)
        self.clips = {one.file: folder / CLIPS / one.file for pair in self.study.pairs for one in (pair.a, pair.b)}
        missing = [name for name, path in self.clips.items() if not path.is_file()]
        if missing:
            raise UserError(f"{len(missing)} clips of this study are gone", str(folder / CLIPS))
        self._answers = require("starlette.responses", extra="study")

    def _json(self, data: Mapping[str, Any], status: int = 200) -> Any:
        return self._answers.JSONResponse(data, status, headers=HEADERS)

    def _no(self, status: int, why: str) -> Any:
        return self._json({"error": why}, status)

    def _page(self, name: str, kind: str) -> Any:
        text = (PAGES / name).read_text(encoding="utf-8")
        return self._answers.Response(text, media_type=kind, headers=HEADERS)

    def start(self, request: Any) -> Any:
        return self._page("start.html", "text/html")

    def page(self, request: Any) -> Any:
        name = request.path_params["name"]
        return self._page(name, FILES[name]) if name in FILES else self._no(404, "there is no such page")

    async def join(self, request: Any) -> Any:
        from starlette.concurrency import run_in_threadpool

        given = parse_qs((await _body(request)).decode("utf-8", "replace")).get("name", [""])[0]
        token = secrets.token_urlsafe(16)
        await run_in_threadpool(self.votes.join, token, given)
        return self._answers.RedirectResponse(f"/r/{token}", 303, headers=HEADERS)

    def rater(self, request: Any) -> Any:
        if not self.votes.known(self.votes.rater_of(request.path_params["token"])):
            return self._no(404, "this link is not one of this study's")
        return self._page("study.html", "text/html")

    def next(self, request: Any) -> Any:
        rater = self.votes.rater_of(request.path_params["token"])
        if not self.votes.known(rater):
            return self._no(404, "this link is not one of this study's")
        found = self.votes.next(rater)
        return self._json({"through": found} if isinstance(found, int) else _shown(found))

    async def vote(self, request: Any) -> Any:
        from starlette.concurrency import run_in_threadpool

        rater = self.votes.rater_of(request.path_params["token"])
        try:
            given = json.loads(await _body(request))
        except (json.JSONDecodeError, UnicodeDecodeError):
            return self._no(400, "an answer is a JSON object")
        return await run_in_threadpool(self._voted, rater, given)

    def _voted(self, rater: str, given: Any) -> Any:
        """Answers after the vote is on the disk. A vote that comes again, after a line broke, is answered alike."""
        if not self.votes.known(rater):
            return self._no(404, "this link is not one of this study's")
        try:
            place, left = int(given["place"]), self.votes.left_of(rater, int(given["place"]))
            winners = {one: _winner(given["winners"][one], left) for one in DIMENSIONS}
            played = {side: min(max(float(given["seconds"][side]), 0.0), 86400.0) for side in ("left", "right")}
        except (KeyError, TypeError, ValueError):
            return self._no(400, "an answer names its place, a winner in each dimension, and seconds of each side")
        except UserError as error:
            return self._no(400, error.what)
        seconds = (played["left"], played["right"]) if left == "a" else (played["right"], played["left"])
        counted = self.votes.vote(rater, place, winners, seconds)
        return self._json({"counted": counted})

    def clip(self, request: Any) -> Any:
        path = self.clips.get(request.path_params["name"])
        if path is None:
            return self._no(404, "there is no such clip")
        return self._answers.FileResponse(
            path, media_type="video/mp4", headers={**HEADERS, "Cache-Control": "private, max-age=86400"}
        )


def _shown(place: Place) -> dict[str, Any]:
    """What the page is told: which clip stands where, and nothing of whose it is."""
    left, right = (place.pair.a, place.pair.b) if place.left == "a" else (place.pair.b, place.pair.a)
    return {
        "place": place.number, "done": place.number, "total": place.total, "prompt": place.pair.text,
        "left": f"/clips/{left.file}", "right": f"/clips/{right.file}",
    }  # fmt: skip


def _winner(given: str, left: str) -> Winner:
    if given in ("tie", "both_bad"):
        return given  # type: ignore[return-value]
    if given not in ("left", "right"):
        raise ValueError(given)
    return "a" if (given == "left") == (left == "a") else "b"


async def _body(request: Any) -> bytes:
    """The request's content, up to ``MOST_BYTES`` of it."""
    found = b""
    async for part in request.stream():
        found += part
        if len(found) > MOST_BYTES:
            return b""
    return found
