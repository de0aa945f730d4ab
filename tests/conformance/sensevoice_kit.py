"""A small SenseVoice in the published layout."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import pytest
import torch
from quality_kit import waving

from ovikit_versebench.speech import sensevoice
from ovikit_versebench.speech.sensevoice import SenseVoiceNetwork, SenseVoiceSize

sentencepiece = pytest.importorskip("sentencepiece")

TAGS = ("<|en|>", "<|NEUTRAL|>", "<|Speech|>", "<|withitn|>")
WORDS = 28
SMALL = SenseVoiceSize(width=16, hidden=24, heads=2, depth=3, later=2, kernel=5, vocabulary=WORDS)
small_sensevoice = partial(SenseVoiceNetwork, SMALL)


def use_small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensevoice, "SenseVoiceNetwork", small_sensevoice)


def write_weights(folder: Path, network: SenseVoiceNetwork | None = None) -> Path:
    """The folder ``SenseVoiceSmall``: weights, statistics and pieces of words."""
    home = folder / sensevoice.FOLDER
    home.mkdir(parents=True)
    if network is None:
        network = small_sensevoice()
        network.load_state_dict(waving(network))
    torch.save(network.state_dict(), home / sensevoice.WEIGHTS)
    numbers = [" ".join(f"{value + k * 0.001:.3f}" for k in range(560)) for value in (-8.0, 0.2)]
    (home / sensevoice.STATISTICS).write_text(
        "<Nnet>\n<Splice> 560 560\n[ 0 ]\n"
        f"<AddShift> 560 560\n<LearnRateCoef> 0 [ {numbers[0]} ]\n"
        f"<Rescale> 560 560\n<LearnRateCoef> 0 [ {numbers[1]} ]\n</Nnet>\n"
    )
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a little dog barks at the moon", "the moon says nothing at all"] * 20),
        model_writer=made, vocab_size=WORDS, user_defined_symbols=list(TAGS), minloglevel=2,
    )  # fmt: skip
    (home / sensevoice.WORDS).write_bytes(made.getvalue())
    return home
