"""Every backbone keeps the contract of backbones."""

from __future__ import annotations

from ovikit.testing import BackboneContract

_NORMS = ("norm_q.weight", "norm_k.weight")


class TestWanTower(BackboneContract):
    component = "wan-tower"
    options = {  # noqa: RUF012
        "width": 24, "feed_forward_width": 32, "heads": 2, "depth": 2, "text_length": 6, "frequency_width": 16,
    }  # fmt: skip
    keys = (
        "modulation_bias",
        *(
            f"{attention}.{name}"
            for attention in ("self_attn", "context_attn")
            for name in (*(f"{one}.{what}" for one in "qkvo" for what in ("weight", "bias")), *_NORMS)
        ),
        "context_norm.weight", "context_norm.bias", "ffn.0.weight", "ffn.0.bias", "ffn.2.weight", "ffn.2.bias",
    )  # fmt: skip
