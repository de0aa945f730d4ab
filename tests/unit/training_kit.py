"""Small real parts to train with, independent of what is installed: towers, a fusion, codecs, text, clips.

Nothing is mocked: the towers are transformers by the protocols, the codecs pool pixels and samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator, Tensor, nn

from ovikit.kernel import manager
from ovikit.kernel.catalog import Plugin
from ovikit.kernel.component import Component, Config, NoOptions
from ovikit.kernel.hookspecs import hookimpl
from ovikit.networks.protocols import Heads, Prepared
from ovikit.networks.stages import context_stage, feed_forward_stage, self_stage
from ovikit.types import AV, Clip, ClipSpec, KeyValue, Modality, NoiseConditioning, Stream, Text, TokenGrid

WIDTH = 8


def per_token(noise: NoiseConditioning) -> Tensor:
    """The embedding of each token's level; one row where all tokens share it."""
    if len(noise.spans) == 1:
        return noise.embedding
    return noise.embedding.repeat_interleave(torch.tensor(noise.spans), dim=1)


class KitBlock(nn.Module):
    """One layer, with a bias from the noise level in place of a full modulation."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attn, self.text, self.ffn = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.level, self.dropout = nn.Linear(width, width), nn.Dropout(dropout)

    def modulation(self, noise: NoiseConditioning) -> Tensor:
        return self.level(per_token(noise))

    def self_heads(self, x: Tensor, mod: Tensor) -> Heads:
        return Heads(*(part.unflatten(-1, (2, -1)) for part in self.attn(x + mod).chunk(3, dim=-1)))

    def self_merge(self, x: Tensor, attended: Tensor, mod: Tensor) -> Tensor:
        return x + attended.flatten(-2)

    def context_kv(self, context: Tensor) -> KeyValue:
        _, key, value = (part.unflatten(-1, (2, -1)) for part in self.text(context).chunk(3, dim=-1))
        return KeyValue(key, value)

    def context_heads(self, x: Tensor, context: Tensor | KeyValue) -> Heads:
        kv = context if isinstance(context, KeyValue) else self.context_kv(context)
        return Heads(self.text(x).chunk(3, dim=-1)[0].unflatten(-1, (2, -1)), kv.key, kv.value)

    def context_merge(self, x: Tensor, attended: Tensor) -> Tensor:
        return x + attended.flatten(-2)

    def feed_forward(self, x: Tensor, mod: Tensor) -> Tensor:
        return x + self.dropout(self.ffn(torch.tanh(x)))


class KitTower(nn.Module):
    """A tower of linear embedding and head around KitBlocks."""

    heads = 2

    def __init__(self, modality: Modality, channels: int, text_width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.modality, self.depth, self.width, self.dropout = modality, depth, WIDTH, dropout
        self.into, self.out = nn.Linear(channels, WIDTH), nn.Linear(WIDTH, channels)
        self.time, self.words = nn.Linear(1, WIDTH), nn.Linear(text_width, WIDTH)

    def block(self, index: int) -> nn.Module:
        return KitBlock(self.width, self.dropout)

    def grid(self, latents: TokenGrid) -> TokenGrid:
        return latents

    def embed(self, latents: Tensor) -> Tensor:
        return self.into(latents.flatten(2).transpose(1, 2))

    def noise(self, levels: Tensor, spans: tuple[int, ...]) -> NoiseConditioning:
        embedding = self.time(levels[..., None].to(self.time.weight.dtype))
        return NoiseConditioning(embedding, embedding[:, :, None], spans)

    def context(self, text: Text) -> Tensor:
        return self.words(text.tokens)

    def head(self, tokens: Tensor, noise: NoiseConditioning, grid: TokenGrid) -> Tensor:
        shape = grid.shape if grid.modality == "video" else grid.shape[:1]
        return self.out(tokens + per_token(noise)).transpose(1, 2).unflatten(2, shape)


class KitFusion(nn.Module):
    """Adds a projection of the other modality's mean token."""

    def __init__(self, attend: Any) -> None:
        super().__init__()
        self.heard = nn.ModuleDict({"video": nn.Linear(WIDTH, WIDTH), "audio": nn.Linear(WIDTH, WIDTH)})
        self.attend = attend

    def forward(self, blocks: AV[Any], streams: AV[Stream]) -> AV[Stream]:
        found: dict[Modality, Stream] = {}
        for one, other in (("video", "audio"), ("audio", "video")):
            block, stream = blocks[one], streams[one]
            mod = block.modulation(stream.noise)
            stream = context_stage(block, self_stage(block, stream, mod, self.attend), self.attend)
            heard = self.heard[one](streams[other].tokens.mean(dim=1, keepdim=True))
            found[one] = feed_forward_stage(block, stream.with_tokens(stream.tokens + heard), mod)
        return AV.of(found)


class NoTurn:
    def angles(self, grid: TokenGrid, head_width: int, use: str) -> Tensor:
        return torch.zeros(len(grid), head_width // 2, dtype=torch.float64)


class PoolCodec:
    """Means of blocks: 4 pixels squared, or 800 samples."""

    def __init__(self, clip: ClipSpec, modality: Modality) -> None:
        self.clip, self.modality, self.channels = clip, modality, 3 if modality == "video" else 2

    def shape(self) -> tuple[int, ...]:
        clip = self.clip
        video = (3, clip.frames, clip.height_px // 4, clip.width_px // 4)
        return video if self.modality == "video" else (2, clip.samples // 800)

    def grid(self) -> TokenGrid:
        t, y, x = (*self.shape()[1:], 1, 1)[:3]
        return TokenGrid.uniform(self.modality, (t, y, x), self.clip.duration_s / t)

    def encode(self, samples: Tensor) -> Tensor:
        if self.modality == "video":
            return nn.functional.avg_pool3d(samples.movedim(-1, 1), (1, 4, 4))
        parts = samples.unflatten(1, (-1, 800))
        return torch.stack((parts.mean(-1), parts.std(-1)), dim=1)

    def for_clip(self, clip: ClipSpec) -> PoolCodec:
        return PoolCodec(clip, self.modality)

    def decode(self, latents: Tensor, progress: object = None) -> Tensor:
        raise NotImplementedError("nothing is decoded in training")

    def fingerprint(self) -> str:
        return f"pool/{self.modality}"


class LetterText:
    """Each letter of the prompt as a one-hot of its code; the empty prompt is one token of zeros.

    separate: the towers read what stands before and behind a bar
    """

    width = 6

    def __init__(self, separate: bool = False) -> None:
        self.separate = separate

    def split(self, prompt: str) -> AV[str]:
        seen, _, heard = prompt.partition("|")
        return AV(seen, heard) if self.separate else AV(prompt, prompt)

    def prepare(self, prompt: str) -> Prepared:
        return Prepared(prompt)

    def encode(self, prompts: Sequence[str]) -> Text:
        lengths = [max(1, len(prompt)) for prompt in prompts]
        tokens = torch.zeros(len(prompts), max(lengths), self.width)
        for row, prompt in enumerate(prompts):
            for column, letter in enumerate(prompt):
                tokens[row, column, ord(letter) % self.width] = 1
        return Text(tokens, torch.tensor(lengths))

    def fingerprint(self) -> str:
        return "letters/separate" if self.separate else "letters"


class KitClips:
    """Random clips; their loudness follows their brightness.

    poison: index of a clip whose sound is NaN; mute: indices of clips without sound; prompts: in turn
    """

    reads: ClassVar[list[int]] = []

    def __init__(
        self,
        clip: ClipSpec,
        clips: int,
        mute: tuple[int, ...] = (),
        poison: int | None = None,
        prompts: tuple[str, ...] = ("c", "ab"),
    ) -> None:
        self.clip, self.clips, self.mute, self.poison, self.prompts = clip, clips, mute, poison, prompts

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> Clip:
        self.reads.append(index)
        clip, generator = self.clip, Generator().manual_seed(index)
        shape = (clip.frames, clip.height_px, clip.width_px, 3)
        video = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        audio = torch.rand(clip.samples, generator=generator) * video.float().mean() / 255
        prompt = self.prompts[index % len(self.prompts)]
        found = Clip(f"kit-{index}", prompt, video, audio, clip.frame_rate_hz, clip.sample_rate_hz)
        if index == self.poison:
            audio[7] = torch.nan
        return replace(found, audio=None) if index in self.mute else found

    def fingerprint(self) -> str:
        text = f"{self.clips}/{self.mute}/{self.poison}/{self.prompts}"
        return hashlib.sha256(text.encode()).hexdigest()


class TowerConfig(Config):
    """Options of the tower."""

    depth: int = 2
    """Layers."""
    dropout: float = 0.0
    """Share of activations dropped, from the global generator."""


class ClipsConfig(Config):
    """Options of the dataset."""

    clips: int = 7
    """How many."""
    mute: tuple[int, ...] = ()
    """Clips without sound."""
    poison: int | None = None
    """Clip whose sound is NaN."""
    prompts: tuple[str, ...] = ("c", "ab")
    """Prompts, in turn."""


class LettersConfig(Config):
    """Options of the conditioner."""

    separate: bool = False
    """A text for each tower."""


class KitPlugin:
    """The plugin that registers the kit."""

    @hookimpl
    def ovikit_register_backbones(self) -> Sequence[Component]:
        def build(
            config: TowerConfig, *, modality: Modality, channels: int, text_width: int, precision: object
        ) -> KitTower:
            return KitTower(modality, channels, text_width, config.depth, config.dropout)

        return (Component("kit-tower", TowerConfig, build, "a small tower"),)

    @hookimpl
    def ovikit_register_fusions(self) -> Sequence[Component]:
        def build(
            config: NoOptions, *, depth: int, width: object, heads: object, attend: Any, precision: object
        ) -> list[KitFusion]:
            return [KitFusion(attend) for _ in range(depth)]

        return (Component("kit-fusion", NoOptions, build, "a small fusion"),)

    @hookimpl
    def ovikit_register_positions(self) -> Sequence[Component]:
        return (Component("kit-none", NoOptions, lambda config: NoTurn(), "no rotation"),)

    @hookimpl
    def ovikit_register_codecs(self) -> Sequence[Component]:
        return (
            Component(
                "kit-pixels", NoOptions, lambda config, clip, assets: PoolCodec(clip, "video"), "means of pixels"
            ),
            Component(
                "kit-samples", NoOptions, lambda config, clip, assets: PoolCodec(clip, "audio"), "means of samples"
            ),
        )

    @hookimpl
    def ovikit_register_conditioners(self) -> Sequence[Component]:
        return (Component("kit-letters", LettersConfig, lambda config, assets: LetterText(config.separate), "letters"),)

    @hookimpl
    def ovikit_register_datasets(self) -> Sequence[Component]:
        def build(config: ClipsConfig, *, clip: ClipSpec) -> KitClips:
            return KitClips(clip, config.clips, config.mute, config.poison, config.prompts)

        return (Component("kit-clips", ClipsConfig, build, "random clips"),)


RECIPE = """\
version: 1
name: kit
clip: {duration_s: 0.5, height_px: 8, width_px: 8, frame_rate_hz: 8.0, sample_rate_hz: 16000}
model:
  video: {type: kit-tower}
  audio: {type: kit-tower}
  fusion: {type: kit-fusion}
  positions: {type: kit-none}
  codecs: {video: {type: kit-pixels}, audio: {type: kit-samples}}
  conditioner: {type: kit-letters}
sampling: {schedule: {type: shifted}, solver: {type: euler}, guidance: {type: cfg}, steps: 2}
training:
  objective: {type: flow-matching}
  data: {type: kit-clips}
  batch_size: 3
  text_dropout: 0.3
  optimizer: {learning_rate: 1e-2, warmup_steps: 3, weight_decay: 0.1}
  ema: {decay: 0.9}
  trainer: {max_steps: 9, accelerator: cpu, log_every_steps: 2, checkpoint_every_steps: 4}
"""


def write_recipe(folder: Path, old: str = "", new: str = "", text: str = RECIPE) -> Path:
    """The path of the kit's recipe, with ``old`` replaced by ``new``, which must be found."""
    assert old in text
    path = folder / "kit.yaml"
    path.write_text(text.replace(old, new) if old else text)
    return path


@contextmanager
def kit_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kit's components beside ovikit's own, and no other plugin's, in this process."""
    plugins = manager.load_plugins(only="builtins")
    plugins.add(Plugin("kit", "kit-dist", "1.0"), KitPlugin())
    monkeypatch.setattr(manager, "load_plugins", lambda: plugins)
    manager.installed_plugins.cache_clear()
    yield
    manager.installed_plugins.cache_clear()
