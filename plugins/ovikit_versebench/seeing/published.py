"""Networks in the folders that transformers writes, strictly, and pictures in the form that they were trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from ovikit.errors import UserError, listed
from ovikit.evaluation.needs import device
from ovikit.extras import require

PREPROCESSOR = "preprocessor_config.json"
KINDS = ("missing_keys", "unexpected_keys", "mismatched_keys")
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Form:
    """What a network's pictures are brought to: pixels of a side, and mean and deviation of colours in [0, 1]."""

    side: int
    mean: Tensor
    std: Tensor

    def batches(self, frames: Tensor, filter: Image.Resampling) -> Iterator[Tensor]:
        """(at most 8, 3, side, side) on the device of evaluators, of frames uint8 (f, y, x, 3)."""
        for part in frames.split(AT_ONCE):
            small = [np.asarray(Image.fromarray(one).resize((self.side, self.side), filter)) for one in part.numpy()]
            pixels = (torch.from_numpy(np.stack(small)).float() / 255 - self.mean) / self.std
            yield pixels.permute(0, 3, 1, 2).to(device())


def read_form(folder: Path) -> Form:
    """UserError naming the folder, or the file in it, where it does not say."""
    path = folder / PREPROCESSOR
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Form(int(told["size"]["height"]), torch.tensor(told["image_mean"]), torch.tensor(told["image_std"]))
    except FileNotFoundError:
        raise UserError(f"there is no {PREPROCESSOR} among these weights", str(folder)) from None
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError("it does not say size, image_mean and image_std", str(path)) from error


def read_published(kind: str, folder: Path, of_no_use: tuple[str, ...] = ()) -> Any:
    """The network of a folder, for use alone, on the device of evaluators.

    kind:      the name of its class in transformers
    of_no_use: how names of weights begin that the file has for other things
    UserError naming the folder where it is not of this kind; a weight that lacks is otherwise drawn at random, with a
    warning.
    """
    transformers = require("transformers", extra="ovi")
    state = torch.get_rng_state()  # transformers draws weights before it reads them
    try:
        found, told = getattr(transformers, kind).from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"no network can be read: {str(error).splitlines()[0]}", str(folder)) from error
    finally:
        torch.set_rng_state(state)
    lists = {
        what: [name for name in map(str, told.get(what) or ()) if not (of_no_use and name.startswith(of_no_use))]
        for what in KINDS
    }
    wrong = [f"{what.replace('_', ' ')}: {listed(sorted(names))}" for what, names in lists.items() if names]
    if wrong:
        raise UserError(f"these weights are not of this network; {'; '.join(wrong)}", str(folder))
    return found.to(device()).eval().requires_grad_(False)
