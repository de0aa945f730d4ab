"""The demo at a size of seconds: everything is written, the report stands alone, and nothing is done twice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ovikit.cli import main
from ovikit.evaluation.results import read_results
from ovikit.recipe.load import load_recipe

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "evals" / "suites" / "toyworld.yaml"
SMALL = [
    "training.trainer.max_steps=2",
    "training.trainer.log_every_steps=1",
    "training.data.clips=16",
    "training.batch_size=4",
    "sampling.steps=2",
]
CLIPS = 4


def ovikit(*arguments: object) -> int:
    """The exit status of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(one) for one in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the run of a demo."""
    folder = tmp_path_factory.mktemp("demo")
    suite = folder / "suite.yaml"
    suite.write_text(f"extends: {SUITE}\nname: toyworld\nprompts: {{type: toyworld-heldout, count: {CLIPS}}}\n")
    assert demo(folder) == 0
    return folder


def demo(folder: Path, *options: str) -> int:
    overrides = [word for one in SMALL for word in ("-o", one)]
    recipe = ROOT / "recipes" / "tiny" / "ovi.yaml"
    arguments = ["--run", folder / "runs" / "demo", "--recipe", recipe, "--suite", folder / "suite.yaml"]
    return ovikit("demo", *arguments, *options, *overrides)


def test_results_have_every_number_and_the_digest_of_the_run(folder):
    run = folder / "runs" / "demo"
    results = read_results(run / "results.json")
    assert results.recipe.digest == load_recipe(run / "recipe.lock.yaml").digest
    assert (results.prompts, results.clips) == (CLIPS, CLIPS)
    assert {"onset_f1", "onset_offset_ms", "colour_pitch"} <= set(results.metrics)
    f1 = results.metrics["onset_f1"]
    assert f1.ceiling.value > 0.9
    assert f1.scored + sum(one.count for one in f1.unscored) == CLIPS
    assert results.weights_sha256 is not None


def test_the_report_stands_alone(folder):
    home = folder / "runs" / "demo"
    page = (home / "report.html").read_text()
    assert not re.search(r"https?://", page)
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len([link for link in links if link.endswith(".png")]) == 2 * CLIPS
    assert all((home / link).is_file() and not Path(link).is_absolute() for link in links)
    results = read_results(home / "results.json")
    for told in (
        results.items[0].prompt,
        results.recipe.digest,
        "chance",
        "ceiling",
        "<polyline",
        "torch",
        "video loss",
    ):
        assert told in page
    assert page.count("<video") == 2 * CLIPS


@pytest.mark.slow
def test_controls_are_compared_on_the_same_prompts(folder):
    assert demo(folder, "--controls") == 0
    data = json.loads((folder / "runs" / "controls" / "comparison.json").read_text())
    assert list(data["runs"]) == ["tiny-ovi", "tiny-no-fusion", "tiny-native-positions"]
    assert len({run["digest"] for run in data["runs"].values()}) == 3
    assert "| tiny-no-fusion |" in (folder / "runs" / "controls" / "comparison.md").read_text()


def test_a_second_demo_does_nothing_again(folder, capsys):
    runs = folder / "runs"
    made = [path for path in runs.rglob("*") if path.suffix in (".mp4", ".safetensors", ".ckpt")]
    times = {path: path.stat().st_mtime_ns for path in made}
    results = (runs / "demo" / "results.json").read_bytes()
    assert demo(folder) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert (runs / "demo" / "results.json").read_bytes() == results
    assert f"{CLIPS} clips are there already" in capsys.readouterr().out


def test_eval_scores_clips_that_came_without_sidecars(folder, tmp_path, capsys):
    clips = tmp_path / "theirs"
    clips.mkdir()
    for path in (folder / "runs" / "demo" / "truth").glob("*.mp4"):
        (clips / path.name).write_bytes(path.read_bytes())
    assert ovikit("eval", folder / "suite.yaml", "--clips", clips) == 2
    assert "name the one in whose form the clips are: --recipe" in capsys.readouterr().err
    lock, truth = folder / "runs" / "demo" / "recipe.lock.yaml", folder / "runs" / "demo" / "truth"
    assert ovikit("eval", folder / "suite.yaml", "--clips", clips, "--recipe", lock, "--truth", truth, "--report") == 0
    metric = read_results(tmp_path / "results.json").metrics["onset_f1"]
    assert metric.value == metric.ceiling.value
    assert metric.share.value == pytest.approx(1.0)
    assert (tmp_path / "report.html").is_file()
    told = [json.loads(line) for line in (clips / "events.jsonl").read_text().splitlines()]
    assert [(one["command"], one["event"]) for one in told] == [
        ("eval", "ovikit_run_started"), ("eval", "ovikit_run_finished")
    ]  # fmt: skip
    assert told[1]["results"]["onset_f1"] == metric.value


def test_generate_from_the_command_line(folder, tmp_path, capsys):
    run = folder / "runs" / "demo"
    assert ovikit("generate", run, "--prompt", "A red ball", "--seed", "7", "--out", tmp_path / "a") == 0
    assert (tmp_path / "a" / "a-red-ball-seed7.mp4").is_file()
    (tmp_path / "p.csv").write_text("text_prompt\nA red ball\n\nA blue ball\n")
    assert ovikit("generate", run, "--prompts", tmp_path / "p.csv", "--out", tmp_path / "b", "--first", "1") == 0
    assert [path.name for path in (tmp_path / "b").glob("*.mp4")] == ["00000.mp4"]
    assert ovikit("generate", run) == 2
    assert "give one of --prompt TEXT, --prompts FILE and --suite SUITE" in capsys.readouterr().err
