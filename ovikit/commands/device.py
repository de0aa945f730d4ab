"""The device that a command computes on."""

from __future__ import annotations

from ovikit.errors import UserError


def pick_device(name: str) -> str:
    """The device that ``auto`` means here, or the one named. UserError for one that is not there."""
    import torch

    # mps is missing: it has no float64, which noise levels are computed in.
    there = {"cpu": True, "cuda": torch.cuda.is_available()}
    if name == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there.get(name.split(":")[0], False):
        known = ", ".join(device for device, found in there.items() if found)
        raise UserError(f"there is no device '{name}' on this machine", "--device", f"there is {known}")
    return name
