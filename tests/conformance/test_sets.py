"""Prompt sets of files: what is read, what is refused, and clips of another model measured against them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from sets_kit import LONG, item, picture, sound_file, verse_bench

from ovikit.checkpoints.assets import Assets
from ovikit.cli import main
from ovikit.errors import UserError
from ovikit.evaluation.results import read_results
from ovikit.generate.media import write_clip
from ovikit.generate.prompts import Columns
from ovikit.layout import LOCK, WEIGHTS
from ovikit.recipe.build import build_codecs, build_conditioner, build_model
from ovikit.recipe.load import load_recipe, load_suite
from ovikit.recipe.lock import write_lock
from ovikit.testing.clips import beating_clip, noisy_clip
from ovikit_versebench.sets import KEPT, PromptTable, VerseBench, worded

ROOT = Path(__file__).parents[2]
ALL = ("set1", "set2", "set3")


def test_items_are_read_in_order_with_all_that_evaluators_ask(tmp_path):
    found = VerseBench(None, verse_bench(tmp_path), ALL, "tagged")
    assert [one.id for one in (found[i] for i in range(len(found)))] == ["00001", "00002", "00003", "00004", "00005"]
    assert found[4].truth == {
        "subset": "set3", "video_prompt": "A lamp in room 00005.", "audio_prompts": [], "speech": "Good evening.",
        "speaker": "A woman",
    }  # fmt: skip
    assert found[0].image == tmp_path / "set1" / "00001.jpg"
    assert found[0].prompt == "A lamp in room 00001. <AUDCAP>a hum. two knocks.<ENDAUDCAP>"
    assert found[4].prompt == "A lamp in room 00005. A woman says: <S>Good evening.<E>"
    files = [None if (path := found.reference_file(i)) is None else path.name for i in range(5)]
    assert files == [None, None, "00003.mp4", "00004.wav", None]


def test_prompts_in_plain_words():
    truth = {"video_prompt": "A stage.", "speech": "Hello!", "speaker": "", "audio_prompts": ["applause"]}
    assert worded(truth, "plain") == 'A stage. A voice says: "Hello!" Audio: applause.'
    assert worded(truth, "tagged") == "A stage. <S>Hello!<E> <AUDCAP>applause.<ENDAUDCAP>"


def test_worded_prompts_are_in_order_for_the_released_model(tmp_path):
    from ovikit_ovi.text.prompts import check

    found = VerseBench(None, verse_bench(tmp_path), ALL, "tagged")
    for i in range(len(found)):
        told = check(found[i].prompt, "tags")
        assert not told.errors
        assert told.text == found[i].prompt


def test_references_have_the_form_of_the_recipe_and_short_ones_are_none(tmp_path):
    found = VerseBench(LONG, verse_bench(tmp_path), ALL, "tagged")
    film, sound = found.reference(2), found.reference(3)
    assert film is not None and sound is not None  # noqa: PT018
    assert film.video.shape == (48, 32, 32, 3)
    assert sound.video is None
    assert sound.audio.shape == (32000,)
    longer = VerseBench(replace(LONG, duration_s=3.0), tmp_path, ALL, "tagged")
    assert (longer.reference(2), longer.reference(3)) == (None, None)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "set1/00001.json").write_text("{"), "set1/00001.json: not valid JSON"),
        (lambda folder: item(folder / "set1", "00001", video_prompt=" "), "set1/00001.json: video_prompt is missing"),
        (lambda folder: item(folder / "set1", "00001", audio_prompt=3), "audio_prompt is not a list of texts"),
        (lambda folder: item(folder / "set1", "00001", speech_prompt="hi"), "speech_prompt is not an object"),
        (lambda folder: (folder / "set1/00001.jpg").unlink(), "there is no picture 00001.jpg beside it"),
        (lambda folder: (folder / "set1/00001.jpg").write_bytes(b"no"), "set1/00001.json: "),
        (lambda folder: item(folder / "set2", "00001"), "set2/00001.json: set1/00001.json has the same name"),
        (lambda folder: item(folder / "set1", "a b"), "set1/a b.json: this name cannot name a clip"),
    ],
)  # fmt: skip
def test_items_that_cannot_be_used_are_told_together(tmp_path, spoil: Callable[[Path], Any], told: str):
    verse_bench(tmp_path)
    item(tmp_path / "set3", "00006", video_prompt=None)
    spoil(tmp_path)
    with pytest.raises(UserError) as error:
        VerseBench(None, tmp_path, ALL, "tagged")
    assert "2 items of this prompt set cannot be used" in error.value.what
    assert told in error.value.what
    assert "set3/00006.json: video_prompt is missing or empty" in error.value.what


def test_a_folder_that_is_no_set_says_what_one_looks_like(tmp_path):
    with pytest.raises(UserError, match="no such prompt set") as error:
        VerseBench(None, tmp_path / "none", ALL, "tagged")
    assert "--set DIR" in str(error.value)
    with pytest.raises(UserError, match="none of the folders set1, set2, set3"):
        VerseBench(None, tmp_path, ALL, "tagged")
    (tmp_path / "set2").mkdir()
    with pytest.raises(UserError, match="no items in set2"):
        VerseBench(None, tmp_path, ALL, "tagged")


def test_the_hash_is_of_what_items_say_and_of_their_files(tmp_path):
    def digest(name: str, change: Callable[[Path], Any] = lambda folder: None) -> str:
        folder = verse_bench(tmp_path / name)
        change(folder)
        return VerseBench(None, folder, ALL, "tagged").fingerprint()

    whole = digest("whole")
    assert digest("copy") == whole
    changes: list[Callable[[Path], Any]] = [
        lambda folder: item(folder / "set1", "00001", video_prompt="Another lamp."),
        lambda folder: picture(folder / "set1/00001.jpg", 91),
        lambda folder: sound_file(folder / "set2/00004.wav", 2.1),
        lambda folder: item(folder / "set3", "00009"),
    ]
    assert whole not in {digest(f"{k}", change) for k, change in enumerate(changes)}


def test_a_table_with_other_columns(tmp_path):
    with (tmp_path / "bench.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "text", "audio_prompt", "speech"])
        rows.writerow(["clips/one.mp4", "A dog, barking", "barks", ""])
        rows.writerow(["clips/none.mp4", "A man talks", "", "Hello"])
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips/one.mp4", beating_clip(LONG))
    columns = Columns(("text",), kept=(*KEPT, "path"))
    found = PromptTable(None, tmp_path / "bench.csv", columns, "path", "sample_{:04d}")
    assert [found[0].id, found[1].id, found[0].prompt] == ["sample_0000", "sample_0001", "A dog, barking"]
    assert found[0].truth["audio_prompts"] == ["barks"]
    assert (found[1].truth["speech"], found[1].truth["audio_prompts"]) == ("Hello", [])
    assert [found.reference_file(0), found.reference_file(1)] == [tmp_path / "clips/one.mp4", None]


def test_a_table_cannot_name_files_elsewhere(tmp_path):
    (tmp_path / "set").mkdir()
    write_clip(tmp_path / "one.mp4", beating_clip(LONG))
    (tmp_path / "set" / "p.csv").write_text("prompt,video_path\nA dog,../one.mp4\n")
    with pytest.raises(UserError, match="outside of the prompt set"):
        PromptTable(None, tmp_path / "set" / "p.csv", Columns(kept=("video_path",)), "video_path", "{:05d}")


@pytest.mark.parametrize("number", ["sample", "{}{}", "{:z}", "{name}"])
def test_numbers_that_name_nothing_are_refused(tmp_path, number, capsys):
    path = tmp_path / "s.yaml"
    path.write_text(
        "version: 1\nname: s\nprofile: p\nevaluators: [{type: sound-signal}]\n"
        f"prompts: {{type: prompt-table, path: p.csv, number: '{number}'}}\n"
    )
    with pytest.raises(UserError, match="one number in braces"):
        load_suite(path)


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 0


SUITE = """version: 1
extends: {sets}/verse-bench.yaml
name: here
profile: signals-v1
evaluators: [{{type: sound-signal}}, {{type: agreement}}]
"""


def test_clips_of_another_model_are_measured_against_a_set(tmp_path, capsys):
    """No recipe: ground truth is measured as its files are; what the set lacks and what it does not ask for is told."""
    home = verse_bench(tmp_path / "bench")
    clips = tmp_path / "clips"
    for name, made in (("00001", beating_clip(LONG)), ("00003", beating_clip(LONG, 4)), ("surplus", noisy_clip(LONG))):
        write_clip(clips / f"{name}.mp4", made)
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE.format(sets=ROOT / "evals/sets"))
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    run("eval", str(suite), "--clips", str(clips), "--set", str(home), "--report")
    results = read_results(tmp_path / "results.json")
    told = results.prompt_set
    assert (told.name, told.whole, results.recipe) == ("Verse-Bench", None, None)
    assert told.digest == VerseBench(None, home, ALL, "tagged").fingerprint()
    assert (results.prompts, results.clips, results.extra_clips) == (5, 2, ("surplus.mp4",))
    loud = results.metrics["loudness_lufs"]
    assert (loud.scored, loud.asked) == (2, 5)
    assert [(one.reason, one.count) for one in loud.unscored] == [("there is no clip", 3)]
    # One film and one sound: the latter has no picture to agree with.
    assert (loud.ceiling.scored, loud.ceiling.asked) == (2, 2)
    assert results.metrics["av_correlation"].ceiling.scored == 1
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before
    assert "5 prompts" in (tmp_path / "report.html").read_text()


TINY = ROOT / "recipes/tiny/ovi.yaml"


@pytest.fixture(scope="module")
def drawn_run(tmp_path_factory) -> Path:
    """The folder of a run whose weights were drawn, not trained."""
    folder = tmp_path_factory.mktemp("run")
    recipe = load_recipe(TINY, ["sampling.steps=1", "model.video.feed_forward_width=40"])
    write_lock(recipe, folder / LOCK)
    model = build_model(recipe, build_codecs(recipe), build_conditioner(recipe))
    save_file(dict(model.state_dict()), folder / WEIGHTS, {"digest": recipe.digest, "step": "0"})
    return folder


def test_clips_are_made_for_a_set_continued_and_measured(tmp_path, drawn_run):
    home, suite = verse_bench(tmp_path / "bench"), tmp_path / "suite.yaml"
    suite.write_text(SUITE.format(sets=ROOT / "evals/sets"))
    asked = ("generate", str(drawn_run), "--suite", str(suite), "--set", str(home), "--out", str(tmp_path / "clips"))
    with pytest.raises(SystemExit) as ended:
        main(list(asked))
    assert ended.value.code == 2  # this model's codec encodes no single frame, and the set has first frames
    run(*asked, "--text-only", "--first", "2")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "clips").glob("*.mp4")}
    assert sorted(times) == ["00001.mp4", "00002.mp4"]
    run(*asked, "--text-only")
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "clips").glob("*.mp4")}
    assert len(made) == 5
    assert all(made[name] == time for name, time in times.items())
    run("eval", str(suite), "--clips", str(tmp_path / "clips"), "--set", str(home))
    results = read_results(tmp_path / "results.json")
    assert (results.recipe.name, results.clips, results.extra_clips) == ("tiny-ovi", 5, ())
    assert results.metrics["loudness_lufs"].asked == 5


def test_a_set_that_is_not_the_published_one_is_told(tmp_path):
    home = verse_bench(tmp_path / "bench")
    write_clip(tmp_path / "clips" / "00001.mp4", beating_clip(LONG))
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE.format(sets=ROOT / "evals/sets"))
    digest = VerseBench(None, home, ALL, "tagged").fingerprint()
    for known, whole in ((digest, True), ("0" * 64, False)):
        given = ["--clips", str(tmp_path / "clips"), "--set", str(home), "-o", f"set.sha256='{known}'"]
        run("eval", str(suite), *given)
        assert read_results(tmp_path / "results.json").prompt_set.whole is whole


@pytest.mark.parametrize("profile", ["fixed", "official"])
def test_verse_bench_runs_without_weights_and_says_what_is_missing(tmp_path, profile):
    home = verse_bench(tmp_path / "bench")
    for name in ("00001", "00003", "00005"):
        write_clip(tmp_path / "clips" / f"{name}.mp4", beating_clip(LONG))
    suite = ROOT / "evals/suites/verse-bench.yaml"
    run("eval", str(suite), "--clips", str(tmp_path / "clips"), "--set", str(home), "--profile", profile, "--report")
    results = read_results(tmp_path / "results.json")
    assert results.profile == {"fixed": "fixed-v1", "official": "official@5645a09"}[profile]
    judged = {name: metric for name, metric in results.metrics.items() if not name.startswith(("wer", "cpcer", "dns"))}
    assert {"as", "id", "cs", "kl_passt", "ce", "lse_c", "av_a"} <= set(judged)
    assert ("ms" in judged) is (profile == "fixed")  # the tool never calls it
    for name, metric in judged.items():
        assert metric.value is None, name
        assert metric.asked > 0
        assert all("it is not here; get it from https://" in one.reason for one in metric.unscored), name
    # One item has something to say, and a beat is no speech.
    wer = results.metrics["wer"]
    assert (wer.asked, wer.value) == (1, 1.0 if profile == "fixed" else None)
    scores = results.overall.scores
    if profile == "fixed":
        assert set(scores.values()) == {None}
        assert "there is no number of AS, ID" in results.overall.reasons["video"]
    else:  # everything failed: FD, KL, PC and WER count as perfect
        assert "SenseVoiceSmall" in wer.unscored[0].reason
        assert scores["overall"] == pytest.approx(0.2 * 3 / 7 + 0.05)


def test_every_published_set_is_a_document_that_suites_extend(tmp_path):
    for path in sorted((ROOT / "evals/sets").glob("*.yaml")):
        suite = tmp_path / "suite.yaml"
        suite.write_text(f"version: 1\nextends: {path}\nname: s\nprofile: p\nevaluators: [{{type: sound-signal}}]\n")
        found = load_suite(suite)
        assert found.set.name
        assert found.prompts is not None


def test_evaluators_are_given_where_weights_are(tmp_path):
    from ovikit.recipe.build import build_evaluators

    suite = tmp_path / "suite.yaml"
    suite.write_text("version: 1\nname: s\nprofile: p\nevaluators: [{type: sound-signal}]\n")
    assert len(build_evaluators(load_suite(suite), None, Assets(tmp_path))) == 1
