"""Replays of ``generate_X``: whole denoising loops on the weights of the ``fusion_X`` beside it.

The reference ran the network in float64 and stepped with the released UniPC, which keeps the latents in float32: so
does this, in either precision of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ovikit.errors import UserError
from ovikit.networks.joint import JointModel
from ovikit.numerics.guidance import NEGATIVE, PROMPT, ClassifierFree
from ovikit.numerics.sample import sample
from ovikit.numerics.schedule import ShiftedSchedule
from ovikit.numerics.solver.unipc import UniPC
from ovikit.runtime.passes import BoundNetwork
from ovikit.types import AV, MODALITIES
from ovikit_ovi.parity.golden import Golden, build_model, grid_of, latents_in, latents_out, skipped_layers, text_in

RELEASED_START = 0.999  # first noise level of the released grid, before the shift


def weights_beside(golden: Golden) -> Golden:
    """The ``fusion_X`` file of a ``generate_X``. UserError if it is not there."""
    path = golden.path.with_name(golden.path.name.replace("generate", "fusion", 1))
    if not path.is_file():
        raise UserError("the weights of this file are missing", str(path), f"{golden.path.name} needs it beside it")
    return Golden.read(path)


def _run(golden: Golden, case: str, options: Mapping[str, Any], model: JointModel, dtype: torch.dtype) -> AV[Tensor]:
    noise = AV.of({m: latents_in(m, golden.need(case, f"{m}_noise"), torch.float32) for m in MODALITIES})
    negative = AV.of({m: text_in(golden.need(case, f"{m}_negative_context"), dtype) for m in MODALITIES})
    prompt = text_in(golden.need(case, "context"), dtype)
    contexts = {
        PROMPT: model.embed_text(AV(prompt, prompt), cache=True),
        NEGATIVE: model.embed_text(negative, cache=True),
    }
    clean = (
        AV(latents_in("video", golden.need(case, "first_frame_latent"), torch.float32)) if options.get("i2v") else AV()
    )
    grids = AV.of({m: grid_of(m, x) for m, x in noise.items()})
    scales = AV(golden.option(case, "gv"), golden.option(case, "ga"))
    guidance = ClassifierFree(scales, skipped_layers(options.get("slg")))
    schedule = ShiftedSchedule(golden.option(case, "shift"), start=RELEASED_START, whole_timesteps=True)
    steps = golden.option(case, "steps")
    network = BoundNetwork(model, contexts, grids, dtype, clean.map(lambda first: first.shape[2]))
    return sample(network, noise, schedule, UniPC("float32"), guidance, steps, clean=clean)


@torch.inference_mode()
def replay(golden: Golden, dtype: torch.dtype) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """(case, tensor, ours, recorded) of every generated clip in the file."""
    model = build_model(weights_beside(golden), dtype)
    for case, options in golden.cases().items():
        for m, latents in _run(golden, case, options, model, dtype).items():
            yield case, f"out_{m}", latents_out(m, latents), golden.need(case, f"out_{m}")
