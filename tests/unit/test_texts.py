"""Embeddings kept on disk: the same as from the encoder, which is left alone where they are there."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ovikit.errors import UserError
from ovikit.generate.texts import IN_USE_S, TextCache
from ovikit.layout import CACHE
from ovikit.networks.protocols import Prepared
from ovikit.types import Text

PROMPTS = ["one", "a longer prompt", "", "one"]


class Letters:
    """A conditioner whose weights are drawn when they are loaded: one vector for each byte, mixed along the prompt."""

    width = 6

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        self.seed, self.dtype, self.loads, self.batches = seed, dtype, 0, list[list[str]]()
        self._table: Tensor | None = None

    def prepare(self, prompt: str) -> Prepared:
        return Prepared(prompt)

    def load(self, device: torch.device | str, progress: object = None) -> None:
        if self._table is None:
            self.loads += 1
            drawn = torch.randn(256, self.width, generator=torch.Generator().manual_seed(self.seed))
            self._table = drawn.to(device=device, dtype=self.dtype)

    def unload(self) -> None:
        self._table = None

    def weight_bytes(self) -> int:
        return 256 * self.width * self.dtype.itemsize

    def encode(self, prompts: Sequence[str]) -> Text:
        assert self._table is not None
        self.batches.append(list(prompts))
        rows = [self._table[list(prompt.encode() + b"\0")].cumsum(0) for prompt in prompts]
        return Text(nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows]))

    def fingerprint(self) -> str:
        return f"letters/{self.seed}/{self.dtype}"


class Weightless:
    """The same without weights to load."""

    width = 6

    def __init__(self) -> None:
        self._letters = Letters()
        self._letters.load("cpu")

    def prepare(self, prompt: str) -> Prepared:
        return Prepared(prompt)

    def encode(self, prompts: Sequence[str]) -> Text:
        return self._letters.encode(prompts)

    def fingerprint(self) -> str:
        return "weightless"


def direct(prompts: Sequence[str], **options) -> Text:
    conditioner = Letters(**options)
    conditioner.load("cpu")
    return conditioner.encode(prompts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_text_is_the_same_to_the_bit_from_the_encoder_and_from_disk(tmp_path: Path, dtype: torch.dtype) -> None:
    wanted = direct(PROMPTS, dtype=dtype)
    for _ in range(2):
        text = TextCache(tmp_path).encode(Letters(dtype=dtype), PROMPTS).text(PROMPTS)
        assert text.tokens.dtype == dtype
        assert torch.equal(text.tokens, wanted.tokens)
        assert torch.equal(text.lengths, wanted.lengths)
    assert not text.tokens[0, int(text.lengths[0]) :].any()


def test_the_encoder_is_loaded_only_for_what_is_missing_and_freed_after(tmp_path: Path) -> None:
    cache, conditioner = TextCache(tmp_path), Letters()
    cache.encode(conditioner, PROMPTS[:2])
    assert (conditioner.loads, conditioner._table) == (1, None)
    cache.encode(conditioner, PROMPTS[:2])
    assert conditioner.loads == 1
    told: list[tuple[int, int]] = []
    cache.encode(conditioner, ["new", *PROMPTS], lambda done, total: told.append((done, total)))
    assert conditioner.loads == 2
    assert conditioner.batches == [["one"], ["a longer prompt"], ["new"], [""]]
    assert told == [(1, 2), (2, 2)]


def test_a_run_asks_first_and_encodes_batch_by_batch(tmp_path: Path) -> None:
    conditioner = Letters()
    texts = TextCache(tmp_path).of(conditioner)
    assert texts.missing(PROMPTS) == ["one", "a longer prompt", ""]
    conditioner.load("cpu")
    told: list[tuple[int, int]] = []
    texts.encode(PROMPTS, lambda done, total: told.append((done, total)), batch_size=2)
    conditioner.unload()
    assert told == [(2, 3), (3, 3)]
    assert texts.missing(PROMPTS) == []
    assert torch.equal(texts.text(PROMPTS[1:2]).tokens, direct(PROMPTS[1:2]).tokens)


def test_other_weights_have_other_entries(tmp_path: Path) -> None:
    cache = TextCache(tmp_path)
    first = cache.encode(Letters(0), ["x"]).text(["x"])
    second = cache.encode(Letters(1), ["x"]).text(["x"])
    assert not torch.equal(first.tokens, second.tokens)
    assert torch.equal(second.tokens, direct(["x"], seed=1).tokens)
    assert len(list(tmp_path.iterdir())) == 2


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no tensors here, but some text"),
        _flip,
    ],
)
def test_a_damaged_entry_is_made_anew_and_said(
    tmp_path: Path, damage, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    cache, conditioner = TextCache(tmp_path), Letters()
    cache.encode(conditioner, PROMPTS)
    path = cache.path(conditioner.fingerprint(), "a longer prompt")
    damage(path)
    with caplog.at_level(logging.WARNING):
        text = cache.encode(conditioner, PROMPTS).text(PROMPTS)
    assert conditioner.batches[3:] == [["a longer prompt"]]
    assert torch.equal(text.tokens, direct(PROMPTS).tokens)
    assert str(path) in caplog.text
    assert caplog.text.count("made anew") == 1
    caplog.clear()
    cache.encode(conditioner, PROMPTS)
    assert caplog.text == ""


def test_a_conditioner_without_weights_leaves_no_files(tmp_path: Path) -> None:
    texts = TextCache(tmp_path / "texts").encode(Weightless(), PROMPTS)
    assert torch.equal(texts.text(PROMPTS).tokens, direct(PROMPTS).tokens)
    assert not (tmp_path / "texts").exists()


def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    TextCache(tmp_path / "texts").encode(Letters(), ["one"])
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        text = TextCache(blocked).encode(Letters(), PROMPTS).text(PROMPTS)
    assert torch.equal(text.tokens, direct(PROMPTS).tokens)
    assert caplog.text.count("are not kept") == 1


def test_an_embedding_that_went_away_is_named(tmp_path: Path) -> None:
    texts = TextCache(tmp_path).encode(Letters(), PROMPTS)
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no embedding of the prompt 'one'"):
        texts.text(["one"])


def test_the_folder_stays_within_its_bound_and_spares_what_is_in_use(tmp_path: Path) -> None:
    cache, fingerprint = TextCache(tmp_path), Letters().fingerprint()
    cache.encode(Letters(), ["old1", "old2", "new1"])
    size = cache.path(fingerprint, "new1").stat().st_size
    for age, prompt in ((2, "old1"), (3, "old2")):
        when = time.time() - age * IN_USE_S
        os.utime(cache.path(fingerprint, prompt), (when, when))

    def kept() -> list[str]:
        return [name for name in ("old1", "old2", "new1", "new2", "new3") if cache.path(fingerprint, name).is_file()]

    TextCache(tmp_path, most_bytes=3 * size).encode(Letters(), ["new2"])
    assert kept() == ["old1", "new1", "new2"]
    TextCache(tmp_path, most_bytes=0).encode(Letters(), ["new3"])
    assert kept() == ["new1", "new2", "new3"]


def test_the_folder_is_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    assert TextCache().folder == tmp_path / "texts"
