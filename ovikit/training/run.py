"""A recipe to a trained model in a run folder."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning as L  # as its documentation writes it
import torch
from lightning.pytorch.loggers import Logger
from rich.console import Console

from ovikit.checkpoints.assets import Assets
from ovikit.data.encoded import EncodedClips, EncodedSource
from ovikit.data.latents import prepare_latents
from ovikit.data.sampler import EpochSampler
from ovikit.data.shards import DamagedClipError
from ovikit.errors import UserError
from ovikit.kernel.observe import observed
from ovikit.networks.joint import JointModel
from ovikit.networks.protocols import ClipSource, Codec, Conditioner
from ovikit.numerics.protocols import Objective
from ovikit.progress import clock
from ovikit.recipe import build
from ovikit.recipe.load import load_suite
from ovikit.recipe.lock import write_lock
from ovikit.recipe.models import Recipe
from ovikit.recipe.training import Training
from ovikit.runtime.compile import compile_layers
from ovikit.runtime.parallel import Peers, spread_over
from ovikit.runtime.recompute import checkpoint_layers
from ovikit.training.callbacks import Checkpoints, StopOnSignal
from ovikit.training.datamodule import LatentData
from ovikit.training.display import TrainingProgress, choices_table, encoding_progress, freeze_table, training_table
from ovikit.training.draws import Choices
from ovikit.training.ema import Ema, final_weights
from ovikit.training.initial import fill_parts, initial_digests
from ovikit.training.loggers import make_loggers
from ovikit.training.metrics import CsvLog, Metrics, columns
from ovikit.training.module import JointTraining
from ovikit.training.optimizer import AdamWCosine
from ovikit.training.parameters import Stage, adapt, frozen_by, select_trained, shorten_frozen, stage_modalities
from ovikit.training.runfolder import RunFolder
from ovikit.training.sharing import CheckpointFiles
from ovikit.training.validate import Plan, Validate
from ovikit.training.watch import LossWatch, NonFiniteError
from ovikit.training.world import World, find_world, strategy_of
from ovikit.types import AV, ClipSpec, TokenGrid

WEIGHT_DTYPES = {"64-true": torch.float64, "bf16-true": torch.bfloat16}
"""Of the precisions whose weights are not float32."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended.

    step:       optimizer steps done, of ``steps``
    weights:    the final weights; None when the run was stopped before its end
    stopped_by: the signal that stopped it
    checkpoint: the newest checkpoint
    """

    run: Path
    step: int
    steps: int
    weights: Path | None
    stopped_by: signal.Signals | None
    checkpoint: Path | None


def train(
    recipe: Recipe,
    run: Path | str,
    *,
    resume: bool = False,
    console: Console | None = None,
    cache: Path | None = None,
    assets: Assets | None = None,
    skip_bad: bool = False,
) -> TrainResult:
    """The result of training the recipe in the folder ``run``, until its last step or until it is told to stop.

    cache:  where encoded clips are kept, for runs that share them; default: in the run's folder
    assets: where the recipe's components find their weights; default: where plugins find them
    skip_bad: leave out clips of a prepared dataset that cannot be read; otherwise they end the run

    A run that is finished is left as it is. UserError when the folder holds another recipe's run, or an unfinished
    run and ``resume`` is not set; NonFiniteError when a loss is not a number.
    """
    training = build.training_of(recipe)
    world = find_world(training.trainer)
    world.share(training.micro_batches)  # which refuses what cannot be shared
    folder = RunFolder(Path(run), training.lora is not None)
    shown = console if console is not None and world.main else Console(quiet=True)
    _refuse_rounded_weights(recipe)
    folder.refuse_other_recipe(recipe)
    steps = training.trainer.max_steps
    if (done := folder.finished_step()) is not None:
        shown.print(f"this run is finished: {done} steps, weights in {folder.weights}")
        return TrainResult(folder.path, done, steps, folder.weights, None, folder.last)
    newest = folder.newest()
    if newest is not None and not resume:
        raise UserError(
            f"this folder holds a run that stopped at step {newest[0]} of {steps}",
            str(folder.path),
            "go on with --resume, give another folder with --run, or delete this one",
        )
    found = assets or build.find_assets()
    parts = _checked(recipe, training, found)  # before the folder is made
    for error in newest[2] if newest is not None else ():
        shown.print(f"{error}; an older one takes its place", markup=False)
    begun, encoded = newest and newest[:2], cache or folder.cache
    whole = _Run(recipe, training, parts, folder, begun, shown, encoded, found, skip_bad, world)
    if not world.main:
        return _train(whole)
    base = recipe.model.checkpoint
    write_lock(
        recipe, folder.lock, checkpoint_sha256=None if base is None else found.digest(base.path),
        initial_sha256=initial_digests(training.initial),
    )  # fmt: skip
    with observed("train", folder.path, recipe.name, recipe.digest) as told:
        result = _train(whole)
        told.results = {"step": float(result.step)}
        if result.stopped_by is not None:
            told.stopped = f"stopped by {result.stopped_by.name} at step {result.step} of {result.steps}"
    return result


def _refuse_rounded_weights(recipe: Recipe) -> None:
    """UserError where the recipe keeps weights in a format that they are only sampled with."""
    model = recipe.model
    if model.quantization != "none":
        raise UserError(
            f"weights in {model.quantization} cannot be trained", "model.quantization", "-o model.quantization=none"
        )
    if model.precision.dtype != "float32":
        raise UserError(
            f"a network in {model.precision.dtype} cannot be trained",
            "model.precision.dtype",
            "-o model.precision.dtype=float32; training.trainer.precision says what training computes in",
        )


@dataclass(frozen=True, slots=True)
class _Parts:
    """What stands around the network; no weights of it are read."""

    codecs: AV[Codec]
    conditioner: Conditioner
    objective: Objective
    source: ClipSource

    def of(self, stage: Stage) -> AV[Codec]:
        """The codecs of what a stage trains."""
        return AV.of({modality: self.codecs[modality] for modality in stage_modalities(stage)})


def _checked(recipe: Recipe, training: Training, assets: Assets) -> _Parts:
    """The parts of a run, after all that can be refused without reading weights or clips."""
    parts = _Parts(
        build.build_codecs(recipe, assets), build.build_conditioner(recipe, assets), build.build_objective(recipe),
        build.build_dataset(recipe),
    )  # fmt: skip
    model = build.build_model(recipe, parts.codecs, parts.conditioner, "meta")
    build.check_weights(model, recipe, assets=assets)
    _choose(model, training)
    if (suite := recipe.validation_suite()) is not None:
        build.build_evaluators(load_suite(suite), build.clip_spec(recipe))  # an unknown metric is told now
    if isinstance(parts.source, EncodedSource):
        parts.source.open(parts.of(training.stage), parts.conditioner, training.first_frame > 0)
    return parts


def _choose(model: JointModel, training: Training) -> None:
    """Settles what of the model is trained, and as what."""
    if training.lora is not None:
        adapt(model, training.lora, training.seed)
    select_trained(model, training.stage, training.freeze)
    if training.frozen == "bfloat16":
        shorten_frozen(model)


def _encoded(run: _Run) -> EncodedClips:
    """The dataset as the networks see it: opened where it is encoded already, encoded by the first process where it is
    not."""
    training, parts = run.training, run.parts
    codecs, first_frames = parts.of(training.stage), training.first_frame > 0
    if isinstance(parts.source, EncodedSource):
        return parts.source.open(codecs, parts.conditioner, first_frames)
    with encoding_progress(run.console) as report:
        return prepare_latents(
            parts.source, codecs, parts.conditioner, build.clip_spec(run.recipe), run.cache, report,
            device=_encoding_device(training), first_frames=first_frames, wait=not run.world.main,
        )  # fmt: skip


def _encoding_device(training: Training) -> str:
    """Where clips and prompts are encoded."""
    on_cuda = training.trainer.accelerator in ("cuda", "auto") and torch.cuda.is_available()
    return "cuda" if on_cuda else "cpu"


@dataclass(frozen=True, slots=True)
class _Run:
    """What a run is, and where. begun: the step and the checkpoint that it goes on from."""

    recipe: Recipe
    training: Training
    parts: _Parts
    folder: RunFolder
    begun: tuple[int, Path] | None
    console: Console
    cache: Path
    assets: Assets
    skip_bad: bool
    world: World


def _train(run: _Run) -> TrainResult:
    recipe, training, parts = run.recipe, run.training, run.parts
    codecs, objective = parts.of(training.stage), parts.objective
    clips = _encoded(run)
    # Only now: the text encoder and the network together may be more than there is memory for.
    model = build.build_model(recipe, parts.codecs, parts.conditioner, spread=_spread(run.world), assets=run.assets)
    # Lightning reads a checkpoint before it converts the module, which would round float64 weights on the way.
    model = model.to(WEIGHT_DTYPES.get(training.trainer.precision))
    if run.begun is None:
        fill_parts(model, training.initial)
    _choose(model, training)
    _tell(run.console, model, objective, training, clips)
    optimizer, trainer = training.optimizer, training.trainer
    if trainer.activation_checkpointing:
        checkpoint_layers(model)
    if trainer.compile:
        compile_layers(model)
    module = JointTraining(
        model,
        objective,
        [_grids(codecs, bucket.form) for bucket in clips.buckets],
        AdamWCosine(steps=trainer.max_steps, **optimizer.to_dict()),
        LossWatch(clips.names),
        seed=training.seed,
        choices=_choices(training),
        gradient_clip=trainer.gradient_clip,
        sequence=run.world.sequence,
    )
    return _fit(run, module, clips)


def _spread(world: World) -> build.Spread:
    """How the tokens of a clip are shared out. The processes meet when Lightning has started them."""
    if world.sequence == 1:
        return build.ONE_PROCESS
    return spread_over(Peers(None, world.rank % world.sequence, world.sequence))


def _grids(codecs: AV[Codec], form: ClipSpec) -> AV[TokenGrid]:
    return codecs.map(lambda codec: codec.for_clip(form).grid())


def _tell(console: Console, model: JointModel, objective: Objective, training: Training, clips: EncodedClips) -> None:
    """Shows what is trained, what is frozen, and what is drawn and read."""
    modalities = stage_modalities(training.stage)
    console.print(training_table(model, objective, modalities, len(clips), training.optimizer))
    if frozen := frozen_by(model, training.stage, training.freeze):
        console.print(freeze_table(frozen))
    console.print(choices_table(objective, training, clips))


def _choices(training: Training) -> Choices:
    dropout = training.modality_dropout
    given = AV(video=dropout.audio_from_video, audio=dropout.video_from_audio)
    return Choices(training.text_dropout, training.first_frame, training.same_noise, given)


def _fit(run: _Run, module: JointTraining, clips: EncodedClips) -> TrainResult:
    training, folder, console = run.training, run.folder, run.console
    start, point = run.begun or (None, None)
    settings = training.trainer
    ema = Ema(training.ema.decay, on_host=training.ema.on == "host") if training.ema is not None else None
    metrics = Metrics(settings.log_every_steps, len(clips), training.batch_size * training.micro_batches)
    stop = StopOnSignal(console.print)
    checkpoints = Checkpoints(
        folder.checkpoints, settings.checkpoint_every_steps,
        sharded=settings.checkpoints == "sharded" and run.world.kind == "fsdp", keep=settings.keep_checkpoints,
    )  # fmt: skip
    shown = TrainingProgress(console, metrics)
    callbacks: list[L.Callback] = [one for one in (ema, metrics, stop, shown, checkpoints) if one is not None]
    if (plan := _validation(run)) is not None:
        callbacks.append(Validate(folder.path, plan, checkpoints, stop, console))
    main = run.world.main
    logs: list[Logger] = [CsvLog(folder.metrics, columns(stage_modalities(training.stage)), start or 0)] if main else []
    if main:
        logs += make_loggers(settings.loggers, folder.path, run.recipe)
    sizes = tuple(len(bucket.clips) for bucket in clips.buckets)
    sampler = EpochSampler(sizes, training.batch_size * training.micro_batches, training.seed)
    data = LatentData(clips, sampler, run.world.share(training.micro_batches), settings.workers, run.skip_bad)
    if start is not None:
        console.print(f"going on from step {start} of {settings.max_steps}")
    with _quiet_lightning(), _told_what_is_kept(folder, point, checkpoints):
        trainer = make_trainer(training, folder.path, callbacks, logs, run.world)
        trainer.fit(module, datamodule=data, ckpt_path=point, weights_only=True)
    step = trainer.global_step
    if step < settings.max_steps:
        return TrainResult(folder.path, step, settings.max_steps, None, stop.received, checkpoints.last)
    weights = final_weights(module, ema)  # which all processes gather
    if main:
        folder.write_weights(weights, run.recipe, step, ema is not None)
        console.print(f"trained {step} steps in {clock(metrics.elapsed_s)}: {folder.weights}")
    return TrainResult(folder.path, step, settings.max_steps, folder.weights, None, checkpoints.last)


def _validation(run: _Run) -> Plan | None:
    """What is validated on the way; None: nothing."""
    chosen, suite = run.training.validation, run.recipe.validation_suite()
    if chosen is None or suite is None:
        return None
    return Plan(chosen.every_steps, suite.resolve(), run.assets.root, _encoding_device(run.training))


@contextmanager
def _told_what_is_kept(folder: RunFolder, point: Path | None, checkpoints: Checkpoints) -> Iterator[None]:
    """Errors of training with the last good checkpoint and how to go on; UserError also in place of what PyTorch says
    of a process that prepared batches and is gone."""
    try:
        yield
    except NonFiniteError as error:
        kept = _kept(checkpoints.last or point)
        raise error.with_hint(f"{kept}; look at these clips, or lower training.optimizer.learning_rate") from error
    except UserError as error:
        if error.hint is not None:
            raise
        way = "go on with --resume when this is mended"
        if isinstance(error, DamagedClipError):
            way = "prepare the dataset again, or go on without: --resume --on-bad-clip skip"
        hint = f"{_kept(checkpoints.last or point)}; {way}"
        raise UserError(error.what, error.where, hint) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            "a process that prepares batches was killed, often because memory ran out", str(folder.path),
            f"{_kept(checkpoints.last or point)}; go on with --resume, with fewer training.trainer.workers if need be",
        ) from error  # fmt: skip


def make_trainer(
    training: Training, folder: Path, callbacks: list[L.Callback], logs: list[Logger], world: World
) -> L.Trainer:
    """Lightning's Trainer with the fields that a recipe may set, and everything else as ovikit needs it."""
    settings = training.trainer
    return L.Trainer(
        max_steps=settings.max_steps,
        accumulate_grad_batches=world.share(training.micro_batches).own,
        accelerator=settings.accelerator,
        devices=world.devices,
        num_nodes=world.nodes,
        strategy=strategy_of(world, settings.checkpoints == "sharded"),
        precision=settings.precision,
        callbacks=callbacks,
        logger=logs,
        default_root_dir=folder,
        # one endless epoch that may be left at any step
        max_epochs=-1,
        min_epochs=0,
        # ours are atomic, and know the run folder
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        # who starts processes has been found out already
        plugins=[world.environment] if world.kind == "fsdp" else [world.environment, CheckpointFiles()],
    )


def _kept(checkpoint: Path | None) -> str:
    return f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint had been written yet"


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning without its tips and its list of devices. Warnings pass, except those named here, which are about
    loaders and Lightning's own code, which a user of a recipe cannot change."""
    names = ("pytorch", "pytorch.utilities.rank_zero", "fabric", "fabric.utilities.distributed")
    loggers = [logging.getLogger(f"lightning.{name}") for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
            # of layers: nothing writes into what they return
            warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor.*")
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)` is deprecated.*")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
