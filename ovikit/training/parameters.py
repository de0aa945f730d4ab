"""Which parameters a run trains: the stage and the freeze patterns, settled before the optimizer is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

from ovikit.data.seeds import generator_for
from ovikit.errors import UserError
from ovikit.networks.lora import add_adapters, is_adapter
from ovikit.recipe.lora import Lora
from ovikit.types import MODALITIES, Modality

Part = Literal["video", "audio", "fusion"]
PARTS: tuple[Part, ...] = ("video", "audio", "fusion")
Stage = Literal["joint", "audio", "video"]


@dataclass(frozen=True, slots=True)
class Count:
    """How many parameters of one part of the model are trained, and how many stay as they are."""

    trained: int
    frozen: int


def stage_modalities(stage: Stage) -> tuple[Modality, ...]:
    """The modalities that a stage trains, video first."""
    return MODALITIES if stage == "joint" else (stage,)


def part_of(name: str) -> Part:
    """The part of a JointModel that a parameter belongs to, from its name: a tower, or what lies between them."""
    pieces = name.split(".")
    if pieces[0] == "towers":
        return "video" if pieces[1] == "video" else "audio"
    if pieces[0] == "layers" and pieces[2] == "blocks":
        return "video" if pieces[3] == "video" else "audio"
    return "fusion"


def adapt(model: nn.Module, lora: Lora, seed: int) -> list[str]:
    """The names of the layers that now have adapters, drawn from the run's seed. UserError where the recipe's patterns
    match no layer."""
    ranks = lora.rank.to_dict()
    try:
        return add_adapters(
            model, lora.targets, lambda name: ranks[part_of(name)], lora.alpha, generator_for(seed, "adapters")
        )
    except ValueError as error:
        raise UserError(str(error), "training.lora.targets") from error


def select_trained(model: nn.Module, stage: Stage, freeze: Sequence[str]) -> None:
    """Leaves ``requires_grad`` set on what is trained: nothing of a modality outside the stage, nothing frozen.

    A stage of one modality never runs the fusion, so the fusion is not trained either. Of a model with adapters nothing
    but those is trained. UserError for a pattern that matches nothing and for a run that would train nothing.
    """
    names = [name for name, _ in model.named_parameters()]
    adapted = any(map(is_adapter, names))
    for pattern in freeze:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:3])
            raise UserError(
                f"the pattern '{pattern}' matches no parameter", "training.freeze", f"parameters are named {shown}, ..."
            )
    trained_parts = PARTS if stage == "joint" else (stage,)
    for name, parameter in model.named_parameters():
        frozen = any(fnmatchcase(name, pattern) for pattern in freeze)
        chosen = is_adapter(name) or not adapted
        parameter.requires_grad_(chosen and part_of(name) in trained_parts and not frozen)
    for modality in stage_modalities(stage):
        if not any(p.requires_grad for name, p in model.named_parameters() if part_of(name) in (modality, "fusion")):
            raise UserError(
                f"stage '{stage}' trains {modality}, but every parameter of it is frozen", "training.freeze"
            )


def shorten_frozen(model: nn.Module) -> None:
    """Keeps the matrices and kernels that are not trained in bfloat16. Gains, biases and tables stay as they are."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv3d) and not module.weight.requires_grad:
            module.weight = nn.Parameter(module.weight.to(torch.bfloat16), requires_grad=False)


@dataclass(frozen=True, slots=True)
class Frozen:
    """What one rule keeps from being trained.

    rule:    the stage, or a pattern
    matched: parameters that it is about
    more:    those that no rule before it froze
    """

    rule: str
    matched: int
    more: int


def frozen_by(model: nn.Module, stage: Stage, freeze: Sequence[str]) -> list[Frozen]:
    """What each rule freezes, in their order: the stage, if it leaves a part out, then the patterns."""
    left_out = () if stage == "joint" else tuple(part for part in PARTS if part != stage)
    rules = [(f"stage {stage}", lambda name: part_of(name) in left_out)] if left_out else []
    if any(map(is_adapter, (name for name, _ in model.named_parameters()))):
        rules.append(("all but adapters", lambda name: not is_adapter(name)))
    rules += [(pattern, lambda name, pattern=pattern: fnmatchcase(name, pattern)) for pattern in freeze]
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    frozen: set[str] = set()
    found: list[Frozen] = []
    for rule, applies in rules:
        names = {name for name in sizes if applies(name)}
        found.append(Frozen(rule, sum(sizes[name] for name in names), sum(sizes[name] for name in names - frozen)))
        frozen |= names
    return found


def count_parameters(model: nn.Module) -> dict[Part, Count]:
    """How many parameters each part of the model has, trained and frozen; parts without any are left out."""
    counts: dict[Part, Count] = {part: Count(0, 0) for part in PARTS}
    for name, parameter in model.named_parameters():
        part, size = part_of(name), parameter.numel()
        old = counts[part]
        grown = (old.trained + size, old.frozen) if parameter.requires_grad else (old.trained, old.frozen + size)
        counts[part] = Count(*grown)
    return {part: count for part, count in counts.items() if count.trained + count.frozen}
