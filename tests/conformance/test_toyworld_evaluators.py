"""The toy world's evaluators: perfect on the truth, chance on exchanged sounds, honest where they cannot tell."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from ovikit.evaluation.protocols import Evaluator, PromptItem, Unscored
from ovikit.generate.media import read_clip, write_clip
from ovikit.types import Clip, ClipSpec
from ovikit_toyworld.block_dct import BlockDct
from ovikit_toyworld.evaluators import ToyColourPitch, ToyCount, ToyOnsets, match_onsets
from ovikit_toyworld.mel_dct import MelDct
from ovikit_toyworld.prompts import HeldOutPrompts

CLIP = ClipSpec(duration_s=2.0, height_px=64, width_px=64, frame_rate_hz=24.0, sample_rate_hz=16000)
COUNT = 24
EVALUATORS: tuple[Evaluator, ...] = (ToyOnsets(0.1), ToyColourPitch(), ToyCount())
IDS = ["onsets", "colour-pitch", "count"]
PROMPTS = HeldOutPrompts(CLIP, COUNT, 1000, ("flash", "bounce"))


@cache
def references() -> tuple[Clip, ...]:
    return tuple(PROMPTS.reference(i) for i in range(COUNT))


@cache
def features(index: int) -> tuple[dict[str, Any], ...]:
    """Each evaluator's features of a reference clip."""
    return tuple(evaluator.features(references()[index]) for evaluator in EVALUATORS)


def mean(metric: int, name: str, shift: int = 0) -> float:
    """The mean score over all clips whose sound is that of the clip ``shift`` later."""
    scores = []
    for i in range(COUNT):
        video, audio = features(i)[metric], features((i + shift) % COUNT)[metric]
        scores.append(EVALUATORS[metric].score(video, audio, PROMPTS[i])[name])
    return sum(scores) / len(scores)


def test_the_truth_scores_perfectly() -> None:
    assert mean(0, "onset_f1") == 1.0
    assert mean(0, "onset_offset_ms") < 2.0
    assert mean(1, "colour_pitch") == 1.0
    assert mean(2, "count_seen") == mean(2, "count_heard") == 1.0


def test_exchanged_sounds_score_chance() -> None:
    shifts = range(1, 9)
    assert 0.15 < sum(mean(0, "onset_f1", shift) for shift in shifts) / 8 < 0.4
    assert 0.15 < sum(mean(1, "colour_pitch", shift) for shift in shifts) / 8 < 0.55
    assert mean(2, "count_seen", 3) == 1.0  # the picture is still the prompt's


def test_the_ceiling_through_codecs_and_files_is_near_perfect(tmp_path: Path) -> None:
    video = BlockDct(CLIP, channels=64, block_px=64, frames=4, emphasis=0.3)
    audio = MelDct(CLIP, channels=16, floor=-3.0, emphasis=0.3, iterations=32)
    scores: dict[str, list[float]] = {}
    for i in range(8):
        clip = references()[i]
        picture = video.decode(video.encode(clip.video[None].float() / 127.5 - 1.0))[0]
        sound = audio.decode(audio.encode(clip.audio[None]))[0]
        shown = replace(clip, video=((picture + 1.0) * 127.5).round().to(torch.uint8), audio=sound)
        write_clip(tmp_path / f"{i}.mp4", shown, scale=4)
        seen = read_clip(tmp_path / f"{i}.mp4")
        for evaluator in EVALUATORS:
            found = evaluator.features(seen)
            for name, score in evaluator.score(found, found, PROMPTS[i]).items():
                assert not isinstance(score, Unscored), score
                scores.setdefault(name, []).append(score)
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    assert means["onset_f1"] > 0.97
    assert means["onset_offset_ms"] < 20.0
    assert min(means["colour_pitch"], means["count_seen"], means["count_heard"]) == 1.0


def changed(**parts: Any) -> Clip:
    return replace(references()[0], **parts)


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (changed(audio=None), "no sound"),
        (changed(video=None), "no picture"),
        (changed(audio=torch.zeros(32000)), "silent"),
        (changed(audio=torch.full((32000,), float("nan"))), "NaN"),
        (changed(video=torch.full((48, 64, 64, 3), 90, dtype=torch.uint8)), "blank"),
    ],
    ids=["no sound", "no picture", "silence", "nan", "blank"],
)
def test_what_cannot_be_judged_is_unscored_with_the_reason(clip: Clip, reason: str) -> None:
    for evaluator in EVALUATORS:
        found = json.loads(json.dumps(evaluator.features(clip), allow_nan=False))
        scores = evaluator.score(found, found, PROMPTS[0])
        assert set(scores) == {metric.name for metric in evaluator.metrics}
        refused = [score.reason for score in scores.values() if isinstance(score, Unscored)]
        assert refused
        assert all(reason in each for each in refused)


@pytest.mark.filterwarnings("error")
def test_a_picture_without_colour_has_no_pitch_that_belongs_to_it() -> None:
    grey = references()[0].video.float().mean(-1, keepdim=True).round().to(torch.uint8).expand(-1, -1, -1, 3)
    found = EVALUATORS[1].features(changed(video=grey))
    assert found["colour"] is None
    assert EVALUATORS[1].score(found, found, PROMPTS[0]) == {"colour_pitch": Unscored("no coloured ball is seen")}
    assert EVALUATORS[0].features(changed(video=grey))["visual_onsets_s"]  # what happens in it is seen all the same


def test_a_picture_whose_events_have_no_sound_scores_zero() -> None:
    hum = 0.05 * torch.sin(torch.arange(32000) * 0.05)
    evaluator = ToyOnsets(0.1)
    found = evaluator.features(changed(audio=hum * torch.linspace(1, 0.8, 32000)))
    found["audio_onsets_s"] = []
    assert evaluator.score(found, found, PROMPTS[0])["onset_f1"] == 0.0


def test_prompts_without_a_known_count_are_unscored() -> None:
    found = features(0)[2]
    scores = EVALUATORS[2].score(found, found, PromptItem("x", "A red ball."))
    assert all(isinstance(score, Unscored) for score in scores.values())


def test_onsets_are_matched_one_to_one() -> None:
    assert match_onsets([1.0, 1.05], [1.02], 0.1) == [(1.0, 1.02)]
    assert match_onsets([0.5, 1.0], [0.59, 0.95, 1.5], 0.1) == [(0.5, 0.59), (1.0, 0.95)]
    assert match_onsets([0.5], [0.61], 0.1) == []


@pytest.mark.parametrize("evaluator", EVALUATORS, ids=IDS)
def test_picture_features_do_not_hear_and_sound_features_do_not_see(evaluator: Evaluator) -> None:
    """Else exchanging sounds would not measure chance."""
    mixed = evaluator.features(replace(references()[0], audio=references()[1].audio))
    own, other = evaluator.features(references()[0]), evaluator.features(references()[1])
    first, second = (evaluator.score(own, other, PROMPTS[0]), evaluator.score(mixed, mixed, PROMPTS[0]))
    assert first == second
