"""Finished cells to a table: pairs by seed, verdicts, what is missing, and the files that are written."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import fmean

import pytest
from ablation_kit import MATRIX, planned, write_files

from ovikit.ablation.cells import Cell, Plan
from ovikit.ablation.report import cells, earlier_cells, earlier_head, failures, head, write_report
from ovikit.ablation.statistics import estimate
from ovikit.ablation.store import Store
from ovikit.ablation.tables import table_of
from ovikit.errors import UserError

THREE = MATRIX.replace("seeds: [0, 1]", "seeds: [0, 1, 2]") + "    more: {model.fusion.init_scale: 0.5}\n"
SCORES = {"ovi": (0.50, 0.60, 0.70), "none": (0.21, 0.29, 0.41), "more": (0.55, 0.52, 0.74)}
"""At the end, by seed: 'none' is always about 0.3 lower, 'more' now higher, now lower."""


def record(store: Store, cell: Cell, value: float | None, **cost: float) -> None:
    """Writes what the process of a cell writes."""

    def metric(share: float) -> dict[str, object]:
        scored = None if value is None else share * value
        return {"value": scored, "scored": 2, "chance": 0.2, "ceiling": 0.9}

    told = {"direction": "higher", "unit": "", "version": "1", "summary": "a number"}
    store.write(cell, "finished", {
        "measured": [
            {"step": step, "metrics": {"count_heard": metric(share), "onset_f1": metric(1.0)}}
            for step, share in zip(cell.measured_at, (0.5, 1.0), strict=True)
        ],
        "metrics": {"": {"prompts": 2, "profile": "toyworld-v1"}, "count_heard": told, "onset_f1": told},
        "cost": {
            "evaluations_per_clip": 2, "seconds_per_clip": 0.1, "training_seconds": 2.0 + cell.seed,
            "training_memory_gb": 0.5, "parameters": {"video": 10, "audio": 20, "fusion": 5, "all": 35},
            "losses": [[2, 1.0 + cell.seed], [4, 0.5]], **cost,
        },
    })  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> tuple[Plan, Store]:
    plan, store = planned(write_files(tmp_path, THREE), "equivalence=0.05"), Store(tmp_path / "store")
    for cell in plan.cells:
        record(store, cell, SCORES[cell.arm.label][cell.seed])
    return plan, store


def test_differences_are_paired_by_seed(run: tuple[Plan, Store]) -> None:
    table = table_of(*run)
    pairs = [a - b for a, b in zip(SCORES["none"], SCORES["ovi"], strict=True)]
    assert table.rows[1].difference("count_heard") == estimate(pairs)
    # The seeds differ by 0.2 and the pairs by 0.02: intervals of the means overlap, that of the difference is far off.
    assert table.verdict(table.rows[1], table.metrics[0]) == "worse"
    unpaired = [estimate(SCORES[name]) for name in ("none", "ovi")]
    assert unpaired[0].high > unpaired[1].low  # type: ignore[operator]  # three seeds have an interval
    assert table.baseline.difference("count_heard") is None


def test_differences_on_the_way_are_told_too(run: tuple[Plan, Store]) -> None:
    table = table_of(*run)
    pairs = [0.5 * (a - b) for a, b in zip(SCORES["none"], SCORES["ovi"], strict=True)]
    assert table.earlier == (2,)
    found = table.rows[1].difference("count_heard", 0)
    assert found is not None
    assert found.mean == pytest.approx(estimate(pairs).mean)
    assert earlier_head(table) == ["arm", "count_heard at 2", "difference, paired", ""]
    assert earlier_cells(table, table.rows[1])[2:] == ["−0.148 [−0.163, −0.134]", "worse"]


def test_what_the_seeds_cannot_tell_apart_is_said(run: tuple[Plan, Store]) -> None:
    table = table_of(*run)
    assert table.verdict(table.rows[2], table.metrics[0]) == "not told apart"


def test_an_interval_within_the_bound_is_equal_in_practice(run: tuple[Plan, Store]) -> None:
    plan, store = run
    for cell in plan.of(plan.arms[2]):
        record(store, cell, SCORES["ovi"][cell.seed] + (0.001, -0.002, 0.001)[cell.seed])
    table = table_of(plan, store)
    assert table.verdict(table.rows[2], table.metrics[0]) == "equal in practice"


def test_curves_costs_and_losses_are_means_over_the_seeds(run: tuple[Plan, Store]) -> None:
    row = table_of(*run).baseline
    points = row.curves["count_heard"]
    assert [point.step for point in points] == [2, 4]
    assert points[0].estimate == estimate([0.5 * value for value in SCORES["ovi"]])
    assert row.costs["training_seconds"] == 3.0
    assert row.losses == ((2, 2.0), (4, 0.5))
    assert row.anchors["count_heard"] == (pytest.approx(0.2), pytest.approx(0.9))


def test_failed_and_missing_cells_are_listed_and_pairs_are_those_that_are_there(run: tuple[Plan, Store]) -> None:
    plan, store = run
    of_none = {cell.seed: cell for cell in plan.of(plan.arms[1])}
    store.write(of_none[1], "failed", {"reason": "the loss is not finite at step 3"})
    (store.cell(of_none[2]) / "cell.json").unlink()
    table = table_of(plan, store)
    found = table.rows[1].difference("count_heard")
    assert found is not None
    assert found.seeds == 1
    assert failures(table) == [
        "none seed 1: failed: the loss is not finite at step 3", "none: seed 2 is not finished",
    ]  # fmt: skip
    assert table.verdict(table.rows[1], table.metrics[0]) == "not told apart"  # one pair has no interval


def test_a_metric_that_could_not_be_scored_is_no_number(run: tuple[Plan, Store]) -> None:
    plan, store = run
    for cell in plan.of(plan.arms[1]):
        record(store, cell, None)
    table = table_of(plan, store)
    assert table.rows[1].last("count_heard") is None
    assert table.rows[1].difference("count_heard") is None
    assert cells(table, table.rows[1])[1] == "–"


def test_the_report_holds_every_number_that_was_measured(run: tuple[Plan, Store], tmp_path: Path) -> None:
    plan, store = run
    table = table_of(plan, store)
    path = write_report(table, tmp_path / "report", "ovikit ablate matrix.yaml")
    rows = list(csv.DictReader((tmp_path / "report/results.csv").open()))
    assert len(rows) == 3 * 3 * 2 * 2
    ends = [float(r["value"]) for r in rows if (r["fusion"], r["metric"], r["step"]) == ("more", "count_heard", "4")]
    assert ends == list(SCORES["more"])
    summary = list(csv.DictReader((tmp_path / "report/summary.csv").open()))
    none = next(row for row in summary if (row["fusion"], row["metric"]) == ("none", "count_heard"))
    assert float(none["difference"]) == pytest.approx(fmean(SCORES["none"]) - fmean(SCORES["ovi"]), abs=1e-6)
    assert (none["verdict"], none["parameters_fusion"]) == ("worse", "5")
    text, html = (tmp_path / "report/report.md").read_text(), path.read_text()
    line = next(line for line in text.splitlines() if line.startswith("| none |"))
    assert [cell.strip() for cell in line.strip("|").split("|")][: len(head(table))][0] == "none"
    assert "−0.297 [" in line
    assert "−0.297 [" in html
    assert "ovikit ablate matrix.yaml" in html
    for plot in ("count_heard-steps.png", "loss-steps.png"):
        assert (tmp_path / "report" / plot).stat().st_size > 10_000
        assert plot in html
        assert plot in text


def test_a_metric_that_the_suite_does_not_give_is_refused(run: tuple[Plan, Store], tmp_path: Path) -> None:
    plan = planned(tmp_path / "matrix.yaml", "metrics=[count_hear]")
    with pytest.raises(UserError, match=r"no metric 'count_hear'\n  it gives count_heard, onset_f1"):
        table_of(plan, run[1])


def test_nothing_finished_is_told(tmp_path: Path) -> None:
    plan = planned(write_files(tmp_path))
    with pytest.raises(UserError, match="no cell is finished"):
        table_of(plan, Store(tmp_path / "store"))
