"""Small studies, and votes of known outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ovikit.generate.media import write_clip
from ovikit.study.new import make
from ovikit.study.records import DIMENSIONS, Check, Dimension, Pair, Shown, Side, Study, Vote, Winner
from ovikit.testing.clips import CLIP, beating_clip

FORM = replace(CLIP, duration_s=2.5)


def clips(folder: Path, names: Sequence[str], hertz: float = 1.0) -> Path:
    """A folder of clips that are seen and heard, another one for each factor."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        one = beating_clip(FORM, beats=2 + k % 3)
        assert one.audio is not None
        assert one.video is not None
        video = (one.video.float() * hertz).clamp(0, 255).to(torch.uint8)
        write_clip(folder / f"{name}.mp4", replace(one, video=video, audio=one.audio * hertz), 4)
        (folder / f"{name}.json").write_text(f'{{"prompt": "A light beats, {name}."}}')
    return folder


def study_of(folder: Path, prompts: int = 3, **options: int) -> Path:
    """The folder of a study of two models, ``ours`` and ``theirs``."""
    names = [f"{k:05d}" for k in range(prompts)]
    given = {"ours": clips(folder / "ours", names), "theirs": clips(folder / "theirs", names, 0.8)}
    return make(folder / "study", given, **options).folder


def pair(number: int, prompt: str, a: str, b: str, check: Check | None = None) -> Pair:
    first, second = (
        Shown(model=model, sha256=f"{model}-{prompt}-{check}", file=f"{model}-{prompt}-{check}.mp4") for model in (a, b)
    )
    return Pair(
        id=f"{number:05d}" if check is None else f"check-{number}",
        prompt=prompt,
        text="",
        a=first,
        b=second,
        check=check,
    )


def paper_study(pairs: Sequence[Pair], per_rater: int, checks: int = 0) -> Study:
    """A study whose clips do not exist: nothing here plays them."""
    models = tuple(dict.fromkeys(one for two in pairs for one in (two.a.model, two.b.model)))
    return Study(
        name="paper", prompt_set="set", models=models, seed=1, salt="salt", per_rater=per_rater,
        checks_per_rater=checks, pairs=tuple(pairs),
    )  # fmt: skip


def vote(
    winner: Winner, prompt: str = "p", rater: str = "r", a: str = "x", b: str = "y", left: Side = "a",
    dimension: Dimension = "overall", check: Check | None = None,
) -> Vote:  # fmt: skip
    return Vote(
        study="s", prompt_set="set", prompt=prompt, dimension=dimension, a=a, b=b, a_sha256=f"{a}{prompt}",
        b_sha256=f"{b}{prompt}", left=left, winner=winner, rater=rater, seconds_a=1.0, seconds_b=1.0, time=0.0,
        check=check,
    )  # fmt: skip


def all_of(winner: Winner) -> dict[Dimension, Winner]:
    return dict.fromkeys(DIMENSIONS, winner)
