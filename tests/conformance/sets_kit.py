"""Small prompt sets in the layouts of published ones."""

from __future__ import annotations

import json
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovikit.generate.media import write_clip
from ovikit.testing.clips import CLIP, beating_clip

LONG = replace(CLIP, duration_s=2.0, frame_rate_hz=24.0)


def picture(path: Path, grey: int = 90) -> None:
    Image.fromarray(np.full((32, 48, 3), grey, dtype=np.uint8)).save(path)


def item(folder: Path, name: str, **changed: Any) -> Path:
    """An item in Verse-Bench's layout; None as a value leaves the key out."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "video_prompt": f"A lamp in room {name}.", "audio_prompt": ["a hum", "two knocks"],
        "speech_prompt": {"speaker": "A man", "text": ""},
    } | changed  # fmt: skip
    path = folder / f"{name}.json"
    path.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
    picture(folder / f"{name}.jpg")
    return path


def verse_bench(folder: Path) -> Path:
    """Two pictures, two clips with their own sound (one of them a WAV), and a talk."""
    for name in ("00001", "00002"):
        item(folder / "set1", name)
    item(folder / "set2", "00003")
    write_clip(folder / "set2" / "00003.mp4", beating_clip(LONG, beats=4))
    item(folder / "set2", "00004")
    sound_file(folder / "set2" / "00004.wav")
    item(folder / "set3", "00005", speech_prompt={"speaker": "A woman", "text": "Good evening."}, audio_prompt=[])
    return folder


def sound_file(path: Path, seconds: float = 2.0, rate_hz: int = 44100) -> None:
    samples = (8000 * np.sin(2 * np.pi * 300 * np.arange(round(seconds * rate_hz)) / rate_hz)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.tobytes())
