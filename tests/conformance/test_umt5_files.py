"""Tokenizers and weights of the ``umt5`` conditioner, and a message for each file that is wrong."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from official_text import TINY_TEXT_OPTIONS, text_weights, vocabulary
from umt5_kit import GOLDEN, PROMPTS, conditioner_of, write_folder

from ovikit.checkpoints.state import read_header
from ovikit.errors import UserError
from ovikit_ovi.text.component import TOKENIZER, WEIGHTS
from ovikit_ovi.text.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("official"))


@pytest.fixture
def own(official: Path, tmp_path: Path) -> Path:
    """A copy of the official folder to spoil."""
    shutil.copytree(official, tmp_path / "own")
    return tmp_path / "own"


# the tokenizer


def test_the_tokenizer_agrees_with_transformers_on_its_own_file(official: Path) -> None:
    from ovikit.extras import require

    theirs = require("transformers.models.t5.tokenization_t5", "ovi").T5Tokenizer.from_pretrained(
        str(official / TOKENIZER), local_files_only=True
    )
    ours = load_tokenizer(official / TOKENIZER)
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 1, 2)
    for prompt in PROMPTS[:3]:
        assert ours.ids(prompt, 512) == theirs(prompt).input_ids
        assert ours.ids(prompt, 5) == theirs(prompt, truncation=True, max_length=5).input_ids


def test_a_tokenizer_with_only_a_sentencepiece_model(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(["a red ball on the street near the park"] * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "spiece"), vocab_size=20, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.ids("the red ball", 512)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    assert ids == [*model.encode("the red ball"), 1]
    assert tokenizer.size == 20


def test_only_a_sentencepiece_model_and_nothing_to_read_it_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spiece.model").write_bytes(b"pieces")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r"only a spiece\.model here, and sentencepiece, which .* not installed"):
        load_tokenizer(tmp_path)


def _rewrite(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "tokenizer.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        change(document)
        path.write_text(json.dumps(document), encoding="utf-8")

    return spoil


def _rename_end(document: dict[str, Any]) -> None:
    document["model"]["vocab"][1][0] = "<end>"
    document["added_tokens"][1]["content"] = "<end>"
    document["post_processor"] = None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no Wan2.2-TI2V-5B/google/umt5-xxl"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "the tokenizer's folder has no tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "this is not a tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"version": '), "this is not a tokenizer"),
        (_rewrite(_rename_end), "the tokenizer has no end mark </s>"),
        (_rewrite(lambda d: d["model"]["vocab"].extend([[f"x{i}", -9.0] for i in range(400)])), "the encoder 384"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_said_before_the_weights_are_read(
    own: Path, spoil: Callable[[Path], object], message: str
) -> None:
    (own / WEIGHTS).unlink()
    spoil(own / TOKENIZER)
    with pytest.raises(UserError, match=message):
        conditioner_of(own).load("cpu")


# weights that are not the encoder's


def _saved(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        tensors: dict[str, Any] = dict(text_weights())
        change(tensors)
        torch.save(tensors, path)

    return spoil


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it-ran",)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "no Wan2.2-TI2V-5B/models_t5_umt5-xxl-enc-bf16.pth"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2000]), "truncated"),
        (lambda path: path.write_bytes(pickle.dumps({"norm.weight": _Code()})), "run code"),
        (_saved(lambda t: t.pop("norm.weight")), r"1 tensors missing: encoder\.final_layer_norm\.weight"),
        (_saved(lambda t: t.update({"head.weight": torch.zeros(1)})), "umt5 format knows no tensor 'head.weight'"),
        (
            _saved(lambda t: t.update({"blocks.2.norm1.weight": torch.ones(32)})),
            r"1 tensors not in the model: encoder\.block\.2\.layer\.0\.layer_norm\.weight",
        ),
        (
            _saved(lambda t: t.update({"blocks.0.attn.q.weight": torch.ones(32, 31)})),
            r"q\.weight is \(32, 31\), the model has \(32, 32\)",
        ),
        (_saved(lambda t: t.update({"norm.weight": "x"})), "norm.weight"),
        (lambda path: torch.save({"a.weight": torch.zeros(2)}, path), "not of this model"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_used_are_named(
    own: Path, spoil: Callable[[Path], object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own)
    spoil(own / WEIGHTS)
    conditioner = conditioner_of(own)
    with pytest.raises(UserError, match=message):
        conditioner.load("cpu")
    assert conditioner._encoder is None
    assert not (own / "it-ran").exists()


def test_without_a_folder_it_says_how_to_give_one() -> None:
    conditioner = conditioner_of(None)
    with pytest.raises(UserError, match="--weights DIR"):
        conditioner.load("cpu")
    with pytest.raises(UserError, match="--weights DIR"):
        conditioner.fingerprint()


# the small official files themselves


def test_the_small_files_have_the_official_form(official: Path) -> None:
    layouts = json.loads((GOLDEN / "checkpoint_layouts.json").read_text(encoding="utf-8"))
    released = {name for name in layouts["models_t5_umt5-xxl-enc-bf16.pth"] if "blocks." not in name or _early(name)}
    header = read_header(official / WEIGHTS)
    assert header.keys() == released
    assert {one.dtype for one in header.values()} == {torch.bfloat16}
    assert len(vocabulary()) <= int(str(TINY_TEXT_OPTIONS["vocabulary"]))


def _early(name: str) -> bool:
    return name.startswith(("blocks.0.", "blocks.1."))
