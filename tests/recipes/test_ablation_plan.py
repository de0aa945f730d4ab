"""A matrix on paper: its combinations, what identifies a cell, which cells share a training, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from ablation_kit import MATRIX, ROOT, planned, write_files

from ovikit.ablation.cells import arms_of
from ovikit.ablation.matrix import load_matrix
from ovikit.ablation.probe import buildable, expectations, refuse_unknown_metrics
from ovikit.errors import UserError
from ovikit.recipe.load import load_recipe

TWO_AXES = MATRIX.replace(
    "    none: {model.fusion: {type: none}}\n",
    "    none: {model.fusion: {type: none}}\n"
    "  solver:\n    unipc: {}\n    euler: {sampling.solver: {type: euler}, sampling.steps: 3}\n",
)


def test_every_combination_with_every_seed_is_a_cell_and_pairs_come_together(tmp_path: Path) -> None:
    plan = planned(write_files(tmp_path, TWO_AXES))
    assert [arm.label for arm in plan.arms] == ["ovi / unipc", "ovi / euler", "none / unipc", "none / euler"]
    assert [cell.seed for cell in plan.cells] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert len({cell.digest for cell in plan.cells}) == 8


def test_cells_that_differ_in_sampling_alone_share_a_training(tmp_path: Path) -> None:
    plan = planned(write_files(tmp_path, TWO_AXES))
    by_label = {(cell.arm.label, cell.seed): cell for cell in plan.cells}
    assert by_label["ovi / unipc", 0].training == by_label["ovi / euler", 0].training
    assert by_label["ovi / unipc", 0].training != by_label["none / unipc", 0].training
    assert by_label["ovi / unipc", 0].training != by_label["ovi / unipc", 1].training
    assert plan.trainings == 4


def test_a_cell_is_the_recipe_with_its_seed_and_budget(tmp_path: Path) -> None:
    cell = next(cell for cell in planned(write_files(tmp_path)).cells if cell.arm.label == "none" and cell.seed == 1)
    training = cell.recipe.training
    assert training is not None
    assert (cell.recipe.model.fusion.type, cell.recipe.model.seed, training.seed) == ("none", 1, 1)
    assert (training.trainer.max_steps, training.trainer.checkpoint_every_steps) == (4, 2)
    assert cell.measured_at == (2, 4)
    assert cell.recipe.sampling.seed == load_recipe(tmp_path / "base.yaml").sampling.seed  # paired by noise as well


def test_what_a_matrix_is_called_changes_no_cell_and_what_is_measured_does(tmp_path: Path) -> None:
    path = write_files(tmp_path)
    plain = [cell.digest for cell in planned(path).cells]
    assert plain == [cell.digest for cell in planned(path, "name=other", "question=Why?").cells]
    assert set(plain).isdisjoint(cell.digest for cell in planned(path, "measurements=1").cells)
    assert set(plain).isdisjoint(cell.digest for cell in planned(path, "budget.steps=6").cells)
    write_files(tmp_path, suite="version: 1\nname: other\nprofile: p\nprompts: {type: toyworld-heldout, count: 3}\n"
                "evaluators: [{type: toy-count}]\n")  # fmt: skip
    assert set(plain).isdisjoint(cell.digest for cell in planned(path).cells)


def test_an_arm_says_what_it_changes(tmp_path: Path) -> None:
    arms = arms_of(load_matrix(write_files(tmp_path, TWO_AXES)))
    assert arms[0].changes == ()
    assert arms[3].changes == (
        "model.fusion: ovi -> none", "sampling.solver: unipc -> euler", "sampling.steps: 2 -> 3",
    )  # fmt: skip


def test_an_arm_may_be_another_recipe(tmp_path: Path) -> None:
    child = "extends: base.yaml\nname: child\nmodel: {positions: {type: native, theta: 20.0}}\n"
    matrix = MATRIX.replace("none: {model.fusion: {type: none}}", "child: {recipe: child.yaml, sampling.steps: 3}")
    arm = arms_of(load_matrix(write_files(tmp_path, matrix, child=child)))[1]
    assert arm.recipe is not None
    assert (arm.recipe.model.positions.type, arm.recipe.sampling.steps) == ("native", 3)
    assert arm.changes == ("model.positions: scaled-audio -> native", "sampling.steps: 2 -> 3")


def test_a_combination_that_is_no_recipe_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    matrix = MATRIX.replace("none: {model.fusion: {type: none}}", "bad: {model.fusion: {type: nonsense}}")
    plan = planned(write_files(tmp_path, matrix))
    assert "there is no fusion named 'nonsense'" in (plan.arms[1].refused or "")
    assert [cell.arm.label for cell in plan.cells] == ["ovi", "ovi"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("ovi: {}", "ovi: {model.fusion.nonsense: 1}", "there is no such option"),  # the baseline has to be valid
        ("{steps: 4}", "{steps: 4, seconds: 2.0}", "give either steps or seconds"),
        ("{steps: 4}", "{steps: 5}", "5 steps are no multiple of 2 measurements"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "a seed is listed twice"),
        ("seeds: [0, 1]", "seeds: []", "at least 1 item"),
        ("base: base.yaml", "base: missing.yaml", "there is no such file"),
        ("measurements: 2", "measurement: 2", "Did you mean 'measurements'?"),
        ("    ovi: {}\n    none: {model.fusion: {type: none}}\n", "    {}\n", "axis 'fusion' has no arms"),
        ("none: {model.fusion: {type: none}}", "none: {recipe: 3}", "should be the path of a recipe"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in MATRIX
    with pytest.raises(UserError, match=told.replace("?", r"\?")):
        arms_of(load_matrix(write_files(tmp_path, MATRIX.replace(old, new))))


def test_two_axes_must_not_set_one_path(tmp_path: Path) -> None:
    matrix = TWO_AXES.replace("sampling.steps: 3", "model.fusion: {type: none}")
    with pytest.raises(UserError, match=r"two axes set model\.fusion: none / euler"):
        arms_of(load_matrix(write_files(tmp_path, matrix)))


@pytest.mark.parametrize("path", ["training.seed: 7", "model.seed: 7", "training.trainer.max_steps: 9"])
def test_what_the_matrix_sets_itself_is_no_axis(tmp_path: Path, path: str) -> None:
    matrix = MATRIX.replace("none: {model.fusion: {type: none}}", f"other: {{{path}}}")
    arm = arms_of(load_matrix(write_files(tmp_path, matrix)))[1]
    assert "the matrix sets it" in (arm.refused or "")


def test_guidance_of_layers_that_are_not_there_is_not_trained_for(tmp_path: Path) -> None:
    guidance = "far: {sampling.guidance: {type: stg, layers: [9]}}"
    path = write_files(tmp_path, MATRIX.replace("none: {model.fusion: {type: none}}", guidance))
    arms = buildable(arms_of(load_matrix(path)))
    assert "there is no layer 9" in (arms[1].refused or "")


def test_a_metric_that_the_suite_does_not_give_is_told_before_anything_runs(tmp_path: Path) -> None:
    matrix = load_matrix(write_files(tmp_path), ["metrics=[count_hear]"])
    recipe = arms_of(matrix)[0].recipe
    assert recipe is not None
    with pytest.raises(UserError, match=r"no metric 'count_hear'; there are: .*Did you mean 'count_heard'\?"):
        refuse_unknown_metrics(matrix, recipe)


def test_arms_of_one_component_are_told_apart(tmp_path: Path) -> None:
    matrix = MATRIX.replace("ovi: {}", "ovi:").replace("none: {model.fusion: {type: none}}", (
        "one: {model.fusion: {type: bridge, layers: [0]}}\n"
        "    other: {model.fusion: {type: bridge}, model.fusion.direction: a2v}"
    ))  # fmt: skip
    arms = arms_of(load_matrix(write_files(tmp_path, matrix)))
    assert [arm.changes for arm in arms] == [
        (), ("model.fusion: ovi -> bridge {layers: [0]}",), ("model.fusion: ovi -> bridge {direction: a2v}",),
    ]  # fmt: skip


def test_a_matrix_is_no_recipe() -> None:
    with pytest.raises(UserError, match="this is a matrix of recipes"):
        load_recipe(ROOT / "recipes/ablations/fusion.yaml")


def test_a_slot_comes_before_its_options_whichever_axis_names_which(tmp_path: Path) -> None:
    matrix = MATRIX.replace("  fusion:\n    ovi: {}\n    none: {model.fusion: {type: none}}\n", (
        "  direction:\n    both: {}\n    a2v: {model.fusion.direction: a2v}\n"
        "  fusion:\n    ovi: {}\n    bridge: {model.fusion: {type: bridge}}\n    short: {model.fusion.type: bridge}\n"
    ))  # fmt: skip
    arms = {arm.label: arm for arm in arms_of(load_matrix(write_files(tmp_path, matrix)))}
    for name in ("bridge", "short"):
        recipe = arms[f"a2v / {name}"].recipe
        assert recipe is not None
        assert (recipe.model.fusion.type, recipe.model.fusion.options["direction"]) == ("bridge", "a2v")


@pytest.mark.parametrize("path", ["runtime.guidance: batched", "evaluation.suite: suite.yaml"])
def test_what_changes_no_number_is_no_axis(tmp_path: Path, path: str) -> None:
    matrix = MATRIX.replace("none: {model.fusion: {type: none}}", f"other: {{{path}}}")
    arm = arms_of(load_matrix(write_files(tmp_path, matrix)))[1]
    assert "there is nothing to compare" in (arm.refused or "")


def test_a_network_that_cannot_be_built_is_an_arm_that_is_not_run(tmp_path: Path) -> None:
    matrix = MATRIX.replace("none: {model.fusion: {type: none}}", "far: {model.fusion: {type: bridge, layers: [7]}}")
    arms = buildable(arms_of(load_matrix(write_files(tmp_path, matrix))))
    assert arms[0].refused is None
    assert arms[1].recipe is None
    assert "7" in (arms[1].refused or "")


def test_arms_are_measured_by_one_suite(tmp_path: Path) -> None:
    other = "version: 1\nname: o\nprofile: p\nprompts: {type: toyworld-heldout}\nevaluators: [{type: toy-count}]\n"
    child = "extends: base.yaml\nname: child\nevaluation: {suite: other.yaml}\n"
    matrix = MATRIX.replace("none: {model.fusion: {type: none}}", "child: {recipe: child.yaml, sampling.steps: 3}")
    path = write_files(tmp_path, matrix, child=child, other=other)
    with pytest.raises(UserError, match="different suites"):
        planned(path)
    assert len(planned(path, "suite=suite.yaml").cells) == 4


def test_a_budget_in_seconds_gives_arms_that_differ_in_sampling_one_number_of_steps(tmp_path: Path) -> None:
    matrix = MATRIX.replace("{steps: 4}", "{seconds: 2.0}")
    matrix = matrix.replace("none: {model.fusion: {type: none}}", "more: {sampling.steps: 4}")
    loaded = load_matrix(write_files(tmp_path, matrix))
    arms, kept = arms_of(loaded), tmp_path / "paces.json"
    told: list[str] = []
    first = expectations(loaded, arms, kept, 1, told.append)
    assert told == ["ovi"]
    assert first["ovi"].steps == first["more"].steps
    assert first["ovi"].steps % loaded.measurements == 0
    assert expectations(loaded, arms, kept, 1, told.append) == first
    with pytest.raises(UserError, match=r"budget\.seconds: a budget in seconds is measured on the processor"):
        expectations(loaded, arms_of(load_matrix(write_files(
            tmp_path, matrix.replace("ovi: {}", "ovi: {training.trainer.accelerator: cuda}")
        ))), kept, 1, told.append)  # fmt: skip


def test_a_recipe_is_no_matrix() -> None:
    with pytest.raises(UserError, match="this is a recipe, and a matrix is wanted"):
        load_matrix(ROOT / "recipes/ablations/base.yaml")


MATRICES = sorted(set((ROOT / "recipes/ablations").glob("*.yaml")) - {ROOT / "recipes/ablations/base.yaml"})


@pytest.mark.parametrize("path", MATRICES, ids=lambda path: path.stem)
def test_every_matrix_of_the_project_is_valid(path: Path) -> None:
    plan = planned(path)
    assert [arm.refused for arm in plan.arms if arm.refused] == []
    assert len(plan.matrix.seeds) >= 3
    assert all(arm.changes for arm in plan.arms[1:])


def test_matrices_of_the_project_share_their_baselines() -> None:
    plans = [planned(path) for path in MATRICES]
    assert len({plan.cells[0].training for plan in plans}) == 1
