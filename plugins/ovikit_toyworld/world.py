"""The toy world rendered: a story to pixels and to a waveform, exactly in time.

Shape legend: f frames, p poses of the ball, y x pixels.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from ovikit.types import Clip, ClipSpec
from ovikit_toyworld.story import KINDS, PITCH_HZ, Story, tell

Array = NDArray[np.float32]

VERSION = "1"
GLOW_DECAY_S = 0.16
TONE_DECAY_S = 0.13
TONE_LENGTH_S = 0.6
FALL_S = 0.25
FLOOR = 0.80
"""Where the ground begins, as a fraction of the height."""

BALL = np.array([[0.86, 0.07, 0.05], [0.04, 0.62, 0.12], [0.07, 0.17, 0.95]], np.float32)
GLOW = np.array([[1.0, 0.26, 0.12], [0.22, 1.0, 0.30], [0.22, 0.42, 1.0]], np.float32)
SKY_TOP = np.array([[0.035, 0.045, 0.10], [0.05, 0.04, 0.10]], np.float32)
SKY_LOW = np.array([[0.13, 0.14, 0.22], [0.19, 0.13, 0.19]], np.float32)
GROUND = np.array([[0.085, 0.085, 0.12], [0.11, 0.085, 0.11]], np.float32)


def pulses(story: Story, frames: int, rate_hz: float, decay_s: float) -> Array:
    """(f,) how strongly each frame shows its events: 1 at an event's frame, then falling exponentially."""
    age = np.arange(frames)[:, None] - np.asarray(story.event_frames)[None, :]
    return np.where(age >= 0, np.exp(-age / (decay_s * rate_hz)), 0.0).sum(1).astype(np.float32)


def height(story: Story, frames: int, rate_hz: float) -> Array:
    """(f,) height of a bouncing ball over the ground, from 0 to 1: it hovers, falls, hits the ground and rises.

    It touches the ground at the event's frame exactly.
    """
    distance = np.abs(np.arange(frames)[:, None] - np.asarray(story.event_frames)[None, :]).min(1) / rate_hz
    return (1.0 - np.clip(1.0 - distance / FALL_S, 0.0, 1.0) ** 2).astype(np.float32)


def picture(story: Story, clip: ClipSpec) -> NDArray[np.uint8]:
    """(f, y, x, 3) RGB: the pictures of a story."""
    y, x = _axes(clip)
    low = height(story, clip.frames, clip.frame_rate_hz) if KINDS[story.cast.kind] == "bounce" else np.ones(clip.frames)
    poses, which = np.unique(np.round(low.astype(np.float32), 4), return_inverse=True)
    still, lit = _poses(story, y, x, poses[:, None, None])
    glow = pulses(story, clip.frames, clip.frame_rate_hz, GLOW_DECAY_S)
    out = np.empty((clip.frames, clip.height_px, clip.width_px, 3), np.uint8)
    for frame, (pose, level) in enumerate(zip(which, glow, strict=True)):  # one frame fits the cache, a clip does not
        light = np.minimum((still[pose] + level * lit[pose]) * _LEVELS, 2 * _LEVELS - 1)
        out[frame] = _TONE_CURVE.take(light.astype(np.uint16))
    return out


_LEVELS = 2048
_TONE_CURVE = (np.clip(np.arange(2 * _LEVELS) / _LEVELS, 0.0, 1.0) ** (1 / 1.5) * 255.0 + 0.5).astype(np.uint8)
"""Linear light, in 2048 steps up to white, to pixel values."""


def _poses(story: Story, y: Array, x: Array, up: Array) -> tuple[Array, Array]:
    """(p, y, x, 3) twice, of balls at heights ``up`` (p, 1, 1): the picture at rest, and what an event adds to it."""
    ground = FLOOR + 0.045
    if KINDS[story.cast.kind] == "bounce":
        squash = 1.0 - 0.28 * np.clip(1.0 - up / 0.35, 0.0, 1.0)
        centre = ground - story.radius * squash - up * (ground - story.radius - story.rest)
        light = ground - 0.3 * story.radius
    else:
        squash, centre, light = np.ones_like(up), np.full_like(up, story.rest), story.rest
    cover, shade, shine = _ball(story, y, x, centre, squash)
    base = _background(story, y, x) * (1.0 - _shadow(story, y, x, centre, ground)[..., None])
    body = shade[..., None] * BALL[story.cast.colour] + shine[..., None]
    glow = GLOW[story.cast.colour]
    own = (cover * (0.35 + 0.65 * shade))[..., None] * (0.45 * glow + 0.3)
    lit = _light(story, y, x, light, ground)[..., None] * glow + own
    return base + (body - base) * cover[..., None], lit


def _axes(clip: ClipSpec) -> tuple[Array, Array]:
    """Pixel centres (1, y, 1) and (1, 1, x) in units of the height; x is measured so that 0..1 is the whole width."""
    y = (np.arange(clip.height_px, dtype=np.float32) + 0.5) / clip.height_px
    x = (np.arange(clip.width_px, dtype=np.float32) + 0.5) / clip.width_px
    return y[None, :, None], x[None, None, :]


def _background(story: Story, y: Array, x: Array) -> Array:
    """(1, y, x, 3): an evening sky over a ground that takes some of its light."""

    def mixed(pair: Array) -> Array:
        return pair[0] + story.warmth * (pair[1] - pair[0])

    sky = mixed(SKY_TOP) + (y / FLOOR)[..., None] ** 1.6 * (mixed(SKY_LOW) - mixed(SKY_TOP))
    ground = mixed(GROUND) * (1.25 - 1.3 * (y[..., None] - FLOOR))
    edge = 1.0 / (1.0 + np.exp(-(y[..., None] - FLOOR) * 45.0))
    vignette = 1.0 - 0.45 * ((x - 0.5) ** 2 + 0.6 * (y - 0.5) ** 2)
    return ((sky + (ground - sky) * edge) * vignette[..., None]).astype(np.float32)


def _shadow(story: Story, y: Array, x: Array, centre: Array, ground: float) -> Array:
    """(p, y, x) darkness under the ball, tighter and deeper the lower it is."""
    gap = np.clip((ground - centre - story.radius) / 0.4, 0.0, 1.0)
    wide = story.radius * (0.85 + 0.5 * gap)
    return (0.75 - 0.45 * gap) * np.exp(-(((x - story.x) / wide) ** 2) - ((y - ground) / 0.045) ** 2)


def _light(story: Story, y: Array, x: Array, centre: float, ground: float) -> Array:
    """(1, y, x) light that an event throws: a halo, a haze over the whole picture, and its reflection on the ground."""
    reach = 1.1 * story.radius + 0.06
    dx, dy = x - story.x, y - centre
    halo = 0.85 * np.exp(-(dx**2 + dy**2) / (2 * reach**2))
    haze = 0.17 * np.exp(-(dx**2 + dy**2) / 0.5)
    reflected = 0.4 * np.exp(-((dx / (2.2 * reach)) ** 2) - ((y - ground - 0.02) / 0.07) ** 2)
    return halo + haze + reflected


def _ball(story: Story, y: Array, x: Array, centre: Array, squash: Array) -> tuple[Array, Array, Array]:
    """(p, y, x) cover with soft edges, diffuse shade and highlight of a ball lit from the upper left."""
    wide, tall = story.radius / np.sqrt(squash), story.radius * squash
    u, v = (x - story.x) / wide, (y - centre) / tall
    square = u**2 + v**2
    cover = np.clip((1.0 - np.sqrt(square)) * story.radius * y.shape[1] + 0.5, 0.0, 1.0)
    depth = np.sqrt(np.clip(1.0 - square, 0.0, 1.0))
    shade = 0.22 + 0.78 * np.clip(-0.45 * u - 0.62 * v + 0.64 * depth, 0.0, 1.0)
    shine = 0.5 * np.exp(-((u + 0.36) ** 2 + (v + 0.42) ** 2) / 0.035)
    return cover, shade, shine


def sound(story: Story, clip: ClipSpec) -> Array:
    """(samples,) float32 in [-1, 1]: a struck tone at each event, silence elsewhere."""
    rate = clip.sample_rate_hz
    out = np.zeros(clip.samples, np.float32)
    note = story.loudness * _tone(PITCH_HZ[story.cast.colour], rate)
    for frame in story.event_frames:
        start = round(frame / clip.frame_rate_hz * rate)
        end = min(start + len(note), len(out))
        out[start:end] += note[: end - start]
    return np.clip(out, -1.0, 1.0)


@cache
def _tone(pitch_hz: float, rate_hz: int) -> Array:
    """A tone like a mallet's on a bar: a fundamental, two partials that die sooner, an attack of 3 ms."""
    t = np.arange(round(TONE_LENGTH_S * rate_hz)) / rate_hz
    wave = np.zeros_like(t)
    for multiple, level, faster in ((1, 0.8, 1.0), (2, 0.16, 1.6), (4, 0.10, 4.0)):
        if multiple * pitch_hz < 0.45 * rate_hz:
            wave += level * np.exp(-t * faster / TONE_DECAY_S) * np.sin(2 * np.pi * multiple * pitch_hz * t)
    attack = np.clip(t / 0.003, 0.0, 1.0)
    fade = np.clip((TONE_LENGTH_S - t) / 0.15, 0.0, 1.0)
    return (wave * attack * fade).astype(np.float32)


def render(story: Story, clip: ClipSpec, name: str) -> Clip:
    """The clip of a story, with its truth."""
    return Clip(
        name=name,
        prompt=story.cast.prompt(),
        video=torch.from_numpy(picture(story, clip)),
        audio=torch.from_numpy(sound(story, clip)),
        frame_rate_hz=clip.frame_rate_hz,
        sample_rate_hz=clip.sample_rate_hz,
        truth=story.truth(clip.frame_rate_hz),
    )


class ToyWorld:
    """Clips of the toy world: clip ``index`` of a seed is always the same one."""

    def __init__(
        self, clip: ClipSpec, clips: int, seed: int, stream: str = "train", kinds: tuple[str, ...] = KINDS
    ) -> None:
        self.clip, self.clips, self.seed, self.stream, self.kinds = clip, clips, seed, stream, kinds

    def __len__(self) -> int:
        return self.clips

    def story(self, index: int) -> Story:
        if not 0 <= index < self.clips:
            raise IndexError(f"clip {index} of {self.clips}")
        return tell(self.seed, index, self.stream, self.clip.frames, self.clip.frame_rate_hz, self.kinds)

    def __getitem__(self, index: int) -> Clip:
        return render(self.story(index), self.clip, f"toyworld-{self.stream}-{self.seed}-{index:06d}")

    def fingerprint(self) -> str:
        c = self.clip
        form = f"{c.duration_s}s-{c.height_px}x{c.width_px}-{c.frame_rate_hz}-{c.sample_rate_hz}"
        return f"toyworld/{VERSION}/{self.stream}/{self.seed}/{self.clips}/{'+'.join(self.kinds)}/{form}"
