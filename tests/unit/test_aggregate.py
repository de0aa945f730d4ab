"""Per-item scores to numbers: means, intervals that cover, chance by exchange, alike from any number of processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from ovikit.evaluation.metrics import (
    ItemScores,
    Summary,
    bootstrap_interval,
    derangements,
    gain_over,
    share_of_way,
    summarise,
)
from ovikit.evaluation.protocols import Unscored

SCORES: list[float | Unscored] = [0.5, 1.0, Unscored("silent"), 0.25, 0.125, Unscored("no truth: café"), 1.0]


def collected(items: list[int]) -> ItemScores:
    metric = ItemScores()
    for item in items:
        metric.update(item, SCORES[item])
    return metric


def test_the_value_is_the_mean_of_the_scored_items_and_the_others_are_named():
    summary = collected(list(range(7))).summary()
    assert summary.value == pytest.approx((0.5 + 1 + 0.25 + 0.125 + 1) / 5)
    assert summary.unscored == {2: "silent", 5: "no truth: café"}
    low, high = summary.interval
    assert 0.125 <= low < summary.value < high <= 1.0


def test_nothing_scored_is_no_number():
    for metric in (ItemScores(), collected([2, 5])):
        summary = metric.summary()
        assert (summary.value, summary.interval) == (None, None)
    assert torch.isnan(collected([2, 5]).compute())
    assert collected([0]).summary().interval is None


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(score):
    with pytest.raises(ValueError, match="item 3 was scored"):
        ItemScores().update(3, score)


def test_order_and_repetition_of_items_do_not_matter():
    assert collected([6, 2, 0, 5, 1, 4, 3, 0, 6]).summary() == collected(list(range(7))).summary()


def _one_process(rank: int, world: int, store: str, answers) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    # As a distributed sampler would: the last share is padded with an item of the first.
    share = [i % 7 for i in range(rank, 8, world)]
    answers.put((rank, collected(share).summary()))
    distributed.destroy_process_group()


def test_two_processes_give_the_number_of_one(tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    processes = [
        context.Process(target=_one_process, args=(rank, 2, str(tmp_path / "store"), answers)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = {}
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
        found.update([answers.get()])
    assert found[0] == found[1] == collected(list(range(7))).summary()


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(random.beta(2, 1, size=40))
        covered += low <= 2 / 3 <= high
    assert 0.89 <= covered / 200 <= 0.99  # 0.95 less the small-sample bias of the percentile interval


def test_the_interval_is_the_normal_one_for_many_items():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=1000)
    low, high = bootstrap_interval(values)
    error = values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


@pytest.mark.parametrize("count", [2, 3, 5, 64])
def test_exchanges_leave_no_sound_in_its_place_and_use_each_once(count):
    rows = derangements(count, 16, seed=7)
    assert rows.shape == (16, count)
    assert (rows != np.arange(count)).all()
    assert (np.sort(rows, axis=1) == np.arange(count)).all()
    assert (rows == derangements(count, 16, seed=7)).all()


def test_one_clip_cannot_be_exchanged():
    assert derangements(1, 16, seed=7).shape == (0, 1)


def summary_of(*values: float) -> Summary:
    return summarise(dict(enumerate(values)), {})


def test_share_of_the_way_from_chance_to_ceiling():
    chance, ceiling = summary_of(0.2, 0.4, 0.3, 0.3), summary_of(0.9, 1.0, 0.9, 1.0)
    assert share_of_way(ceiling, chance, ceiling)[0] == pytest.approx(1.0)
    assert share_of_way(chance, chance, ceiling)[0] == pytest.approx(0.0)
    share, (low, high) = share_of_way(summary_of(0.8, 0.5, 0.7, 0.6), chance, ceiling)
    assert share == pytest.approx((0.65 - 0.3) / (0.95 - 0.3))
    assert low < share < high
    # The same for a metric of which less is better.
    turned = [
        summary_of(*(1 - v for v in one.scores.values())) for one in (summary_of(0.8, 0.5, 0.7, 0.6), chance, ceiling)
    ]
    assert share_of_way(*turned)[0] == pytest.approx(share)


def test_there_is_no_share_where_chance_and_ceiling_coincide_or_are_unknown():
    one = summary_of(0.5, 0.5)
    assert share_of_way(summary_of(0.4, 0.6), one, one) is None
    assert share_of_way(one, Summary(None, None), one) is None


def test_gain_over_chance_is_paired():
    chance = summary_of(0.1, 0.9, 0.5)
    value = summary_of(0.2, 1.0, 0.6)
    difference, (low, high) = gain_over(value, chance)
    # Items differ far more than their gains do: only a paired interval is this narrow.
    assert difference == pytest.approx(0.1)
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.1)


def test_states_keep_double_precision():
    metric = ItemScores()
    metric.update(0, 1 / 3)
    assert metric.summary().value == 1 / 3 == float(metric.compute())
    assert torch.cat(metric.score).dtype == torch.float64
