"""Real and synthetic speech with its words, out of Debian packages of pinned versions, by hash; none of it is kept."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

READ = (
    "pocketsphinx-testdata",
    "0.8+5prealpha+1-15",
    "eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0",
)
FLITE = (
    ("flite", "2.2-5", "f4ce03470bf9974c2cb9cacd981e6be29339ef4c97cf994dd6fa3f90e6544db9"),
    ("libflite1", "2.2-5", "bfa8c591f1b47730b30b372ec38e02918a1c9795eada67684e1746390ad2f061"),
)  # fmt: skip
"""Name, version, sha256. Five sentences of LibriVox; a speech synthesiser, for x86."""


def read_wave(path: Path) -> Tensor:
    """(samples,) in [-1, 1] of a mono file with 16 bits at 16 kHz."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768
    return torch.from_numpy(samples)


def librivox(folder: Path) -> list[tuple[Tensor, str]]:
    """Sounds and their words, one reader; the test is skipped where they cannot be had."""
    home = _unpack(folder, *READ) / "usr/share/pocketsphinx/test/data/librivox"
    told = re.findall(r"<s> (.*) </s> \((.*)\)", (home / "transcription").read_text())
    return [(read_wave(home / f"{name}.wav"), words) for words, name in told]


def flite(folder: Path, voice: str, words: str) -> Tensor:
    """Words in a synthetic voice (slt, rms, awb); the test is skipped where it cannot be had."""
    for one in FLITE:
        home = _unpack(folder, *one)
    library = next((home / "usr/lib").glob("*/libflite.so.1")).parent
    path = folder / f"{voice}.wav"
    subprocess.run(
        [str(home / "usr/bin/flite"), "-voice", voice, "-t", words, "-o", str(path)],
        check=True, timeout=60, env={**os.environ, "LD_LIBRARY_PATH": str(library)},
    )  # fmt: skip
    return read_wave(path)


def _unpack(folder: Path, name: str, version: str, sha256: str) -> Path:
    home, done = folder / "unpacked", folder / f"{name}.done"
    if done.exists():
        return home
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("this is no Debian")
    command = ["apt-get", "download", f"{name}={version}"]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    found = list(folder.glob(f"{name}_*.deb"))
    if told.returncode or not found:
        pytest.skip(f"{name} {version} cannot be fetched: {(told.stderr.strip().splitlines() or ['no file'])[-1]}")
    if hashlib.sha256(found[0].read_bytes()).hexdigest() != sha256:
        pytest.skip(f"{name} {version} is of another machine")
    subprocess.run(["dpkg", "-x", str(found[0]), str(home)], check=True, timeout=60)
    done.touch()
    return home
