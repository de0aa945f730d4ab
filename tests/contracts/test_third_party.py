"""The plugin of docs/writing-plugins.md, taken from the page: built, installed, listed, shown, and trained with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "writing-plugins.md"

pytestmark = pytest.mark.skipif("OVIKIT_TEST_WITHOUT_PLUGINS" in os.environ, reason="it trains on the toy world")


def files_of(page: str) -> dict[str, str]:
    """Path and text of each code block that begins with ``# file: PATH``."""
    return dict(re.findall(r"^```\w+\n# file: (\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's recipe, ovikit's recipes, and the page's package installed into ``site``."""
    folder = tmp_path_factory.mktemp("third-party")
    source = folder / "ovikit-residual"
    files = files_of(PAGE.read_text())
    assert set(files) == {"pyproject.toml", "ovikit_residual/plugin.py", "ovikit_residual/fusion.py", "residual.yaml"}
    (source / "ovikit_residual").mkdir(parents=True)
    (source / "ovikit_residual" / "__init__.py").write_text("")
    for name, text in files.items():
        ((folder if name == "residual.yaml" else source) / name).write_text(text)
    for name in ("recipes", "evals"):
        (folder / name).symlink_to(ROOT / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "--target", folder / "site", source],
        check=True, timeout=300, capture_output=True, text=True,
    )  # fmt: skip
    return folder


def ovikit(place: Path, *arguments: str) -> str:
    """What the command prints, run in that folder with the third-party package on the path."""
    environment = os.environ | {"PYTHONPATH": str(place / "site"), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", "from ovikit.cli import main; main()", *arguments],
        cwd=place, env=environment, timeout=500, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed_with_its_distribution_and_version(place: Path) -> None:
    assert "fusion\tresidual\tgated attention to the other stream, after the text\tovikit-residual\t0.1.0" in ovikit(
        place, "plugins"
    )


def test_its_options_are_shown(place: Path) -> None:
    told = ovikit(place, "plugins", "show", "fusion/residual")
    assert "gate\tfloat > 0, <= 1\t0.1\tHow much of what is read from the other modality" in told


def test_its_recipe_differs_in_the_fusion_only(place: Path) -> None:
    told = ovikit(place, "recipe", "diff", "recipes/tiny/ovi.yaml", "residual.yaml").splitlines()
    assert [line.partition(":")[0] for line in told] == ["name", "model.fusion"]
    assert told[1].endswith('-> {"type": "residual", "gate": 0.2}')


def test_a_recipe_trains_with_it(place: Path) -> None:
    # The head starts at zero, so the first step moves the head alone; the second one reaches the fusion.
    small = ("trainer.max_steps=2", "batch_size=2", "data.clips=4", "ema=null", "optimizer.warmup_steps=0")
    overrides = [word for one in small for word in ("-o", f"training.{one}")]
    ovikit(place, "train", "residual.yaml", "--run", "run", *overrides)
    from safetensors import safe_open

    with safe_open(place / "run" / "weights.safetensors", "pt") as weights:
        names = [name for name in weights.keys() if ".fusion." in name]  # noqa: SIM118
        gates = [weights.get_tensor(name) for name in names if name.endswith(".gate")]
    assert {name.split(".fusion.")[1].split(".")[0] for name in names} == {"video", "audio"}
    # The gate starts at the recipe's 0.2 and training has moved it: the fusion took part.
    assert all(0 < (gate - 0.2).abs().max() < 0.05 for gate in gates)
    assert "ovikit-residual 0.1.0" in (place / "run" / "recipe.lock.yaml").read_text()
