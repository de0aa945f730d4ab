"""Latents encoded once: what is in them, when the cache is used, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_kit import KitClips, LetterText, PoolCodec

from ovikit.data.latents import LatentClips, encode, fingerprint, prepare_latents
from ovikit.errors import UserError
from ovikit.networks.protocols import Codec
from ovikit.types import AV, ClipSpec

FORM = ClipSpec(0.5, 8, 8, 8.0, 16000)


def codecs(form: ClipSpec = FORM) -> AV[Codec]:
    return AV(PoolCodec(form, "video"), PoolCodec(form, "audio"))


def prepare(folder: Path | None, source: KitClips | None = None) -> LatentClips:
    return prepare_latents(KitClips(FORM, 5) if source is None else source, codecs(), LetterText(), FORM, folder)


def reads(folder: Path, source: KitClips | None = None) -> list[int]:
    """Which clips were read in making the latents."""
    KitClips.reads.clear()
    prepare(folder, source)
    return list(KitClips.reads)


def test_latents_are_those_of_each_clip() -> None:
    found, source = prepare(None), KitClips(FORM, 5)
    assert found.names == tuple(f"kit-{i}" for i in range(5))
    for index in range(5):
        clip = source[index]
        assert clip.video is not None
        assert clip.audio is not None
        pixels = clip.video.float()[None] / 127.5 - 1
        assert torch.equal(found.latents["video"][index], codecs()["video"].encode(pixels)[0])
        assert torch.equal(found.latents["audio"][index], codecs()["audio"].encode(clip.audio[None])[0])


def test_prompts_are_encoded_once_each_and_the_empty_one_first() -> None:
    found = prepare(None)
    assert found.text.tokens.shape == (3, 2, 6)  # "", "c", "ab"
    assert found.text.lengths.tolist() == [1, 1, 2]
    assert found.text_rows["video"].tolist() == [1, 2, 1, 2, 1]
    assert found.text_rows.video is found.text_rows.audio
    assert torch.equal(found.text.tokens[2], LetterText().encode(["ab"]).tokens[0])


def test_cache_gives_back_the_same(tmp_path: Path) -> None:
    one = prepare(tmp_path)
    assert reads(tmp_path) == []
    other = prepare(tmp_path)
    assert one.names == other.names
    for modality in ("video", "audio"):
        assert torch.equal(one.latents[modality], other.latents[modality])
    assert torch.equal(one.text.tokens, other.text.tokens)
    assert torch.equal(one.text_rows["video"], other.text_rows["video"])
    assert other.text_rows.video is other.text_rows.audio


@pytest.mark.parametrize("source", [KitClips(FORM, 4), KitClips(FORM, 5, poison=9)])
def test_other_clips_are_encoded_anew(tmp_path: Path, source: KitClips) -> None:
    prepare(tmp_path)
    assert reads(tmp_path, source) == list(range(len(source)))


def test_everything_that_matters_is_in_the_fingerprint() -> None:
    source, form = KitClips(FORM, 5), ClipSpec(0.5, 8, 16, 8.0, 16000)
    marks = {
        fingerprint(source, codecs(), LetterText(), FORM),
        fingerprint(source, codecs(), LetterText(), form),
        fingerprint(source, AV(audio=codecs()["audio"]), LetterText(), FORM),
        fingerprint(KitClips(FORM, 6), codecs(), LetterText(), FORM),
    }
    assert len(marks) == 4


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_cache_is_noticed_and_made_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    prepare(tmp_path)
    (path,) = tmp_path.glob("latents-*.safetensors")
    good = path.read_bytes()
    data = bytearray(good)
    data[-5] ^= 1  # in the last tensor
    path.write_bytes(good[:-40] if damage == "cut" else bytes(data))
    assert reads(tmp_path) == list(range(5))
    assert "the cache is damaged" in caplog.text
    assert reads(tmp_path) == []


def test_clips_that_lack_a_modality_are_all_named() -> None:
    with pytest.raises(UserError, match="3 of 40 clips have no audio, which is to be trained: kit-1, kit-20, kit-39"):
        prepare(None, KitClips(FORM, 40, mute=(1, 20, 39)))


def test_clips_may_lack_what_is_not_trained() -> None:
    source = KitClips(FORM, 3, mute=(0, 1, 2))
    found = encode(source, AV(video=codecs()["video"]), LetterText(), FORM)
    assert found.latents.modalities == ("video",)


def test_nan_is_refused_with_the_name() -> None:
    with pytest.raises(UserError, match="clip kit-3: its audio encodes to NaN"):
        prepare(None, KitClips(FORM, 5, poison=3))


def test_clip_of_another_form_is_refused_with_both_forms() -> None:
    source = KitClips(ClipSpec(0.25, 8, 8, 8.0, 16000), 5)
    with pytest.raises(
        UserError, match=r"clip kit-0: its video is \(2, 8, 8, 3\), the recipe's clips are \(4, 8, 8, 3\)"
    ):
        prepare(None, source)


def test_empty_dataset_is_refused() -> None:
    with pytest.raises(UserError, match="no clips"):
        prepare(None, KitClips(FORM, 0))


PARTED = ("ab|c", "d|c", "ab|e", "ab")


def prepare_parted(folder: Path | None, modalities: AV[Codec] | None = None) -> LatentClips:
    source = KitClips(FORM, 5, prompts=PARTED)
    return prepare_latents(source, codecs() if modalities is None else modalities, LetterText(True), FORM, folder)


def test_each_tower_has_its_own_text_in_one_table() -> None:
    found = prepare_parted(None)
    # "", then what is seen ("ab", "d"), then what is heard ("c", "e")
    wanted = LetterText().encode(["", "ab", "d", "c", "e"])
    assert torch.equal(found.text.tokens, wanted.tokens)
    assert torch.equal(found.text.lengths, wanted.lengths)
    assert found.text_rows["video"].tolist() == [1, 2, 1, 1, 1]
    assert found.text_rows["audio"].tolist() == [3, 3, 4, 0, 3]


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_text_that_no_trained_tower_reads_is_not_encoded(modality: str) -> None:
    one = AV.of({modality: codecs()[modality]})  # type: ignore[dict-item, index]
    found = prepare_parted(None, one)
    assert found.text_rows.modalities == (modality,)
    assert len(found.text.tokens) == 3


def test_a_cache_of_two_texts_gives_back_the_same_and_another_than_that_of_one(tmp_path: Path) -> None:
    made, again = prepare_parted(tmp_path), prepare_parted(tmp_path)
    assert torch.equal(made.text.tokens, again.text.tokens)
    for modality, rows in made.text_rows.items():
        assert torch.equal(again.text_rows[modality], rows)
    (path,) = tmp_path.glob("*.safetensors")
    prepare_latents(KitClips(FORM, 5, prompts=PARTED), codecs(), LetterText(), FORM, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    # the table once, in either file
    names = {name for file in tmp_path.glob("*.safetensors") for name in load_file(file) if name.startswith("text.")}
    assert names == {"text.tokens", "text.lengths", "text.rows", "text.rows.video", "text.rows.audio"}
    assert {name for name in load_file(path) if "rows" in name} == {"text.rows.video", "text.rows.audio"}
