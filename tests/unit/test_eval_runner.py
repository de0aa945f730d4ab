"""The runner over real files: agreement is scored, exchanged sounds are chance, broken files are no number."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import pstdev
from typing import Any

import pytest
import torch
from recipe_kit import GOOD, SUITE, kit_catalog, write
from torch import Tensor, distributed, multiprocessing

from ovikit.errors import UserError
from ovikit.evaluation.features import CACHE, Measure
from ovikit.evaluation.protocols import MetricSpec, Need, Part, PromptItem, Score, Unscored
from ovikit.evaluation.results import SCHEMA, Results, read_results, results_schema, write_results
from ovikit.evaluation.runner import Bench, Measured, evaluate, evaluate_bench
from ovikit.generate.jobs import media_path, sidecar_path
from ovikit.generate.media import write_clip
from ovikit.recipe.load import load_recipe, load_suite
from ovikit.types import AV, Clip, ClipSpec, Modality, TokenGrid

FORM = ClipSpec(1.0, 16, 16, 12.0, 16000)
COUNT = 6


class AsIs:
    """A codec that keeps the samples as they are."""

    channels = 1

    def __init__(self, modality: Modality) -> None:
        self.modality = modality

    def shape(self) -> tuple[int, ...]:
        return (3, FORM.frames, 16, 16) if self.modality == "video" else (1, FORM.samples)

    def grid(self) -> TokenGrid:
        return TokenGrid.uniform(self.modality, (1, 1, 1), FORM.duration_s)

    def encode(self, samples: Tensor) -> Tensor:
        return samples

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def fingerprint(self) -> str:
        return f"as-is/{self.modality}"


def event_clip(name: str, seen: int, heard: int | None) -> Clip:
    """A clip that flashes in frame ``seen`` and clicks at the time of frame ``heard``, or is silent."""
    video, audio = torch.zeros(FORM.frames, 16, 16, 3, dtype=torch.uint8), torch.zeros(FORM.samples)
    video[seen] = 255
    if heard is not None:
        start = round(heard / FORM.frame_rate_hz * FORM.sample_rate_hz)
        audio[start : start + 200] = 0.9
    return Clip(name, "", video, audio, FORM.frame_rate_hz, FORM.sample_rate_hz)


class Events:
    """One flash and one click per clip, a different time for each prompt."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> PromptItem:
        return PromptItem(f"{index:05d}", f"an event, number {index}", {"frame": index + 2})

    def reference(self, index: int) -> Clip | None:
        return event_clip(f"{index:05d}", index + 2, index + 2)


class Agreement:
    """Whether flash and click fall into one frame, and how far they are apart."""

    version = "1"
    metrics = (
        MetricSpec("agreement", "higher", "share", (0.0, 1.0), "1", "flash and click in one frame"),
        MetricSpec("distance_s", "lower", "s", (0.0, float("inf")), "1", "seconds between flash and click"),
    )

    def __init__(self) -> None:
        self.decoded: list[str] = []

    def features(self, clip: Clip) -> dict[str, Any]:
        assert clip.video.shape == (FORM.frames, 16, 16, 3)
        self.decoded.append(clip.name)
        loud = clip.audio.abs()
        return {
            "seen_s": int(clip.video.float().mean((1, 2, 3)).argmax()) / clip.frame_rate_hz,
            "heard_s": float(loud.argmax()) / clip.sample_rate_hz if float(loud.max()) > 0.1 else None,
        }

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        if audio["heard_s"] is None:
            return {"agreement": 0.0, "distance_s": Unscored("no click was heard")}
        distance = abs(video["seen_s"] - audio["heard_s"])
        return {"agreement": float(distance < 1 / 24), "distance_s": distance}


def write_event(folder: Path, index: int, clip: Clip, prompt: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{index:05d}"
    write_clip(media_path(folder, name), clip, 4)
    sidecar_path(folder, name).write_text(json.dumps({"prompt": prompt or Events()[index].prompt}))


def bench() -> Bench:
    return Bench(Events(), (Measure("agreement", {}, Agreement()),), FORM, ("video", "audio"))


CODECS = AV(AsIs("video"), AsIs("audio"))


def measure(folder: Path, one: Bench | None = None) -> Measured:
    return evaluate_bench(one or bench(), CODECS, folder / "clips", None, 16, lambda what, done, total: None)


def some_results(folder: Path, measured: Measured) -> Results:
    """The measured numbers labelled with the recipe kit's recipe and suite."""
    recipe = load_recipe(write(folder, GOOD), catalog=kit_catalog())
    suite = load_suite(write(folder, SUITE, "s.yaml"), catalog=kit_catalog())
    return measured.results(suite, recipe)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Clips of which the last two click at the wrong time."""
    for i in range(COUNT):
        write_event(tmp_path / "clips", i, event_clip(f"{i:05d}", i + 2, i + 2 if i < 4 else i - 1))
    return tmp_path


def test_value_ceiling_and_chance(folder):
    metric = some_results(folder, measure(folder)).metrics["agreement"]
    assert metric.value == pytest.approx(4 / 6)
    assert metric.ceiling.value == 1.0
    # Exchanged, only the late clicks can meet a flash: clips 4 and 5 click at the flashes of clips 1 and 2.
    assert 0 < metric.chance.value < 0.2
    assert metric.share.value == pytest.approx((4 / 6 - metric.chance.value) / (1 - metric.chance.value))
    assert metric.interval[0] < metric.value < metric.interval[1]
    assert metric.above_chance.interval[0] > 0
    assert (metric.scored, metric.ceiling.scored, metric.chance.scored) == (6, 6, 6)


def test_a_metric_of_which_less_is_better_has_its_share_too(folder):
    metric = some_results(folder, measure(folder)).metrics["distance_s"]
    assert metric.value == pytest.approx(2 * 0.25 / 6, abs=0.01)
    assert metric.ceiling.value < 0.01 < metric.value < metric.chance.value
    assert 0 < metric.share.value < 1
    assert metric.range == (0.0, None)


class Looks(Agreement):
    """A metric of the picture alone: whether the flash comes when the prompt's truth says."""

    metrics = (MetricSpec("in_time", "higher", "share", (0.0, 1.0), "1", "flash in the frame of the truth"),)

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        return {"in_time": float(abs(video["seen_s"] * FORM.frame_rate_hz - item.truth["frame"]) < 0.5)}


def test_chance_of_a_metric_without_sound_exchanges_pictures(folder):
    measures = (Measure("looks", {}, Looks()), *bench().measures)
    metrics = some_results(folder, measure(folder, replace(bench(), measures=measures))).metrics
    assert (metrics["in_time"].value, metrics["in_time"].chance.value) == (1.0, 0.0)
    assert (metrics["in_time"].exchanged, metrics["agreement"].exchanged) == ("video", "audio")


class Whole(Agreement):
    """Metrics beyond items: the spread of all distances, the mean distance from the ground truth's flash; not asked
    about the first item, nor, without ``needs``, missing anything."""

    metrics = (
        MetricSpec("spread_s", "lower", "s", (0.0, float("inf")), "1", "standard deviation of the distances of a set"),
        MetricSpec("from_truth_s", "lower", "s", (0.0, float("inf")), "1", "seconds between flash and true flash"),
    )
    needs = (Need("weights.pth", "MIT", "a page"),)

    def leaves_out(self, item: PromptItem) -> str | None:
        return "it is the first" if item.id == "00000" else None

    def compare(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], truth: Mapping[str, Any] | Unscored, item: PromptItem
    ) -> Mapping[str, Score]:
        heard = audio["heard_s"]
        spread = Unscored("no click was heard") if heard is None else Part(video["seen_s"] - heard)
        if isinstance(truth, Unscored):
            return {"spread_s": spread, "from_truth_s": truth}
        return {"spread_s": spread, "from_truth_s": abs(video["seen_s"] - truth["seen_s"])}

    def pool(self, name: str, parts: Sequence[Any]) -> float | Unscored:
        assert name == "spread_s"
        return pstdev(parts) if len(parts) > 1 else Unscored("one clip has no spread")


def whole_bench() -> Bench:
    return replace(bench(), measures=(*bench().measures, Measure("whole", {}, Whole())))


def test_a_metric_of_the_whole_set_is_computed_from_all_that_it_is_about(folder):
    metrics = some_results(folder, measure(folder, whole_bench())).metrics
    spread, truth = metrics["spread_s"], metrics["from_truth_s"]
    # Clips 1, 2 and 3 click in time; 4 and 5 a quarter of a second early.
    assert spread.value == pytest.approx(0.25 * (2 / 5 * 3 / 5) ** 0.5, abs=0.01)
    assert spread.interval[0] < spread.value < spread.interval[1]
    assert (spread.asked, spread.scored, spread.unscored) == (5, 5, ())
    # Exchanged sounds are the same set of sounds, and ground truth is a set, too.
    assert (spread.chance, spread.share) == (None, None)
    assert spread.ceiling.value < 0.01
    assert (truth.asked, truth.scored, truth.value) == (5, 5, 0.0)
    assert truth.chance.value > 0.1
    item = some_results(folder, measure(folder, whole_bench())).items[0]
    assert item.reasons == {"spread_s": "it is the first", "from_truth_s": "it is the first"}


def test_what_an_item_lacks_counts_against_coverage_and_what_is_not_asked_does_not(folder):
    for name in ("00000", "00001"):
        (folder / "clips" / f"{name}.mp4").unlink()
    metric = some_results(folder, measure(folder, whole_bench())).metrics["spread_s"]
    assert (metric.asked, metric.scored) == (5, 4)
    assert [(one.reason, one.items) for one in metric.unscored] == [("there is no clip", ("00001",))]


def test_a_metric_may_not_be_about_an_item_that_others_are_about(folder):
    class Picky(Whole):
        def metric_leaves_out(self, metric: str, item: PromptItem) -> str | None:
            return "it is the second" if metric == "from_truth_s" and item.id == "00001" else None

    (folder / "clips" / "00001.mp4").unlink()
    measures = (*bench().measures, Measure("whole", {}, Picky()))
    metrics = some_results(folder, measure(folder, replace(bench(), measures=measures))).metrics
    assert (metrics["spread_s"].asked, metrics["spread_s"].scored) == (5, 4)
    assert (metrics["from_truth_s"].asked, metrics["from_truth_s"].scored) == (4, 4)


def test_one_clip_has_no_number_of_a_set(folder):
    for path in (folder / "clips").glob("0000[1-4].mp4"):
        path.unlink()
    metric = some_results(folder, measure(folder, whole_bench())).metrics["spread_s"]
    assert (metric.value, metric.interval, metric.scored) == (None, None, 0)
    assert {one.reason for one in metric.unscored} == {"there is no clip", "one clip has no spread"}


def test_an_evaluator_without_its_weights_is_unscored_and_the_others_go_on(folder):
    class Lacking(Whole):
        needs = (Need("weights.pth", "MIT", "a page", "it is not here"), Need("other", "MIT", "a page"))

        def features(self, clip: Clip) -> dict[str, Any]:
            raise AssertionError("nothing is asked of it")

    measures = (*bench().measures, Measure("whole", {}, Lacking()))
    metrics = some_results(folder, measure(folder, replace(bench(), measures=measures))).metrics
    assert metrics["agreement"].value == pytest.approx(4 / 6)
    assert (metrics["spread_s"].asked, metrics["spread_s"].scored) == (5, 0)
    assert metrics["spread_s"].unscored[0].reason == "weights.pth: it is not here"


def test_a_costly_evaluator_is_asked_for_as_few_exchanges_as_it_says(folder):
    class Slow(Agreement):
        exchanges = 2
        asked = 0

        def score(self, video, audio, item):
            Slow.asked += 1
            return super().score(video, audio, item)

    measures = (Measure("slow", {}, Slow()),)
    metric = some_results(folder, measure(folder, replace(bench(), measures=measures))).metrics["agreement"]
    # Its own clips, their ground truth, and two exchanges of sounds, which change it: pictures are not exchanged.
    assert Slow.asked == COUNT * (1 + 1 + 2)
    assert metric.exchanged == "audio"


def test_broken_missing_and_foreign_clips_are_unscored_by_name(folder):
    clips = folder / "clips"
    whole = (clips / "00000.mp4").read_bytes()
    (clips / "00000.mp4").write_bytes(whole[: len(whole) // 2])
    (clips / "00001.mp4").unlink()
    write_event(clips, 2, event_clip("00002", 4, 4), prompt="something else")
    write_clip(clips / "00003.mp4", event_clip("00003", 5, None))
    write_clip(clips / "surplus.mp4", event_clip("surplus", 5, 5))
    results = some_results(folder, measure(folder))
    agreement, distance = results.metrics["agreement"], results.metrics["distance_s"]
    assert (agreement.scored, distance.scored) == (3, 2)
    assert agreement.value == 0.0
    reasons = {one.items: one.reason for one in distance.unscored}
    assert set(reasons) == {("00000",), ("00001",), ("00002",), ("00003",)}
    assert reasons[("00001",)] == "there is no clip"
    assert "another prompt" in reasons[("00002",)]
    assert reasons[("00003",)] == "no click was heard"
    assert (results.clips, results.extra_clips) == (5, ("surplus.mp4",))
    assert results.items[1].scores == {"agreement": None, "distance_s": None}
    assert results.items[1].reasons["agreement"] == "there is no clip"
    # What is unscored lowers neither the ceiling nor the number of prompts.
    assert (agreement.ceiling.scored, results.prompts) == (6, 6)


def test_a_clip_without_sound_is_unscored(folder):
    write_clip(folder / "clips" / "00000.mp4", replace(event_clip("00000", 2, 2), audio=None))
    metric = some_results(folder, measure(folder)).metrics["agreement"]
    assert metric.unscored[0].reason == "it has no audio stream"


def test_an_empty_folder_has_no_numbers_and_its_ceiling_is_known(tmp_path):
    (tmp_path / "clips").mkdir()
    metric = some_results(tmp_path, measure(tmp_path)).metrics["agreement"]
    assert (metric.value, metric.chance, metric.share) == (None, None, None)
    assert metric.ceiling.value == 1.0


def test_files_are_decoded_once_and_again_only_when_they_or_the_evaluator_change(folder):
    first, second = bench(), bench()
    measure(folder, first)
    assert len(first.measures[0].evaluator.decoded) == 2 * COUNT
    again = measure(folder, second)
    assert second.measures[0].evaluator.decoded == []
    assert again.value == measure(folder, first).value
    write_event(folder / "clips", 3, event_clip("00003", 9, 9))
    measure(folder, second)
    assert second.measures[0].evaluator.decoded == ["00003"]
    third = bench()
    third.measures[0].evaluator.version = "2"
    measure(folder, third)
    assert len(third.measures[0].evaluator.decoded) == 2 * COUNT


def test_a_damaged_cache_entry_is_made_again(folder):
    measure(folder)
    damaged = next((folder / "clips" / CACHE).glob("00000.*.json"))
    damaged.write_text('{"seen_s": ')
    one = bench()
    measure(folder, one)
    assert one.measures[0].evaluator.decoded == ["00000"]


def test_ground_truth_is_written_once_and_repaired(folder):
    measure(folder)
    times = {path.name: path.stat().st_mtime_ns for path in (folder / "truth").glob("*.mp4")}
    assert len(times) == COUNT
    (folder / "truth" / "00002.mp4").write_bytes(b"")
    ceiling = measure(folder).ceiling
    changed = [path.name for path in (folder / "truth").glob("*.mp4") if path.stat().st_mtime_ns != times[path.name]]
    assert changed == ["00002.mp4"]
    assert ceiling["agreement"].value == 1.0


def test_features_that_are_not_finite_name_the_evaluator(folder):
    class Broken(Agreement):
        def features(self, clip: Clip) -> dict[str, Any]:
            return {"seen_s": float("nan")}

    with pytest.raises(ValueError, match="'broken' gave features"):
        measure(folder, replace(bench(), measures=(Measure("broken", {}, Broken()),)))


def test_results_are_written_read_and_described_by_the_schema(folder):
    results = some_results(folder, measure(folder))
    write_results(results, folder / "results.json")
    assert read_results(folder / "results.json") == results
    assert json.loads(SCHEMA.read_text()) == results_schema()
    (folder / "results.json").write_text("{}")
    with pytest.raises(UserError, match="not results of this version"):
        read_results(folder / "results.json")


PROCESSES = 3


def _one_process(rank: int, folder: str, answers) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    answers.put(_results_file(Path(folder)))
    distributed.destroy_process_group()


def _results_file(folder: Path) -> str:
    own = folder / f"{os.getpid()}"
    own.mkdir()
    results = measure(folder, whole_bench()).results(
        load_suite(write(own, SUITE, "s.yaml"), catalog=kit_catalog()), None
    )
    write_results(results, own / "results.json")
    return (own / "results.json").read_text()


def test_three_processes_give_the_result_file_of_one(folder):
    (folder / "clips" / "00003.mp4").unlink()
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    processes = [context.Process(target=_one_process, args=(rank, str(folder), answers)) for rank in range(PROCESSES)]
    for process in processes:
        process.start()
    told = [answers.get() for _ in processes]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert told == [_results_file(folder)] * PROCESSES


def test_a_missing_folder_is_the_users_error(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD), catalog=kit_catalog())
    suite = load_suite(write(tmp_path, SUITE, "s.yaml"), catalog=kit_catalog())
    with pytest.raises(UserError, match="no such folder of clips"):
        evaluate(suite, recipe, tmp_path / "none")
