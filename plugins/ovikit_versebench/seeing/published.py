"""Networks in the folders that transformers writes, strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ovikit.errors import UserError, listed
from ovikit.evaluation.needs import device
from ovikit.extras import require

PREPROCESSOR = "preprocessor_config.json"
KINDS = ("missing_keys", "unexpected_keys", "mismatched_keys")


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
