"""What is shown of progress: a bar that goes away on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ovikit import progress
from ovikit.progress import Meter, clock


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def lines_of(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_lines_come_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    console, watch = Console(file=io.StringIO(), width=200), Clock(monkeypatch)
    with Meter(console, "steps") as meter:
        meter.start("step", 40, done=10)
        for done in range(11, 41):
            watch.now += 4.0
            meter.update(done, "loss 0.5")
    lines = lines_of(console)
    # every third step, 12 s apart; the ten steps made before count for nothing
    assert lines[0] == "step 13/40  loss 0.5  0.25 steps/s  1:48 left"
    assert lines[-1] == "step 40/40  loss 0.5  0.25 steps/s  0:00 left"
    assert len(lines) == 10


def test_a_bar_is_closed_when_the_work_fails() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)

    def fail() -> None:
        with Meter(console, "clips") as meter:
            meter.start("generating", 4)
            meter.update(2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "generating" in shown
    assert "2/4" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor is back"


@pytest.mark.parametrize(("seconds", "told"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (7325, "2:02:05")])
def test_clock(seconds: float, told: str) -> None:
    assert clock(seconds) == told
