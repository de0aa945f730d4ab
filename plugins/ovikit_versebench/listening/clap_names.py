"""The names of LAION's own checkpoints of CLAP, as transformers has them.

Compared with laion-clap 1.1.7 (HTSAT-tiny with and without fusion, RoBERTa-base) at full size and random weights: every
tensor of transformers' network is there once, and embeddings agree to 2e-7 for sounds (of 4, 10 and 23 s) and to 3e-7
for texts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

UNUSED = (
    "spectrogram_extractor.", "logmel_extractor.", "tscam_conv.", "head.", "attn_mask", "relative_position_index",
    "position_ids", "text_transform.", "audio_transform.",
)  # fmt: skip
"""Spectra, a head for AudioSet's kinds, masks and counters, and projections that only training uses."""
RENAMED = (
    (".attn.proj.", ".attention.output.dense."), (".attn.", ".attention.self."), (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."), (".mlp.fc1.", ".intermediate.dense."), (".mlp.fc2.", ".output.dense."),
    (".bn0.", ".batch_norm."),
)  # fmt: skip
_SCALAR = np.float64(0).__reduce__()[0]
NUMPY_NUMBERS = [
    _SCALAR, (_SCALAR, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Float64DType, np.dtypes.Int64DType,
]  # fmt: skip
"""What the checkpoints may have beside the weights: numbers of NumPy, which run no code when they are read."""


def from_laion(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that transformers' ClapModel has, under its names."""
    found: dict[str, Tensor] = {}
    for given, value in state.items():
        name = given.removeprefix("module.")
        if any(part in name for part in UNUSED):
            continue
        if name.startswith("audio_branch."):
            found |= _of_sound(name.removeprefix("audio_branch"), value)
        elif name.startswith("text_branch."):
            found["text_model." + name.removeprefix("text_branch.")] = value
        else:
            for number, layer in (("0", "linear1"), ("2", "linear2")):
                name = name.replace(f"_projection.{number}.", f"_projection.{layer}.")
            found[name] = value
    return found


def _of_sound(name: str, value: Tensor) -> dict[str, Tensor]:
    if ".attn.qkv." in name:
        names = (name.replace(".attn.qkv.", f".attention.self.{part}.") for part in ("query", "key", "value"))
        return {f"audio_model.audio_encoder{one}": part for one, part in zip(names, value.chunk(3), strict=True)}
    for old, new in RENAMED:
        name = name.replace(old, new)
    return {f"audio_model.audio_encoder{name}": value}
