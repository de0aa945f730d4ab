"""Prompts of the released formats parted into what is seen and what is heard."""

from __future__ import annotations

import random

import pytest
import typer
from typer.testing import CliRunner

from ovikit.checkpoints.assets import Assets
from ovikit_ovi.text.command import add_commands
from ovikit_ovi.text.component import COMPONENT, Umt5Config
from ovikit_ovi.text.parts import Parts, parts_of

TAGS, SUFFIX = "tags", "suffix"
SCENE = "A man says <S>Good evening.<E> He smiles."


@pytest.mark.parametrize(
    ("prompt", "captions", "video", "audio"),
    [
        (f"{SCENE} <AUDCAP>Calm voice, rain.<ENDAUDCAP>", TAGS, "A man says He smiles.",
         "<S>Good evening.<E> <AUDCAP>Calm voice, rain.<ENDAUDCAP>"),
        (f"{SCENE} Audio: Calm voice, rain.", SUFFIX, "A man says He smiles.",
         "<S>Good evening.<E> Audio: Calm voice, rain."),
        # a prompt in the other format is parted into the model's
        (f"{SCENE} Audio: Calm voice, rain.", TAGS, "A man says He smiles.",
         "<S>Good evening.<E> <AUDCAP>Calm voice, rain.<ENDAUDCAP>"),
        (f"{SCENE} <AUDCAP>Calm voice, rain.<ENDAUDCAP>", SUFFIX, "A man says He smiles.",
         "<S>Good evening.<E> Audio: Calm voice, rain."),
        # captions alone, speech alone, neither
        ("A dog. <AUDCAP>Barking<ENDAUDCAP>", TAGS, "A dog.", "<AUDCAP>Barking<ENDAUDCAP>"),
        ("A dog. Audio: Barking", SUFFIX, "A dog.", "Audio: Barking"),
        ("She says <S>hi<E>.", SUFFIX, "She says.", "<S>hi<E>"),
        ("A dog runs.", TAGS, "A dog runs.", ""),
        ("Audio: rain", SUFFIX, "", "Audio: rain"),
        ("", TAGS, "", ""),
        # several speakers, in their order; a caption in the middle
        ("He says <S>a<E> and she <S>b<E>. <AUDCAP>c<ENDAUDCAP>. They leave.", TAGS,
         "He says and she. They leave.", "<S>a<E> <S>b<E> <AUDCAP>c<ENDAUDCAP>"),
        ("X <AUDCAP>one<ENDAUDCAP> y <AUDCAP>two<ENDAUDCAP>", SUFFIX, "X y", "Audio: one. two."),
        # speech within a caption is heard once
        ("A man. <AUDCAP>He says <S>hi<E> softly<ENDAUDCAP>", TAGS, "A man.",
         "<AUDCAP>He says <S>hi<E> softly<ENDAUDCAP>"),
        ("A man. Audio: rain, <S>hi<E>", SUFFIX, "A man.", "Audio: rain, <S>hi<E>"),
        # "Audio:" that is said is speech; a tag without its partner parts nothing
        ("He says <S>Audio: on<E> now.", SUFFIX, "He says now.", "<S>Audio: on<E>"),
        ("He says <S>hi", TAGS, "He says <S>hi", ""),
        ("A <AUDCAP>rain", TAGS, "A <AUDCAP>rain", ""),
    ],
)  # fmt: skip
def test_what_is_seen_and_what_is_heard(prompt: str, captions: str, video: str, audio: str) -> None:
    assert parts_of(prompt, captions) == Parts(video, audio)  # type: ignore[arg-type]


def test_no_word_is_lost_and_none_is_read_by_both() -> None:
    """Whatever order scenes, speech and captions come in: each word goes to one tower, in its order."""
    rng = random.Random(3)
    for _ in range(300):
        words = [f"w{i}" for i in range(rng.randrange(2, 12))]
        kinds = [rng.choice("scc" if i == 0 else "sptc") for i in range(len(words))]
        shapes = {"s": "{}", "c": "{}.", "p": "<S>{}<E>", "t": "<AUDCAP>{}<ENDAUDCAP>"}
        prompt = " ".join(shapes[kind].format(word) for kind, word in zip(kinds, words, strict=True))
        for captions in (TAGS, SUFFIX):
            parts = parts_of(prompt, captions)  # type: ignore[arg-type]
            for word, kind in zip(words, kinds, strict=True):
                seen = [word in part.replace("<", " ").replace(">", " ").replace(".", " ").split() for part in parts]
                assert seen == ([True, False] if kind in "sc" else [False, True]), (prompt, parts)


def test_the_conditioner_parts_only_where_it_is_told_to() -> None:
    prompt = f"{SCENE} Audio: Calm voice, rain."
    combined = COMPONENT.build(Umt5Config(captions="suffix"), assets=Assets(None))
    assert (combined.split(prompt).video, combined.split(prompt).audio) == (prompt, prompt)
    apart = COMPONENT.build(Umt5Config(captions="suffix", prompts="separate"), assets=Assets(None))
    assert tuple(apart.split(prompt).values()) == parts_of(prompt, "suffix")


def run(*arguments: str) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)
    add_commands(app)
    return " ".join(CliRunner().invoke(app, ["prompt", "check", *arguments]).output.split())


def test_check_shows_what_each_tower_will_read() -> None:
    prompt = f"{SCENE} <AUDCAP>Calm voice, rain.<ENDAUDCAP>"
    assert "video" not in run(prompt)
    told = run(prompt, "--separate")
    assert "video A man says He smiles. audio <S>Good evening.<E> <AUDCAP>Calm voice, rain.<ENDAUDCAP>" in told
    assert "audio nothing: this tower reads the empty prompt" in run("A dog runs.", "--separate")
