"""What the released model takes at full size, from its recipes, without a weight."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REFERENCE = Path(__file__).parents[2] / "recipes" / "reference"
FULL = 11_660_753_108


def plan(recipe: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "ovikit", "plan", str(REFERENCE / recipe), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def five_seconds() -> dict[str, Any]:
    return plan("ovi-720x720-5s.yaml", "--flops-per-s", "790e12", "--budget-gb", "12")


def test_it_has_the_released_parameters(five_seconds: dict[str, Any]) -> None:
    assert five_seconds["network"]["parameters"] == FULL
    assert five_seconds["network"]["layers"] == 30
    assert five_seconds["network"]["bytes"] == 2 * FULL
    assert five_seconds["tokens"] == {"video": 31 * 22 * 22, "audio": 157}


def test_a_forward_takes_238_tflop_with_the_text_and_a_clip_half_a_minute(five_seconds: dict[str, Any]) -> None:
    flops = five_seconds["flops"]
    assert flops["forward"] + flops["text keys and values"] / 2 == pytest.approx(238e12, rel=0.005)
    assert five_seconds["forwards"] == 100
    assert five_seconds["seconds"]["denoising"] == pytest.approx(30, rel=0.01)


def test_the_texts_keys_and_values_are_as_derived(five_seconds: dict[str, Any]) -> None:
    tokens = 512 * 3072 * 2  # of one text in bfloat16
    assert five_seconds["text_bytes"] == 2 * 2 * (1 + 2 * 30) * tokens  # conditionings, towers, layers


def test_it_runs_whole_in_less_than_40_gb_and_streamed_on_smaller_cards(five_seconds: dict[str, Any]) -> None:
    assert {card["gb"]: card["plan"] for card in five_seconds["cards"]} == {
        12: "stream-layers", 24: "stream-layers", 40: "full", 80: "full",
    }  # fmt: skip
    assert max(five_seconds["peaks"]["full"].values()) < 40e9


@pytest.mark.slow
def test_ten_seconds_and_eight_bits() -> None:
    long = plan("ovi-960x960-10s.yaml")
    assert long["tokens"] == {"video": 61 * 30 * 30, "audio": 314}
    assert long["cards"][-1]["plan"] == "full"
    eight = plan("ovi-720x720-5s-fp8.yaml", "--size", "720x1280")
    assert (eight["clip"]["height_px"], eight["clip"]["width_px"]) == (544, 960)
    assert eight["network"]["parameters"] == FULL
    assert eight["network"]["bytes"] < 0.55 * 2 * FULL
    assert eight["cards"][0]["plan"] == "full"
