"""Prompt sets of files: the layout of Verse-Bench, and tables such as JavisBench's.

What evaluators find in an item's ``truth``: ``video_prompt`` (text), ``audio_prompts`` (list of texts), ``speech`` and
``speaker`` (texts, empty where nobody speaks), ``subset`` (text).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ovikit.data.folder import SLACK_S
from ovikit.data.video import probe, read_window
from ovikit.errors import UserError, listed
from ovikit.evaluation.protocols import PromptItem
from ovikit.files import sha256_of
from ovikit.generate.image import read_image
from ovikit.generate.media import View, read_views
from ovikit.generate.prompts import SAFE_ID, Columns, read_prompts
from ovikit.types import Clip, ClipSpec

Wording = Literal["tagged", "plain"]
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
SHOWN = 20
KEPT = ("speech", "speaker", "turns", "subset", "audio_prompt", "video_prompt")
"""Columns of a table that evaluators may read."""


class _Files:
    """What both kinds of set have in common: items, and files of some of them."""

    def __init__(self, clip: ClipSpec | None) -> None:
        self._clip = clip
        self._items: list[PromptItem] = []
        self._truth: list[Path | None] = []

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> PromptItem:
        return self._items[index]

    def reference_file(self, index: int) -> Path | None:
        return self._truth[index]

    def reference(self, index: int) -> Clip | None:
        """The ground truth from its start, in the form of the recipe's clips; None where the file is shorter."""
        file = self._truth[index]
        return None if file is None or self._clip is None else _window(file, self._clip)

    def fingerprint(self) -> str:
        """sha256 (hex) of what the items say and of their files' contents."""
        state = hashlib.sha256()
        for item, truth in zip(self._items, self._truth, strict=True):
            files = [None if path is None else _digest(path) for path in (item.image, truth)]
            state.update(json.dumps([item.id, item.prompt, dict(item.truth), files], sort_keys=True).encode())
        return state.hexdigest()


class VerseBench(_Files):
    """``set1/00001.json`` with ``video_prompt``, ``audio_prompt`` and ``speech_prompt``, its picture beside it, and the
    ground truth (``.mp4`` or ``.wav``) where there is one.

    UserError for a folder without such items, and one for all items that cannot be read.
    """

    def __init__(self, clip: ClipSpec | None, folder: Path, subsets: Sequence[str], wording: Wording) -> None:
        super().__init__(clip)
        if not folder.is_dir():
            raise UserError("there is no such prompt set", str(folder), "name its folder: --set DIR")
        there = [name for name in subsets if (folder / name).is_dir()]
        if not there:
            hint = "the folder of Verse-Bench has folders set1, set2, set3 with NNNNN.json in them"
            raise UserError(f"there is none of the folders {', '.join(subsets)} in this prompt set", str(folder), hint)
        bad: list[str] = []
        owner: dict[str, str] = {}
        for name in there:
            for path in sorted((folder / name).glob("[!.]*.json")):
                told = f"{name}/{path.name}"
                try:
                    if path.stem.lower() in owner:
                        raise UserError(f"{owner[path.stem.lower()]} has the same name, and clips are named after it")
                    owner[path.stem.lower()] = told
                    self._items.append(_item(path, name, wording))
                    self._truth.append(_first(path, (".mp4", ".wav")))
                except UserError as error:
                    bad.append(f"{told}: {error.what}")
        if bad:
            lines = [*bad[:SHOWN], *([f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else [])]
            raise UserError("\n  ".join([f"{len(bad)} items of this prompt set cannot be used", *lines]), str(folder))
        if not self._items:
            raise UserError(f"there are no items in {listed(there, 4)} of this prompt set", str(folder))


class PromptTable(_Files):
    """Rows of a CSV, TSV or JSONL file, or lines of a text file.

    columns: where a row holds what
    number:  names rows that have no id, as ``sample_{:04d}``
    """

    def __init__(self, clip: ClipSpec | None, path: Path, columns: Columns, video: str, number: str) -> None:
        super().__init__(clip)
        for item in read_prompts(path, columns, number):
            told = {name: str(value) for name, value in item.truth.items()}
            named = told.pop(video, "").strip()
            self._items.append(PromptItem(item.id, item.prompt, _as_truth(told, item.prompt), item.image))
            self._truth.append(_inside(path.parent, named) if named else None)


def _as_truth(row: Mapping[str, str], prompt: str) -> dict[str, Any]:
    found: dict[str, Any] = {name: row.get(name, "").strip() for name in ("speech", "speaker", "subset")}
    audio = row.get("audio_prompt", "").strip()
    return found | {"video_prompt": row.get("video_prompt", prompt), "audio_prompts": [audio] if audio else []}


def _inside(folder: Path, name: str) -> Path | None:
    """The file beside the table, where it is there. UserError for a name that leaves the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"'{name}' lies outside of the prompt set", str(folder))
    return path if path.is_file() else None


def _item(path: Path, subset: str, wording: Wording) -> PromptItem:
    if not SAFE_ID.fullmatch(path.stem):
        raise UserError("this name cannot name a clip")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise UserError("not valid JSON") from None
    if not isinstance(data, dict):
        raise UserError("not a JSON object")
    video = _text(data, "video_prompt")
    if not video:
        raise UserError("video_prompt is missing or empty")
    heard = data.get("audio_prompt") or []
    audio = [heard] if isinstance(heard, str) else heard
    if not isinstance(audio, list) or not all(isinstance(one, str) for one in audio):
        raise UserError("audio_prompt is not a list of texts")
    said = data.get("speech_prompt") or {}
    if not isinstance(said, dict):
        raise UserError("speech_prompt is not an object with speaker and text")
    truth = {
        "subset": subset, "video_prompt": video, "audio_prompts": [one.strip() for one in audio if one.strip()],
        "speech": _text(said, "text"), "speaker": _text(said, "speaker"),
    }  # fmt: skip
    image = _first(path, PICTURES)
    if image is None:
        raise UserError(f"there is no picture {path.with_suffix('.jpg').name} beside it")
    read_image(image)
    return PromptItem(path.stem, worded(truth, wording), truth, image)


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{key} is {value!r}, not a text")
    return (value or "").strip()


def worded(truth: Mapping[str, Any], wording: Wording) -> str:
    """One prompt of what is to be seen, said and heard. tagged: in the format of the released Ovi model."""
    seen, said, who = truth["video_prompt"], truth["speech"], truth["speaker"]
    heard = " ".join(_sentence(one) for one in truth["audio_prompts"])
    if wording == "tagged":
        parts = [seen, f"{f'{who} says: ' if who else ''}<S>{said}<E>" if said else ""]
        parts.append(f"<AUDCAP>{heard}<ENDAUDCAP>" if heard else "")
    else:
        parts = [seen, f'{who or "A voice"} says: "{said}"' if said else "", f"Audio: {heard}" if heard else ""]
    return " ".join(part for part in parts if part)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _first(path: Path, endings: Iterable[str]) -> Path | None:
    return next((one for ending in endings if (one := path.with_suffix(ending)).is_file()), None)


@cache
def _digest(path: Path) -> str:
    return sha256_of(path)


def _window(file: Path, clip: ClipSpec) -> Clip | None:
    found = probe(file, picture=False)
    if found.duration_s < clip.duration_s - SLACK_S:
        return None
    if not found.picture:
        view = View(sample_rate_hz=clip.sample_rate_hz, modalities=("audio",))
        sound = read_views(file, (view,))[view].audio
        length = round(clip.duration_s * clip.sample_rate_hz)
        if sound is None or len(sound) < length:
            return None
        return Clip(file.stem, "", None, sound[:length], clip.frame_rate_hz, clip.sample_rate_hz)
    video, audio = read_window(file, found.origin_s, 0.0, clip)
    return Clip(file.stem, "", video, audio, clip.frame_rate_hz, clip.sample_rate_hz)
