"""Whisper (Radford et al. 2022, arXiv 2212.04356) in the layout of transformers, from a folder that the user brings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovikit.checkpoints.assets import Assets
from ovikit.errors import UserError
from ovikit.evaluation.needs import device, digest_of, need_asset, network
from ovikit.extras import require
from ovikit_versebench.speech.hearing import SOUND_HZ, pieces
from ovikit_versebench.speech.recognition import normaliser

FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
HEAD, WORDS = "proj_out.weight", "model.decoder.embed_tokens.weight"


class Whisper:
    """Texts by taking the likeliest token each time, of pieces that the network hears at once.

    language: two letters; None: what the network takes each piece for
    """

    def __init__(self, assets: Assets, weights: str, language: str | None) -> None:
        where = f"https://huggingface.co/openai/{weights.removeprefix('hf://').partition('/')[2] or weights}"
        weight_need = need_asset(assets, weights, "Apache-2.0", where)
        self.needs = (weight_need, normaliser())
        self._assets, self._weights, self._language = assets, weights, language
        self.version = f"whisper/{digest_of(assets, weight_need)}/{language or 'any'}"

    def not_known(self, said: str) -> str | None:
        return None

    def __call__(self, sound: Tensor) -> str:
        return " ".join(filter(None, (self._text(piece) for piece in pieces(sound, self._form.n_samples))))

    @cached_property
    def _folder(self) -> Path:
        folder = self._assets.path(self._weights)
        if not folder.is_dir():
            raise UserError("this is no folder of Whisper", str(folder), "name a folder with config.json and weights")
        return folder

    @cached_property
    def _form(self) -> Any:
        return self._read("WhisperFeatureExtractor")

    @cached_property
    def _words(self) -> Any:
        return self._read("WhisperTokenizer")

    def _read(self, kind: str) -> Any:
        try:
            return getattr(require("transformers", "ovi"), kind).from_pretrained(self._folder, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            told = str(error).splitlines()[0]
            raise UserError(f"this folder of Whisper cannot be used ({told})", str(self._folder)) from error

    @cached_property
    def _network(self) -> Any:
        config = self._read("WhisperConfig")
        files = [self._folder / name for name in FILES if (self._folder / name).is_file()]
        if not files:
            raise UserError("there are no weights in this folder", str(self._folder), f"there should be {FILES[0]}")
        transformers = require("transformers", "ovi")
        made = network(lambda: transformers.WhisperForConditionalGeneration(config), files[0], named=_whole)
        made.generation_config = self._read("GenerationConfig")
        return made

    @torch.inference_mode()
    def _text(self, sound: Tensor) -> str:
        net = self._network
        given = self._form(sound.numpy(), sampling_rate=SOUND_HZ, return_tensors="pt", return_attention_mask=True)
        # Networks for English alone are told neither language nor task.
        spoken = {"language": self._language, "task": "transcribe"} if net.generation_config.is_multilingual else {}
        found = net.generate(
            given.input_features.to(device()), attention_mask=given.attention_mask.to(device()), do_sample=False,
            num_beams=1, **spoken,
        )  # fmt: skip
        return str(self._words.decode(found[0], skip_special_tokens=True)).strip()


def _whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the last layer, which is the table of words: files have it once."""
    return {HEAD: state[WORDS], **state} if WORDS in state else dict(state)
