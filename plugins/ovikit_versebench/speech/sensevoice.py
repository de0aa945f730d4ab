"""SenseVoice, small (FunAudioLLM, arXiv 2407.04051): Chinese, Cantonese, English, Japanese and Korean, in one pass.

Names are those of the published ``model.pt``; sizes, statistics of the spectra and the pieces of words are read from
the folder's other files. Read for it: sense_voice/model.py, wav_frontend.py, postprocess_utils.py and config.yaml as
funasr 1.4.16 has them, and wer/sensevoice_inferencer.py of Verse-Bench's tool.

The tool cuts silence off both ends by a network of its own (FSMN-VAD) and joins what is left to at most 15 s; here
sounds of at most 15 s are heard at once, as they are.

Shape legend: n samples, t frames of 60 ms, i inputs of a frame, w width, v vocabulary.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovikit.checkpoints.assets import Assets
from ovikit.checkpoints.state import read_header
from ovikit.errors import UserError
from ovikit.evaluation.needs import device, digest_of, need_asset, need_package, network, unwrapped
from ovikit.extras import require
from ovikit_versebench.mel import kaldi_log_mel
from ovikit_versebench.speech.hearing import SOUND_HZ, pieces
from ovikit_versebench.speech.text import letters_of

FOLDER = "SenseVoiceSmall"
WEIGHTS, STATISTICS, WORDS = "model.pt", "am.mvn", "chn_jpn_yue_eng_ko_spectok.bpe.model"
MELS = 80
STACKED, STEP = 7, 6
"""Frames of 10 ms that are one input, and from one input to the next."""
MOST = 15 * SOUND_HZ
LANGUAGES = {"zh": 3, "en": 4, "yue": 7, "ja": 11, "ko": 12}
BY_ITSELF, EVENT, MOOD, WRITTEN = 0, 1, 2, 14
"""What else is put in front of the sound: find the language, the event and the mood, and write with punctuation."""
FRONT = 16
BLANK = 0
NESTS = ("state_dict", "model_state_dict", "model")
"""Under one of these funasr's training writes weights; the published file may have them at the top."""
SCRIPTS = ("LATIN", "CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HANGUL")
NOT_KNOWN = "what is to be said is in a script that the recogniser does not know (it knows zh, yue, en, ja, ko)"


@dataclass(frozen=True, slots=True)
class SenseVoiceSize:
    """The published network; tests make smaller ones. later: blocks after the first norm."""

    width: int = 512
    hidden: int = 2048
    heads: int = 4
    depth: int = 50
    later: int = 20
    kernel: int = 11
    vocabulary: int = 25055
    inputs: int = STACKED * MELS


class SenseVoiceNetwork(nn.Module):
    """(t + 4, v) logits of a sound's inputs (t, i); the first four tell language, mood, event and manner of writing."""

    def __init__(self, size: SenseVoiceSize = SenseVoiceSize()) -> None:
        super().__init__()
        self.embed = nn.Embedding(FRONT, size.inputs)
        self.encoder = _Encoder(size)
        self.ctc = nn.ModuleDict({"ctc_lo": nn.Linear(size.width, size.vocabulary)})

    def forward(self, inputs: Tensor, language: int = BY_ITSELF) -> Tensor:
        front = self.embed(torch.tensor([language, EVENT, MOOD, WRITTEN], device=inputs.device))
        return self.ctc["ctc_lo"](self.encoder(torch.cat((front, inputs))[None])[0])


class _Encoder(nn.Module):
    def __init__(self, size: SenseVoiceSize) -> None:
        super().__init__()
        self._scale = math.sqrt(size.width)
        self.encoders0 = nn.ModuleList([_Block(size, size.inputs)])
        self.encoders = nn.ModuleList(_Block(size, size.width) for _ in range(size.depth - 1))
        self.tp_encoders = nn.ModuleList(_Block(size, size.width) for _ in range(size.later))
        self.after_norm, self.tp_norm = nn.LayerNorm(size.width), nn.LayerNorm(size.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self._scale * x + places(x.shape[1], x.shape[2]).to(x)
        for block in (*self.encoders0, *self.encoders):
            x = block(x)
        x = self.after_norm(x)
        for block in self.tp_encoders:
            x = block(x)
        return self.tp_norm(x)


class _Block(nn.Module):
    """Attention with a memory of neighbours, then two layers. What comes in is kept only if it is of the same width."""

    def __init__(self, size: SenseVoiceSize, inputs: int) -> None:
        super().__init__()
        self._kept = inputs == size.width
        self.self_attn = _Attention(size, inputs)
        self.feed_forward = nn.ModuleDict(
            {"w_1": nn.Linear(size.width, size.hidden), "w_2": nn.Linear(size.hidden, size.width)}
        )
        self.norm1, self.norm2 = nn.LayerNorm(inputs), nn.LayerNorm(size.width)

    def forward(self, x: Tensor) -> Tensor:
        found = self.self_attn(self.norm1(x))
        x = x + found if self._kept else found
        return x + self.feed_forward["w_2"](self.feed_forward["w_1"](self.norm2(x)).relu())


class _Attention(nn.Module):
    def __init__(self, size: SenseVoiceSize, inputs: int) -> None:
        super().__init__()
        self._heads = size.heads
        width = size.width
        self.linear_q_k_v, self.linear_out = nn.Linear(inputs, 3 * width), nn.Linear(width, width)
        self.fsmn_block = nn.Conv1d(width, width, size.kernel, padding=size.kernel // 2, groups=width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.linear_q_k_v(x).chunk(3, dim=-1)
        memory = value + self.fsmn_block(value.transpose(1, 2)).transpose(1, 2)
        parts = (one.unflatten(-1, (self._heads, -1)).transpose(1, 2) for one in (query, key, value))
        found = F.scaled_dot_product_attention(*parts)
        return self.linear_out(found.transpose(1, 2).flatten(2)) + memory


class SenseVoice:
    """Texts by taking the likeliest token of each frame.

    language: zh, en, yue, ja or ko; None: it is found
    """

    def __init__(self, assets: Assets, weights: str, language: str | None) -> None:
        if language is not None and language not in LANGUAGES:
            raise UserError(
                f"SenseVoice does not know the language {language}", "language",
                f"it knows {', '.join(LANGUAGES)}; without this option it finds out by itself",
            )  # fmt: skip
        self._assets, self._weights = assets, weights
        self._language = BY_ITSELF if language is None else LANGUAGES[language]
        source = "https://huggingface.co/FunAudioLLM/SenseVoiceSmall"
        folder = need_asset(assets, weights, "FunASR Model License 1.1 (SenseVoice)", source)
        self.needs = (
            folder,
            need_package("sentencepiece", "Apache-2.0", "https://github.com/google/sentencepiece",
                         "pip install 'ovikit[eval]'"),
        )  # fmt: skip
        self.version = f"sensevoice/{language or 'auto'}/{digest_of(assets, folder)}"

    def not_known(self, said: str) -> str | None:
        letters = letters_of(said)
        known = sum(unicodedata.name(one, "").startswith(SCRIPTS) for one in letters)
        return None if 2 * known >= len(letters) else NOT_KNOWN

    @cached_property
    def _folder(self) -> Path:
        return self._assets.path(self._weights)

    @cached_property
    def _network(self) -> SenseVoiceNetwork:
        path = self._folder / WEIGHTS
        return network(SenseVoiceNetwork, path, within=nest_of(path), named=unwrapped)

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        return read_statistics(self._folder / STATISTICS)

    @cached_property
    def _words(self) -> Any:
        path = self._folder / WORDS
        sentencepiece = require("sentencepiece", extra="eval")
        try:
            words = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise UserError("there are no pieces of words that sentencepiece reads", str(path)) from error
        if (count := words.get_piece_size()) != (wanted := len(self._network.ctc["ctc_lo"].bias)):
            raise UserError(f"it has {count} pieces of words, and the network {wanted}", str(path))
        return words

    def __call__(self, sound: Tensor) -> str:
        return " ".join(filter(None, map(self._text, pieces(sound, MOST))))

    @torch.inference_mode()
    def _text(self, sound: Tensor) -> str:
        shift, scale = self._statistics
        spectrum = kaldi_log_mel(32768 * sound[None].float(), SOUND_HZ, MELS, "hamming")[0]
        if len(spectrum) == 0:
            return ""
        inputs = (stacked(spectrum) + shift) * scale
        likeliest = self._network(inputs.to(device()), self._language).argmax(dim=-1)
        return readable(self._words.decode(collapsed(likeliest.tolist())))


def places(count: int, width: int) -> Tensor:
    """(count, width) sines and cosines of the frames' numbers, from 1 on."""
    steps = torch.exp(torch.arange(width // 2) * (-math.log(10000.0) / (width / 2 - 1)))
    angles = torch.arange(1, count + 1)[:, None] * steps
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def stacked(spectrum: Tensor) -> Tensor:
    """(t, 7 m) of (frames, m): every sixth frame with three on either side; beyond the ends the last ones again."""
    count = math.ceil(len(spectrum) / STEP)
    side = STACKED // 2
    wanted = torch.arange(count)[:, None] * STEP + torch.arange(STACKED) - side
    return spectrum[wanted.clamp(0, len(spectrum) - 1)].flatten(1)


def collapsed(tokens: Sequence[int]) -> list[int]:
    """The tokens of frames, each once for as long as it lasts, without blanks."""
    return [one for k, one in enumerate(tokens) if one != BLANK and (k == 0 or tokens[k - 1] != one)]


def read_statistics(path: Path) -> tuple[Tensor, Tensor]:
    """What is added to inputs (i,), and what they are then multiplied by, of a file of Kaldi's."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"there is no {path.name} among these weights", str(path.parent)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("it cannot be read", str(path)) from error
    found: list[Tensor] = []
    for name in ("AddShift", "Rescale"):
        part = re.search(rf"<{name}>.*?\[([^\]]*)\]", text, re.DOTALL)
        try:
            numbers = [float(one) for one in part.group(1).split()] if part else []
        except ValueError:
            numbers = []
        if len(numbers) != STACKED * MELS:
            raise UserError(f"it has no {STACKED * MELS} numbers of <{name}>", str(path))
        found.append(torch.tensor(numbers))
    return found[0], found[1]


def nest_of(path: Path) -> str | None:
    """Under which key a file has its weights; None: under none. UserError of the file where it has none at all."""
    told: UserError | None = None
    for key in (None, *NESTS):
        try:
            read_header(path, key)
        except UserError as error:
            told = told or error
        else:
            return key
    assert told is not None
    raise told


FEELINGS = {"HAPPY": "😊", "SAD": "😔", "ANGRY": "😡", "FEARFUL": "😰", "DISGUSTED": "🤢", "SURPRISED": "😮"}
EVENTS = {"BGM": "🎼", "Applause": "👏", "Laughter": "😀", "Cry": "😭", "Sneeze": "🤧", "Cough": "🤧"}
UNSEEN = (
    "NEUTRAL", "EMO_UNKNOWN", "Speech", "Breath", "Sing", "Speech_Noise", "GBG", "Event_UNK", "withitn", "woitn"
)  # fmt: skip
_TAG = re.compile(rf"<\|({'|'.join((*FEELINGS, *EVENTS, *UNSEEN))})\|>")
_LANGUAGE = re.compile(r"<\|(?:zh|en|yue|ja|ko|nospeech)\|>")
_SIGN = f"[{''.join((*FEELINGS.values(), *EVENTS.values()))}]"
_SPACED = re.compile(rf" ?({_SIGN}) ?")
NOTHING, NOTHING_SIGN = "<|nospeech|><|Event_UNK|>", "❓"


def readable(tagged: str) -> str:
    """A text without tags, as funasr makes it of one piece: a sign for what is heard beside speech before it, one for
    the speaker's feeling behind it, each once in a row; and without the sentence "The.", which is heard in noise."""
    first, *others = map(_signed, _LANGUAGE.split(tagged.replace(NOTHING, NOTHING_SIGN)))
    text, event = " " + first, ""
    for part in filter(None, others):
        rest = part[1:] if part[0] == event else part
        if not rest:
            continue
        event = rest[0] if rest[0] in EVENTS.values() else ""
        repeated = rest[-1] in FEELINGS.values() and rest[-1] == text[-1]
        text = (text[:-1] if repeated else text) + rest.strip()
    return text.replace("The.", " ").strip()


def _signed(text: str) -> str:
    """A text in one language, with signs in place of tags."""
    tags = _TAG.findall(text)
    said = _TAG.sub("", text)
    for name in EVENTS:
        if name in tags:
            said = EVENTS[name] + said
    feeling = max(("NEUTRAL", *FEELINGS), key=tags.count)  # the first one of several
    return _SPACED.sub(r"\1", said + FEELINGS.get(feeling, "")).strip()
