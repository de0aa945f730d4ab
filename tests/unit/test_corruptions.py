"""Corruptions spoil by the amount that they say, and responses are told as they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ovikit.evaluation.corruptions import CORRUPTIONS
from ovikit.evaluation.selftest import course_of, made_clips, responses_to
from ovikit.types import Clip

BY_NAME = {one.name: one for one in CORRUPTIONS}
RATE = 16000


def clip() -> Clip:
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(40, 220, (40, 24, 32, 3), generator=generator, dtype=torch.uint8)
    audio = 0.3 * torch.sin(torch.arange(2 * RATE) * 2 * math.pi * 440 / RATE)
    return Clip("0", "", video, audio + 0.01 * torch.randn(2 * RATE, generator=generator), 20.0, RATE)


def heard(name: str, grade: float) -> tuple[Tensor, Tensor]:
    whole, spoilt = clip(), BY_NAME[name](clip(), grade)
    assert whole.audio is not None
    assert spoilt.audio is not None
    assert torch.equal(spoilt.video, whole.video), "it is of the sound alone"
    assert spoilt.audio.shape == whole.audio.shape
    return whole.audio, spoilt.audio


def seen(name: str, grade: float) -> tuple[Tensor, Tensor]:
    whole, spoilt = clip(), BY_NAME[name](clip(), grade)
    assert whole.video is not None
    assert spoilt.video is not None
    assert torch.equal(spoilt.audio, whole.audio), "it is of the picture alone"
    assert (spoilt.video.shape, spoilt.video.dtype) == (whole.video.shape, torch.uint8)
    return whole.video, spoilt.video


@pytest.mark.parametrize("ms", BY_NAME["sound late"].grades)
def test_sound_is_late_by_so_much(ms: float) -> None:
    whole, late = heard("sound late", ms)
    shift = round(ms / 1000 * RATE)
    assert torch.equal(late[shift:], whole[: len(whole) - shift])
    assert not late[:shift].any()


@pytest.mark.parametrize("db", BY_NAME["noise"].grades)
def test_noise_lies_so_far_below(db: float) -> None:
    whole, noisy = heard("noise", db)
    found = 10 * torch.log10(whole.square().mean() / (noisy - whole).square().mean())
    assert found.item() == pytest.approx(db, abs=0.2)


@pytest.mark.parametrize("db", BY_NAME["clipping"].grades)
def test_what_is_too_loud_is_cut_off(db: float) -> None:
    whole, clipped = heard("clipping", db)
    least = whole.abs().max() / 10 ** (db / 20)
    assert torch.equal(clipped.abs() >= 1, whole.abs() >= least)


@pytest.mark.parametrize("hz", [4000, 1000])
def test_nothing_is_heard_above(hz: float) -> None:
    whole, muffled = heard("muffled", hz)
    before, after = (torch.fft.rfft(one.double()).abs() for one in (whole, muffled))
    above = torch.fft.rfftfreq(len(whole), 1 / RATE) > hz
    assert after[above].max() < 1e-3 * before[above].max()
    torch.testing.assert_close(after[~above], before[~above], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("percent", BY_NAME["frames dropped"].grades)
def test_so_many_frames_are_dropped_evenly(percent: float) -> None:
    whole, dropped = seen("frames dropped", percent)
    repeated = [torch.equal(a, b) for a, b in pairwise(dropped)]
    assert sum(repeated) == pytest.approx(percent / 100 * len(whole), abs=1)
    assert sum(repeated[:20]) == pytest.approx(sum(repeated[20:]), abs=1)


@pytest.mark.parametrize("name", ["silenced", "frozen", "blacked out"])
def test_the_end_is_lost(name: str) -> None:
    for percent in BY_NAME[name].grades:
        whole, spoilt = heard(name, percent) if name == "silenced" else seen(name, percent)
        kept = len(whole) - round(percent / 100 * len(whole))
        assert torch.equal(spoilt[:kept], whole[:kept]) or name == "frozen"
        end = spoilt[kept:]
        assert torch.equal(end, (end[:1] if name == "frozen" else torch.zeros_like(end[:1])).expand_as(end))


def test_pictures_flicker_and_are_blurred_by_so_much() -> None:
    whole, flickering = seen("flicker", 20)
    assert torch.equal(flickering[::2], whole[::2])
    torch.testing.assert_close(flickering[1::2].float(), 0.8 * whole[1::2].float(), atol=0.5, rtol=0)
    plain = torch.full_like(whole, 90)
    blur = BY_NAME["blurred"]
    deviations = [whole.float().std()]
    for grade in (20, 50, 100):
        one = blur(Clip("0", "", whole, None, 20.0, RATE), grade).video
        same = blur(Clip("0", "", plain, None, 20.0, RATE), grade).video
        assert one is not None
        assert torch.equal(same, plain)
        assert one.float().mean() == pytest.approx(whole.float().mean().item(), abs=1.5)
        deviations.append(one.float().std())
    assert deviations == sorted(deviations, reverse=True)


@pytest.mark.parametrize("one", CORRUPTIONS, ids=lambda one: one.name)
def test_a_clip_without_what_is_spoilt_stays_as_it_is(one) -> None:
    bare = Clip("0", "", None, None, 20.0, RATE)
    assert one(bare, one.grades[-1]) == bare
    assert len(one.grades) == len(set(one.grades)) >= 4


@pytest.mark.parametrize(
    ("moved", "least", "course"),
    [
        ([0.1, 0.4, 0.9], 0.0, "up"),
        ([-0.1, -0.4, -0.9], 0.0, "down"),
        ([0.0, 0.0, 0.9], 0.0, "up"),
        ([0.5, 0.46, 0.9], 0.0, "up"),  # a step back of a twentieth of the way
        ([0.5, 0.2, 0.9], 0.0, "unsteady"),
        ([0.3, -0.3], 0.0, "unsteady"),
        ([0.01, 0.02], 0.05, "not"),
        ([0.0, 0.0], 0.0, "not"),
        ([], 0.0, "not"),
    ],
)
def test_how_a_metric_goes_on(moved: Sequence[float], least: float, course: str) -> None:
    assert course_of(moved, least) == course


def test_a_clip_that_loses_its_score_does_not_move_the_mean() -> None:
    found = responses_to([1.0, 5.0, None], {"a": [[2.0, 6.0, None], [3.0, None, 9.0]], "b": [[1.0, 5.01, 1.0]]})
    assert found["a"] is not None
    assert found["b"] is not None
    assert (found["a"].whole, found["a"].grades, found["a"].scored) == (3.0, (4.0, 5.0), (2, 1))
    assert (found["a"].moves, found["b"].moves) == ("up", "not")
    assert responses_to([None], {"a": [[1.0]]}) == {"a": None}


def test_made_clips_are_the_same_every_time_and_differ() -> None:
    first, again = made_clips(), made_clips()
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.video, other.video)
        assert torch.equal(one.audio, other.audio)
    assert not torch.equal(first[0].audio, first[1].audio)
