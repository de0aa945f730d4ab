"""Replays of ``fusion_X``: one evaluation of the joint model, or of one tower alone, per case."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ovikit.types import AV, MODALITIES, Perturbation
from ovikit_ovi.parity.golden import Golden, build_model, grid_of, latents_in, latents_out, skipped_layers, text_in
from ovikit_ovi.tower import TIMESTEPS

Comparison = tuple[str, str, Tensor, Tensor]
"""Case, tensor name, ours, the recorded one."""


@torch.inference_mode()
def replay(golden: Golden, dtype: torch.dtype) -> Iterator[Comparison]:
    """(case, tensor, ours, recorded) of every output in the file."""
    model = build_model(golden, dtype)
    for case, options in golden.cases().items():
        present = [m for m in MODALITIES if golden.get(case, m) is not None]
        latents = AV.of({m: latents_in(m, golden.need(case, m), dtype) for m in present})
        text = AV.of({m: text_in(golden.need(case, f"{m}_context"), dtype) for m in present})
        sigma = golden.need(case, "timestep").to(torch.float64) / TIMESTEPS
        # alone, a tower of the released code is not told of skipped layers
        skipped = skipped_layers(options.get("slg_layer")) if len(present) == len(MODALITIES) else ()
        out = model(
            latents,
            latents.map(lambda _, sigma=sigma: sigma),
            model.embed_text(text, cache=True),
            AV.of({m: grid_of(m, x) for m, x in latents.items()}),
            clean_steps=AV(video=1) if options.get("first_frame_is_clean") else AV(),
            perturbation=Perturbation(skip_layers=skipped),
        )
        for m, velocity in out.items():
            yield case, f"out_{m}", latents_out(m, velocity), golden.need(case, f"out_{m}")
