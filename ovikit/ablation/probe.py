"""What a cell will take, measured on a few training steps and one clip before anything is run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovikit.ablation.cell import BATCH
from ovikit.ablation.cells import Arm, training_digest
from ovikit.ablation.matrix import Matrix
from ovikit.data.encoded import Encoded
from ovikit.data.seeds import generator_for
from ovikit.errors import UserError
from ovikit.evaluation.runner import build_bench
from ovikit.files import atomic_write_json
from ovikit.generate.batch import clip_of, through_codecs
from ovikit.generate.orders import refuse_layers
from ovikit.kernel.catalog import suggestion
from ovikit.networks.loaded import loaded
from ovikit.networks.protocols import Codec, Conditioner
from ovikit.numerics.evaluations import count_evaluations
from ovikit.recipe import build
from ovikit.recipe.load import load_suite
from ovikit.recipe.models import Recipe
from ovikit.training.batches import Batch
from ovikit.training.draws import Choices
from ovikit.training.module import JointTraining
from ovikit.training.optimizer import AdamWCosine
from ovikit.training.parameters import select_trained, stage_modalities
from ovikit.training.watch import LossWatch
from ovikit.types import AV, Text

_STEPS = 4
_FILES = 1.5
"""What writing and reading a clip's file adds to decoding it and looking at it."""
_STARTING_S = 8.0
"""Imports, the data set's latents from the cache, and building, for each cell."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of one training step, of a network evaluation of one clip, and of what is done to a finished clip."""

    step: float
    evaluation: float
    clip: float


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a cell of an arm is expected to take."""

    steps: int
    seconds: float
    training_seconds: float
    evaluations: int


def buildable(arms: Sequence[Arm]) -> list[Arm]:
    """The arms, those refused with the reason whose network cannot be built, or cannot be sampled as they say: a layer
    that the towers have not got, heads that do not fit. UserError where it is the baseline's."""
    found: list[Arm] = []
    for arm in arms:
        try:
            if arm.recipe is not None:
                codecs, conditioner = build.build_codecs(arm.recipe), build.build_conditioner(arm.recipe)
                model = build.build_model(arm.recipe, codecs, conditioner, "meta")
                refuse_layers(build.build_sampling(arm.recipe), model)
            found.append(arm)
        except UserError as error:
            if not found:
                raise
            found.append(replace(arm, recipe=None, refused=error.render()))
    return found


def refuse_unknown_metrics(matrix: Matrix, recipe: Recipe) -> None:
    """UserError for a metric that the matrix wants and its suite does not give."""
    path = matrix.suite_path or recipe.suite_path()
    if path is None:
        return
    measures = build_bench(load_suite(path), recipe).measures
    known = [spec.name for measure in measures for spec in measure.evaluator.metrics]
    for name in matrix.metrics:
        if name not in known:
            raise UserError(
                f"the suite gives no metric '{name}'; {suggestion(name, known)}", f"{matrix.source}: metrics"
            )


def pace_of(recipe: Recipe, suite: Path | None) -> Pace:
    """Measured on this machine's processor now, on random latents; nothing is written."""
    codecs, conditioner = build.build_codecs(recipe), build.build_conditioner(recipe)
    model = build.build_model(recipe, codecs, conditioner)
    training = build.training_of(recipe)
    learned = AV.of({m: codecs[m] for m in stage_modalities(training.stage)})
    generator = generator_for(0, "probe")

    def latents(of: AV[Codec], clips: int) -> AV[Tensor]:
        return of.map(lambda codec: torch.randn((clips, *codec.shape()), generator=generator))

    text = _text(conditioner, training.batch_size)
    step = _training_step(recipe, model, learned, latents(learned, training.batch_size), text)
    x, sigma = latents(codecs, BATCH), AV(*(torch.full((BATCH,), 0.5),) * 2)
    shown = _text(conditioner, BATCH)

    @torch.no_grad()
    def evaluation() -> None:
        contexts = model.embed_text(codecs.map(lambda _: shown), cache=False)
        model(x, codecs.zip(sigma, lambda _, level: level), contexts, codecs.map(lambda codec: codec.grid()))

    return Pace(_timed(step), _timed(evaluation) / BATCH, _clip_seconds(recipe, codecs, suite))


def _text(conditioner: Conditioner, clips: int) -> Text:
    """As long as the empty prompt's, whose time differs little from others' where texts are padded."""
    return conditioner.encode([""] * clips)


def _training_step(
    recipe: Recipe, model: nn.Module, codecs: AV[Codec], latents: AV[Tensor], text: Text
) -> Callable[[], None]:  # fmt: skip
    training = build.training_of(recipe)
    select_trained(model, training.stage, training.freeze)
    module = JointTraining(
        model, build.build_objective(recipe), [codecs.map(lambda codec: codec.grid())],
        AdamWCosine(steps=100, **training.optimizer.to_dict()), LossWatch(["probe"]),
        seed=0, choices=Choices(), gradient_clip=None,
    )  # fmt: skip
    optimizer, _ = module.make_optimizer(model, fused=True)
    batch = Batch([0], Encoded(latents, latents.map(lambda _: text)), text)

    def step() -> None:
        losses = module.losses(batch)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _clip_seconds(recipe: Recipe, codecs: AV[Codec], path: Path | None) -> float:
    """Seconds to encode, decode and look at one clip of the suite: about what writing and reading it takes too."""
    if path is None:
        return 0.0
    form = build.clip_spec(recipe)
    bench = build_bench(load_suite(path), recipe)
    clip = bench.prompts.reference(0)
    with loaded(*codecs.values()), torch.no_grad():
        if clip is None:
            empty = codecs.map(lambda codec: codec.decode(torch.zeros(1, *codec.shape()))[0])
            clip = clip_of("probe", "", empty, form)
        given = clip

        def look() -> None:
            seen = through_codecs(given, codecs, form)
            for measure in bench.measures:
                measure.evaluator.features(seen)

        return _FILES * _timed(look)


def _timed(work: Callable[[], None]) -> float:
    """Seconds of one call: the shortest of a few, after one that warms up."""
    work()
    spent: list[float] = []
    for _ in range(_STEPS):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return min(spent)


def expectation(matrix: Matrix, recipe: Recipe, pace: Pace, prompts: int) -> Expectation:
    """Of one cell, at that pace. Where the budget is in seconds, the steps that fit into it, a whole number for each
    measurement."""
    times = matrix.measurements
    steps = matrix.budget.steps
    if steps is None:
        assert matrix.budget.seconds is not None
        steps = max(1, int(matrix.budget.seconds / pace.step) // times) * times
    parts = build.build_sampling(recipe)
    count = count_evaluations(parts.schedule, parts.solver, parts.guidance, parts.steps, recipe.model.modalities)
    measuring = times * prompts * (count * pace.evaluation + pace.clip)
    training = steps * pace.step
    return Expectation(steps, _STARTING_S + training + measuring, training, count)


def expectations(
    matrix: Matrix, arms: list[Arm], kept: Path, threads: int, shown: Callable[[str], None]
) -> dict[str, Expectation]:
    """What a cell of each valid arm takes, by its label. Paces are kept in a file: a budget in seconds means the same
    steps whenever the matrix is run again. Recipes that differ in sampling alone have one pace, and so one number of
    steps.

    threads: that a cell computes with, unless OMP_NUM_THREADS says another number

    UserError for a budget in seconds of a recipe that trains elsewhere than on the processor, where paces are measured.
    """
    threads = int(os.environ.get("OMP_NUM_THREADS", threads))
    torch.set_num_threads(threads)

    known: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    found: dict[str, Expectation] = {}
    for arm in arms:
        if arm.recipe is None:
            continue
        if matrix.budget.seconds is not None:
            _refuse_other_devices(arm.recipe)
        path = matrix.suite_path or arm.recipe.suite_path()
        key = f"{training_digest(arm.recipe)[:32]}, {threads} threads"
        if key not in known:
            shown(arm.label)
            known[key] = asdict(pace_of(arm.recipe, path))
            atomic_write_json(kept, known)
        found[arm.label] = expectation(matrix, arm.recipe, Pace(**known[key]), _prompts(path, arm.recipe))
    return found


def _refuse_other_devices(recipe: Recipe) -> None:
    accelerator = build.training_of(recipe).trainer.accelerator
    if accelerator != "cpu" and not (accelerator == "auto" and not torch.cuda.is_available()):
        raise UserError(
            f"a budget in seconds is measured on the processor, and recipe '{recipe.name}' trains on {accelerator}",
            "budget.seconds",
            "give budget.steps, or set training.trainer.accelerator to cpu",
        )


def _prompts(path: Path | None, recipe: Recipe) -> int:
    return 0 if path is None else len(build.build_prompts(load_suite(path), build.clip_spec(recipe)))


def total_seconds(plan_cells: list[tuple[str, str]], expected: Mapping[str, Expectation], jobs: int) -> float:
    """Of (arm's label, training digest) pairs: a training that cells share counts once."""
    trained: set[str] = set()
    seconds = 0.0
    for arm, training in plan_cells:
        one = expected[arm]
        seconds += one.seconds - (one.training_seconds if training in trained else 0.0)
        trained.add(training)
    return seconds / jobs
