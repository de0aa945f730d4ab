"""What README and the docs tell people to type: every command exists as written, and the cheap ones run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from video_kit import even, sound, waves, write_video

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))),
    "recipes/README.md",
]
SMALL = "-o training.trainer.max_steps=2 -o training.trainer.checkpoint_every_steps=2 -o training.data.clips=32"


def shell_lines(page: str) -> list[str]:
    """The commands in a page's ``sh`` blocks, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


IN_ORDER = "docs/training.md"
"""A page whose commands build on each other."""


def lines_beginning(word: str) -> list[str]:
    pages = [page for page in PAGES if page != IN_ORDER]
    return sorted({line for page in pages for line in shell_lines(page) if line.split()[0] == word})


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """An ``ovikit`` command in a folder that looks like the repository's root."""
    words = [sys.executable, "-c", "from ovikit.cli import main; main()", *shlex.split(command)[1:]]
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, timeout=500
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the commands read, with a trained run of two steps where the demo and README leave one."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("recipes", "evals", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copytree(ROOT / "tests" / "parity" / "golden", folder / "tests" / "parity" / "golden")
    suite = folder / "evals" / "suites" / "toyworld.yaml"
    suite.write_text(suite.read_text().replace("count: 64", "count: 8"))
    trained = run(f"ovikit train recipes/tiny/ovi.yaml --run runs/mine {SMALL}", folder)
    assert trained.returncode == 0, trained.stderr
    shutil.copytree(folder / "runs" / "mine", folder / "runs" / "demo")
    made = run(
        "ovikit generate runs/demo --suite evals/suites/toyworld.yaml --out runs/demo/clips -o sampling.steps=1", folder
    )
    assert made.returncode == 0, made.stderr
    return folder


def test_pages_have_commands() -> None:
    assert len(lines_beginning("ovikit")) >= 8
    assert {"make demo", "make test"} <= set(lines_beginning("make"))


@pytest.mark.parametrize("line", lines_beginning("make"))
def test_make_targets_exist(line: str) -> None:
    assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("line", lines_beginning("python"))
def test_scripts_exist(line: str) -> None:
    assert (ROOT / line.split()[1]).is_file()


@pytest.mark.parametrize("line", [line for line in lines_beginning("ovikit") if "path/to" not in line])
def test_commands_run(line: str, place: Path) -> None:
    """As written, but that training is two steps long and in a folder of its own, and matrices are only planned."""
    if line.startswith("ovikit train") and "clip.yaml" in line:
        pytest.skip("tests/recipes/test_clip_recipe.py runs it on real footage")
    if line.startswith("ovikit train"):
        line = re.sub(r" --run \S+", "", line) + f" {SMALL} --run runs/again-{len(line)}"
    if line.startswith("ovikit ablate") and "--dry-run" not in line:
        line += " --dry-run"
    done = run(line, place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.slow
def test_commands_that_build_on_each_other_run_in_their_order(place: Path) -> None:
    """As written, but that training is two steps long, and suites are of two prompts."""
    for suite in (place / "evals" / "suites").glob("toyworld-*.yaml"):
        suite.write_text(suite.read_text().replace("count: 32", "count: 2"))
    (place / "clips").mkdir()
    for name, pattern in (("slow waves", waves(1.0)), ("steep waves", waves(3.0))):
        write_video(place / "clips" / f"{name}.mp4", even(2.5), sound(2.5), picture=pattern)
    lines = shell_lines(IN_ORDER)
    assert len(lines) >= 8
    for line in lines:
        small = SMALL.rpartition(" -o ")[0] if "prepared.yaml" in line else SMALL
        done = run(f"{line} {small}" if line.startswith("ovikit train") else line, place)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout.strip(), line
    assert (place / "bounce-lora" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("page", ["README.md", "docs/concepts.md"])
def test_recipes_on_the_page_are_valid(page: str, place: Path) -> None:
    """They extend ``ovi.yaml``, so they are checked where they would be saved."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        (place / "recipes" / "tiny" / "from-the-page.yaml").write_text(block)
        done = run("ovikit recipe check recipes/tiny/from-the-page.yaml", place)
        assert done.returncode == 0, done.stderr
    (place / "recipes" / "tiny" / "from-the-page.yaml").unlink()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    missing = [t for t in targets if "://" not in t and not ((ROOT / page).parent / t).exists()]
    assert missing == []
