"""Real footage goes in and comes back: the clip recipe learns two clips by heart and gives each back at its prompt."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from real_clips import fetch
from torch import Tensor
from torch.nn import functional as F

from ovikit.data.folder import FolderClips
from ovikit.generate.media import read_clip
from ovikit.recipe.build import clip_spec
from ovikit.recipe.load import load_recipe
from ovikit.types import Clip

RECIPE = Path(__file__).parents[2] / "recipes/tiny/clip.yaml"
VIDEOS = ("obama_speech.mp4", "shot_change.mp4")
FROM_S = 2.0

# Measured: motion 0.95 and 0.96, sound 0.79 and 0.87 (through the codecs alone 0.96 and 0.97, 0.88 and 0.99); between
# a clip and the other's original -0.24 and below.
LEAST_MOTION = 0.75
LEAST_SOUND = 0.6


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two real videos with sound."""
    folder = tmp_path_factory.mktemp("videos")
    for path in fetch(VIDEOS, tmp_path_factory.mktemp("download")):
        path.rename(folder / path.name)
    return folder


def ovikit(*arguments: str) -> None:
    """Runs a command; one thread, because tiny networks gain nothing from more and lose much on a busy machine."""
    code = "from ovikit.cli import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=900, env=environment)


def motion(clip: Clip) -> Tensor:
    """Mean change from frame to frame, smoothed over 0.2 s."""
    assert clip.video is not None
    frames = F.interpolate(clip.video.float().permute(0, 3, 1, 2), (64, 64), mode="area")
    change = (frames[1:] - frames[:-1]).abs().mean(dim=(1, 2, 3))
    return F.avg_pool1d(change[None, None], 5, 1, 2, count_include_pad=False)[0, 0]


def loudness(clip: Clip) -> Tensor:
    """Root mean square of the sound, every 32 ms."""
    assert clip.audio is not None
    return clip.audio.unfold(0, 1024, 512).square().mean(dim=-1).sqrt()


def correlation(one: Tensor, other: Tensor) -> float:
    size = min(len(one), len(other))
    return float(np.corrcoef(one[:size].numpy(), other[:size].numpy())[0, 1])


@pytest.mark.slow
def test_real_clips_come_back(videos: Path, tmp_path: Path) -> None:
    run, options = tmp_path / "run", [f"training.data.path={videos}", f"training.data.from_s={FROM_S}"]
    overrides = [word for option in options for word in ("-o", option)]
    recipe = load_recipe(RECIPE, options)
    clips = FolderClips(videos, clip_spec(recipe), from_s=FROM_S, windows=1)
    originals = [clips[index] for index in range(len(clips))]
    ovikit("train", str(RECIPE), "--run", str(run), *overrides)
    prompts = [word for clip in originals for word in ("--prompt", clip.prompt)]
    ovikit("generate", str(run), *prompts, "--out", str(tmp_path / "out"), "--device", "cpu")
    made = [read_clip(path) for path in sorted((tmp_path / "out").glob("*.mp4"))]
    assert len(made) == len(originals) == 2

    for envelope, least in ((motion, LEAST_MOTION), (loudness, LEAST_SOUND)):
        found = torch.tensor([[correlation(envelope(a), envelope(b)) for b in originals] for a in made])
        sys.stdout.write(f"{envelope.__name__}, clips that were made (rows) against originals: {found.tolist()}\n")
        assert found.diagonal().min() > least, f"{envelope.__name__}: {found}"
        # each prompt gives its own clip back, not the other's
        assert found.argmax(dim=1).tolist() == [0, 1], f"{envelope.__name__}: {found}"
