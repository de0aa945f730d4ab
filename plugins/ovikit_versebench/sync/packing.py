"""Tensors as text in the features of a clip."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal["<f2", "<f4"]


def packed(tensor: Tensor, kind: Kind) -> dict[str, Any]:
    """A tensor as JSON: its shape and, in base64, its numbers in half or single precision."""
    numbers = tensor.detach().float().cpu().numpy().astype(kind)
    return {"shape": list(numbers.shape), "kind": kind, "data": base64.b64encode(numbers.tobytes()).decode()}


def unpacked(told: dict[str, Any]) -> Tensor:
    """The tensor, in single precision."""
    numbers = np.frombuffer(base64.b64decode(told["data"]), dtype=told["kind"]).astype(np.float32)
    return torch.from_numpy(numbers).view(told["shape"])
