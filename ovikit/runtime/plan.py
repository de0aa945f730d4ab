"""Where the weights lie while clips are made, chosen by what the device has free.

======================  =================================  =====================================  ====================
plan                    while denoising                    while decoding                         while encoding text
======================  =================================  =====================================  ====================
``full``                network, codecs                    network, codecs                        text encoder
``offload-components``  network                            the codec at work                      text encoder
``stream-layers``       embeddings, heads, a few layers    the codec at work                      text encoder
======================  =================================  =====================================  ====================

The text encoder works before the network is loaded and leaves memory for good. ``auto`` takes the first plan that fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from ovikit.errors import UserError
from ovikit.networks.protocols import Codec, Conditioner
from ovikit.recipe.build import precision_of
from ovikit.recipe.models import Recipe
from ovikit.runtime.estimate import Estimate, estimate
from ovikit.runtime.quantize import Format, multiplies_float8
from ovikit.types import AV

Plan = Literal["full", "offload-components", "stream-layers"]
PLANS: tuple[Plan, ...] = ("full", "offload-components", "stream-layers")

SLOTS = 3
"""Layers that are on the device at a time when they are streamed: one at work, one ready, one on its way. With two,
the pass that leaves a layer out would wait for the one after it."""

_SPARE = 0.05
"""Share of what a plan takes that is added for the allocator's gaps and the kernels' workspaces."""
_KEPT = 0.6e9
"""Bytes of the device that are left alone, at most a twentieth of it."""


@dataclass(frozen=True)
class Chosen:
    """A memory plan for one recipe on one device.

    batched:      the passes of a step run as one batch
    reason:       one line for the user
    warnings:     what the user should know
    peaks:        bytes expected on the device, by phase; empty where nothing limits them
    text_on_host: the text encoder is too large for the device and works on the CPU
    quantization, dtype: of the network's weights
    """

    plan: Plan
    batched: bool = False
    compile: bool = False
    reason: str = ""
    warnings: tuple[str, ...] = ()
    peaks: Mapping[str, int] = field(default_factory=dict[str, int])
    text_on_host: bool = False
    quantization: Format = "none"
    dtype: torch.dtype = torch.float32


def choose_for(
    recipe: Recipe,
    codecs: AV[Codec],
    conditioner: Conditioner,
    device: torch.device | str,
    *,
    clips: int = 1,
    free_bytes: int | None = None,
) -> Chosen:
    """The plan for ``clips`` of the recipe at a time. Estimates only where something limits the memory."""
    free = free_memory(device) if free_bytes is None else free_bytes
    limited = free is not None or recipe.runtime.memory.budget_gb is not None
    found = estimate(recipe, codecs, conditioner, clips, multiplies_float8(device)) if limited else None
    return choose(recipe, found, free, device)


def free_memory(device: torch.device | str) -> int | None:
    """Bytes that a device has free; None for the CPU, whose memory the system shares out."""
    device = torch.device(device)
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def choose(
    recipe: Recipe, estimate: Estimate | None, free_bytes: int | None, device: torch.device | str = "cpu"
) -> Chosen:
    """The plan that the recipe names, or the first that fits the device's free memory and the recipe's budget.

    UserError where not even the weights of a plan fit.
    """
    memory = recipe.runtime.memory
    limits = [float("inf") if free_bytes is None else free_bytes]
    limit = min([*limits, *([] if memory.budget_gb is None else [memory.budget_gb * 1e9])])
    common = {"compile": recipe.runtime.compile, "quantization": recipe.model.quantization}
    if estimate is None or limit == float("inf"):
        plan = "full" if memory.plan == "auto" else memory.plan
        told = f"memory plan {plan}: nothing limits the memory" if memory.plan == "auto" else f"memory plan {plan}"
        return Chosen(
            plan, recipe.runtime.guidance == "batched", reason=told, dtype=precision_of(recipe).dtype, **common
        )
    usable = limit - min(_KEPT, limit * _SPARE)
    on_host = _needed(estimate.text) > usable
    wanted = PLANS if memory.plan == "auto" else (memory.plan,)
    options = [
        (plan, batched, peaks(estimate, plan, batched, on_host))
        for plan in wanted
        for batched in _batched(recipe, estimate, plan, device)
    ]
    fitting = [one for one in options if _most(one[2]) <= usable]
    plan, batched, expected = fitting[0] if fitting else options[-1]
    warnings = [] if fitting else [_too_much(estimate, plan, batched, on_host, limit, usable)]
    if on_host:
        warnings.append(f"the text encoder ({_gb(estimate.text)}) is larger than the device: it works on the CPU")
    reason = _reason(memory.plan, plan, batched, expected, limit, options, fitting)
    return Chosen(
        plan, batched, reason=reason, warnings=tuple(warnings), peaks=expected, text_on_host=on_host,
        dtype=precision_of(recipe).dtype, **common,
    )  # fmt: skip


def _batched(recipe: Recipe, estimate: Estimate, plan: Plan, device: torch.device | str) -> tuple[bool, ...]:
    """Whether the passes may run as one batch, the better choice first.

    One pass fills a device by itself; a batch of two pays where each layer has to be fetched for it.
    """
    if estimate.passes == 1:
        return (False,)
    if recipe.runtime.guidance != "auto":
        return (recipe.runtime.guidance == "batched",)
    return (True, False) if plan == "stream-layers" and torch.device(device).type != "cpu" else (False,)


def peaks(estimate: Estimate, plan: Plan, batched: bool = False, text_on_host: bool = False) -> dict[str, int]:
    """Bytes on the device at the worst moment of each phase, the margin not counted."""
    at_work = working(estimate, batched)
    network = held(estimate, plan)
    found = {} if text_on_host else {"text": estimate.text}
    found["denoising"] = network + (estimate.codecs if plan == "full" else 0) + at_work
    for modality, taken in estimate.decode.items():
        kept = estimate.network + estimate.codecs if plan == "full" else estimate.codec(modality)
        found[f"{modality} decoding"] = kept + taken
    return found


def held(estimate: Estimate, plan: Plan) -> int:
    """Bytes of the network's weights on the device while it is at work."""
    if plan != "stream-layers":
        return estimate.network
    return estimate.resident + min(SLOTS, len(estimate.layers)) * max(estimate.layers)


def working(estimate: Estimate, batched: bool) -> int:
    """Bytes of text and activations while denoising. A batch of passes holds the texts twice: apart and joined."""
    together = estimate.passes if batched else 1
    return estimate.contexts * estimate.passes * (2 if batched else 1) + estimate.activations * together


def _needed(taken: float) -> float:
    return taken * (1 + _SPARE)


def _most(expected: Mapping[str, int]) -> float:
    return _needed(max(expected.values()))


def _too_much(estimate: Estimate, plan: Plan, batched: bool, on_host: bool, limit: float, usable: float) -> str:
    """What to say of a plan that is taken though it does not fit. UserError where it cannot even hold its weights."""
    expected = peaks(estimate, plan, batched, on_host)
    phase = max(expected, key=expected.__getitem__)
    told = f"memory plan {plan} needs about {_gb(_most(expected))} while {_doing(phase)}, and there are {_gb(limit)}"
    ways = [
        *(PLANS[PLANS.index(plan) + 1 :] and [f"runtime.memory.plan={PLANS[-1]}"]),
        "quantization",
        "a smaller clip",
    ]
    hint = f"try {', '.join(ways[:-1])} or {ways[-1]}"
    if held(estimate, plan) > usable:
        raise UserError(told, "runtime.memory", hint)
    return f"{told}: it may run out; {hint}"


def _reason(
    asked: str, plan: Plan, batched: bool, expected: Mapping[str, int], limit: float,
    options: list[tuple[Plan, bool, dict[str, int]]], fitting: list[tuple[Plan, bool, dict[str, int]]],
) -> str:  # fmt: skip
    phase = max(expected, key=expected.__getitem__)
    told = f"memory plan {plan}: about {_gb(_most(expected))} of {_gb(limit)} at its peak, while {_doing(phase)}"
    if batched:
        told += "; both passes of a step as one batch"
    if asked == "auto" and fitting and (passed := options[: options.index(fitting[0])]):
        larger = {name: _gb(_most(found)) for name, _, found in passed if name != plan}
        told += "".join(f"; {name} would take {size}" for name, size in larger.items())
    return told


def _doing(phase: str) -> str:
    return (
        "encoding text"
        if phase == "text"
        else phase.removeprefix("video ").removeprefix("audio ") + (f" {phase.split()[0]}" if " " in phase else "")
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e9:.3g} GB"


def plans_of(estimate: Estimate, batched: bool) -> Iterator[tuple[Plan, dict[str, int]]]:
    """Each plan with its peaks."""
    for plan in PLANS:
        yield plan, peaks(estimate, plan, batched)
