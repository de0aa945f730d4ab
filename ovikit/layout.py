"""The files in the folder of a run: one command writes them, others read them; and where what is fetched is kept."""

from __future__ import annotations

import csv
import os
from pathlib import Path

LOCK = "recipe.lock.yaml"
CASCADE = "cascade.yaml"
"""Among clips of a cascade, which it is."""
METRICS = "metrics.csv"
CHECKPOINTS = "checkpoints"
LAST_CHECKPOINT = "last.ckpt"
WEIGHTS = "weights.safetensors"
ADAPTERS = "lora.safetensors"
"""What a run of adapters ends with, in the place of weights."""
VALIDATION = "validation"
VALIDATIONS = "validation.csv"
EVENTS = "events.jsonl"
CACHE = "OVIKIT_CACHE"


def cache_folder() -> Path:
    """Where assets, embeddings and digests are kept between runs: what OVIKIT_CACHE says, or ~/.cache/ovikit."""
    return Path(os.environ.get(CACHE) or "~/.cache/ovikit").expanduser()


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv, a torn last row left out."""
    with path.open(newline="") as handle:
        return [row for row in csv.DictReader(handle) if None not in row.values() and None not in row]
