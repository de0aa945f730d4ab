"""Verse-Bench's overall score by hand, with the traps of its tool under one profile and without under the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovikit.errors import UserError
from ovikit.evaluation.protocols import Unscored
from ovikit.recipe.load import load_suite, profiles_of
from ovikit_versebench.options import NAMES
from ovikit_versebench.overall import VerseBenchOverall, normalised

OWN = {name: name for name in NAMES}
MEANS = {
    "AS": 0.5, "ID": 0.7, "FD": 0.6, "KL": 1.0, "CS": 0.3, "CE": 5.5, "CU": 6.4, "PC": 2.8, "PQ": 7.3, "WER": 0.2,
    "LSE-C": 6.0, "AV-A": 0.5,
}  # fmt: skip


def test_official_by_hand():
    found = VerseBenchOverall("official", OWN).combine(MEANS)
    audio = (0.8 + 0.75 + 0.3 + 0.5 + 0.6 + 0.8 + 0.7) / 7
    joint = 2 * 0.3 * 0.5 / 0.8
    assert found["video"] == pytest.approx(0.6)
    assert found["audio"] == pytest.approx(audio)
    assert found["other"] == pytest.approx((0.8 + 0.6) / 2)
    assert found["joint"] == pytest.approx(joint)
    assert found["overall"] == pytest.approx(0.5 * joint + 0.2 * 0.6 + 0.2 * audio + 0.1 * 0.7)
    assert next(iter(found)) == "overall"


def test_fixed_by_hand():
    """Without FD and PC."""
    found = VerseBenchOverall("fixed", OWN).combine(MEANS)
    audio = (0.75 + 0.3 + 0.5 + 0.6 + 0.7) / 5
    assert found["audio"] == pytest.approx(audio)
    assert found["overall"] == pytest.approx(0.5 * 2 * 0.3 * 0.5 / 0.8 + 0.2 * 0.6 + 0.2 * audio + 0.1 * 0.7)


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_that_failed_scores_best_where_less_is_better_officially_and_not_at_all_fixed(name):
    without = {key: value for key, value in MEANS.items() if key != name}
    official, whole = (VerseBenchOverall("official", OWN).combine(means)["overall"] for means in (without, MEANS))
    assert (official > whole) == (name in ("FD", "KL", "PC", "WER", "AV-A"))
    fixed = VerseBenchOverall("fixed", OWN).combine(without)["overall"]
    assert isinstance(fixed, Unscored) == (name not in ("FD", "PC"))


def test_values_beyond_the_bounds_are_clamped():
    assert [normalised("FD", value) for value in (-999.0, 0.0, 1.5, 3.0, 7.0)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert [normalised("CE", value) for value in (-999.0, 1.0, 5.5, 10.0, 12.0)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    # A signed mean offset below zero is as good as none.
    assert normalised("AV-A", -0.4) == 1.0


def test_nothing_at_all_scores_officially():
    """Every metric failed: 0.2 of 3 / 7 and 0.1 of a half, for FD, KL, PC and WER."""
    found = VerseBenchOverall("official", OWN).combine({})
    assert found["overall"] == pytest.approx(0.2 * 3 / 7 + 0.1 / 2)
    assert found["joint"] == 0.0


SUITE = """version: 1
name: s
profile: fixed-v1
evaluators: [{type: sound-signal}, {type: motion}]
overall: {type: verse-bench-overall, metrics: {AS: brightness}}
profiles:
  official@5645a09:
    evaluators:
      - {type: picture-signal}
    overall: {type: verse-bench-overall, rules: official, metrics: {AS: contrast}}
  other-v1: {evaluators: [{type: motion, every_s: no}]}
"""


def test_a_profile_is_laid_over_the_suite(tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_text(SUITE)
    own = load_suite(path)
    assert (own.profile, [one.type for one in own.evaluators]) == ("fixed-v1", ["sound-signal", "motion"])
    for name in ("official", "official@5645a09"):
        official = load_suite(path, profile=name)
        assert (official.profile, [one.type for one in official.evaluators]) == ("official@5645a09", ["picture-signal"])
        assert official.overall.config.rules == "official"
    assert load_suite(path, profile="fixed").digest == load_suite(path, profile="fixed-v1").digest == own.digest
    assert official.digest != own.digest
    assert profiles_of(path) == ("fixed-v1", "official@5645a09", "other-v1")


def test_errors_of_profiles_name_their_lines(tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_text(SUITE)
    with pytest.raises(UserError, match="no profile 'strict' of this suite; there are: fixed-v1, official@5645a09"):
        load_suite(path, profile="strict")
    with pytest.raises(UserError, match=r"s.yaml:11: evaluators.0.every_s"):
        load_suite(path, profile="other")
    path.write_text(SUITE.replace("  other-v1: {evaluators: [{type: motion, every_s: no}]}", "  other-v1: 3"))
    with pytest.raises(UserError, match=r"s.yaml:6: profiles: should be a mapping"):
        load_suite(path)
    path.write_text(SUITE.replace("{AS: contrast}", "{AZ: contrast}"))
    with pytest.raises(UserError, match="has no AZ; there are AS, ID"):
        load_suite(path, profile="official")
