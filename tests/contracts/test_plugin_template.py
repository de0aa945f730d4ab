"""``ovikit new plugin``: what it writes is clean, installs beside ovikit, passes its tests and runs in a recipe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ovikit.commands.new import SAMPLES, render
from ovikit.errors import UserError

ROOT = Path(__file__).parents[2]
KINDS = tuple(SAMPLES)
RECIPE = """\
version: 1
name: template
clip: {duration_s: 0.5, height_px: 32, width_px: 32, frame_rate_hz: 8.0, sample_rate_hz: 16000}
model:
  video: {type: my-backbone, width: 24, heads: 2, depth: 2}
  audio: {type: my-backbone, width: 24, heads: 2, depth: 2}
  fusion: {type: my-fusion}
  positions: {type: my-positions}
  codecs: {video: {type: block-dct, block_px: 16, channels: 8}, audio: {type: mel-dct, iterations: 2}}
  conditioner: {type: hashed-words, width: 8, length: 8}
sampling: {schedule: {type: shifted}, solver: {type: my-solver}, guidance: {type: my-guidance}, steps: 2}
training:
  objective: {type: flow-matching}
  data: {type: my-dataset, clips: 4}
  batch_size: 2
  optimizer: {learning_rate: 1e-2, warmup_steps: 0}
  trainer: {max_steps: 2, accelerator: cpu}
"""


def new(*arguments: str) -> tuple[int, str]:
    """How the command ended, and what it said."""
    from ovikit.cli import build_app

    done = CliRunner().invoke(build_app(), ["new", "plugin", *arguments])
    return done.exit_code, done.output if done.exception is None else f"{done.output}{done.exception}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["x", "a-name-of-no-less-than-30-signs"[:30]])
def test_each_kind_is_rendered_clean(kind: str, name: str, tmp_path: Path) -> None:
    folder = render(name, kind, tmp_path)
    package = f"ovikit_{name.replace('-', '_')}"
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {
        "pyproject.toml", "README.md", f"{package}/__init__.py", f"{package}/plugin.py", f"{package}/{kind}.py",
        "tests/test_contract.py",
    }  # fmt: skip
    for path in folder.rglob("*.py"):
        compile(path.read_text(), path.name, "exec")
    assert not any("$" in path.read_text() for path in folder.rglob("*.py"))
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run([ruff, *command, "."], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_command_says_what_to_type_next(tmp_path: Path) -> None:
    status, said = new("late-reader", "--kind", "fusion", "--out", str(tmp_path / "made"))
    assert status == 0
    assert list((tmp_path / "made").iterdir()) == [tmp_path / "made" / "ovikit-late-reader"]
    assert said.splitlines()[-1] == "  ovikit plugins show fusion/late-reader"
    assert 'pip install --editable ".[dev]"' in said
    assert "ovikit_late_reader/fusion.py" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("Late_Reader", "--kind", "fusion"), "lower-case words joined by dashes"),
        (("-", "--kind", "fusion"), "lower-case words joined by dashes"),
        (("a" * 31, "--kind", "fusion"), "at most 30"),
        (("reader", "--kind", "fusoin"), "Did you mean 'fusion'?"),
        (("builtins", "--kind", "fusion"), "there is a plugin of that name already"),
        (("euler", "--kind", "solver"), "there is a solver 'euler' already, of plugin 'builtins'"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    status, said = new(*arguments, "--out", str(tmp_path))
    assert status != 0
    assert words in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ovikit-reader").mkdir()
    with pytest.raises(UserError, match="exists already"):
        render("reader", "fusion", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        render("reader", "fusion", tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "ovikit-reader"]


def test_the_command_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom ovikit.cli import main\ntry:\n"
        f"    main(['new', 'plugin', 'reader', '--kind', 'fusion', '--out', {str(tmp_path)!r}])\n"
        "except SystemExit as end:\n    assert not end.code\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "False"


# installed: slow


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plugin of each kind and a new environment, into which wheels of them and of ovikit are installed.

    ovikit's dependencies are those of the running environment: its packages stand behind the new one's own.
    """
    folder = tmp_path_factory.mktemp("template")
    source = folder / "ovikit"
    source.mkdir()
    for name in ("ovikit", "plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    made = [render(f"my-{kind}", kind, folder / "made") for kind in KINDS]
    built = ("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheels")
    _pip(*built, source, *made)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True, timeout=120)
    _pip("--python", python(folder), "install", "--no-index", "--no-deps", *(folder / "wheels").glob("*.whl"))
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shutil.rmtree(source)
    return folder


def python(place: Path) -> Path:
    return place / "venv" / "bin" / "python"


def run(place: Path, *arguments: str, cwd: Path | None = None) -> str:
    """What a command of the new environment prints."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "OVIKIT_", "PYTEST"))
    }
    environment = kept | {"OVIKIT_CACHE": str(place / "cache"), "COLUMNS": "200"}
    done = subprocess.run(
        [python(place), *arguments], cwd=cwd or place, env=environment,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_its_tests_pass_where_it_is_installed(kind: str, place: Path) -> None:
    folder = place / "made" / f"ovikit-my-{kind}"
    shutil.rmtree(folder / f"ovikit_my_{kind}", ignore_errors=True)  # what is installed is tested, not what lies here
    said = run(place, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", cwd=folder)
    assert " passed" in said
    assert "failed" not in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_shown_where_it_is_installed(kind: str, place: Path) -> None:
    said = run(place, "-m", "ovikit", "plugins", "show", f"{kind}/my-{kind}")
    assert f"plugin 'my-{kind}' (ovikit-my-{kind} 0.1.0)" in said
    assert SAMPLES[kind].summary in said


@pytest.mark.slow
@pytest.mark.skipif("OVIKIT_TEST_WITHOUT_PLUGINS" in os.environ, reason="the recipe has codecs of the toy world")
def test_a_recipe_trains_and_samples_with_them(place: Path) -> None:
    (place / "recipe.yaml").write_text(RECIPE)
    run(place, "-m", "ovikit", "train", "recipe.yaml", "--run", "run")
    run(place, "-m", "ovikit", "generate", "run", "--prompt", "a red square lights up", "--out", "clips")
    assert len(list((place / "clips").glob("*.mp4"))) == 1
    lock = (place / "run" / "recipe.lock.yaml").read_text()
    assert all(f"ovikit-my-{kind} 0.1.0" in lock for kind in KINDS if kind != "evaluator")


@pytest.mark.slow
def test_the_new_environment_is_one_of_its_own(place: Path) -> None:
    said = run(place, "-c", "import ovikit.cli; print(ovikit.cli.__file__)")
    assert said.startswith(str(place / "venv"))
    made = run(place, "-m", "ovikit", "new", "plugin", "from-a-wheel", "--kind", "solver", "--out", "from-a-wheel")
    assert "ovikit_from_a_wheel/solver.py" in made
