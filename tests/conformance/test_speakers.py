"""Who says what: cpCER by hand, voices, and speakers of known sounds; Whisper at tiny size."""

from __future__ import annotations

import itertools
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from spoken import flite, librivox
from torch import Tensor
from torch.nn import functional as F

from ovikit.checkpoints.assets import Assets
from ovikit.errors import UserError
from ovikit.evaluation.protocols import PromptItem, Unscored
from ovikit.generate.media import View, read_views
from ovikit.types import Clip
from ovikit_versebench.speech.dialogue import SpeechBySpeaker, turns_of
from ovikit_versebench.speech.moonshine import Moonshine
from ovikit_versebench.speech.packages import home
from ovikit_versebench.speech.recognition import SpeechRecognition
from ovikit_versebench.speech.text import characters, cpcer
from ovikit_versebench.speech.voices import speakers, spectrum, stretches, turns, voice
from ovikit_versebench.speech.whisper import HEAD, WORDS, Whisper

BECKETT = "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."
CITIES = "It was the best of times. It was the worst of times. It was the age of wisdom."
FOX = "Good evening everyone. The quick brown fox jumps over the lazy dog, and then it goes home to sleep."
PAUSE = torch.zeros(6400)
with_voices = pytest.mark.skipif(
    None in (find_spec("resemblyzer"), find_spec("silero_vad"), find_spec("moonshine_voice")), reason="packages"
)


def rate(heard: list[str], wanted: list[str]) -> float:
    return cpcer([characters(one, "latin") for one in heard], [characters(one, "latin") for one in wanted])


def test_speakers_are_matched_in_the_best_way():
    assert characters("Good-bye, Ada!", "latin") == [*"goodbyeada"]
    assert rate(["good evening", "hello"], ["Hello.", "Good evening!"]) == 0
    # One voice was heard where there are two: "hello" is too much of the longer turn, and missing of the other.
    assert rate(["hello good evening"], ["hello", "good evening"]) == (5 + 5) / 16
    # One speaker was not heard at all: all that is theirs is missing.
    assert rate(["good evening"], ["hello", "good evening"]) == 5 / 16
    # One more was heard: all that is theirs is too much.
    assert rate(["hello", "good evening"], ["hello"]) == 11 / 5
    assert rate([], ["hello"]) == 1


def item(**truth: Any) -> PromptItem:
    return PromptItem("0", "", truth)


def test_who_is_to_say_what_is_the_sets_or_one_speakers():
    told = [{"speaker": "a", "text": "Hi."}, {"speaker": "b", "text": "Ho."}]
    assert turns_of(item(turns=told)) == turns_of(item(turns=json.dumps(told))) == [("a", "Hi."), ("b", "Ho.")]
    assert turns_of(item(speech="Hi there.")) == [("", "Hi there.")]
    assert turns_of(PromptItem("0", "He says <S>Hi.<E>")) == [("", "Hi.")]
    assert turns_of(PromptItem("0", "He says <S>Hi.<E> She says <S>Ho.<E>")) == "its prompt does not tell who says what"
    assert turns_of(item()) == turns_of(item(speech="")) == "nobody speaks in its prompt"
    for broken in ("[1]", "no JSON", [{"text": "Hi."}], 3):
        assert turns_of(item(turns=broken)) == "the set's turns are no list of speakers and texts"


def test_voices_are_grouped_by_hand():
    angles = torch.tensor([0.0, 80.0, 10.0, 70.0, 50.0]).deg2rad()
    found = torch.stack((angles.cos(), angles.sin()), dim=1)
    # 0 and 10, 80 and 70 degrees are alike; 50 is nearer to the second pair, and as a short one does not count.
    assert speakers(found, [True] * 4 + [False], 0.9) == [0, 1, 0, 1, 1]
    assert speakers(found[:4], [True] * 4, 0.995) == [0, 1, 2, 3]
    assert speakers(found[:4], [True] * 4, 0.1) == [0, 0, 0, 0]
    assert speakers(found[:2], [False] * 2, 0.9) == [0, 1]  # where all are short, they have to do
    assert speakers(found[[1, 0, 3]], [True] * 3, 0.9) == [0, 1, 0]  # numbered as they come


def test_the_spectrum_of_voices_by_hand():
    """A tone's power is in its band, and quiet sounds are brought to one level."""
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000)
    found = spectrum(tone)
    assert found.shape == (101, 40)
    assert torch.allclose(spectrum(tone / 1000), spectrum(tone / 100), rtol=1e-3, atol=1e-9)
    assert int(found[50].argmax()) == int(spectrum(tone / 100)[50].argmax()) == 13  # 15 of 45.2 mel, in 41 steps


@pytest.fixture(scope="module")
def read() -> dict[str, Tensor]:
    """Read speech of the recogniser's package."""
    view, found = View(sample_rate_hz=16000, modalities=("audio",)), {}
    for name, seconds in (("beckett", 10.0), ("two_cities", 8.5)):
        clip = read_views(home("moonshine_voice") / "assets" / f"{name}.wav", (view,), ("audio",))[view]
        assert clip.audio is not None
        found[name] = clip.audio[: round(seconds * 16000)]
    return found


@with_voices
def test_voices_are_those_of_resemblyzer(read):
    """Recorded from the network of resemblyzer 0.1.4 with the spectrum of librosa 0.11.0, for the same windows. (Its
    ``embed_utterance`` takes one more at the end, half of it silence: the cosine with that is 0.98 to 0.998.)"""
    found = voice(read["beckett"][16000 : 16000 + 64000])
    places = [243, 240, 112, 169, 180, 89]
    assert found[places].tolist() == pytest.approx([0.388942, 0.239286, 0.21481, 0.191443, 0.185491, 0.18084], abs=2e-5)
    assert float(found.norm()) == pytest.approx(1)


@with_voices
def test_stretches_of_speech_lie_where_it_is(read):
    sound = torch.cat((torch.zeros(32000), read["two_cities"][16000:], torch.zeros(32000)))
    found = stretches(sound)
    assert all(a < b for a, b in found)
    assert all(b <= c for (_, b), (c, _) in itertools.pairwise(found))
    assert 30000 < found[0][0] < found[-1][1] < len(sound) - 24000
    assert stretches(torch.zeros(16000)) == []
    assert turns(torch.zeros(16000), 0.65) == []


def score(judge: Any, sound: Tensor, asked: PromptItem) -> float | Unscored:
    found = judge.features(Clip("x", "", None, sound, 0.0, 16000))
    assert judge.features(Clip("x", "", None, sound, 0.0, 16000)) == found
    (one,) = judge.score(found, found, asked).values()
    return one


@with_voices
def test_two_readers_are_two_speakers(read):
    judge, one, two = SpeechBySpeaker(Moonshine(), 0.65), read["beckett"], read["two_cities"]
    assert len({turn.speaker for turn in turns(one, 0.65)}) == 1
    cities = item(turns=[{"speaker": "b", "text": CITIES + " It was the age of foolishness."}])
    assert score(judge, two, cities) < 0.1
    assert score(judge, one, item(speech=BECKETT)) < 0.1


@with_voices
@pytest.mark.slow
def test_speakers_of_known_dialogues(read, tmp_path):
    """A reader of LibriVox, another one, and synthetic voices, in turns. What each says in another's place is wrong."""
    first, second = librivox(tmp_path)[:2]
    slt, rms = (flite(tmp_path, one, FOX) for one in ("slt", "rms"))
    judge, beckett = SpeechBySpeaker(Moonshine(), 0.65), (read["beckett"], BECKETT)

    def of(*parts: tuple[str, tuple[Tensor, str]]) -> tuple[Tensor, PromptItem]:
        sound = torch.cat([one for _, (sound, _) in parts for one in (sound, PAUSE)])
        return sound, item(turns=[{"speaker": who, "text": words} for who, (_, words) in parts])

    dialogues = {
        "one": of(("a", first), ("a", second)),
        "two": of(("a", first), ("b", beckett)),
        "in turns": of(("a", first), ("b", beckett), ("a", second)),
        "synthetic": of(("a", (slt, FOX)), ("b", (rms, FOX)), ("a", (slt, FOX))),
        "mixed": of(("a", (slt, FOX)), ("b", first)),
    }
    found = {name: score(judge, *one) for name, one in dialogues.items()}
    assert max(found.values()) < 0.05, found
    # Two voices where one was wanted: all of the second is too much of it, and missing of the first.
    sound, _ = dialogues["two"]
    assert score(judge, sound, item(speech=f"{first[1]} {BECKETT}")) > 0.5


@with_voices
@pytest.mark.slow
def test_words_of_librivox_and_of_synthetic_voices(tmp_path):
    judge = SpeechRecognition(Moonshine(), "fixed")
    rates = [score(judge, sound, item(speech=words)) for sound, words in librivox(tmp_path)]
    assert rates == pytest.approx([0, 1 / 8, 0, 1 / 19, 0])
    for name in ("slt", "rms", "awb"):
        assert score(judge, flite(tmp_path, name, FOX), item(speech=FOX)) <= 1 / 19, name
    sounds = [sound for sound, _ in librivox(tmp_path)]
    wrong = [score(judge, sounds[k - 1], item(speech=words)) for k, (_, words) in enumerate(librivox(tmp_path))]
    assert min(wrong) > 0.7  # another sentence by the same voice


TOKENS = (
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|transcribe|>", "<|translate|>", "<|startoflm|>",
    "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
)  # fmt: skip


def write_small_whisper(folder: Path, many_languages: bool = True) -> Any:
    """A folder as transformers writes it, of a network that hears 2 s with random weights; and the network."""
    transformers = pytest.importorskip("transformers")
    pre_tokenizers = pytest.importorskip("tokenizers.pre_tokenizers")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = transformers.WhisperTokenizer(vocab={one: k for k, one in enumerate(letters)}, merges=[])
    words.add_tokens(list(TOKENS), special_tokens=True)
    at = {one: words.convert_tokens_to_ids(one) for one in TOKENS}
    end = at["<|endoftext|>"]
    ends = {
        "pad_token_id": end, "bos_token_id": end, "eos_token_id": end,
        "decoder_start_token_id": at["<|startoftranscript|>"],
    }  # fmt: skip
    config = transformers.WhisperConfig(
        vocab_size=len(words), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=100,
        max_target_positions=24, num_mel_bins=80, begin_suppress_tokens=None, **ends,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = transformers.WhisperForConditionalGeneration(config).eval()
    languages: dict[str, Any] = {
        "lang_to_id": {one: at[one] for one in ("<|en|>", "<|zh|>")},
        "task_to_id": {one: at[f"<|{one}|>"] for one in ("transcribe", "translate")},
    }
    made.generation_config = transformers.GenerationConfig(
        is_multilingual=many_languages, no_timestamps_token_id=at["<|notimestamps|>"], max_length=16, **ends,
        **(languages if many_languages else {}),
    )  # fmt: skip
    made.save_pretrained(folder)
    words.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(chunk_length=2, feature_size=80).save_pretrained(folder)
    return made


def noise(seconds: float) -> Tensor:
    return 0.1 * torch.randn(round(16000 * seconds), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_whisper_takes_the_likeliest_token_each_time(tmp_path, language):
    """Against a loop over transformers' network without its ``generate``."""
    made = write_small_whisper(tmp_path / "whisper")
    hears = Whisper(Assets(tmp_path), "whisper", language)
    transformers = pytest.importorskip("transformers")
    words = transformers.WhisperTokenizer.from_pretrained(tmp_path / "whisper")
    form = transformers.WhisperFeatureExtractor.from_pretrained(tmp_path / "whisper")
    sound = noise(1.5)
    spectrum = form(sound.numpy(), sampling_rate=16000, return_tensors="pt").input_features
    tokens = words.convert_tokens_to_ids(
        ["<|startoftranscript|>", f"<|{language}|>", "<|transcribe|>", "<|notimestamps|>"]
    )
    wanted: list[int] = []
    with torch.inference_mode():
        while len(wanted) < 16 and wanted[-1:] != [made.config.eos_token_id]:
            logits = made(spectrum, decoder_input_ids=torch.tensor([tokens + wanted])).logits[0, -1]
            wanted.append(int(logits.argmax()))
    before = torch.random.get_rng_state()
    found = hears(sound)
    assert found == words.decode(wanted, skip_special_tokens=True).strip() != ""
    assert hears(sound) == found
    assert torch.equal(torch.random.get_rng_state(), before)


def test_whisper_finds_the_language_itself_and_hears_long_sounds_in_pieces(tmp_path):
    write_small_whisper(tmp_path / "whisper")
    write_small_whisper(tmp_path / "english", many_languages=False)
    free, english, told = (
        Whisper(Assets(tmp_path), name, language)
        for name, language in (("whisper", None), ("english", None), ("whisper", "en"))
    )
    assert free(noise(1.0)) != ""
    assert len(free(noise(7.0))) > len(free(noise(1.0)))
    assert english(noise(1.0)) != ""
    assert len({one.version for one in (free, english, told)}) == 3


def test_files_of_whisper_are_read_strictly(tmp_path):
    made = write_small_whisper(tmp_path / "whisper")
    file = tmp_path / "whisper/model.safetensors"
    state = load_file(file)
    assert HEAD not in state
    assert F.mse_loss(state[WORDS], made.proj_out.weight) == 0
    for broken, told in (
        ({name: one for name, one in state.items() if "encoder.conv1.bias" not in name}, "encoder.conv1.bias"),
        ({**state, "model.third": torch.zeros(1)}, "model.third"),
        ({**state, "model.encoder.conv1.bias": torch.zeros(3)}, "encoder.conv1.bias"),
    ):
        save_file(broken, file)
        with pytest.raises(UserError, match=told):
            Whisper(Assets(tmp_path), "whisper", None)(noise(1.0))
    missing = Whisper(Assets(tmp_path), "whisper-large-v3", None)
    assert "huggingface.co/openai/whisper-large-v3" in (missing.needs[0].missing or "")


@with_voices
def test_whisper_serves_in_place_of_moonshine(tmp_path, read):
    write_small_whisper(tmp_path / "whisper")
    judge = SpeechRecognition(Whisper(Assets(tmp_path), "whisper", "zh"), "fixed")
    found = judge.features(Clip("x", "", None, read["beckett"][:40000], 0.0, 16000))
    assert found["text"]
    assert isinstance(judge.score(found, found, item(speech="你好，世界"))["wer"], float)  # it knows more than English
