"""Moonshine tiny (Jeffries et al. 2024, arXiv 2410.15608), English: the files that the package moonshine-voice 0.0.48
carries, run by onnxruntime.

The package's own library is not used. What it hears in a clip depends on the clips before (it puts words of nobody in
front, and numbers speakers on), the same clip gives other lines in a new instance, and told not to tell speakers apart
it damages its memory. On five sentences of LibriVox and four voices of flite the words are the same as those that a new
instance of it gives, but for what depends on where it cuts.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from ovikit.extras import require
from ovikit_versebench.speech.hearing import SOUND_HZ, pieces
from ovikit_versebench.speech.packages import carried, home, quiet_session, runtime, told
from ovikit_versebench.speech.text import script_of

MOST = 24 * SOUND_HZ
FIRST, LAST = 1, 2
"""Tokens before and after a text."""
TOKENS_PER_S = 6.5
"""More than people speak: where there is no speech the network repeats itself."""
HEADS, WIDTH = 8, 36
NOT_KNOWN = "what is to be said is not in Latin letters, and the recogniser knows English only"


class Moonshine:
    """Texts by taking the likeliest token each time."""

    def __init__(self) -> None:
        self.needs = (
            carried("moonshine_voice", "MIT", "https://github.com/moonshine-ai/moonshine"),
            runtime("onnxruntime", "MIT", "https://onnxruntime.ai"),
        )
        self.version = f"moonshine-tiny-en/{told('moonshine-voice')}"

    def not_known(self, said: str) -> str | None:
        return None if script_of(said) == "latin" else NOT_KNOWN

    def __call__(self, sound: Tensor) -> str:
        return " ".join(filter(None, map(_text, pieces(sound, MOST))))


def _text(sound: Tensor) -> str:
    encoder, decoder, words = _model()
    given = sound.numpy()[None].astype(np.float32)
    heard = np.ones(given.shape, dtype=np.int64)
    states = encoder.run(None, {"input_values": given, "attention_mask": heard})[0]
    outputs = [one.name for one in decoder.get_outputs()]
    kept = {
        one.name: np.zeros((1, HEADS, 0 if ".decoder." in one.name else states.shape[1], WIDTH), dtype=np.float32)
        for one in decoder.get_inputs()
        if one.name.startswith("past_key_values.")
    }
    tokens = [FIRST]
    for step in range(int(len(sound) / SOUND_HZ * TOKENS_PER_S) + 1):
        told_ = {
            "input_ids": np.array([tokens[-1:]]), "encoder_hidden_states": states, "encoder_attention_mask": heard,
            "use_cache_branch": np.array([step > 0]),
        }  # fmt: skip
        found = dict(zip(outputs, decoder.run(None, told_ | kept), strict=True))
        token = int(found["logits"][0, -1].argmax())
        if token == LAST:
            break
        tokens.append(token)
        for name in kept:
            if step == 0 or ".decoder." in name:  # keys and values of the sound are computed once
                kept[name] = found[name.replace("past_key_values", "present")]
    return b"".join(words[one] for one in tokens[1:]).replace("\u2581".encode(), b" ").decode(errors="ignore").strip()


@cache
def _model() -> tuple[Any, Any, list[bytes]]:
    """Encoder, decoder and the bytes of each token, once in a process."""
    require("onnxruntime", extra="eval")
    place = home("moonshine_voice") / "assets" / "tiny-en"
    return (
        quiet_session(place / "encoder_model.ort"),
        quiet_session(place / "decoder_model_merged.ort"),
        token_bytes((place / "tokenizer.bin").read_bytes()),
    )


def token_bytes(data: bytes) -> list[bytes]:
    """The tokens of the package's file, one after the other, each behind its length: one byte below 128, else two,
    the lower seven bits first."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        length = data[at]
        at += 1
        if length >= 128:
            length += data[at] * 128 - 128
            at += 1
        found.append(data[at : at + length])
        at += length
    return found
