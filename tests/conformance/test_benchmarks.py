"""The benchmarks run where there is no accelerator, and compare what they say they compare."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, f"benchmarks/{name}", *arguments], cwd=ROOT, env=os.environ | {"JAXTYPING_DISABLE": "1"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_generate_measures_every_row_and_a_row_that_fails_costs_no_other(tmp_path: Path) -> None:
    run("generate.py", "--quick", "--repeat", "1", "--out", str(tmp_path / "speed"))
    told = json.loads((tmp_path / "speed.json").read_text())
    rows = told["rows"]
    assert {row["plan"] for row in rows} == {"full", "stream-layers"}
    assert {row["quantization"] for row in rows} == {"none", "int8"}
    assert [row["failed"] or row["notes"] for row in rows] == [[]] * len(rows)
    assert len({row["tflop_per_step"] for row in rows}) == 1
    assert all(row["seconds_per_step"] > 0 and row["attends"] for row in rows)
    some = ("--row", "tiny,attention=none", "--row", "tiny", "--repeat", "1", "--out", str(tmp_path / "some"))
    run("generate.py", "--quick", *some)
    first, second = json.loads((tmp_path / "some.json").read_text())["rows"]
    assert "no attention none" in first["failed"]
    assert not second["failed"]
    assert "failed: ValueError: no attention none" in (tmp_path / "some.md").read_text()


def test_codecs_are_measured(tmp_path: Path) -> None:
    run("codecs.py", "--quick", "--repeat", "1", "--out", str(tmp_path / "codecs"))
    rows = json.loads((tmp_path / "codecs.json").read_text())["rows"]
    assert [row["failed"] for row in rows] == [""] * 3
    assert all(row["seconds"] > 0 for row in rows)


def test_forward_agrees_with_the_plain_implementation() -> None:
    """It shows the largest difference in its last column."""
    lines = run("forward.py", "--size", "tiny", "--dtype", "float64", "--repeat", "1").splitlines()
    row = next(line for line in lines if line.startswith("│") and " tiny " in line)
    assert float(row.strip("│").split("│")[-1]) < 1e-10


def test_evaluation_is_measured(tmp_path: Path) -> None:
    run("evaluate.py", "--count", "3", "--side", "96", "--processes", "1", "--out", str(tmp_path / "eval.json"))
    rows = {row["what"]: row for row in json.loads((tmp_path / "eval.json").read_text())["rows"]}
    assert list(rows)[1:5] == ["sound-signal", "picture-signal", "motion", "agreement"]
    assert list(rows)[-2:] == ["suite, one process, no cache", "suite, one process, again"]
    assert all(row["clips_per_minute"] > 0 for row in rows.values())


def test_training_is_measured() -> None:
    lines = run("train.py", "--repeat", "1", "--way", "plain", "--way", "lora").splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.strip().startswith(("plain", "lora"))}
    assert rows["plain"][1] == "2,893,712"
    assert rows["lora"][1] == "122,880"
    assert rows["plain"][3] == "1.00"
