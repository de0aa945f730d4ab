"""What the toy world registers: its dataset, codecs, conditioner, prompts and evaluators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ovikit.errors import UserError
from ovikit.kernel.component import Component, Config, NoOptions
from ovikit.kernel.hookspecs import hookimpl

if TYPE_CHECKING:
    from ovikit.checkpoints.assets import Assets
    from ovikit.types import ClipSpec
    from ovikit_toyworld.block_dct import BlockDct
    from ovikit_toyworld.conditioner import HashedWords
    from ovikit_toyworld.evaluators import ToyColourPitch, ToyCount, ToyOnsets
    from ovikit_toyworld.mel_dct import MelDct
    from ovikit_toyworld.prompts import HeldOutPrompts
    from ovikit_toyworld.world import ToyWorld

Kinds = tuple[Literal["flash", "bounce"], ...]


class ToyWorldConfig(Config):
    """Options of the ``toyworld`` dataset."""

    clips: int = Field(2048, gt=0)
    """How many different clips there are."""
    seed: int = Field(0, ge=0, lt=2**62)
    """Draws the clips: the same seed, the same clips, whatever their number."""
    kinds: Kinds = Field(("flash", "bounce"), min_length=1)
    """What may happen in a clip."""


class HeldOutConfig(Config):
    """Options of ``toyworld-heldout``."""

    count: int = Field(64, gt=0)
    """How many prompts."""
    seed: int = Field(1000, ge=0, lt=2**62)
    """Draws the prompts and the clips that they describe."""
    kinds: Kinds = Field(("flash", "bounce"), min_length=1)
    """What may happen in a clip."""


class BlockDctConfig(Config):
    """Options of ``block-dct``."""

    channels: int = Field(96, gt=0)
    """Cosine coefficients kept of a block: fewer are blurrier and easier to learn."""
    block_px: Literal[16, 32, 64] = 64
    """Side of a block in pixels; it divides the clip's height and width."""
    frames: Literal[4] = 4
    """Frames of a block: one latent step."""
    emphasis: float = Field(0.0, ge=0, le=1)
    """0: all channels are of variance 1; 1: a channel's weight in the loss is its weight in the pixels."""


class MelDctConfig(Config):
    """Options of ``mel-dct``."""

    channels: int = Field(16, gt=0, le=80)
    """Cosine coefficients kept of a pair of mel frames."""
    floor: float = Field(-3.0, ge=-4.5, le=0)
    """log10 of the mel magnitude below which all is silence."""
    emphasis: float = Field(0.0, ge=0, le=1)
    """As for block-dct."""
    iterations: int = Field(32, gt=0)
    """Rounds of Griffin-Lim when decoding."""


class HashedWordsConfig(Config):
    """Options of ``hashed-words``."""

    width: int = Field(32, gt=0)
    """Width of the text tokens."""
    length: int = Field(24, gt=0)
    """Words of a prompt that are read."""
    seed: int = Field(0, ge=0, lt=2**62)
    """Draws the words' vectors."""
    prompts: Literal["combined", "separate"] = "combined"
    """combined: both towers read the whole prompt; separate: the video tower reads what stands before "Audio:", the
    audio tower what stands behind it."""


class ToyOnsetsConfig(Config):
    """Options of ``toy-onsets``."""

    tolerance_s: float = Field(0.1, gt=0)
    """Onsets of picture and sound at most this far apart are one event, as they are to most viewers."""


def _dataset(config: ToyWorldConfig, *, clip: ClipSpec) -> ToyWorld:
    from ovikit_toyworld.world import ToyWorld

    return ToyWorld(clip, config.clips, config.seed, "train", config.kinds)


def _prompts(config: HeldOutConfig, *, clip: ClipSpec | None) -> HeldOutPrompts:
    if clip is None:
        raise UserError(
            "these prompts come with ground truth in the form of a recipe's clips, and there is no recipe",
            "toyworld-heldout", "name the one in whose form the clips are: --recipe",
        )  # fmt: skip
    from ovikit_toyworld.prompts import HeldOutPrompts

    return HeldOutPrompts(clip, config.count, config.seed, config.kinds)


def _block_dct(config: BlockDctConfig, *, clip: ClipSpec, assets: Assets) -> BlockDct:
    from ovikit_toyworld.block_dct import BlockDct

    return BlockDct(
        clip, channels=config.channels, block_px=config.block_px, frames=config.frames, emphasis=config.emphasis
    )


def _mel_dct(config: MelDctConfig, *, clip: ClipSpec, assets: Assets) -> MelDct:
    from ovikit_toyworld.mel_dct import MelDct

    return MelDct(
        clip, channels=config.channels, floor=config.floor, emphasis=config.emphasis, iterations=config.iterations
    )


def _hashed_words(config: HashedWordsConfig, *, assets: Assets) -> HashedWords:
    from ovikit_toyworld.conditioner import HashedWords

    return HashedWords(config.width, config.length, config.seed, config.prompts == "separate")


def _onsets(config: ToyOnsetsConfig, *, clip: ClipSpec | None, assets: Assets) -> ToyOnsets:
    from ovikit_toyworld.evaluators import ToyOnsets

    return ToyOnsets(config.tolerance_s)


def _colour_pitch(config: NoOptions, *, clip: ClipSpec | None, assets: Assets) -> ToyColourPitch:
    from ovikit_toyworld.evaluators import ToyColourPitch

    return ToyColourPitch()


def _count(config: NoOptions, *, clip: ClipSpec | None, assets: Assets) -> ToyCount:
    from ovikit_toyworld.evaluators import ToyCount

    return ToyCount()


@hookimpl
def ovikit_register_datasets() -> Sequence[Component]:
    return (Component("toyworld", ToyWorldConfig, _dataset, "balls that flash or bounce, each time with a tone"),)


@hookimpl
def ovikit_register_codecs() -> Sequence[Component]:
    return (
        Component("block-dct", BlockDctConfig, _block_dct, "video: cosine transform of blocks, untrained"),
        Component("mel-dct", MelDctConfig, _mel_dct, "audio: cosine transform of the log-mel, Griffin-Lim, untrained"),
    )


@hookimpl
def ovikit_register_conditioners() -> Sequence[Component]:
    return (Component("hashed-words", HashedWordsConfig, _hashed_words, "a fixed random vector per word, untrained"),)


@hookimpl
def ovikit_register_prompt_sets() -> Sequence[Component]:
    return (Component("toyworld-heldout", HeldOutConfig, _prompts, "toy-world prompts that training never shows"),)


@hookimpl
def ovikit_register_evaluators() -> Sequence[Component]:
    return (
        Component("toy-onsets", ToyOnsetsConfig, _onsets, "do sights and sounds happen at the same moments"),
        Component("toy-colour-pitch", NoOptions, _colour_pitch, "does the pitch belong to the colour"),
        Component("toy-count", NoOptions, _count, "are there as many events as asked for"),
    )
