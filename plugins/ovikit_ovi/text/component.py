"""What the plugin registers of the text side: the ``umt5`` conditioner and its options. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ovikit.kernel.component import Component, Config

if TYPE_CHECKING:
    from ovikit.checkpoints.assets import Assets
    from ovikit_ovi.text.conditioner import Umt5Conditioner

WEIGHTS = "Wan2.2-TI2V-5B/models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER = "Wan2.2-TI2V-5B/google/umt5-xxl"


class Umt5Config(Config):
    """Options of ``umt5``; the defaults are the released encoder's."""

    weights: str = WEIGHTS
    """The encoder's file, in the weights folder."""
    tokenizer: str = TOKENIZER
    """Folder with tokenizer.json, in the weights folder."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format of the encoder: bfloat16 as released; float32 on a CPU, where bfloat16 is many times slower."""
    captions: Literal["tags", "suffix"] = "tags"
    """How the model was trained to be told of sounds: <AUDCAP>...<ENDAUDCAP>, or 'Audio: ...' at the prompt's end."""
    prompts: Literal["combined", "separate"] = "combined"
    """combined: both towers read the whole prompt, as released; separate: the video tower reads what is seen, the audio
    tower what is said and the audio caption."""
    length: int = Field(512, gt=1)
    """Tokens of a prompt that are read, the end mark among them; longer prompts lose their end."""
    layers: int = Field(24, gt=0)
    """Number of layers."""
    width: int = Field(4096, gt=0)
    """Width of the tokens."""
    feed_forward_width: int = Field(10240, gt=0)
    """Hidden width of the feed-forward networks."""
    heads: int = Field(64, gt=0)
    """Attention heads."""
    head_width: int = Field(64, gt=0)
    """Width of a head."""
    vocabulary: int = Field(256384, gt=0)
    """Rows of the token embedding."""
    buckets: int = Field(32, gt=0, multiple_of=4)
    """Relative positions that each layer tells apart."""


def _umt5(config: Umt5Config, *, assets: Assets) -> Umt5Conditioner:
    import torch

    from ovikit_ovi.text.conditioner import Umt5Conditioner
    from ovikit_ovi.text.encoder import Umt5Shape

    shape = Umt5Shape(
        layers=config.layers,
        width=config.width,
        feed_forward_width=config.feed_forward_width,
        heads=config.heads,
        head_width=config.head_width,
        vocabulary=config.vocabulary,
        buckets=config.buckets,
    )
    return Umt5Conditioner(
        assets,
        shape,
        weights=config.weights,
        tokenizer=config.tokenizer,
        dtype=getattr(torch, config.dtype),
        captions=config.captions,
        separate=config.prompts == "separate",
        length=config.length,
    )


COMPONENT = Component("umt5", Umt5Config, _umt5, "the released model's text encoder, UMT5-XXL")
