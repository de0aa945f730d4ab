"""A disk that fills up: said in a line, the last good checkpoint whole, and gone on with once there is room.

The disk is a file system in memory, of the size that a test gives it, which only the processes of the test see.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from video_kit import even, sound, waves, write_video

from ovikit.layout import read_metrics
from ovikit.recipe.load import load_recipe
from ovikit.training.run import train

ROOT = Path(__file__).parents[2]
MOUNT = "mount -t tmpfs -o size={size} tmpfs {folder}"


def own_disk(folder: Path, size: str, script: str) -> subprocess.CompletedProcess[str]:
    """What a shell script says that runs where ``folder`` is a disk of its own; ``ovikit`` is the command there."""
    python = shlex.quote(sys.executable)
    mount = MOUNT.format(size=size, folder=shlex.quote(str(folder)))
    lines = [mount, f'ovikit() {{ {python} -m ovikit "$@"; }}', script]
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "\n".join(lines)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder.parent)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("unshare") is None or own_disk(folder, "1m", "true").returncode:
        pytest.skip("this system lets no user mount a file system of their own")
    return folder


@pytest.mark.slow
def test_training_ends_with_its_last_checkpoint_whole(tmp_path: Path, disk: Path) -> None:
    """The third checkpoint finds no room; with more of it the run ends as one that always had it."""
    options = ["training.trainer.max_steps=8", "training.trainer.checkpoint_every_steps=2",
               "training.trainer.log_every_steps=1", "training.data.clips=4", "training.batch_size=2"]  # fmt: skip
    whole = train(load_recipe(ROOT / "recipes/tiny/ovi.yaml", options), tmp_path / "whole")
    assert whole.weights is not None
    size = (tmp_path / "whole/checkpoints/step-000002.ckpt").stat().st_size
    shown = sum(path.stat().st_size for path in (tmp_path / "whole/cache").rglob("*") if path.is_file())
    chosen = " ".join(f"-o {one}" for one in options)
    command = f"ovikit train {shlex.quote(str(ROOT / 'recipes/tiny/ovi.yaml'))} {chosen} --run disk/run"
    found = own_disk(
        disk,
        str(shown + 5 * size // 2 + 300_000),
        f"{command}; echo status $?; ls -A disk/run/checkpoints >listed\n"
        f"{command} --resume; echo status $?\n"
        f"mount -o remount,size=1g disk\n{command} --resume && cp -r disk/run kept",
    )
    said = [line for line in found.stderr.splitlines() if line.startswith("error")]
    assert len(said) == 2, found
    assert said[0].startswith("error: disk/run/checkpoints/step-000006.ckpt: it cannot be written: the disk is full")
    assert "the last good checkpoint is disk/run/checkpoints/step-000004.ckpt; go on with --resume" in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout.count("status 2") == 2
    assert (tmp_path / "listed").read_text().split() == ["last.ckpt", "step-000002.ckpt", "step-000004.ckpt"]
    assert found.stdout.count("going on from step 4 of 8") == 2
    one, other = load_file(whole.weights), load_file(tmp_path / "kept/weights.safetensors")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    rows = [
        [(row["step"], row["loss"]) for row in read_metrics(tmp_path / run / "metrics.csv")]
        for run in ("whole", "kept")
    ]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_dataset_is_gone_on_with(tmp_path: Path, disk: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for i in range(6):
        write_video(media / f"{i}.mp4", even(2.1), sound(2.1), picture=waves(float(i)))
    command = "ovikit data prepare media --recipe " + shlex.quote(str(ROOT / "recipes/tiny/prepared.yaml"))
    at_once = own_disk(disk, "1m", f"{command} --out whole")
    assert at_once.returncode == 0, at_once.stderr
    room = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    found = own_disk(
        disk,
        str(room // 2),
        f"{command} --out disk/set; echo status $?\n"
        f"mount -o remount,size=1g disk\n{command} --out disk/set && cp -r disk/set kept",
    )
    assert "status 2" in found.stdout
    assert "it cannot be written: the disk is full" in found.stderr
    assert "Traceback" not in found.stderr
    ended = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "shards").iterdir()} for name in ("whole", "kept")
    ]
    assert ended[0] == ended[1]
