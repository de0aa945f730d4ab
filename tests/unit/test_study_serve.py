"""The study's server over a real socket: its own clips and nothing else, to those who have a link."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from study_kit import FORM, clips, study_of

from ovikit.errors import UserError
from ovikit.generate.media import read_clip, write_clip
from ovikit.study.new import make
from ovikit.study.records import CLIPS, DIMENSIONS, read_study
from ovikit.study.votes import Votes
from ovikit.testing.clips import beating_clip, silent_clip


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return study_of(tmp_path_factory.mktemp("study"), checks_per_rater=2)


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """The port of a server process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "ovikit", "study", "serve", str(folder), "--port", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                raise AssertionError(process.communicate()[0])
            time.sleep(0.1)
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def port(study) -> Iterator[int]:
    with served(study) as found:
        yield found


def ask(port: int, path: str, method: str = "GET", body: str | None = None, **headers: str):
    """(status, headers, content), the path sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in {**headers, **({"Content-Length": str(len(body))} if body is not None else {})}.items():
        connection.putheader(name, value)
    connection.endheaders(body.encode() if body is not None else None)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def joined(port: int, name: str = "") -> str:
    status, headers, _ = ask(port, "/join", "POST", f"name={name}")
    assert status == 303
    return headers["location"]


def test_a_rater_joins_votes_and_is_told_nothing_of_models(port, study):
    home = joined(port, "Ada")
    assert ask(port, home)[0] == 200
    told = json.loads(ask(port, f"{home}/next")[2])
    assert set(told) == {"place", "done", "total", "prompt", "left", "right"}
    assert told["prompt"].startswith("A light beats")
    everything = b"".join(ask(port, path)[2] for path in ("/", home, f"{home}/next", "/pages/study.js"))
    assert b"ours" not in everything
    assert b"theirs" not in everything
    answer = {"place": 0, "winners": dict.fromkeys(DIMENSIONS, "left"), "seconds": {"left": 2.0, "right": 1.5}}
    for counted in (True, False):
        status, _, content = ask(port, f"{home}/vote", "POST", json.dumps(answer))
        assert (status, json.loads(content)) == (200, {"counted": counted})
    assert json.loads(ask(port, f"{home}/next")[2])["place"] == 1
    votes = Votes(study, read_study(study)).all()
    [row] = {(vote.winner, vote.left, vote.seconds_a, vote.seconds_b) for vote in votes}
    assert row in {("a", "a", 2.0, 1.5), ("b", "b", 1.5, 2.0)}


def test_clips_come_whole_and_in_ranges(port):
    home = joined(port)
    path = json.loads(ask(port, f"{home}/next")[2])["left"]
    status, headers, whole = ask(port, path)
    assert (status, headers["content-type"]) == (200, "video/mp4")
    status, headers, part = ask(port, path, Range="bytes=100-199")
    assert (status, part) == (206, whole[100:200])
    assert headers["content-range"] == f"bytes 100-199/{len(whole)}"


@pytest.mark.parametrize(
    "path",
    ["/clips/../study.json", "/clips/%2e%2e/study.json", "/clips/..%2fstudy.json", "/../study.json", "/votes.sqlite",
     "/study.json", "/clips/", "/clips/none.mp4", "/pages/../records.py", "/pages/report.html.j2", "/r/none",
     "/r/none/next", "/clips/" + quote("/etc/passwd", safe="")],
)  # fmt: skip
def test_nothing_else_is_served(port, path):
    assert ask(port, path)[0] in (404, 400)


def test_pages_allow_nothing_from_elsewhere(port):
    for path in ("/", joined(port), "/pages/study.css"):
        headers = ask(port, path)[1]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    text = "".join(one.read_text() for one in (Path(__file__).parents[2] / "ovikit/study/pages").iterdir())
    assert not re.findall(r"(?:src|href)=\"(?!/pages/)[^\"]", text)
    assert "http://" not in text
    assert "https://" not in text


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", '{"place": 0}', json.dumps({"place": 999, "winners": {}, "seconds": {}}), "x" * 20_000,
     json.dumps({"place": 0, "winners": dict.fromkeys(DIMENSIONS, "ours"), "seconds": {"left": 1, "right": 1}}),
     json.dumps({"place": 0, "winners": dict.fromkeys(DIMENSIONS, "left"), "seconds": {"left": "NaN", "right": None}})],
)  # fmt: skip
def test_answers_that_are_none_are_refused_and_nothing_is_kept(port, study, body):
    home = joined(port)
    before = len(Votes(study, read_study(study)).all())
    status, _, content = ask(port, f"{home}/vote", "POST", body)
    assert status == 400
    assert json.loads(content)["error"]
    assert len(Votes(study, read_study(study)).all()) == before
    assert ask(port, "/r/nobody/vote", "POST", "{}")[0] == 404


def test_a_port_that_is_taken_is_told(study, port):
    words = [sys.executable, "-m", "ovikit", "study", "serve", str(study), "--port", str(port)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"port {port} cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_study_is_blind_whole_and_has_checks(tmp_path):
    study = study_of(tmp_path, prompts=3, checks_per_rater=2)
    found = read_study(study)
    assert [pair.prompt for pair in found.judged] == ["00000", "00001", "00002"]
    assert {pair.check for pair in found.checks} == {"muted", "shifted"}
    names = sorted(path.name for path in (study / CLIPS).iterdir())
    assert len(names) == 3 * 2 + 2
    assert all(re.fullmatch(r"[0-9a-f]{32}\.mp4", name) for name in names)
    for pair in found.checks:
        whole, spoiled = (read_clip(study / CLIPS / one.file) for one in (pair.a, pair.b))
        assert whole.audio is not None
        assert spoiled.audio is not None
        if pair.check == "muted":
            assert float(spoiled.audio.abs().max()) < 1e-3
        else:
            late = round(1.5 * whole.sample_rate_hz)
            assert float(spoiled.audio[: late - 2000].abs().max()) < 1e-2
            kept = len(spoiled.audio) - late - 2000
            error = (spoiled.audio[late : late + kept] - whole.audio[:kept]).abs().mean()
            assert float(error) < 0.1 * float(whole.audio.abs().mean()) + 1e-3


def test_what_cannot_be_shown_is_told_and_the_rest_is_a_study(tmp_path):
    ours, theirs = (
        clips(tmp_path / "ours", ["one", "two", "three", "cut"]),
        clips(tmp_path / "theirs", ["one", "two", "cut"]),
    )
    (theirs / "cut.mp4").write_bytes((theirs / "cut.mp4").read_bytes()[:400])
    (ours / "a b.mp4").write_bytes(b"")
    made = make(tmp_path / "study", {"ours": ours, "theirs": theirs})
    assert {pair.prompt for pair in made.study.judged} == {"one", "two"}
    assert set(made.left_out) == {"ours/three", "theirs/cut", "ours/a b"}
    with pytest.raises(UserError, match="something there already"):
        make(tmp_path / "study", {"ours": ours, "theirs": theirs})


@pytest.mark.parametrize("spoil", ["none in common", "no folder", "one folder"])
def test_mistakes_leave_nothing_behind(tmp_path, spoil):
    ours, theirs = clips(tmp_path / "ours", ["one"]), clips(tmp_path / "theirs", ["two"])
    given = {"ours": ours, "theirs": theirs}
    if spoil == "no folder":
        given["theirs"] = tmp_path / "none"
    if spoil == "one folder":
        del given["theirs"]
    with pytest.raises(UserError):
        make(tmp_path / "study", given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]


def test_silent_clips_make_no_checks(tmp_path):
    for name in ("ours", "theirs"):
        write_clip(tmp_path / name / "one.mp4", replace(silent_clip(FORM), video=beating_clip(FORM).video))
    made = make(tmp_path / "study", {name: tmp_path / name for name in ("ours", "theirs")})
    assert (len(made.study.judged), len(made.study.checks), made.study.checks_per_rater) == (1, 0, 0)


def test_a_damaged_study_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no study here"):
        read_study(tmp_path)
    (tmp_path / "study.json").write_text('{"format": 2}')
    with pytest.raises(UserError, match="not a study of this version"):
        read_study(tmp_path)
    assert os.listdir(tmp_path) == ["study.json"]
