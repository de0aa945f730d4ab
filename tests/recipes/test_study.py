"""The study in a real browser: two raters at once, one loads the page anew, the server is killed between votes."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from study_kit import study_of

from ovikit.study.analysis import OUTCOMES, Report
from ovikit.study.records import DIMENSIONS, read_study
from ovikit.study.votes import Votes

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]
KEYS = {"left": "ArrowLeft", "right": "ArrowRight", "tie": "ArrowDown", "both_bad": "x"}


class Server:
    """A server process that can be killed and started again on its port."""

    def __init__(self, study: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.study = study
        self.start()

    def start(self) -> None:
        words = [sys.executable, "-m", "ovikit", "study", "serve", str(self.study), "--port", str(self.port)]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError("the server does not answer")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def home(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--mute-audio", "--autoplay-policy=no-user-gesture-required",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield found
        found.close()


def join(browser: Any, server: Server, name: str, **size: int) -> Any:
    """A page of a rater's own browser context, at the first pair."""
    page = browser.new_context(viewport={"width": 1200, "height": 900, **size}).new_page()
    page.set_default_timeout(20_000)
    page.goto(server.home)
    page.fill("input[name=name]", name)
    page.click("text=Begin")
    page.wait_for_selector("#pair:not([hidden])")
    return page


def play(page: Any) -> None:
    """Plays both clips to the end, fast."""
    page.evaluate("for (const one of document.querySelectorAll('video')) one.playbackRate = 3")
    for side, key in (("left", "1"), ("right", "2")):
        page.keyboard.press(key)
        page.wait_for_selector(f"figure[data-side={side}] .heard.enough")
        assert page.evaluate("[...document.querySelectorAll('video')].filter((one) => !one.paused).length") <= 1


def answer(page: Any, choice: str, send: bool = True) -> tuple[str, str, str]:
    """Answers all four questions by keyboard; the clips that stand left and right, and the choice."""
    play(page)
    left, right = (page.get_attribute(f"figure[data-side={one}] video", "src") for one in ("left", "right"))
    for _ in DIMENSIONS:
        page.keyboard.press(KEYS[choice])
    page.wait_for_selector("#answers .go:not([disabled])")
    if send:
        step(page, lambda: page.keyboard.press("Enter"))
    return left.rpartition("/")[2], right.rpartition("/")[2], choice


def step(page: Any, act: Any) -> None:
    """Acts, and waits until another pair is shown or none is left."""
    before = page.text_content("#count")
    act()
    page.wait_for_function("(before) => document.querySelector('#count').textContent !== before", arg=before)


def done(page: Any) -> bool:
    return page.is_visible("#through")


def test_nothing_is_lost_and_nothing_counted_twice(browser, tmp_path):
    study = study_of(tmp_path, prompts=3, checks_per_rater=1)
    server = Server(study)
    try:
        said: dict[str, list[tuple[str, str, str]]] = {"one": [], "two": []}
        pages = {name: join(browser, server, name) for name in said}
        choices = {"one": ["left", "right", "tie", "left"], "two": ["both_bad", "right", "left", "right"]}
        for k in range(4):
            for name, page in pages.items():
                choice = choices[name][k]
                if (
                    name == "one" and k == 1
                ):  # in the middle of a pair: what was played is played again, no vote is lost
                    answer(page, choice, send=False)
                    page.reload()
                    page.wait_for_selector("#pair:not([hidden])")
                if name == "two" and k == 2:  # the server dies after the answer was given and before it was sent
                    shown = answer(page, choice, send=False)
                    server.kill()
                    page.keyboard.press("Enter")
                    page.wait_for_selector("text=There is no connection")
                    server.start()
                    page.wait_for_selector("#count:has-text('3 of 4')")
                else:
                    shown = answer(page, choice)
                said[name].append(shown)
            if k == 0:
                server.kill()
                server.start()
        assert all(done(page) for page in pages.values())
        votes = Votes(study, read_study(study)).all()
    finally:
        server.kill()
    assert Counter((vote.rater, vote.prompt, vote.check, vote.dimension) for vote in votes).most_common(1)[0][1] == 1
    assert len(votes) == 2 * 4 * len(DIMENSIONS)
    words = [sys.executable, "-m", "ovikit", "study", "report", str(study), "--keep-failed"]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    report = Report.model_validate_json((study / "report/report.json").read_text())
    for duel in report.duels:
        assert sum(getattr(duel, name) for name in OUTCOMES) == 6
    overall = next(one for one in report.duels if one.dimension == "overall")
    assert {name: getattr(overall, name) for name in OUTCOMES} == counted(study, said)
    lines = (study / "report/votes.jsonl").read_text().splitlines()
    assert [json.loads(line)["winner"] for line in lines] == [vote.winner for vote in votes]
    assert "wins" in (study / "report/report.html").read_text()


def counted(study: Path, said: dict[str, list[tuple[str, str, str]]]) -> dict[str, int]:
    """By hand: outcomes of the first model, from what was pressed and which clips stood left and right then."""
    sides = {(pair.a.file, pair.b.file): pair for pair in read_study(study).pairs}
    found = dict.fromkeys(OUTCOMES, 0)
    for left, right, choice in (one for own in said.values() for one in own):
        pair = sides.get((left, right)) or sides[right, left]
        if pair.check is None and choice in ("tie", "both_bad"):
            found[choice] += 1
        elif pair.check is None:
            winner = left if choice == "left" else right
            found["win" if winner == pair.a.file else "loss"] += 1
    return found


def test_it_fits_a_phone_and_asks_to_play_first(browser, tmp_path):
    server = Server(study_of(tmp_path, prompts=1, checks_per_rater=0))
    try:
        page = join(browser, server, "", width=360, height=740)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.is_disabled("#answers .go")
        assert "Play both clips first" in page.text_content("#told")
        play(page)
        assert "Answer each of the four" in page.text_content("#told")
        for dimension in DIMENSIONS:
            page.click(f"fieldset[data-dimension={dimension}] label:nth-of-type(2)")
        page.click("#answers .go")
        page.wait_for_selector("#through:not([hidden])")
        page.goto(f"{server.home}/r/nobody")
        assert "not one of this study" in page.text_content("body")
    finally:
        server.kill()
