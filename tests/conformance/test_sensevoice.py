"""SenseVoice: its network against a record of funasr's, and what it hears, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from binding_kit import wave
from quality_kit import waving
from sensevoice_kit import SMALL, TAGS, sentencepiece, small_sensevoice, use_small_network, write_weights

from ovikit.checkpoints.assets import Assets
from ovikit.errors import UserError
from ovikit.evaluation.protocols import PromptItem, Unscored
from ovikit_versebench.mel import kaldi_log_mel
from ovikit_versebench.speech.components import COMPONENTS
from ovikit_versebench.speech.options import SpeechRecognitionConfig
from ovikit_versebench.speech.recognition import SpeechRecognition
from ovikit_versebench.speech.sensevoice import (
    FOLDER,
    STATISTICS,
    WEIGHTS,
    WORDS,
    SenseVoice,
    SenseVoiceNetwork,
    collapsed,
    places,
    read_statistics,
    readable,
    stacked,
)
from ovikit_versebench.speech.text import script_of, units


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_small_network(monkeypatch)
    return write_weights(tmp_path)


def hears(home: Path, language: str | None = None) -> SenseVoice:
    return SenseVoice(Assets(home.parent), FOLDER, language)


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(round(seconds * 16000), generator=torch.Generator().manual_seed(seed))


def test_the_encoder_gives_what_funasr_gives() -> None:
    """Recorded from SenseVoiceEncoderSmall of funasr 1.4.16: output_size 16, 2 heads, linear_units 24, 3 and 2 blocks,
    kernel_size 5; frames 3 and 8, the first four numbers."""
    network = small_sensevoice().eval()
    network.load_state_dict(waving(network))
    with torch.no_grad():
        found = network.encoder(wave((1, 9, 560), 2.0))[0]
    torch.testing.assert_close(
        found[3, :4],
        torch.tensor([-1.2652984857559204, -0.4889245331287384, -1.1290796995162964, 0.7485669851303101]),
        atol=2e-5,
        rtol=0,
    )
    torch.testing.assert_close(
        found[8, :4],
        torch.tensor([-1.400160789489746, -0.8400934934616089, -0.9968206882476807, 0.6085436940193176]),
        atol=2e-5,
        rtol=0,
    )


def test_the_published_size() -> None:
    """917 tensors with funasr's names and shapes, 234 million numbers, as its page says."""
    with torch.device("meta"):
        state = SenseVoiceNetwork().state_dict()
    assert (len(state), sum(one.numel() for one in state.values())) == (917, 233_999_167)


def test_frames_are_stacked_with_their_neighbours() -> None:
    found = stacked(torch.arange(13.0)[:, None])
    assert found.tolist() == [[0, 0, 0, 0, 1, 2, 3], [3, 4, 5, 6, 7, 8, 9], [9, 10, 11, 12, 12, 12, 12]]
    assert stacked(torch.tensor([[5.0]])).tolist() == [[5.0] * 7]


def test_places_begin_at_one() -> None:
    found = places(3, 6)
    steps = torch.tensor([1.0, 10000**-0.5, 1e-4])
    expected = torch.stack([torch.cat(((k * steps).sin(), (k * steps).cos())) for k in (1, 2, 3)])
    torch.testing.assert_close(found, expected)


def test_a_token_counts_once_for_as_long_as_it_lasts() -> None:
    assert collapsed([0, 7, 7, 0, 7, 3, 3, 3, 0, 0, 4]) == [7, 7, 3, 4]
    assert collapsed([]) == collapsed([0, 0]) == []


@pytest.mark.parametrize(("language", "number"), [(None, 0), ("zh", 3), ("en", 4), ("yue", 7), ("ja", 11), ("ko", 12)])
def test_it_hears_the_likeliest_tokens_without_tags(home: Path, language: str | None, number: int) -> None:
    sound = noise(1.3)
    network = small_sensevoice().eval()
    network.load_state_dict(torch.load(home / WEIGHTS))
    words = sentencepiece.SentencePieceProcessor(model_file=str(home / WORDS))
    shift, scale = read_statistics(home / STATISTICS)
    inputs = (stacked(kaldi_log_mel(32768 * sound[None], 16000, 80, "hamming")[0]) + shift) * scale
    with torch.no_grad():
        front = network.embed.weight[[number, 1, 2, 14]]
        logits = network.ctc["ctc_lo"](network.encoder(torch.cat((front, inputs))[None])[0])
    expected = words.decode(collapsed(logits.argmax(dim=-1).tolist()))
    for tag in TAGS:
        expected = expected.replace(tag, "")
    assert expected.strip()
    assert hears(home, language)(sound) == expected.strip()


@pytest.mark.parametrize("piece", ["moon", *TAGS])
def test_tags_are_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: str) -> None:
    use_small_network(monkeypatch)
    home = write_weights(tmp_path)
    words = sentencepiece.SentencePieceProcessor(model_file=str(home / WORDS))
    ids = [words.piece_to_id(piece)] if piece in TAGS else words.encode(piece)
    network = small_sensevoice()
    network.load_state_dict(waving(network))
    torch.nn.init.zeros_(network.ctc["ctc_lo"].weight)
    torch.nn.init.zeros_(network.ctc["ctc_lo"].bias)
    network.ctc["ctc_lo"].bias.data[ids[-1]] = 5.0
    torch.save(network.state_dict(), home / WEIGHTS)
    found = hears(home)(noise(1.0))
    assert found == ("" if piece in TAGS else words.decode([ids[-1]]))
    assert bool(found) is (piece not in TAGS)


@pytest.mark.parametrize(
    ("tagged", "text"),
    [
        ("<|en|><|NEUTRAL|><|Speech|><|withitn|>Ever tried.", "Ever tried."),
        ("<|en|><|HAPPY|><|BGM|><|withitn|>Ever tried. Ever failed.", "🎼Ever tried. Ever failed.😊"),
        ("<|zh|><|SAD|><|Speech|><|woitn|>你好", "你好😔"),
        ("<|nospeech|><|EMO_UNKNOWN|><|Event_UNK|><|woitn|>", ""),
        ("<|nospeech|><|Event_UNK|>", "❓"),
        ("<|en|><|EMO_UNKNOWN|><|Laughter|><|withitn|>The.", "😀"),
        ("<|en|><|ANGRY|><|BGM|>No.<|en|><|ANGRY|><|BGM|> Never.", "🎼No.Never.😡"),
        ("<|en|><|HAPPY|><|SAD|><|SAD|><|BGM|><|Cough|> a <|Applause|>", "🤧👏🎼a😔"),
        ("<|en|> Over there. <|ja|> はい ", "Over there.はい"),
        ("", ""),
        ("a <|unheard|> b", "a <|unheard|> b"),
    ],
)
def test_tags_become_the_signs_that_funasr_makes_of_them(tagged: str, text: str) -> None:
    """Recorded from rich_transcription_postprocess of funasr 1.4.16."""
    assert readable(tagged) == text


def test_signs_count_as_the_tool_counts_them_and_not_otherwise(home: Path) -> None:
    for heard in ("🎼Good evening.😊", "❓你好😔"):
        plain = "".join(one for one in heard if one not in "🎼😊❓😔")
        assert units(heard, script_of(heard)) == units(plain, script_of(plain))
    item, heard = PromptItem("0", "", {"speech": "good evening."}), {"why": None, "text": "Good evening.😊"}
    for rules, wer in (("fixed", 0), ("official", 0.5)):
        assert SpeechRecognition(hears(home), rules).score(heard, heard, item)["wer"] == wer


def test_what_is_in_a_script_that_it_does_not_know_is_unscored(home: Path) -> None:
    listener = hears(home)
    for said in ("Good evening.", "你好，世界", "こんにちは", "コーヒー", "안녕하세요 여러분", "说 hello", "?!"):
        assert listener.not_known(said) is None, said
    heard = {"why": None, "text": ""}
    for said in ("Привет, мой мир!", "ที่นี่", "नमस्ते दुनिया"):
        found = SpeechRecognition(listener, "official").score(heard, heard, PromptItem("0", f"<S>{said}<E>"))["wer"]
        assert isinstance(found, Unscored), said
        assert found.asked
        assert "zh, yue, en, ja, ko" in found.reason


def test_weights_may_lie_as_funasrs_training_leaves_them(home: Path) -> None:
    wanted, state = hears(home)(noise(1.0)), torch.load(home / WEIGHTS)
    for nest in ("state_dict", "model_state_dict", "model"):
        torch.save({nest: {f"module.{name}": one for name, one in state.items()}, "epoch": 3}, home / WEIGHTS)
        assert hears(home)(noise(1.0)) == wanted != ""
    torch.save({"epoch": 3}, home / WEIGHTS)
    with pytest.raises(UserError, match="not tensors are epoch"):
        hears(home)(noise(1.0))


def test_what_it_hears_does_not_depend_on_what_was_heard_before(home: Path) -> None:
    listener = hears(home)
    first = listener(noise(1.0))
    listener(noise(2.0, seed=1))
    assert listener(noise(1.0)) == first
    assert listener(noise(0.01)) == ""


def test_long_sounds_are_heard_in_pieces(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovikit_versebench.speech.sensevoice.MOST", 16000)
    listener, sound = hears(home), noise(1.6)
    sound[12000:13600] = 0  # where it is cut
    from ovikit_versebench.speech.hearing import pieces

    parts = pieces(sound, 16000)
    assert len(parts) > 1
    assert listener(sound) == " ".join(filter(None, (listener(part) for part in parts)))


def test_it_serves_as_a_recogniser(home: Path) -> None:
    component = next(one for one in COMPONENTS if one.name == "speech-recognition")
    config = SpeechRecognitionConfig(recogniser="sensevoice", language="en")
    judge = component.build(config, clip=None, assets=Assets(home.parent))
    assert all(need.missing is None for need in judge.needs)
    assert "sensevoice/en/" in judge.version
    missing = component.build(config, clip=None, assets=Assets(home))
    assert any("huggingface.co/FunAudioLLM/SenseVoiceSmall" in (need.missing or "") for need in missing.needs)


def test_wrong_files_and_languages_are_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="does not know the language de"):
        hears(home, "de")
    state = torch.load(home / WEIGHTS)
    torch.save({name: one for name, one in state.items() if name != "encoder.tp_norm.bias"}, home / WEIGHTS)
    with pytest.raises(UserError, match=r"tp_norm\.bias"):
        hears(home)(noise(1.0))
    torch.save(state, home / WEIGHTS)
    other = SenseVoiceNetwork(replace(SMALL, vocabulary=30))
    torch.save(other.state_dict(), home / WEIGHTS)
    with monkeypatch.context() as patch:
        patch.setattr("ovikit_versebench.speech.sensevoice.SenseVoiceNetwork", lambda: other)
        with pytest.raises(UserError, match="28 pieces of words, and the network 30"):
            hears(home)(noise(1.0))
    torch.save(state, home / WEIGHTS)
    (home / WORDS).write_bytes(b"no model")
    with pytest.raises(UserError, match="no pieces of words"):
        hears(home)(noise(1.0))
    (home / WORDS).unlink()
    with pytest.raises(UserError, match="no pieces of words"):
        hears(home)(noise(1.0))
    (home / STATISTICS).write_text("<AddShift> 1 1\n<LearnRateCoef> 0 [ 1 2 ]\n")
    with pytest.raises(UserError, match="no 560 numbers of <AddShift>"):
        hears(home)(noise(1.0))
    (home / STATISTICS).unlink()
    with pytest.raises(UserError, match=r"there is no am\.mvn"):
        hears(home)(noise(1.0))
