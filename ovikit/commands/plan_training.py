"""What ``ovikit plan`` says of a recipe that trains: memory of each device, FLOPs of a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ovikit.commands.tables import gb, print_table, tera

if TYPE_CHECKING:
    from rich.console import Console

    from ovikit.recipe.build import Spread
    from ovikit.recipe.models import Recipe
    from ovikit.runtime.training_estimate import CountedAttend, Kept, Sharing, TrainingEstimate

DEVICES = (1, 2, 4, 8, 16, 64)
COMPUTED = {"32-true": 4, "bf16-mixed": 2, "16-mixed": 2, "bf16-true": 2, "64-true": 8}
"""Bytes of a number that a step computes with, by ``training.trainer.precision``."""


def training_figures(recipe: Recipe) -> dict[str, Any] | None:
    """Everything that the command shows of training, as plain values; None where the recipe does not train."""
    if recipe.training is None:
        return None
    one, kept = _estimate(recipe), kept_of(recipe)
    chosen, sequence = recipe.training.trainer.precision, recipe.training.trainer.sequence
    table = [
        {
            "sharing": sharing, "devices": devices, "checkpointed": checkpointed,
            "bytes": one.per_device(sharing, devices, checkpointed, kept),
        }
        for sharing, devices in _choices(sequence)
        for checkpointed in (False, True)
    ]  # fmt: skip
    return {
        "trained": one.trained,
        "frozen": one.frozen,
        "clips": one.clips,
        "precision": chosen,
        "sequence": sequence,
        "activation_bytes": {"kept": one.activations[False], "checkpointed": one.activations[True]},
        "flops": {"kept": one.flops[False], "checkpointed": one.flops[True]},
        "devices": [row | {"total": sum(row["bytes"].values())} for row in table],
    }


def _choices(sequence: int) -> list[tuple[Sharing, int]]:
    """The lines of the table: numbers of devices that ``sequence`` divides."""
    counts = [n for n in DEVICES if n % sequence == 0] or [n * sequence for n in DEVICES]
    return [("ddp", counts[0]), *(("fsdp", n) for n in counts if n > 1)]


def kept_of(recipe: Recipe) -> Kept:
    """How a run of the recipe keeps its numbers."""
    from ovikit.runtime.training_estimate import Kept

    training = recipe.training
    assert training is not None
    computed = COMPUTED[training.trainer.precision]
    whole = computed if training.trainer.precision.endswith("-true") else 4
    states = 2 if training.optimizer.kind == "adamw-8bit" else 2 * whole
    average = max(4, whole) if training.ema is not None and training.ema.on == "device" else 0
    frozen = 2 if training.frozen == "bfloat16" else whole
    return Kept(trained=whole, frozen=frozen, computed=computed, optimizer=states, average=average)


def _estimate(recipe: Recipe) -> TrainingEstimate:
    from ovikit.recipe import build
    from ovikit.runtime.training_estimate import CountedAttend, estimate_training
    from ovikit.training.parameters import adapt, select_trained, stage_modalities
    from ovikit.types import AV

    training, attend = build.training_of(recipe), CountedAttend()
    codecs, conditioner = build.build_codecs(recipe), build.build_conditioner(recipe)
    spread = _spread(attend, training.trainer.sequence)
    model = build.build_model(_computing(recipe), codecs, conditioner, "meta", spread)
    if training.lora is not None:
        adapt(model, training.lora, training.seed)
    select_trained(model, training.stage, training.freeze)
    own = AV.of({m: codecs[m] for m in stage_modalities(training.stage)})
    shapes, grids = own.map(lambda codec: codec.shape()), own.map(lambda codec: codec.grid())
    return estimate_training(model, attend, shapes, grids, conditioner.width, training.batch_size)


def _spread(attend: CountedAttend, sequence: int) -> Spread:
    """How a model is built that attends with ``attend``: that of the first of ``sequence`` devices."""
    from ovikit.recipe.build import ONE_PROCESS, Spread
    from ovikit.runtime.parallel import Peers, spread_over

    spread = ONE_PROCESS if sequence == 1 else spread_over(Peers(None, 0, sequence))
    return Spread(spread.partition, lambda _: spread.attend(attend))


def _computing(recipe: Recipe) -> Recipe:
    """The recipe with a network in the format that its steps compute in, and the attention that every machine has."""
    from ovikit.recipe.build import training_of
    from ovikit.runtime.estimate import with_plain_attention

    dtype = {8: "float64", 4: "float32", 2: "bfloat16"}[COMPUTED[training_of(recipe).trainer.precision]]
    chosen = recipe.model.precision.model_copy(update={"dtype": dtype})
    model = recipe.model.model_copy(update={"precision": chosen})
    return with_plain_attention(recipe.model_copy(update={"model": model}))


def show_training(console: Console, told: dict[str, Any]) -> None:
    """Prints what ``training_figures`` has found."""
    counted, clips, sequence = told["flops"], told["clips"], told["sequence"]
    shared = "" if sequence == 1 else f" whose tokens {sequence} devices share, on each"
    console.print(
        f"training: {told['trained']:,} parameters of {told['trained'] + told['frozen']:,}, in {told['precision']},"
        f" {clips} clip{'s' if clips > 1 else ''} a micro-batch{shared}: {tera(counted['kept'])} TFLOP,"
        f" {tera(counted['checkpointed'])} with activation checkpointing",
        highlight=False,
    )
    kept, again = told["activation_bytes"]["kept"], told["activation_bytes"]["checkpointed"]
    console.print(f"activations of a micro-batch: {gb(kept)} GB, checkpointed {gb(again)} GB", highlight=False)
    if sequence == 1:
        console.print("several devices can share the tokens of a clip: -o training.trainer.sequence=N", highlight=False)
    header = ("GB on each device", "weights", "gradients", "states", "in all", "checkpointed")
    print_table(console, header, [_row(row, kept - again) for row in told["devices"] if not row["checkpointed"]])


def _row(row: dict[str, Any], saved: int) -> tuple[str, ...]:
    """A line of the table. saved: bytes of activations that checkpointing spares."""
    found = row["bytes"]
    name = f"{row['devices']}, {row['sharing']}" if row["sharing"] == "fsdp" else f"{row['devices']}, or more of ddp"
    weights = found["weights"] + found.get("copies", 0) + found.get("gathered", 0)
    parts = (weights, found["gradients"], found["optimizer"] + found["average"], row["total"], row["total"] - saved)
    return (name, *map(gb, parts))
