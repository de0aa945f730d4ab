"""The ``folder`` dataset: aligned windows of the videos in a folder."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ovikit.data.video import Probe, probe, read_window
from ovikit.errors import UserError, listed
from ovikit.files import sha256_of
from ovikit.types import Clip, ClipSpec

VERSION = 1
"""Changes whenever the same file would give other clips."""
SUFFIXES = frozenset(
    (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".qt")
    + (".ts", ".vob", ".webm", ".wmv")
)
SOUND_SUFFIXES = frozenset((".aac", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wav"))
SLACK_S = 0.02
"""So much may be missing at the end of a clip."""

Choice = Literal["refuse", "skip"]


@dataclass(frozen=True, slots=True)
class Window:
    """One clip to be: a file, the second of it that the clip starts at, and its prompt."""

    path: Path
    name: str
    origin_s: float
    start_s: float
    prompt: str


class FolderClips:
    """Windows of the videos in a folder, in the order of their names.

    prompt:      of files without a caption of their own (``NAME.txt``, or ``prompt`` in ``NAME.json``); None: the
                 file's name in words
    from_s:      where the first window of each file starts
    stride_s:    from the start of one window to the start of the next; None: the clip's duration
    windows:     most windows of one file; None: all that fit
    recursive:   look into folders below as well
    without_sound, too_short: what to do about such files

    UserError, naming every file, for an empty folder, files that cannot be read or were cut off, and files without
    sound or shorter than a clip unless they are to be skipped.
    """

    def __init__(
        self,
        path: Path,
        clip: ClipSpec,
        *,
        prompt: str | None = None,
        from_s: float = 0.0,
        stride_s: float | None = None,
        windows: int | None = None,
        recursive: bool = False,
        without_sound: Choice = "refuse",
        too_short: Choice = "refuse",
    ) -> None:
        self.clip, self.root = clip, path
        self._from_s, self._stride_s, self._most = from_s, stride_s or clip.duration_s, windows
        files = find_videos(path, recursive)
        probes = _probe_all(files)
        mute = [file for file in files if not probes[file].sound]
        short = [file for file in files if probes[file].duration_s < from_s + clip.duration_s - SLACK_S]
        _refuse(mute, len(files), without_sound, "without sound", "without_sound")
        wanted = f"a clip of {clip.duration_s:g} s" + (f" from {from_s:g} s on" if from_s else "")
        _refuse(short, len(files), too_short, f"shorter than {wanted}", "too_short")
        kept = [file for file in files if file not in {*mute, *short}]
        if not kept:
            raise UserError(f"none of the {len(files)} videos can be used", str(path))
        self.windows = tuple(window for file in kept for window in self._cut(file, probes[file], prompt))
        self._digests = [(self._name(file), sha256_of(file)) for file in kept]

    def _cut(self, file: Path, found: Probe, prompt: str | None) -> list[Window]:
        room_s = found.duration_s - self._from_s - self.clip.duration_s + SLACK_S
        fit = math.floor(room_s / self._stride_s) + 1
        count = fit if self._most is None else min(fit, self._most)
        text, name = caption_of(file, prompt), self._name(file)
        starts = [self._from_s + index * self._stride_s for index in range(count)]
        return [Window(file, f"{name}@{start:.2f}s", found.origin_s, start, text) for start in starts]

    def _name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Clip:
        window, clip = self.windows[index], self.clip
        video, audio = read_window(window.path, window.origin_s, window.start_s, clip)
        truth = {"file": self._name(window.path), "start_s": window.start_s}
        return Clip(window.name, window.prompt, video, audio, clip.frame_rate_hz, clip.sample_rate_hz, truth)

    def fingerprint(self) -> str:
        parts = [VERSION, self._digests, [(window.name, window.start_s, window.prompt) for window in self.windows]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def find_videos(folder: Path, recursive: bool, suffixes: frozenset[str] = SUFFIXES) -> list[Path]:
    """The video files of a folder, by name, or those with other suffixes. UserError where there are none, or one of
    them lies elsewhere."""
    if not folder.is_dir():
        raise UserError("there is no such folder", str(folder), "paths start from where you run ovikit")
    found = sorted(
        path
        for path in (folder.rglob("*") if recursive else folder.iterdir())
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        below = any(path.suffix.lower() in suffixes for path in folder.rglob("*"))
        hint = (
            "set recursive: true to look into the folders below"
            if below
            else f"looked for {', '.join(sorted(suffixes))}"
        )
        raise UserError("there are no videos in this folder", str(folder), hint)
    root = folder.resolve()
    outside = [path for path in found if not path.resolve().is_relative_to(root)]
    if outside:
        raise UserError(f"links that lead out of the folder are not followed: {_named(outside)}", str(folder))
    return found


def caption_of(file: Path, prompt: str | None) -> str:
    """The prompt of a file: its caption file's, else ``prompt``, else its name in words."""
    text, data = file.with_suffix(".txt"), file.with_suffix(".json")
    if text.is_file():
        return read_caption_file(text).strip()
    if data.is_file():
        try:
            found = json.loads(read_caption_file(data))["prompt"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError('a caption file holds {"prompt": "..."}', str(data)) from error
        if not isinstance(found, str):
            raise UserError('the "prompt" of a caption file is a text', str(data))
        return found.strip()
    return prompt if prompt is not None else file.stem.replace("_", " ").replace("-", " ")


def read_caption_file(path: Path) -> str:
    """The text of a file. UserError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError("this caption file is not UTF-8 text", str(path)) from error


def _probe_all(files: Sequence[Path]) -> dict[Path, Probe]:
    """What each file holds. UserError listing all that cannot be used at all."""
    found: dict[Path, Probe] = {}
    wrong: list[UserError] = []
    for file in files:
        try:
            found[file] = probe(file)
        except UserError as error:
            wrong.append(error)
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        listed = "\n    ".join(error.render() for error in wrong)
        raise UserError(f"{len(wrong)} of {len(files)} videos cannot be used\n    {listed}", "training.data")
    return found


def _refuse(files: Sequence[Path], total: int, choice: Choice, why: str, option: str) -> None:
    if files and choice == "refuse":
        raise UserError(
            f"{len(files)} of {total} videos {why}: {_named(files)}",
            "training.data",
            f"-o training.data.{option}=skip leaves such files out",
        )


def _named(files: Sequence[Path]) -> str:
    return listed([file.name for file in files])
