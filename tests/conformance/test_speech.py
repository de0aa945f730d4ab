"""Metrics by models that packages carry: rules by hand, real speech, known transformations of it."""

from __future__ import annotations

import wave
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from real_clips import fetch
from torchmetrics.functional.text import word_error_rate

from ovikit.evaluation.corruptions import CORRUPTIONS
from ovikit.evaluation.protocols import PromptItem, Unscored
from ovikit.evaluation.selftest import self_test
from ovikit.generate.media import read_views
from ovikit.recipe.load import load_suite
from ovikit.testing.clips import CLIP, noisy_clip, silent_clip
from ovikit.types import Clip
from ovikit_versebench.speech.faces import Faces, anchors, merged
from ovikit_versebench.speech.hearing import pieces
from ovikit_versebench.speech.moonshine import Moonshine, token_bytes
from ovikit_versebench.speech.packages import home
from ovikit_versebench.speech.presence import SpeechPresence
from ovikit_versebench.speech.quality import SpeechQuality, decibels
from ovikit_versebench.speech.recognition import SpeechRecognition, anybody_speaks, as_written, speech_of
from ovikit_versebench.speech.text import edits, error_rate, script_of, spoken_in, units

SAID = "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."
NAMES = ("dnsmos_p808", "dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak")
BECKETT = (3.9253168, 3.3610252, 3.6405388, 4.1204844)
SHORT = (3.0780025, 2.7184173, 3.1008675, 3.7548217)
"""Of the first two seconds."""
ODD = (3.7613564, 3.2563101, 3.6254706, 3.9116362)
"""Of 50000 samples, which are repeated to 12.5 s: speechmos grades three of the four windows that fit."""
LONG = (3.9122882, 3.3192681, 3.608598, 4.0907744)
"""Of the whole three times, 29.9 s: speechmos grades seven windows of 21."""
WORDS = PromptItem("0", "", {"speech": SAID})


@pytest.fixture(scope="module")
def spoken() -> Clip:
    """Ten seconds of read speech, which the recogniser's package carries."""
    pytest.importorskip("moonshine_voice")
    with wave.open(str(home("moonshine_voice") / "assets" / "beckett.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768
        return Clip("beckett", "", None, torch.from_numpy(samples), 0.0, file.getframerate())


def spoilt(clip: Clip, name: str, grade: float) -> Clip:
    return next(one for one in CORRUPTIONS if one.name == name)(clip, grade)


def score(judge: Any, clip: Clip, item: PromptItem = WORDS) -> dict[str, float | Unscored]:
    found = judge.features(clip)
    return judge.score(found, found, item)


@pytest.mark.parametrize(
    ("text", "script", "found"),
    [
        ("Hello, World! It's Mr. Fox.", "latin", ["hello", "world", "it", "is", "mister", "fox"]),
        ("“Don’t” – she said 'no'", "latin", ["do", "not", "she", "said", "no"]),
        ("twenty five dogs, 25 cats (barking)", "latin", ["25", "dogs", "25", "cats"]),
        ("An ill-disposed, um, café", "latin", ["an", "ill", "disposed", "cafe"]),
        ("ＦＵＬＬ width", "latin", ["full", "width"]),
        ("?!", "latin", []),
        ("你好，世界！", "joined", ["你", "好", "世", "界"]),
        ("こんにちは OK", "joined", [*"こんにちはok"]),
        ("ที่นี่", "joined", [*"ที่นี่"]),
        ("I say 你好 to all of you there", "latin", ["i", "say", "你好", "to", "all", "of", "you", "there"]),
        ("Привет, мой мир!", "other", ["привет", "мой", "мир"]),
        ("नमस्ते दुनिया।", "other", ["नमस्ते", "दुनिया"]),
    ],
)  # fmt: skip
def test_what_is_counted_of_a_text(text, script, found):
    assert script_of(text) == script
    assert units(text, script) == found


def test_error_rates_by_hand():
    assert error_rate(["the", "cat", "sat"], ["the", "cat", "sat"]) == 0
    assert error_rate(["the", "dog", "sat"], ["the", "cat", "sat"]) == 1 / 3
    assert error_rate([], ["the", "cat", "sat"]) == 1
    assert error_rate(["a", "b", "c", "d", "e", "f"], ["x"]) == 6  # it may exceed 1
    assert error_rate(units("你好世间", "joined"), units("你好世界", "joined")) == 0.25
    assert edits("kitten", "sitting") == 3
    assert edits(["a b", "c"], ["a", "b", "c"]) == 2  # a unit is one whatever is in it


def test_words_as_the_tool_has_them_by_hand():
    assert as_written(" Hello,  World.\n") == ["hello,", "world."]
    assert as_written("...") == as_written("") == []
    assert as_written("。") == ["。"]  # its punctuation is ASCII's
    assert as_written("Fail better.😊") == ["fail", "better.😊"]


def test_error_rates_are_those_of_torchmetrics():
    words, generator = (
        np.array(["the", "a", "cat", "dog", "sat", "ran", "on", "in", "mat", "hat"]),
        np.random.default_rng(0),
    )
    for _ in range(20):
        one, other = (list(words[generator.integers(0, 10, generator.integers(1, 15))]) for _ in range(2))
        wanted = float(word_error_rate([" ".join(one)], [" ".join(other)]))
        assert error_rate(one, other) == pytest.approx(wanted, abs=1e-6)


def test_what_is_to_be_said_is_the_sets_or_the_prompts():
    assert speech_of(WORDS) == SAID
    tagged = PromptItem("0", "A man says <S>Hi there.<E> and a woman <S> Hello.<E> <AUDCAP>rain<ENDAUDCAP>")
    assert speech_of(tagged) == "Hi there. Hello."
    assert spoken_in("nobody") == []
    judge = SpeechRecognition(Moonshine(), "fixed")
    assert judge.leaves_out(tagged) is None
    assert judge.leaves_out(PromptItem("0", "<S>Hi<E>", {"speech": ""})) == "nobody speaks in its prompt"


def test_read_speech_is_recognised_and_rules_differ_in_what_they_count(spoken):
    fixed, official = (SpeechRecognition(Moonshine(), rules) for rules in ("fixed", "official"))
    heard = fixed.features(spoken)
    assert heard["text"] == "Ever tried, ever failed, no matter, try again, fail again, fail better."
    plain = PromptItem("0", "", {"speech": SAID.lower().replace(".", "")})
    assert fixed.score(heard, heard, WORDS)["wer"] == 0
    assert fixed.score(heard, heard, plain)["wer"] == 0
    # By hand: "tried." and the four other full stops within; capitals do not count.
    assert official.score(heard, heard, WORDS)["wer"] == 5 / 12
    assert official.score(heard, heard, plain)["wer"] == 6 / 12  # a comma or full stop after six words
    assert fixed.version == official.version  # one transcript serves both
    assert fixed.metrics[0].version != official.metrics[0].version


def test_what_is_heard_does_not_depend_on_what_was_heard_before(spoken):
    judge = SpeechRecognition(Moonshine(), "fixed")
    first = judge.features(spoken)
    for other in (spoilt(spoken, "noise", 0), spoilt(spoken, "wrong words", 100)):
        judge.features(other)
        assert judge.features(spoken) == first


def test_long_sounds_are_heard_in_pieces(spoken):
    said = spoken.audio
    long = torch.cat([said, torch.zeros(8000)] * 5)  # 52 s
    cut = pieces(long, 24 * 16000)
    assert torch.equal(torch.cat(cut), long)
    assert len(cut) == 3
    assert max(map(len, cut)) <= 24 * 16000
    assert all(float(one[:800].abs().max()) < 0.02 and float(one[-800:].abs().max()) < 0.02 for one in cut)
    item = PromptItem("0", "", {"speech": " ".join([SAID] * 5)})
    assert score(SpeechRecognition(Moonshine(), "fixed"), replace(spoken, audio=long), item)["wer"] <= 0.1


def test_tokens_are_behind_their_lengths():
    assert token_bytes(b"\x02ab\x01c\x00" + bytes([130, 1]) + b"x" * 130) == [b"ab", b"c", b"", b"x" * 130]


def test_wrong_words_and_wrong_speech_are_errors(spoken):
    judge = SpeechRecognition(Moonshine(), "fixed")
    rates = [score(judge, spoilt(spoken, "wrong words", grade))["wer"] for grade in (0, 50, 100)]
    assert rates[0] < 0.2 < rates[1] < rates[2]
    assert score(judge, spoken, PromptItem("0", "", {"speech": "It was the best of times."}))["wer"] > 0.9


def test_the_self_test_shows_that_wrong_words_are_heard(spoken, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("version: 1\nname: s\nprofile: p\nevaluators: [{type: speech-recognition}]\n")
    wrong = [one for one in CORRUPTIONS if one.name == "wrong words"]
    for prompt, moves in ((f"A man says <S>{SAID}<E>", "up"), ("Nobody speaks.", None)):
        clip = replace(spoken, prompt=prompt)
        found = self_test(load_suite(path), [clip], tmp_path / "out", wrong)["corruptions"]["wrong words"]
        response = found["responses"]["wer"]
        assert (None if response is None else response["moves"]) == moves


def test_where_nobody_speaks_nothing_is_heard(spoken):
    """By itself the recogniser hears words in noise."""
    noise = noisy_clip(CLIP)
    noise = replace(noise, audio=0.1 * torch.randn(80000, generator=torch.Generator().manual_seed(0)))
    assert Moonshine()(noise.audio) != ""
    assert not anybody_speaks(noise.audio)
    assert anybody_speaks(spoken.audio)
    assert score(SpeechRecognition(Moonshine(), "fixed"), noise)["wer"] == 1


def test_a_recogniser_of_english_does_not_judge_other_scripts(spoken):
    for rules in ("fixed", "official"):
        found = score(SpeechRecognition(Moonshine(), rules), spoken, PromptItem("0", "说 <S>你好，世界<E>"))["wer"]
        assert isinstance(found, Unscored)
        assert found.asked
        assert "English only" in found.reason


def test_dnsmos_is_that_of_speechmos(spoken):
    """Recorded from speechmos 0.0.1.1 with librosa 0.11.0."""
    pytest.importorskip("onnxruntime")
    judge = SpeechQuality()
    assert spoken.audio is not None
    sound = spoken.audio
    for samples, wanted in (
        (sound, BECKETT), (sound[:32000], SHORT), (sound[:50000], ODD), (sound.repeat(3), LONG),
    ):  # fmt: skip
        found = judge.grades(samples.numpy())
        assert [found[name] for name in NAMES] == pytest.approx(wanted, abs=1e-4)


def test_noise_and_clipping_sound_worse(spoken):
    pytest.importorskip("onnxruntime")
    judge = SpeechQuality()
    for name, grades in (("noise", (20, 0)), ("clipping", (12, 36))):
        found = [score(judge, spoken), *(score(judge, spoilt(spoken, name, grade)) for grade in grades)]
        ovrl = [one["dnsmos_ovrl"] for one in found]
        assert ovrl == sorted(ovrl, reverse=True), name


def test_the_spectrum_peaks_at_one_and_ends_80_decibels_below():
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000)
    found = decibels(tone)
    assert found.shape == (100, 120)
    assert float(found.max()) == pytest.approx(1)
    assert float(found.min()) >= -1
    assert 36 < int(found[50].argmax()) < 43  # a third of the way on the mel scale


def test_speech_is_told_from_what_is_none(spoken):
    pytest.importorskip("silero_vad")
    judge = SpeechPresence(0.5)
    share = score(judge, spoken)["speech_share"]
    assert 0.3 < share < 0.9
    assert score(judge, noisy_clip(CLIP))["speech_share"] < 0.1
    assert score(judge, silent_clip(CLIP))["speech_share"] == 0.0
    half = score(judge, spoilt(spoken, "silenced", 50))["speech_share"]
    assert half == pytest.approx(share / 2, abs=0.15)


def face(height: int = 240, width: int = 320, x: float = 0.5, y: float = 0.5, size: float = 0.4) -> np.ndarray:
    """A drawn face: skin, eyes, brows, a nose and a mouth."""
    cv2 = pytest.importorskip("cv2")
    picture = np.full((height, width, 3), (90, 110, 130), dtype=np.uint8)
    middle, r = np.array([x * width, y * height]), size * height / 2

    def at(dx: float, dy: float) -> tuple[int, int]:
        return int(middle[0] + dx * r), int(middle[1] + dy * r)

    cv2.ellipse(picture, at(0, 0), (int(0.75 * r), int(r)), 0, 0, 360, (224, 180, 150), -1)
    cv2.ellipse(picture, at(0, -0.75), (int(0.78 * r), int(0.4 * r)), 0, 180, 360, (60, 40, 30), -1)
    for side in (-1, 1):
        cv2.ellipse(picture, at(0.3 * side, -0.15), (int(0.14 * r), int(0.08 * r)), 0, 0, 360, (250, 250, 250), -1)
        cv2.circle(picture, at(0.3 * side, -0.15), max(1, int(0.07 * r)), (40, 30, 20), -1)
        cv2.line(
            picture, at(0.3 * side - 0.17, -0.33), at(0.3 * side + 0.17, -0.33), (70, 50, 40), max(1, int(0.05 * r))
        )
    cv2.line(picture, at(0, -0.1), at(-0.06, 0.2), (190, 140, 115), max(1, int(0.05 * r)))
    cv2.ellipse(picture, at(0, 0.45), (int(0.28 * r), int(0.1 * r)), 0, 0, 360, (170, 70, 70), -1)
    return picture


def film(frames: list[np.ndarray], rate_hz: float = 5.0) -> Clip:
    return Clip("film", "", torch.from_numpy(np.stack(frames)), None, rate_hz, 0)


def test_a_face_is_found_where_it_is_and_as_large_as_it_is():
    pytest.importorskip("ai_edge_litert")
    judge = Faces(0.2, 0.6)
    for x, y, size in ((0.5, 0.5, 0.5), (0.3, 0.6, 0.4), (0.7, 0.4, 0.6)):
        left, top, width, height = judge.features(film([face(x=x, y=y, size=size)]))["faces"][0]
        assert left + width / 2 == pytest.approx(x, abs=0.05)
        assert top + height / 2 == pytest.approx(y, abs=0.12)
        assert height == pytest.approx(0.75 * size, rel=0.35)


def test_moving_and_missing_faces_by_hand():
    pytest.importorskip("ai_edge_litert")
    judge = Faces(0.2, 0.6)
    none = np.full((240, 320, 3), 90, dtype=np.uint8)
    moving = [face(x=0.3 + 0.04 * k, size=0.5) for k in range(6)]
    found = score(judge, film([*moving, none, none]))
    assert found["face_share"] == 6 / 8
    # 0.04 picture widths of 4 / 3 heights in each fifth of a second.
    assert found["face_speed"] == pytest.approx(0.04 * 4 / 3 * 5, rel=0.25)
    empty = score(judge, film([none, none]))
    assert empty["face_share"] == 0.0
    assert empty["face_height"] == Unscored("no frame shows a face")


def test_anchors_are_the_networks():
    found = anchors()
    assert found.shape == (2304, 2)
    assert found[0].tolist() == [1 / 96, 1 / 96]
    assert found[1].tolist() == [3 / 96, 1 / 96]
    assert found[48].tolist() == [1 / 96, 3 / 96]


def test_boxes_of_one_face_are_one_by_hand():
    boxes = np.array([[0.1, 0.1, 0.2, 0.2], [0.12, 0.1, 0.2, 0.2], [0.7, 0.7, 0.1, 0.1], [0.25, 0.25, 0.2, 0.2]])
    found = merged(boxes, np.array([0.6, 0.9, 0.8, 0.7]))
    # The first two share 0.18 x 0.2 of 0.044; the last one shares too little with either.
    assert [list(map(float, one)) for one in found] == [
        pytest.approx([(0.6 * 0.1 + 0.9 * 0.12) / 1.5, 0.1, 0.2, 0.2]),
        pytest.approx([0.7, 0.7, 0.1, 0.1]),
        pytest.approx([0.25, 0.25, 0.2, 0.2]),
    ]
    assert merged(np.zeros((0, 4)), np.zeros(0)) == []


@pytest.mark.slow
def test_people_have_faces_and_a_clock_has_none(tmp_path):
    pytest.importorskip("ai_edge_litert")
    judge = Faces(0.2, 0.6)
    shares = {
        path.stem: score(judge, read_views(path, (judge.view,), ("video",))[judge.view])["face_share"]
        for path in fetch(("obama_speech.mp4", "jwpIntro.mp4", "shot_change.mp4", "bigbuckbunny.mp4"), tmp_path)
    }
    assert shares == {"obama_speech": 1.0, "jwpIntro": 1.0, "shot_change": 0.0, "bigbuckbunny": 0.0}


def test_packages_that_are_missing_are_told(monkeypatch):
    monkeypatch.setattr("ovikit.evaluation.needs.find_spec", lambda name: None)
    for judge in (SpeechRecognition(Moonshine(), "fixed"), SpeechQuality(), SpeechPresence(0.5), Faces(0.2, 0.6)):
        assert all("it is not installed: pip install" in (one.missing or "") for one in judge.needs)


def test_short_and_broken_sounds_have_reasons():
    short = replace(silent_clip(CLIP), audio=torch.full((100,), 0.5))
    for judge in (SpeechRecognition(Moonshine(), "fixed"), SpeechPresence(0.5), SpeechQuality()):
        assert all(isinstance(one, Unscored) for one in score(judge, short).values())
