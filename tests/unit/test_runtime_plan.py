"""Which memory plan is taken, and what is said of it. Sizes are in GB of a made-up recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from training_kit import kit_installed, write_recipe

from ovikit.errors import UserError
from ovikit.recipe import build
from ovikit.recipe.load import load_recipe
from ovikit.recipe.models import Recipe
from ovikit.runtime.estimate import Estimate, Part
from ovikit.runtime.plan import SLOTS, choose, choose_for, peaks
from ovikit.types import AV

GB = 10**9
SIZES = Estimate(
    clips=1,
    parts={"text encoder": Part(None, 11 * GB), "video codec": Part(None, 2 * GB), "audio codec": Part(None, GB)},
    layers=(GB,) * 20,
    resident=2 * GB,
    decode=AV(5 * GB, GB),
    tokens=AV(100, 10),
    contexts=GB,
    activations=2 * GB,
    passes=2,
    forward_flops=1,
    text_flops=1,
    forwards=100,
)


@pytest.fixture(autouse=True)
def _kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with kit_installed(monkeypatch):
        yield


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    return load_recipe(write_recipe(folder), overrides)


def test_peaks_are_the_sums_of_what_is_there() -> None:
    full, offload, stream = (peaks(SIZES, plan) for plan in ("full", "offload-components", "stream-layers"))
    denoising = 2 * GB + 2 * GB  # the texts of both passes, and the activations of one
    assert full == {
        "text": 11 * GB, "denoising": 25 * GB + denoising, "video decoding": 30 * GB, "audio decoding": 26 * GB,
    }  # fmt: skip
    assert offload == {
        "text": 11 * GB, "denoising": 22 * GB + denoising, "video decoding": 7 * GB, "audio decoding": 2 * GB,
    }  # fmt: skip
    assert stream["denoising"] == (2 + SLOTS) * GB + denoising
    assert peaks(SIZES, "stream-layers", batched=True)["denoising"] == (2 + SLOTS) * GB + 4 * GB + 4 * GB


@pytest.mark.parametrize(
    ("free", "plan", "batched"),
    [(80, "full", False), (33, "full", False), (30, "offload-components", False), (24, "stream-layers", True),
     (13, "stream-layers", False)],
)  # fmt: skip
def test_auto_takes_the_first_that_fits(tmp_path: Path, free: int, plan: str, batched: bool) -> None:
    chosen = choose(recipe_of(tmp_path), SIZES, free * GB, "cuda")
    assert (chosen.plan, chosen.batched, chosen.warnings) == (plan, batched, ())
    assert max(chosen.peaks.values()) * 1.05 < free * GB
    assert chosen.reason.startswith(f"memory plan {plan}: about ")
    assert f"of {free}.0 GB" in chosen.reason
    assert ("full would take 31.5 GB" in chosen.reason) == (plan != "full")
    assert "\n" not in chosen.reason


def test_the_budget_counts_where_it_is_less_than_what_is_free(tmp_path: Path) -> None:
    tight = recipe_of(tmp_path, "runtime.memory.budget_gb=30.0")
    assert choose(tight, SIZES, 80 * GB, "cuda").plan == "offload-components"
    assert choose(tight, SIZES, 24 * GB, "cuda").plan == "stream-layers"
    assert choose(tight, SIZES, None, "cpu").plan == "offload-components"


def test_without_a_limit_everything_stays(tmp_path: Path) -> None:
    chosen = choose(recipe_of(tmp_path), None, None, "cpu")
    assert (chosen.plan, chosen.peaks) == ("full", {})
    assert choose(recipe_of(tmp_path, "runtime.memory.plan=stream-layers"), None, None).plan == "stream-layers"


def test_passes_are_run_as_the_recipe_says(tmp_path: Path) -> None:
    def chosen(free: int, guidance: str, device: str = "cuda", estimate: Estimate = SIZES) -> tuple[str, bool]:
        found = choose(recipe_of(tmp_path, f"runtime.guidance={guidance}"), estimate, free * GB, device)
        return found.plan, found.batched

    assert chosen(80, "batched") == ("full", True)
    assert chosen(33, "batched") == ("offload-components", True)
    assert chosen(31, "batched") == ("stream-layers", True)  # offload-components needs 31.5 GB
    assert chosen(24, "in-turn") == ("stream-layers", False)
    assert chosen(24, "auto", "cpu") == ("stream-layers", False)
    assert chosen(24, "auto", estimate=replace(SIZES, passes=1)) == ("stream-layers", False)


def test_a_plan_that_does_not_fit_is_warned_of_with_the_numbers(tmp_path: Path) -> None:
    chosen = choose(recipe_of(tmp_path, "runtime.memory.plan=full"), SIZES, 27 * GB, "cuda")
    assert chosen.plan == "full"
    assert len(chosen.warnings) == 1
    assert "memory plan full needs about 31.5 GB while decoding video, and there are 27.0 GB" in chosen.warnings[0]
    assert "runtime.memory.plan=stream-layers" in chosen.warnings[0]


@pytest.mark.parametrize(("plan", "free"), [("full", 20), ("offload-components", 20), ("auto", 5)])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, plan: str, free: int) -> None:
    with pytest.raises(UserError, match=r"needs about .* GB while .*, and there are") as error:
        choose(recipe_of(tmp_path, f"runtime.memory.plan={plan}"), SIZES, free * GB, "cuda")
    assert error.value.where == "runtime.memory"


def test_a_text_encoder_that_does_not_fit_works_on_the_cpu(tmp_path: Path) -> None:
    chosen = choose(recipe_of(tmp_path), SIZES, 11 * GB, "cuda")
    assert chosen.text_on_host
    assert "text" not in chosen.peaks
    assert any("it works on the CPU" in warning for warning in chosen.warnings)
    assert not choose(recipe_of(tmp_path), SIZES, 13 * GB, "cuda").text_on_host


def test_what_the_recipe_says_of_weights_and_compiling_comes_along(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "runtime.compile=true", "model.quantization=int8")
    for chosen in (choose(recipe, None, None), choose(recipe, SIZES, 80 * GB, "cuda")):
        assert (chosen.compile, chosen.quantization, str(chosen.dtype)) == (True, "int8", "torch.float32")


def test_a_recipe_is_estimated_where_there_is_a_limit(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    codecs, conditioner = build.build_codecs(recipe), build.build_conditioner(recipe)
    assert choose_for(recipe, codecs, conditioner, "cpu").peaks == {}
    found = choose_for(recipe, codecs, conditioner, "cpu", free_bytes=GB)
    assert found.plan == "full"
    assert found.peaks["denoising"] > 0
