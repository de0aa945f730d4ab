"""Every fusion keeps the contract of fusions."""

from __future__ import annotations

from ovikit.testing import FusionContract


class TestNone(FusionContract):
    component = "none"
    reads = ()
    neutral = ()
    keys = ()


class TestOvi(FusionContract):
    component = "ovi"
    neutral = ("reads.*.v.*",)
    keys = tuple(
        f"reads.{modality}.{name}"
        for modality in ("video", "audio")
        for name in ("pre_norm.weight", "pre_norm.bias", "k.weight", "k.bias", "v.weight", "v.bias", "norm_k.weight")
    )
