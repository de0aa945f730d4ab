"""Clips become latents once, before training, and are kept in a cache that knows what it was made from.

Shape legend: n clips, p distinct prompts, l text tokens, c channels, t y x latent steps, rows, columns.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ovikit.checkpoints.load import read_tensors, write_tensors
from ovikit.data.encoded import Bucket, Encoded
from ovikit.errors import UserError, listed
from ovikit.networks.loaded import loaded
from ovikit.networks.protocols import ClipSource, Codec, Conditioner
from ovikit.networks.reading import each, texts_of
from ovikit.types import AV, MODALITIES, Clip, ClipSpec, Modality, Text

LAYOUT = 2
"""Version of what this module writes; a cache of another version is not read."""
CLIPS_AT_ONCE = 16
VALUES_AT_ONCE = 2**26
"""Of the pixels and samples that are encoded together."""
PROMPTS_AT_ONCE = 64
EMPTY = ""
"""The prompt of a clip whose text is dropped: row 0 of every text table."""

Progress = Callable[[int, int], None]
"""Called with how many clips are done, from 0 on, and how many there are."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LatentClips:
    """Every clip of a dataset as the networks see it, in memory.

    names:     of the clips
    form:      of each
    latents:   (n, c, t, y, x) and (n, c, t), float32
    text:      (p, l, c) of the distinct texts; row 0 is the empty prompt
    text_rows: (n,) which row is whose, for each tower; the same tensor where both read one text
    first:     (n, c, 1, y, x) of each clip's first frame alone; None where nobody asked for it
    """

    names: tuple[str, ...]
    form: ClipSpec
    latents: AV[Tensor]
    text: Text
    text_rows: AV[Tensor]
    first: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def buckets(self) -> tuple[Bucket]:
        """One, of all clips."""
        return (Bucket(self.form, range(len(self))),)

    @property
    def empty(self) -> Text:
        return rows_of(self.text, torch.zeros(1, dtype=torch.int64))

    def read(self, indices: Sequence[int]) -> Encoded:
        index = torch.tensor(indices)
        text = each(self.text_rows, lambda rows: rows_of(self.text, rows[index]))
        first = None if self.first is None else self.first.index_select(0, index)
        return Encoded(self.latents.map(lambda value: value.index_select(0, index)), text, first)

    def silent(self) -> AV[int]:
        rows = self.text_rows
        if rows.video is None or rows.audio is None or rows.video is rows.audio:
            return AV()
        said = (rows.video > 0) | (rows.audio > 0)  # row 0 is the empty prompt
        return rows.map(lambda own: int((said & (own == 0)).sum()))


def rows_of(text: Text, index: Tensor) -> Text:
    """The texts at ``index`` (b,) of a table of them."""
    return Text(text.tokens.index_select(0, index), text.lengths.index_select(0, index))


def fingerprint(
    source: ClipSource, codecs: AV[Codec], conditioner: Conditioner, clip: ClipSpec, first_frames: bool = False
) -> str:
    """Hex digest of everything that the latents of a dataset depend on."""
    parts = {
        "layout": LAYOUT,
        "source": source.fingerprint(),
        "codecs": {modality: codec.fingerprint() for modality, codec in codecs.items()},
        "conditioner": conditioner.fingerprint(),
        "clip": asdict(clip),
        "first frames": first_frames,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def prepare_latents(
    source: ClipSource,
    codecs: AV[Codec],
    conditioner: Conditioner,
    clip: ClipSpec,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
    first_frames: bool = False,
    wait: bool = False,
) -> LatentClips:
    """The latents and text of every clip, for the modalities of ``codecs``: from the cache, or encoded and cached.

    device:       where they are computed; they come back to the CPU
    first_frames: encode the first frame of each clip alone, too
    wait:         another process encodes the clips: wait for its cache

    A cache file that is damaged or was made from anything else is not used: the clips are encoded again.
    UserError names the clips that lack a modality, have another form than ``clip``, or encode to NaN.
    """
    if cache_dir is None:
        return encode(source, codecs, conditioner, clip, progress, device, first_frames)
    mark = fingerprint(source, codecs, conditioner, clip, first_frames)
    path = cache_dir / f"latents-{mark[:16]}.safetensors"
    while wait and not path.exists():
        time.sleep(0.2)
    if path.exists():
        try:
            return read_cache(path, mark, clip)
        except ValueError as error:
            log.warning("%s: %s; encoding the clips again", path, error)
    found = encode(source, codecs, conditioner, clip, progress, device, first_frames)
    write_cache(path, found, mark)
    return found


@torch.no_grad()
def encode(
    source: ClipSource,
    codecs: AV[Codec],
    conditioner: Conditioner,
    clip: ClipSpec,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
    first_frames: bool = False,
) -> LatentClips:
    """The latents and text of every clip, on the CPU; arguments and errors as in ``prepare_latents``."""
    total = len(source)
    if total == 0:
        raise UserError("the dataset has no clips", "training.data")
    latents = codecs.map(lambda codec: torch.empty((total, *codec.shape()), dtype=torch.float32))
    first = _no_first(codecs, total) if first_frames else None
    names: list[str] = []
    prompts: list[str] = []
    lacking: dict[Modality, list[str]] = {}
    if progress is not None:
        progress(0, total)
    with loaded(*codecs.values(), device=device):
        for chunk in _chunks(source, at_once(clip)):
            for item in chunk:
                for modality in codecs.modalities:
                    if modality not in item.modalities:
                        lacking.setdefault(modality, []).append(item.name)
            if not lacking:  # else the rest is only looked through, so that one message names every clip
                for modality, codec in codecs.items():
                    latents[modality][len(names) : len(names) + len(chunk)] = encode_signal(
                        chunk, modality, codec, clip, device
                    )
                if first is not None:
                    first[len(names) : len(names) + len(chunk)] = encode_first(chunk, codecs["video"], device)
            names += [item.name for item in chunk]
            prompts += [item.prompt for item in chunk]
            if progress is not None:
                progress(len(names), total)
    for modality, without in lacking.items():
        raise UserError(
            f"{len(without)} of {total} clips have no {modality}, which is to be trained: {listed(without)}",
            "training.data",
            f"leave these clips out, or train without {modality}",
        )
    text, rows = _texts(conditioner, prompts, codecs.modalities, device)
    return LatentClips(tuple(names), clip, latents, text, rows, first)


def _no_first(codecs: AV[Codec], total: int) -> Tensor | None:
    """Room for the latents of all first frames; None where there are no pictures."""
    if codecs.video is None:
        return None
    channels, _, *size = codecs.video.shape()
    return torch.empty((total, channels, 1, *size), dtype=torch.float32)


def encode_first(chunk: Sequence[Clip], codec: Codec, device: torch.device | str) -> Tensor:
    """(b, c, 1, y, x): as when a first frame is given for a clip that is made."""
    return codec.encode(torch.stack([clip.signal("video")[:1] for clip in chunk]).to(device)).float().cpu()


def _texts(
    conditioner: Conditioner, prompts: Sequence[str], modalities: tuple[Modality, ...], device: torch.device | str
) -> tuple[Text, AV[Tensor]]:
    """The distinct texts of the prompts, and which of them each tower reads for each prompt."""
    texts = [texts_of(conditioner, text) for text in _prepared(conditioner, prompts)]
    read = AV.of({m: [text[m] for text in texts] for m in modalities})
    distinct = list(dict.fromkeys([EMPTY, *(text for some in read.values() for text in some)]))
    row = {text: index for index, text in enumerate(distinct)}
    with loaded(conditioner, device=device):
        encoded = encode_prompts(conditioner, distinct)
    return encoded, _united(read.map(lambda some: torch.tensor([row[text] for text in some])))


def _prepared(conditioner: Conditioner, prompts: Sequence[str]) -> list[str]:
    """The prompts as they are encoded, as when clips are made. What their authors should know is said once, with the
    number of prompts that it is about. UserError naming a prompt that cannot be encoded."""
    about: Counter[str] = Counter()
    texts: list[str] = []
    for prompt in prompts:
        try:
            prepared = conditioner.prepare(prompt)
        except UserError as error:
            raise UserError(f"the prompt {prompt!r} cannot be used: {error.what}", "training.data") from error
        texts.append(prepared.text)
        about.update(prepared.notes)
    for note, count in about.items():
        log.warning("%d of %d prompts: %s", count, len(prompts), note)
    return texts


def _united(rows: AV[Tensor]) -> AV[Tensor]:
    """The rows, as one tensor where both towers read the same."""
    if rows.video is not None and rows.audio is not None and torch.equal(rows.video, rows.audio):
        return AV(rows.video, rows.video)
    return rows


def encode_prompts(conditioner: Conditioner, prompts: Sequence[str]) -> Text:
    """The text of all prompts, as long as the longest. UserError names a prompt that encodes to NaN."""
    parts = [conditioner.encode(prompts[at : at + PROMPTS_AT_ONCE]) for at in range(0, len(prompts), PROMPTS_AT_ONCE)]
    longest = max(part.tokens.shape[1] for part in parts)
    padded = [torch.nn.functional.pad(part.tokens, (0, 0, 0, longest - part.tokens.shape[1])) for part in parts]
    tokens = torch.cat(padded).float().cpu()
    for index in (~tokens.flatten(1).isfinite().all(dim=1)).nonzero().flatten().tolist():
        raise UserError(f"the conditioner makes NaN or Inf of the prompt {prompts[index]!r}", "model.conditioner")
    return Text(tokens, torch.cat([part.lengths for part in parts]).cpu())


def at_once(clip: ClipSpec) -> int:
    """How many clips are encoded together: few of large ones, which keep any device busy by themselves."""
    values = max(clip.frames * clip.height_px * clip.width_px * 3, clip.samples)
    return max(1, min(CLIPS_AT_ONCE, VALUES_AT_ONCE // values))


def _chunks(source: ClipSource, size: int) -> Iterator[list[Clip]]:
    for first in range(0, len(source), size):
        yield [source[index] for index in range(first, min(first + size, len(source)))]


def encode_signal(
    chunk: Sequence[Clip], modality: Modality, codec: Codec, form: ClipSpec, device: torch.device | str
) -> Tensor:
    wanted = (form.frames, form.height_px, form.width_px, 3) if modality == "video" else (form.samples,)
    samples: list[Tensor] = []
    for clip in chunk:
        value = clip.signal(modality)
        if tuple(value.shape) != wanted:
            raise UserError(
                f"clip {clip.name}: its {modality} is {tuple(value.shape)}, the recipe's clips are {wanted}"
            )
        samples.append(value)
    found = codec.encode(torch.stack(samples).to(device)).float().cpu()
    for index in (~found.flatten(1).isfinite().all(dim=1)).nonzero().flatten().tolist():
        raise UserError(f"clip {chunk[index].name}: its {modality} encodes to NaN or Inf", "training.data")
    return found


def write_cache(path: Path, clips: LatentClips, mark: str) -> None:
    """Writes latents, text and checksums to one safetensors file, under a temporary name first."""
    tensors = dict(clips.latents.items())
    tensors |= {"text.tokens": clips.text.tokens, "text.lengths": clips.text.lengths}
    if clips.first is not None:
        tensors["first"] = clips.first
    rows = clips.text_rows
    if rows.video is None or rows.audio is None or rows.video is rows.audio:
        tensors["text.rows"] = next(rows.values())
    else:
        tensors |= {f"text.rows.{modality}": one for modality, one in rows.items()}
    sums = {name: _checksum(value) for name, value in tensors.items()}
    metadata = {"fingerprint": mark, "names": json.dumps(clips.names), "crc32": json.dumps(sums)}
    write_tensors(path, tensors, metadata)


def read_cache(path: Path, mark: str, clip: ClipSpec) -> LatentClips:
    """The latents of a cache file, of clips of the form ``clip``. ValueError when it is damaged or has another
    fingerprint than ``mark``."""
    try:
        tensors, metadata = read_tensors(path)
    except UserError as error:
        raise ValueError(f"the cache is damaged ({error.what})") from error
    if metadata.get("fingerprint") != mark:
        raise ValueError("the cache was made from something else")
    sums = json.loads(metadata["crc32"])
    for name, value in tensors.items():
        if _checksum(value) != sums[name]:
            raise ValueError(f"the cache is damaged (checksum of {name})")
    return LatentClips(
        tuple(json.loads(metadata["names"])),
        clip,
        AV(tensors.get("video"), tensors.get("audio")),
        Text(tensors["text.tokens"], tensors["text.lengths"]),
        _rows(tensors),
        tensors.get("first"),
    )


def _rows(tensors: dict[str, Tensor]) -> AV[Tensor]:
    """Which row of the texts is whose, in a cache file: of either tower, or once for all."""
    name = "text.rows" if "text.rows" in tensors else "text.rows.{}"
    return AV.of({modality: tensors[name.format(modality)] for modality in MODALITIES if modality in tensors})


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.flatten().view(torch.uint8).numpy())
