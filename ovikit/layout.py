"""The files in the folder of a run: one command writes them, others read them."""

from __future__ import annotations

import csv
from pathlib import Path

LOCK = "recipe.lock.yaml"
METRICS = "metrics.csv"
CHECKPOINTS = "checkpoints"
LAST_CHECKPOINT = "last.ckpt"
WEIGHTS = "weights.safetensors"
EVENTS = "events.jsonl"


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv, a torn last row left out."""
    with path.open(newline="") as handle:
        return [row for row in csv.DictReader(handle) if None not in row.values() and None not in row]
