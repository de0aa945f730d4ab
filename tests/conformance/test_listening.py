"""Metrics of sounds by networks: both rules by hand, reasons where nothing is told, and a whole run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from listening_kit import (
    SCALE,
    clip_of,
    noise,
    normal,
    tone,
    use_small_networks,
    write_clap,
    write_small_weights,
)
from sets_kit import sound_file, verse_bench
from torch import Tensor, nn

from ovikit.checkpoints.assets import Assets
from ovikit.evaluation.protocols import Part, PromptItem, Unscored
from ovikit.evaluation.runner import evaluate
from ovikit.recipe.load import load_suite
from ovikit_versebench.listening.aesthetics import WINDOW, AudioAesthetics
from ovikit_versebench.listening.clap import ClapScore, fused, pieces, repeated
from ovikit_versebench.listening.passt import log_mel
from ovikit_versebench.listening.sounds import PEAK
from ovikit_versebench.listening.statistics import (
    distance_of_two,
    frechet_distance,
    inception_score,
    inception_score_in_parts,
)
from ovikit_versebench.listening.tagging import Panns, Passt
from ovikit_versebench.listening.wavlm import AXES
from ovikit_versebench.mel import decibels

TRUE = PromptItem("0", "", {"subset": "set2", "audio_prompts": ["rain", "dogs bark"]})


# Evaluators, with small networks.


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Assets:
    use_small_networks(monkeypatch)
    write_small_weights(tmp_path)
    return Assets(tmp_path)


def features(judge: Any, sound: Tensor | None) -> dict[str, Any]:
    return judge.features(clip_of(sound, judge.view.sample_rate_hz))


JUDGES = {
    "panns": lambda assets, rules: Panns(assets, None, rules, 16000, 8.0),
    "passt": lambda assets, rules: Passt(assets, "passt-s-f128-p16-s10-ap.476-swa.pt", rules),
    "aesthetics": lambda assets, rules: AudioAesthetics(assets, "audiobox-aesthetics", rules),
}


@pytest.mark.parametrize("name", JUDGES)
@pytest.mark.parametrize("rules", ["fixed", "official"])
def test_what_cannot_be_heard_has_a_reason(assets: Assets, name: str, rules: str) -> None:
    judge = JUDGES[name](assets, rules)
    rate = judge.view.sample_rate_hz
    spoilt = noise(1.0, rate)
    spoilt[100] = math.nan
    silent = torch.zeros(2 * rate)
    for sound, why in (
        (None, "no sound"), (torch.zeros(0), "no sound"), (noise(0.3, rate), "lasts 0.30 s, less than 0.5 s"),
        (spoilt, "NaN or Inf"), (silent, "the sound is silent"),
    ):  # fmt: skip
        found = features(judge, sound)
        scores = judge.score(found, found, TRUE)
        assert set(scores) == {metric.name for metric in judge.metrics}
        if sound is silent and rules == "official" and name != "passt":
            assert found["why"] is None  # as the tools do
        else:
            assert all(isinstance(one, Unscored) and why in one.reason and one.asked for one in scores.values())
    quiet = 1e-5 * noise(1.0, rate)
    assert (features(judge, quiet)["why"] is None) == (rules == "official")


@pytest.mark.parametrize("name", JUDGES)
def test_versions_tell_weights_and_rules_apart(assets: Assets, name: str) -> None:
    judges = [JUDGES[name](assets, rules) for rules in ("fixed", "official", "fixed")]
    versions = [judge.version for judge in judges]
    assert versions[0] == versions[2] != versions[1]
    assert all(metric.version == judge.version for judge in judges for metric in judge.metrics)
    path = assets.path(judges[0].needs[0].name)
    file = path / "model.safetensors" if path.is_dir() else path
    file.write_bytes(file.read_bytes() + b" ")
    assert JUDGES[name](Assets(assets.root), "fixed").version not in versions


def test_weights_that_are_not_here_are_asked_for(tmp_path: Path) -> None:
    empty = Assets(tmp_path)
    for judge in (*(make(empty, "fixed") for make in JUDGES.values()), ClapScore(empty, "clap-htsat-fused", "fixed")):
        [need] = [need for need in judge.needs if need.missing]
        assert need.source.startswith("https://")
        assert need.licence


def test_panns_by_both_rules(assets: Assets) -> None:
    """official: the first 8 s without their mean; fixed: everything as it is."""
    official, fixed = (JUDGES["panns"](assets, rules) for rules in ("official", "fixed"))
    sound = noise(10.0, 16000) + 0.05
    net = official._network
    with torch.no_grad():
        for judge, heard in ((official, (sound - sound.mean())[:128000]), (fixed, sound)):
            embedding, logits = net(heard[None])
            found = features(judge, sound)
            torch.testing.assert_close(torch.tensor(found["embedding"]), embedding[0])
            torch.testing.assert_close(torch.tensor(found["logits"]), logits[0])


def test_passt_by_both_rules(assets: Assets) -> None:
    """Windows of 10 s every 5 s up to 5 s before the end, the mean of what they give."""
    official, fixed = (JUDGES["passt"](assets, rules) for rules in ("official", "fixed"))
    long, rate = noise(17.0, 32000), 32000
    starts = (0, 5, 10)
    assert [len(one) for one in fixed._windows(long)] == [10 * rate] * 3
    with torch.no_grad():
        for judge, sound in ((official, long / long.abs().max() * PEAK), (fixed, long)):
            windows = [
                nn.functional.pad(sound[s * rate : (s + 10) * rate], (0, 10 * rate))[: 10 * rate] for s in starts
            ]
            logits = torch.cat([judge._network(log_mel(one[None]))[1] for one in windows]).mean(dim=0)
            torch.testing.assert_close(torch.tensor(features(judge, long)["logits"]), logits, atol=1e-5, rtol=1e-4)
    assert [len(one) for one in official._windows(long[: 3 * rate // 2])] == [3 * rate // 2]
    assert [len(one) for one in fixed._windows(long[: 3 * rate // 2])] == [10 * rate]
    assert [len(one) for one in official._windows(long[: 2 * rate])] == [10 * rate]
    assert 20 * math.log10(PEAK) == pytest.approx(-1)


def tagged(logits: list[float], embedding: list[float]) -> dict[str, Any]:
    return {"why": None, "logits": logits, "embedding": embedding}


@pytest.mark.parametrize(
    ("name", "rules"), [(name, rules) for name in ("panns", "passt") for rules in ("fixed", "official")]
)
def test_taggers_compare_with_the_truth(assets: Assets, name: str, rules: str) -> None:
    judge = JUDGES[name](assets, rules)
    made, true = tagged([2.0, 0.0, 1.0], [1.0, 0.0]), tagged([0.0, 1.0, 1.0], [0.0, 3.0])
    found = judge.compare({}, made, true, TRUE)
    p, q = (torch.tensor(one["logits"]).double().softmax(0) for one in (true, made))
    added = 1e-6 if (name, rules) == ("passt", "official") else 0.0
    assert found[f"kl_{name}"] == pytest.approx(float((p * (p / (q + added)).log()).sum()), rel=1e-9)
    parts = [found[f"fd_{name}"].data, judge.compare({}, true, made, TRUE)[f"fd_{name}"].data]
    expected = frechet_distance(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 3.0], [1.0, 0.0]]))
    assert judge.pool(f"fd_{name}", parts) == pytest.approx(expected, abs=1e-9)
    assert judge.pool(f"fd_{name}", parts[:1]) == Unscored(
        "of one sound there is no Frechet distance; it takes two of either side"
    )


def test_set_metrics_take_enough_items(assets: Assets) -> None:
    fixed, official = (JUDGES["panns"](assets, rules) for rules in ("fixed", "official"))
    parts = [(f"{i:02}", one.float()) for i, one in enumerate(normal(12, 12))]
    assert fixed.pool("is_panns", parts) == pytest.approx(inception_score(torch.stack([one for _, one in parts])))
    in_parts = official.pool("is_panns", parts)
    assert in_parts == pytest.approx(inception_score_in_parts(torch.stack([one for _, one in parts])))
    assert official.pool("is_panns", parts[::-1]) == in_parts
    assert "it takes 10" in official.pool("is_panns", parts[:9]).reason
    assert "it takes 2" in fixed.pool("is_panns", parts[:1]).reason


def test_what_has_no_ground_truth_is_scored_without(assets: Assets) -> None:
    judge = JUDGES["passt"](assets, "fixed")
    made = tagged([2.0, 0.0, 1.0], [1.0, 0.0])
    none = Unscored("it has no ground truth", asked=False)
    for truth in (none, {"why": "the sound is silent"}):
        found = judge.compare({}, made, truth, TRUE)
        assert isinstance(found["is_passt"], Part)
        assert isinstance(found["kl_passt"], Unscored)
        assert isinstance(found["fd_passt"], Unscored)
        assert found["kl_passt"].asked is found["fd_passt"].asked is (truth is not none)
    assert "its ground truth: the sound is silent" in found["kl_passt"].reason
    for subset, left_out in (("set1", True), ("set2", False), ("set3", True), ("", False), ("mine", False)):
        for metric in ("is_passt", "kl_passt", "fd_passt"):
            why = judge.metric_leaves_out(metric, PromptItem("0", "", {"subset": subset}))
            assert why == ("it is not of set2" if left_out and metric != "is_passt" else None)
    unheard = PromptItem("0", "", {"subset": "set2", "audio_prompts": []})
    assert judge.metric_leaves_out("kl_passt", unheard) is None
    assert JUDGES["passt"](assets, "official").metric_leaves_out("kl_passt", unheard) == "it has no audio prompt"


def test_audiobox_weighs_windows_by_what_is_sound(assets: Assets) -> None:
    judge = JUDGES["aesthetics"](assets, "fixed")
    first, rest = noise(10.0, 16000), tone(2.5, 16000)
    net, _ = judge._network
    with torch.no_grad():
        marks = net(
            torch.stack([first, nn.functional.pad(rest, (0, WINDOW - len(rest)))]), torch.tensor([WINDOW, len(rest)])
        )
    mean = ((marks[0] * 4 + marks[1]) / 5).tolist()
    found = features(judge, torch.cat([first, rest]))
    scores = judge.score(found, found, TRUE)
    for axis, mark in zip(AXES, mean, strict=True):
        assert scores[axis.lower()] == pytest.approx(mark * SCALE[axis]["std"] + SCALE[axis]["mean"], rel=1e-5)


def test_audiobox_directions_and_sets(assets: Assets) -> None:
    fixed, official = (JUDGES["aesthetics"](assets, rules) for rules in ("fixed", "official"))
    assert [metric.direction for metric in fixed.metrics] == ["higher", "higher", "neither", "higher"]
    assert [metric.direction for metric in official.metrics] == ["higher", "higher", "lower", "higher"]
    assert fixed.leaves_out(PromptItem("0", "", {"subset": "set3"})) == "AudioBox's marks are of sets 1 and 2"
    for known in ({}, {"subset": "set1"}, {"subset": "set2"}):
        assert fixed.leaves_out(PromptItem("0", "", known)) is None


# CLAP.


@pytest.fixture(scope="module")
def clap_assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clap")
    write_clap(folder / "clap-htsat-fused")
    return Assets(folder)


def test_clap_by_both_rules(clap_assets: Assets) -> None:
    """Sounds at -1 dBFS and of 16 bits; the first prompt or all of them."""
    fixed, official = (ClapScore(clap_assets, "clap-htsat-fused", rules) for rules in ("fixed", "official"))
    sound = noise(2.0, 48000)
    found = features(fixed, sound)
    assert found == features(official, sound) == features(fixed, 0.5 * sound)
    levels = torch.from_numpy((sound / sound.abs().max() * PEAK * 32767).numpy().astype(np.int16) / 32767.0).float()
    heard = fixed._clap.of_sound(levels)
    torch.testing.assert_close(torch.tensor(found["embedding"]), heard, atol=1e-6, rtol=1e-4)
    for judge, text in ((fixed, "rain. dogs bark."), (official, "rain")):
        cosine = float(heard @ judge._clap.of_text(text))
        assert judge.score(found, found, TRUE)["cs"] == pytest.approx(cosine, abs=1e-6)
    one = replace(TRUE, truth={"subset": "set1", "audio_prompts": ["rain."]})
    assert fixed.score(found, found, one)["cs"] == pytest.approx(float(heard @ fixed._clap.of_text("rain.")), abs=1e-6)


def test_the_distance_of_one_clip_and_of_the_set(clap_assets: Assets) -> None:
    fixed, official = (ClapScore(clap_assets, "clap-htsat-fused", rules) for rules in ("fixed", "official"))
    made, true = ({"why": None, "embedding": normal(16, seed=seed).tolist()} for seed in (1, 2))
    embeddings = [torch.tensor(one["embedding"]) for one in (made, true)]
    assert official.compare({}, made, true, TRUE)["fd_clap"] == pytest.approx(distance_of_two(*embeddings))
    assert fixed.pool("fd_clap", [fixed.compare({}, made, true, TRUE)["fd_clap"].data]) == Unscored(
        "of one sound there is no Frechet distance; it takes two of either side"
    )
    parts = [fixed.compare({}, made, true, TRUE)["fd_clap"].data, fixed.compare({}, true, made, TRUE)["fd_clap"].data]
    assert fixed.pool("fd_clap", parts) == pytest.approx(0, abs=1e-9)


def test_clap_is_about_sets_1_and_2_and_items_with_audio_prompts(clap_assets: Assets) -> None:
    judge = ClapScore(clap_assets, "clap-htsat-fused", "fixed")
    told = [
        judge.leaves_out(PromptItem("0", "", truth))
        for truth in (
            {"subset": "set1", "audio_prompts": ["rain"]}, {"audio_prompts": ["rain"]},
            {"subset": "set3", "audio_prompts": ["rain"]}, {"subset": "set1", "audio_prompts": []}, {},
        )
    ]  # fmt: skip
    assert told[:2] == [None, None]
    assert all(told[2:])
    for sound, why in ((None, "no sound"), (torch.zeros(48000), "silent"), (noise(0.1, 48000), "less than")):
        found = features(judge, sound)
        assert all(why in one.reason for one in judge.score(found, found, TRUE).values())


def test_sounds_are_brought_to_ten_seconds() -> None:
    sound = torch.arange(1.0, 4.0)
    assert repeated(sound, 10).tolist() == [1, 2, 3, 1, 2, 3, 1, 2, 3, 0]
    assert repeated(sound, 5).tolist() == [1, 2, 3, 0, 0]
    assert repeated(sound, 2).tolist() == [1, 2, 3]
    assert [one.tolist() for one in pieces(torch.arange(7), 3)] == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    assert [len(one) for one in pieces(torch.arange(3), 3)] == [3]
    mel = decibels(normal(29, 4).square())
    found = fused(mel, 10)
    assert found.shape == (4, 10, 4)
    for piece, start in zip(found[1:], (3, 10, 16), strict=True):  # of 20 places: 0 to 6, 7 to 13, 14 to 19
        start = start if start < 14 else 17
        assert torch.equal(piece, mel[start : start + 10])
    assert float((found[0].mean() - mel[2:-2].mean()).abs()) < 1.0
    assert torch.equal(fused(mel, 28)[3], mel[:28])


# A whole run.


def test_a_set_is_measured_against_its_ground_truth(tmp_path, monkeypatch) -> None:
    """Clips of all three sets; those of set 2 are their own ground truth, once exactly and once not."""
    pytest.importorskip("transformers")
    use_small_networks(monkeypatch)
    weights, clips, prompts = tmp_path / "weights", tmp_path / "clips", verse_bench(tmp_path / "set")
    weights.mkdir()
    clips.mkdir()
    write_small_weights(weights)
    write_clap(weights / "clap-htsat-fused")
    monkeypatch.setenv("OVIKIT_ASSETS", str(weights))
    for name in ("00001", "00003"):
        (clips / f"{name}.mp4").write_bytes((prompts / "set2" / "00003.mp4").read_bytes())
    sound_file(tmp_path / "other.wav", seconds=1.0)
    (clips / "00004.mp4").write_bytes((tmp_path / "other.wav").read_bytes())
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        f"version: 1\nname: listening\nprofile: test\nprompts: {{type: verse-bench, path: {prompts}}}\nevaluators:\n"
        "  - {type: panns}\n  - {type: passt}\n  - {type: clap}\n  - {type: audio-aesthetics}\n"
    )
    results = evaluate(load_suite(suite), None, clips, exchanges=1)
    found = {name: (one.value, one.scored, one.asked) for name, one in results.metrics.items()}
    for name in ("is_panns", "is_passt"):
        assert found[name][1:] == (3, 5)
    for name in ("fd_panns", "fd_passt", "fd_clap"):
        assert found[name][1:] == (2, 2)
        assert found[name][0] >= 0
        assert results.metrics[name].interval is not None
    for name in ("kl_panns", "kl_passt"):
        assert found[name][1:] == (2, 2)
    assert found["cs"][1:] == (3, 4)
    assert [found[axis.lower()][1:] for axis in AXES] == [(3, 4)] * 4
