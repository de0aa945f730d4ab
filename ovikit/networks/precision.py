"""What a network computes in which number format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True, slots=True)
class Precision:
    """A policy, and the format of weights and matrix products.

    dtype:  of weights, matrix products and attention
    policy: ``official`` rounds where the released code does; ``clean`` keeps in float32 what is cheap to keep there
    """

    dtype: torch.dtype = torch.float32
    policy: Literal["clean", "official"] = "clean"


FLOAT32 = Precision()
