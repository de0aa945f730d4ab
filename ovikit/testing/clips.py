"""Clips to look at and listen to: silent and black ones, noisy ones, a beating one; and what a clip has to be."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ovikit.types import Clip, ClipSpec

CLIP = ClipSpec(duration_s=1.0, height_px=32, width_px=32, frame_rate_hz=8.0, sample_rate_hz=16000)
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]*")


def silent_clip(form: ClipSpec = CLIP) -> Clip:
    """A black picture and silence."""
    video = torch.zeros(form.frames, form.height_px, form.width_px, 3, dtype=torch.uint8)
    return Clip("silent", "", video, torch.zeros(form.samples), form.frame_rate_hz, form.sample_rate_hz)


def noisy_clip(form: ClipSpec = CLIP, seed: int = 0) -> Clip:
    """Noise for the eye and for the ear."""
    generator = torch.Generator().manual_seed(seed)
    shape = (form.frames, form.height_px, form.width_px, 3)
    video = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    audio = (0.2 * torch.randn(form.samples, generator=generator)).clamp(-1, 1)
    return replace(silent_clip(form), name=f"noise-{seed}", prompt="noise", video=video, audio=audio)


def beating_clip(form: ClipSpec = CLIP, beats: int = 2, delay_s: float = 0.0) -> Clip:
    """A picture that lights up and a tone that is struck ``beats`` times, the tone ``delay_s`` after the light."""
    every = form.duration_s / beats
    frames, samples = (
        torch.arange(count, dtype=torch.float64) / rate
        for count, rate in ((form.frames, form.frame_rate_hz), (form.samples, form.sample_rate_hz))
    )
    light = torch.exp(-torch.remainder(frames, every) / 0.1)
    ramp = torch.linspace(0.5, 1.0, form.width_px, dtype=torch.float64)
    picture = (255 * light[:, None, None, None] * ramp[:, None]).expand(-1, form.height_px, -1, 3)
    late = samples - delay_s
    tone = 0.5 * torch.exp(-torch.remainder(late, every) / 0.1) * torch.sin(2 * math.pi * 440 * late) * (late >= 0)
    return replace(silent_clip(form), name="beats", prompt="beats", video=picture.to(torch.uint8), audio=tone.float())


def wrong_form(clip: Clip, form: ClipSpec) -> list[str]:
    """How a clip differs from the form that it should have."""
    wrong = [] if clip.modalities else ["it has neither picture nor sound"]
    rates = (clip.frame_rate_hz, clip.sample_rate_hz)
    if rates != (form.frame_rate_hz, form.sample_rate_hz):
        wrong.append(f"its rates are {rates} Hz")
    if clip.video is not None:
        wanted = (form.frames, form.height_px, form.width_px, 3)
        if tuple(clip.video.shape) != wanted or clip.video.dtype != torch.uint8:
            wrong.append(f"its video is {clip.video.dtype} {tuple(clip.video.shape)}, not uint8 {wanted}")
    if clip.audio is not None:
        if tuple(clip.audio.shape) != (form.samples,) or clip.audio.dtype != torch.float32:
            wrong.append(f"its audio is {clip.audio.dtype} {tuple(clip.audio.shape)}, not float32 {(form.samples,)}")
        elif not bool(torch.isfinite(clip.audio).all()) or float(clip.audio.abs().max()) > 1:
            wrong.append("its audio leaves [-1, 1]")
    return wrong


def is_json(value: Mapping[str, Any]) -> bool:
    """Whether a mapping comes back from JSON as it went in: no tensors, no NaN, no tuples, no numbers as keys."""
    try:
        return json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        return False


def is_file_name(name: str) -> bool:
    """Whether a text can be the name of a file on every system."""
    return _FILE_NAME.fullmatch(name) is not None and len(name) <= 100
