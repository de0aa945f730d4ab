"""Names of the files in the folder of a run: one command writes them, others read them."""

from __future__ import annotations

LOCK = "recipe.lock.yaml"
METRICS = "metrics.csv"
CHECKPOINTS = "checkpoints"
LAST_CHECKPOINT = "last.ckpt"
WEIGHTS = "weights.safetensors"
EVENTS = "events.jsonl"
