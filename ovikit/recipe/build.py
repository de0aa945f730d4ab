"""A recipe to running parts: the only place that assembles. Networks are given plain values, never a config.

Every function builds what its recipe says and nothing else; random numbers come from generators seeded by the recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ovikit.checkpoints.assets import Assets
from ovikit.checkpoints.format import CheckpointFormat
from ovikit.checkpoints.load import Place, check_file, load_file_into, on_host, place_all
from ovikit.checkpoints.lora import Adapters, read_adapters
from ovikit.checkpoints.state import read_header, read_state
from ovikit.errors import UserError
from ovikit.kernel.catalog import Catalog
from ovikit.kernel.kinds import KINDS
from ovikit.kernel.manager import installed_catalog, installed_plugins
from ovikit.layout import cache_folder
from ovikit.networks.init import initialise
from ovikit.networks.joint import WHOLE, JointModel
from ovikit.networks.precision import Precision
from ovikit.networks.protocols import (
    Attend,
    Backbone,
    ClipSource,
    Codec,
    Conditioner,
    Partition,
    Positions,
    Progress,
)
from ovikit.numerics.protocols import Guidance, Objective, Schedule, Solver
from ovikit.recipe.models import Recipe, Suite
from ovikit.recipe.preparation import Preparation
from ovikit.recipe.sections import CheckpointSlot, Slot
from ovikit.recipe.training import Training
from ovikit.types import AV, ClipSpec, Modality, Rotated

if TYPE_CHECKING:
    from ovikit.evaluation.protocols import Evaluator, Overall, PromptSet


@dataclass(frozen=True, slots=True)
class Sampling:
    """The built parts of a sampling run."""

    schedule: Schedule
    solver: Solver[Any]
    guidance: Guidance
    steps: int
    seed: int
    same_noise_seed: bool
    negative: AV[str]


def build_slot(slot: Slot, catalog: Catalog | None = None, **keywords: Any) -> Any:
    """What the component of a slot builds. UserError naming the component whose options do not fit what it is built
    for; TypeError when the keywords are not those of its kind."""
    if set(keywords) != set(KINDS[slot.kind].keywords):
        raise TypeError(f"a {slot.kind} is built with {KINDS[slot.kind].keywords}, not {tuple(keywords)}")
    component = (catalog or installed_catalog()).find(slot.kind, slot.type).component
    try:
        return component.build(slot.config, **keywords)
    except ValueError as error:
        raise UserError(str(error), f"{slot.kind} '{slot.type}'") from error


def clip_spec(recipe: Recipe) -> ClipSpec:
    """The form of the recipe's clips."""
    form = recipe.clip
    return ClipSpec(form.duration_s, form.height_px, form.width_px, form.frame_rate_hz, form.sample_rate_hz)


def _per_modality(recipe: Recipe, video: Slot | None, audio: Slot | None) -> AV[Slot]:
    """The slots of the modalities that have a tower."""
    pair = AV(video, audio)
    return AV[Slot].of({modality: pair[modality] for modality in recipe.model.modalities})


def find_assets(root: Path | None = None) -> Assets:
    """The weight files of a folder; without one, those that plugins resolve."""
    return Assets(root, lambda name: installed_plugins().resolve_asset(name), cache_folder())


def build_codecs(recipe: Recipe, assets: Assets | None = None) -> AV[Codec]:
    """The codec of each modality that has a tower."""
    clip, codecs, found = clip_spec(recipe), recipe.model.codecs, assets or find_assets()

    def codec(slot: Slot) -> Codec:
        return build_slot(slot, clip=clip, assets=found)

    return _per_modality(recipe, codecs.video, codecs.audio).map(codec)


def build_conditioner(recipe: Recipe, assets: Assets | None = None) -> Conditioner:
    return build_slot(recipe.model.conditioner, assets=assets or find_assets())


def precision_of(recipe: Recipe) -> Precision:
    """The number formats of the recipe's network."""
    chosen = recipe.model.precision
    return Precision(getattr(torch, chosen.dtype), chosen.policy)


@dataclass(frozen=True, slots=True)
class Spread:
    """How the tokens of a clip are shared out between processes.

    attend: makes an ``attend`` that reaches the keys of all processes
    """

    partition: Partition
    attend: Callable[[Attend], Attend]


ONE_PROCESS = Spread(WHOLE, lambda attend: attend)


def build_model(
    recipe: Recipe,
    codecs: AV[Codec],
    conditioner: Conditioner,
    device: torch.device | str = "cpu",
    spread: Spread = ONE_PROCESS,
    *,
    assets: Assets | None = None,
    progress: Progress | None = None,
) -> JointModel:
    """The joint model: its weights drawn from ``model.seed``, or read from ``model.checkpoint``.

    device: where it ends up; "meta": shapes only, no weights
    assets, progress: as in ``fill_model``
    """
    model = _on_meta(recipe, codecs, conditioner, spread)
    if torch.device(device).type == "meta":
        return model

    def place(name: str, tensor: Tensor, scale: Tensor | None = None) -> Tensor:
        return on_host(name, tensor) if torch.device(device).type == "cpu" else tensor.to(device)

    fill_model(model, recipe, assets=assets, place=place, progress=progress)
    return model


def fill_model(
    model: JointModel,
    recipe: Recipe,
    *,
    weights: Path | None = None,
    assets: Assets | None = None,
    place: Place = on_host,
    progress: Progress | None = None,
) -> dict[str, str]:
    """The metadata of the weights that were put into a model without any.

    weights:  a file that is read instead of the recipe's checkpoint; its names are ours, or those of a format that a
              plugin recognises
    assets:   where the checkpoint is found
    place:    where each weight goes, and in which form
    progress: told of the bytes that are there
    """
    if weights is not None:
        return load_weights(model, weights, place, progress)
    if recipe.model.checkpoint is None:
        model.to_empty(device="cpu")
        initialise(model, torch.Generator().manual_seed(recipe.model.seed))
        place_all(model, place)
        return {}
    path, checkpoint = _checkpoint(recipe.model.checkpoint, model, assets)
    return load_file_into(model, path, checkpoint, place, progress)


def check_weights(
    model: JointModel, recipe: Recipe, *, weights: Path | None = None, assets: Assets | None = None
) -> None:
    """Reads the header of what ``fill_model`` would read. UserError for a file that is not of this model: better told
    before eleven gigabytes of text encoder are loaded than after."""
    if weights is None and recipe.model.checkpoint is None:
        return
    found = (weights, format_of(weights)) if weights else _checkpoint(recipe.model.checkpoint, model, assets)
    check_file(model, *found)


def _checkpoint(
    slot: CheckpointSlot | None, model: JointModel, assets: Assets | None
) -> tuple[Path, CheckpointFormat | None]:
    """The recipe's weights file, and how it names its tensors."""
    assert slot is not None
    path = (assets or find_assets()).path(slot.path)
    return path, _unless_ours(build_slot(slot), model, path)


def _unless_ours(checkpoint: CheckpointFormat, model: nn.Module, path: Path) -> CheckpointFormat | None:
    """The format, but None for a file that names its tensors as the model does: a converted folder holds such.
    Most of its names decide, so that one that is missing is told as missing."""
    names = read_header(path).keys()
    return None if 2 * len(names & model.state_dict().keys()) > len(names) else checkpoint


def load_weights(
    model: nn.Module, path: Path, place: Place = on_host, progress: Progress | None = None
) -> dict[str, str]:
    """The metadata of a weights file, after its tensors have been put into the model.

    They are named as in the model, or as in the checkpoint format that a plugin recognises in the file.
    """
    return load_file_into(model, path, format_of(path), place, progress)


def load_adapters(model: nn.Module, path: Path | str, scale: float = 1.0) -> Adapters:
    """The adapters of a file or of a folder of PEFT's, for this model, ``scale`` times as strong. Layers may be named
    as in the model or in any checkpoint format. UserError for a file that is not of this model."""
    modules = cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
    linear = {name: one for name, one in modules if isinstance(one, nn.Linear)}
    layers = {name: (one.out_features, one.in_features) for name, one in linear.items()}
    catalog = installed_catalog()
    formats = [one.component for one in catalog.of("checkpoint_format").values()]
    known = [cast(CheckpointFormat, one.build(one.config())) for one in formats]
    return read_adapters(path, layers, known).scaled(scale)


def format_of(path: Path) -> CheckpointFormat | None:
    """The format that a plugin recognises in a file; None: its names are ours."""
    tensors, metadata = read_state(path)
    name = installed_plugins().detect_checkpoint(tensors, metadata)
    component = None if name is None else installed_catalog().find("checkpoint_format", name).component
    return component and component.build(component.config())


def _on_meta(recipe: Recipe, codecs: AV[Codec], conditioner: Conditioner, spread: Spread) -> JointModel:
    parts, precision = recipe.model, precision_of(recipe)
    attend: Attend = spread.attend(build_slot(parts.attention))
    positions: Positions = build_slot(parts.positions)

    def tower(modality: Modality, slot: Slot) -> nn.Module:
        return build_slot(
            slot,
            modality=modality,
            channels=codecs[modality].channels,
            text_width=conditioner.width,
            precision=precision,
        )

    with torch.device("meta"):
        slots = _per_modality(recipe, parts.video, parts.audio)
        towers = AV[nn.Module].of({modality: tower(modality, slot) for modality, slot in slots.items()})
        told = towers.map(lambda one: cast(Backbone, one))
        for modality, one in told.items():
            _refuse_bad_grid(one, codecs[modality], slots[modality])
        fusion = _fusion(recipe, told, attend)
        rotated = Rotated(parts.rotated.fusion, parts.rotated.text)
        return JointModel(towers, fusion, positions, attend, spread.partition, rotated).to(precision.dtype)


def _fusion(recipe: Recipe, towers: AV[Backbone], attend: Attend) -> Sequence[nn.Module | None]:
    """The fusion of each layer of the deeper tower: those that it has alone are without."""
    depths = sorted(tower.depth for tower in towers.values())
    if len(depths) == 1:  # a tower alone has nobody to meet
        return [None] * depths[0]
    slot, shared = recipe.model.fusion, depths[0]
    fusion: Sequence[nn.Module | None] = build_slot(
        slot,
        depth=shared,
        width=towers.map(lambda one: one.width),
        heads=towers.map(lambda one: one.heads),
        attend=attend,
        precision=precision_of(recipe),
    )
    if len(fusion) != shared:
        raise UserError(
            f"fusion '{slot.type}' built {len(fusion)} layers for towers that share {shared}", "model.fusion"
        )
    return [*fusion, *[None] * (depths[-1] - shared)]


def _refuse_bad_grid(tower: Backbone, codec: Codec, slot: Slot) -> None:
    try:
        tower.grid(codec.grid())
    except ValueError as error:
        raise UserError(str(error), f"{slot.kind} '{slot.type}'", "choose another patch, codec or clip size") from error


def build_sampling(recipe: Recipe) -> Sampling:
    """The parts that turn noise into a clip."""
    parts = recipe.sampling
    return Sampling(
        schedule=build_slot(parts.schedule),
        solver=build_slot(parts.solver),
        guidance=build_slot(parts.guidance),
        steps=parts.steps,
        seed=parts.seed,
        same_noise_seed=parts.same_noise_seed,
        negative=AV(parts.negative.video, parts.negative.audio),
    )


def training_of(recipe: Recipe) -> Training:
    """The recipe's training section. UserError where it has none."""
    if recipe.training is None:
        raise UserError(
            f"recipe '{recipe.name}' has no training section", str(recipe.source) if recipe.source else None
        )
    return recipe.training


def build_objective(recipe: Recipe) -> Objective:
    return build_slot(training_of(recipe).objective)


def default_preparation() -> Preparation:
    """How datasets of a recipe are prepared that does not say how."""
    captioner = installed_catalog().find("captioner", "sidecar").component
    return Preparation(captioner=Slot("captioner", captioner.name, captioner.config()))


def build_dataset(recipe: Recipe) -> ClipSource:
    return build_slot(training_of(recipe).data, clip=clip_spec(recipe))


def build_prompts(suite: Suite, clip: ClipSpec | None) -> PromptSet:
    """The suite's prompts, for clips of a form or without one. UserError where it has none."""
    if suite.prompts is None:
        raise UserError(
            "this suite has no prompts: it measures the clips that are there", str(suite.source or suite.name)
        )
    return build_slot(suite.prompts, clip=clip)


def build_evaluators(suite: Suite, clip: ClipSpec | None, assets: Assets | None = None) -> tuple[Evaluator, ...]:
    found = assets or find_assets()
    return tuple(cast("Evaluator", build_slot(slot, clip=clip, assets=found)) for slot in suite.evaluators)


def build_overall(suite: Suite) -> Overall | None:
    """What makes one score of the suite's metrics; None where it has none."""
    return None if suite.overall is None else build_slot(suite.overall)
