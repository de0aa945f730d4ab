"""The tables of docs/results: every number in them is in the data that lies beside them."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from ovikit.ablation.statistics import estimate

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results" / "toyworld.md"
DATA = PAGE.with_suffix("")


def sections() -> dict[str, str]:
    """The text below each command ``ovikit ablate recipes/ablations/NAME.yaml``, by NAME."""
    parts = re.split(r"^`ovikit ablate recipes/ablations/(\w+)\.yaml`", PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(text: str) -> list[list[str]]:
    """The rows of the first table of a section, its heading first."""
    lines = re.search(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert lines
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in lines[0].splitlines()]
    return [rows[0], *rows[2:]]


def numbers(cell: str) -> list[float]:
    return [float(one.replace("−", "-").replace("+", "").replace(",", "")) for one in re.findall(r"[+−]?[\d.]+", cell)]


def test_the_table_of_two_stages_says_what_its_data_says() -> None:
    page = PAGE.with_name("two-stages.md")
    with (page.with_suffix("") / "results.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    by = {(row["arm"], row["seed"]): row for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    heading, *lines = table(page.read_text())
    assert [line[0] for line in lines] == list(dict.fromkeys(row["arm"] for row in rows))
    assert len(by) == len(lines) * len(seeds)
    for arm, *cells in lines:
        own = [by[arm, seed] for seed in seeds]
        assert {(row["alone_steps"], row["together_steps"]) for row in own} == {(cells[0], cells[1])}
        for title, cell in zip(heading[1:], cells, strict=True):
            if (name := title.split(" ")[0]) in own[0] and "±" in cell:
                found = estimate([float(row[name]) for row in own])
                assert found.half is not None
                assert numbers(cell) == pytest.approx([found.mean, found.half], abs=0.06 if "ms" in name else 6e-4)
        if arm == "scratch":
            continue
        differences = [float(row["onset_f1"]) - float(by["scratch", row["seed"]]["onset_f1"]) for row in own]
        found = estimate(differences)
        assert found.low is not None
        assert found.high is not None
        assert numbers(cells[3]) == pytest.approx([found.mean, found.low, found.high], abs=6e-4)
        assert cells[4] == ("worse" if found.high < 0 else "not told apart")


def test_every_matrix_has_its_section() -> None:
    names = {path.stem for path in (ROOT / "recipes/ablations").glob("*.yaml")} - {"base"}
    assert set(sections()) == names


@pytest.mark.parametrize("name", sorted(sections()))
def test_the_table_says_what_the_data_says(name: str) -> None:
    head, *rows = table(sections()[name])
    with (DATA / name / "summary.csv").open() as handle:
        found = list(csv.DictReader(handle))
    axes = list(found[0])[: list(found[0]).index("seeds")]
    by_arm = {(" / ".join(row[axis] for axis in axes), row["metric"]): row for row in found}
    assert {row[0] for row in rows} == {arm for arm, _ in by_arm}
    first = head[1].split()[0]
    for row in rows:
        for column, cell in zip(head, row, strict=True):
            metric = column.split()[0] if column else ""
            if (row[0], metric) in by_arm:
                told, data = numbers(cell), by_arm[row[0], metric]
                exact = [float(data["mean"]), float(data["high"]) - float(data["mean"])]
                assert told == pytest.approx(exact, abs=0.051 if metric.endswith("_ms") else 0.00051)
        data = by_arm[row[0], first]
        if data["difference"]:
            exact = [float(data[key]) for key in ("difference", "difference_low", "difference_high")]
            assert numbers(row[2]) == pytest.approx(exact, abs=0.00051)
            assert row[3] == data["verdict"]
        assert int(data["seeds"]) >= 3
        assert int(data["steps"]) == 600


@pytest.mark.parametrize("name", sorted(sections()))
def test_the_summary_is_the_mean_of_what_was_measured(name: str) -> None:
    with (DATA / name / "results.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    axes = list(rows[0])[: list(rows[0]).index("seed")]
    with (DATA / name / "summary.csv").open() as handle:
        for data in csv.DictReader(handle):
            mine = [
                float(row["value"])
                for row in rows
                if all(row[axis] == data[axis] for axis in axes)
                and (row["metric"], row["step"]) == (data["metric"], data["steps"])
            ]
            assert sum(mine) / len(mine) == pytest.approx(float(data["mean"]), rel=1e-4)
