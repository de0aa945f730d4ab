"""A matrix small enough to be run in a test."""

from __future__ import annotations

from pathlib import Path

from ovikit.ablation.cells import Plan, arms_of, plan_of
from ovikit.ablation.matrix import load_matrix

ROOT = Path(__file__).parents[2]
SMALL = (
    "{type: wan-tower, width: 16, feed_forward_width: 32, heads: 2, depth: 2, text_length: 16, frequency_width: 8, "
    "patch: [1, 1, 1]}"
)
BASE = f"""
version: 1
name: small
extends: {ROOT / "recipes/ablations/base.yaml"}
model:
  video: {SMALL}
  audio: {SMALL}
sampling: {{steps: 2}}
training:
  batch_size: 2
  data: {{type: toyworld, clips: 8, kinds: [flash]}}
evaluation: {{suite: suite.yaml}}
"""
SUITE = """
version: 1
name: small
profile: toyworld-v1
prompts: {type: toyworld-heldout, count: 2, kinds: [flash]}
evaluators: [{type: toy-onsets}, {type: toy-count}]
"""
MATRIX = """
version: 1
name: small
question: Does it run?
base: base.yaml
seeds: [0, 1]
budget: {steps: 4}
measurements: 2
metrics: [count_heard, onset_f1]
axes:
  fusion:
    ovi: {}
    none: {model.fusion: {type: none}}
"""


def write_files(folder: Path, matrix: str = MATRIX, **others: str) -> Path:
    """The path of a matrix, with its base and its suite beside it, and other recipes by name."""
    for name, text in {"base": BASE, "suite": SUITE, "matrix": matrix, **others}.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / "matrix.yaml"


def planned(path: Path, *overrides: str) -> Plan:
    """The plan of a matrix whose budget is in steps."""
    matrix = load_matrix(path, overrides)
    arms = arms_of(matrix)
    assert matrix.budget.steps is not None
    return plan_of(matrix, arms, {arm.label: matrix.budget.steps for arm in arms})
