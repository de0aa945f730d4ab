"""The ``umt5`` conditioner: small official files in, embeddings out."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from official_text import text_weights, write_tokenizer
from safetensors.torch import save_file
from umt5_kit import GOLDEN, PROMPTS, by_hand, conditioner_of, write_folder

from ovikit.checkpoints.assets import Assets
from ovikit.checkpoints.state import read_state
from ovikit.generate.texts import TextCache
from ovikit.kernel.catalog import Catalog
from ovikit.networks.protocols import Weighted
from ovikit_ovi.text.component import COMPONENT, TOKENIZER, WEIGHTS, Umt5Config
from ovikit_ovi.text.conditioner import Umt5Conditioner
from ovikit_ovi.text.encoder import Umt5Shape, empty_encoder, fill_encoder
from ovikit_ovi.text.keymap import RULES, TIED, umt5_format

RELEASED = Umt5Shape(24, 4096, 10240, 64, 64, 256384, 32)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("official"))


@pytest.fixture
def own(official: Path, tmp_path: Path) -> Path:
    """A copy of the official folder to spoil."""
    shutil.copytree(official, tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture(scope="module")
def loaded(official: Path) -> Umt5Conditioner:
    made = conditioner_of(official)
    made.load("cpu")
    return made


# the released names


def test_every_official_tensor_of_the_released_encoder_has_a_place_and_the_reverse() -> None:
    layouts = json.loads((GOLDEN / "checkpoint_layouts.json").read_text(encoding="utf-8"))
    official = {name: tuple(shape) for name, shape in layouts["models_t5_umt5-xxl-enc-bf16.pth"].items()}
    encoder, keymap = empty_encoder(RELEASED, torch.bfloat16), umt5_format().keymap
    ours = {name: tuple(value.shape) for name, value in encoder.state_dict().items() if name != TIED}
    assert len(official) == 242
    assert {keymap.ours(name): shape for name, shape in official.items()} == ours
    assert {keymap.official(name): shape for name, shape in ours.items()} == official
    used = {next(rule for rule in RULES if _matches(rule, name)) for name in official}
    assert used == set(RULES)
    parameters = sum(one.numel() for one in encoder.parameters())
    assert parameters == RELEASED.parameters() == 5_680_910_336


def _matches(rule: Any, name: str) -> bool:
    from ovikit.checkpoints.keymap import KeyMap, UnmappedError

    try:
        return KeyMap([rule]).ours(name) == umt5_format().keymap.ours(name)
    except UnmappedError:
        return False


def test_the_options_default_to_the_released_encoder() -> None:
    conditioner = COMPONENT.build(Umt5Config(), assets=Assets())
    assert isinstance(conditioner, Weighted)
    assert conditioner.width == 4096
    assert conditioner.length == 512
    assert conditioner.weight_bytes() == 2 * RELEASED.parameters()
    assert conditioner.captions == "tags"


def test_names_and_tensors_come_back() -> None:
    weights, keymap = text_weights(), umt5_format().keymap
    back = keymap.to_official(keymap.to_ours(weights))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    assert umt5_format().recognises(weights)
    assert not umt5_format().recognises(keymap.to_ours(weights))


# what it computes


def test_embeddings_are_those_of_the_architecture(loaded: Umt5Conditioner) -> None:
    text = loaded.encode(PROMPTS)
    for prompt, tokens, length in zip(PROMPTS, text.tokens, text.lengths.tolist(), strict=True):
        ids = loaded.tokenizer().ids(prompt, 512)
        wanted = by_hand(text_weights(), ids)
        assert length == len(ids)
        assert (tokens[:length] - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_rows_are_zero_past_each_length_and_the_same_to_the_bit_in_any_company(loaded: Umt5Conditioner) -> None:
    text = loaded.encode(PROMPTS)
    assert text.tokens.shape == (4, int(text.lengths.max()), loaded.width)
    assert text.lengths.tolist() == [loaded.tokenizer().count(prompt) for prompt in PROMPTS]
    for i, prompt in enumerate(PROMPTS):
        length = int(text.lengths[i])
        assert not text.tokens[i, length:].any()
        assert torch.equal(loaded.encode([prompt]).tokens[0], text.tokens[i, :length])
    assert text.tokens.dtype == torch.float32


def test_a_long_prompt_is_cut_with_its_end_mark_kept_and_that_is_said(
    official: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = conditioner_of(official, length=6)
    text = short.encode(["a red ball on the street near the park"])
    assert "a prompt has 10 tokens and only 6 are read: a red ball" in caplog.text
    assert text.lengths.tolist() == [6]
    tokenizer = short.tokenizer()
    assert tokenizer.ids("a red ball on the street near the park", 6) == tokenizer.ids("a red ball on the", 512)


def test_prompts_are_cleaned_before_they_are_cut_into_pieces(loaded: Umt5Conditioner) -> None:
    clean = loaded.encode(['a "red" ball'])
    assert torch.equal(loaded.encode(["  a &quot;red\u201d \n ball\t"]).tokens, clean.tokens)


def test_the_encoder_works_in_its_own_number_format(official: Path) -> None:
    half = conditioner_of(official, dtype="bfloat16")
    text = half.encode(PROMPTS[:1])
    wanted = by_hand(text_weights(), half.tokenizer().ids(PROMPTS[0], 512))
    assert text.tokens.dtype == torch.bfloat16
    assert 1e-4 < (text.tokens[0] - wanted).square().mean().sqrt() / wanted.square().mean().sqrt() < 0.03
    assert half.weight_bytes() * 2 == conditioner_of(None).weight_bytes()


def test_loading_and_freeing(official: Path) -> None:
    conditioner = conditioner_of(official)
    conditioner.load("cpu")
    encoder = conditioner._encoder
    assert encoder is not None
    assert sum(one.numel() * one.element_size() for one in encoder.parameters()) == conditioner.weight_bytes()
    assert encoder.get_parameter(TIED) is encoder.get_parameter("shared.weight")
    first = conditioner.encode(PROMPTS)
    conditioner.load("cpu")
    assert conditioner._encoder is encoder
    conditioner.unload()
    assert conditioner._encoder is None
    assert torch.equal(conditioner.encode(PROMPTS).tokens, first.tokens)


def test_loading_tells_of_every_byte_once(official: Path) -> None:
    told: list[tuple[int, int]] = []
    conditioner = conditioner_of(official)
    conditioner.load("cpu", lambda done, total: told.append((done, total)))
    stored, _ = read_state(official / WEIGHTS)
    size = sum(tensor.nbytes for tensor in stored.values())
    assert {total for _, total in told} == {size}
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1][0] == size
    conditioner.load("cpu", lambda done, total: told.append((-1, -1)))  # it is there
    assert told[-1][0] == size


def test_safetensors_in_our_names_give_the_same(official: Path, own: Path, loaded: Umt5Conditioner) -> None:
    tensors = umt5_format().keymap.to_ours(text_weights())
    (own / WEIGHTS).unlink()
    save_file(tensors, own / "text.safetensors")
    manifest = {
        "format": "ovikit-weights", "version": 1, "variant": "tiny", "files": {WEIGHTS: {"path": "text.safetensors"}}
    }  # fmt: skip
    (own / "ovikit.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert torch.equal(conditioner_of(own).encode(PROMPTS).tokens, loaded.encode(PROMPTS).tokens)
    save_file({**tensors, TIED: tensors["shared.weight"].clone()}, own / "text.safetensors")
    assert torch.equal(conditioner_of(own).encode(PROMPTS).tokens, loaded.encode(PROMPTS).tokens)


def test_transformers_says_nothing_to_the_user(
    official: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    level = logging.getLogger("transformers").level
    with caplog.at_level(logging.DEBUG):
        conditioner_of(official).encode(PROMPTS)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("transformers").level == level


def test_filling_leaves_the_meta_device_behind_and_refuses_what_is_left_over() -> None:
    shape = Umt5Shape(2, 32, 48, 4, 8, 384, 8)
    encoder = empty_encoder(shape)
    fill_encoder(encoder, text_weights(), "cpu", "here")
    assert {one.device.type for one in encoder.state_dict().values()} == {"cpu"}
    assert not any(one.requires_grad for one in encoder.parameters())
    assert sum(one.numel() for one in encoder.parameters()) == shape.parameters()


# the fingerprint


def test_the_fingerprint_tells_weights_tokenizers_and_options_apart(official: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", seed=1)
    write_tokenizer(tmp_path / "tokenizer")
    longer = tmp_path / "tokenizer" / "tokenizer.json"
    longer.write_text(longer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    shutil.copytree(official, tmp_path / "third")
    shutil.copy(longer, tmp_path / "third" / TOKENIZER / "tokenizer.json")
    made = [conditioner_of(root).fingerprint() for root in (official, other, tmp_path / "third")]
    made += [
        conditioner_of(official, **option).fingerprint()
        for option in ({"dtype": "bfloat16"}, {"length": 64}, {"captions": "suffix"}, {"prompts": "separate"})
    ]
    assert len(set(made)) == len(made)
    assert conditioner_of(official).fingerprint() == made[0]


# the prompts


def test_prepare_rewrites_the_other_format_and_needs_no_file() -> None:
    prepared = conditioner_of(None, captions="suffix").prepare("He says <S>hi<E> <AUDCAP>rain<ENDAUDCAP>")
    assert prepared.text == "He says <S>hi<E> Audio: rain"
    assert len(prepared.notes) == 1
    assert prepared.notes[0].startswith("rewritten: this model was trained with audio captions as 'Audio: ...'")
    assert conditioner_of(None).prepare("He says <S>hi<E>") == ("He says <S>hi<E>", ())
    assert conditioner_of(None).prepare("He says <S>hi").notes[0].startswith("error: <S> is never closed")
    (note,) = conditioner_of(None, length=8).prepare(f"He says <S>{'hi ' * 20}<E>").notes
    assert "the model reads 8 and drops the end" in note


# kept on disk


def test_embeddings_from_the_cache_need_no_encoder(official: Path, tmp_path: Path, loaded: Umt5Conditioner) -> None:
    cache = TextCache(tmp_path)
    first = cache.encode(conditioner_of(official), PROMPTS)
    (other := conditioner_of(official)).load = None  # type: ignore[assignment, method-assign]
    again = cache.encode(other, PROMPTS[::-1])
    wanted = loaded.encode(PROMPTS)
    for texts in (first, again):
        text = texts.text(PROMPTS)
        assert torch.equal(text.tokens, wanted.tokens)
        assert torch.equal(text.lengths, wanted.lengths)
    assert len(list(tmp_path.iterdir())) == len(PROMPTS)


def test_it_is_a_component_that_a_catalog_takes() -> None:
    from ovikit.kernel.catalog import Plugin, Registered, refuse_bad_component

    plugin = Plugin("ovi", "ovikit", "0")
    catalog = Catalog()
    catalog.add(Registered("conditioner", refuse_bad_component("conditioner", COMPONENT, plugin), plugin))
    assert catalog.find("conditioner", "umt5").component is COMPONENT
