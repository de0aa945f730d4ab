"""Every fusion keeps the contract of fusions."""

from __future__ import annotations

from ovikit.testing import FusionContract


def both(*names: str) -> tuple[str, ...]:
    """The weights that either modality's reading of the other has."""
    return tuple(f"reads.{modality}.{name}" for modality in ("video", "audio") for name in names)


def attention(name: str) -> tuple[str, ...]:
    """The weights of a residual attention."""
    linears = tuple(f"{name}.{one}.{kind}" for one in "qkvo" for kind in ("weight", "bias"))
    return *linears, f"{name}.norm_q.weight", f"{name}.norm_k.weight"


NORMS = ("norm.weight", "norm.bias", "other_norm.weight", "other_norm.bias")
NOISE_MAPS = tuple(
    f"{map_}.{linear}.{kind}"
    for map_ in ("affine", "other_affine", "gate")
    for linear in ("down", "up")
    for kind in ("weight", "bias")
)


class TestNone(FusionContract):
    component = "none"
    reads = ()
    neutral = ()
    keys = ()


class TestOvi(FusionContract):
    component = "ovi"
    neutral = ("reads.*.v.*",)
    keys = both("pre_norm.weight", "pre_norm.bias", "k.weight", "k.bias", "v.weight", "v.bias", "norm_k.weight")


class TestGatedResidual(FusionContract):
    component = "gated-residual"
    keys = both(*NOISE_MAPS, *attention("reader"))
    neutral = ("reads.*.reader.o.*",)
    towers_may_differ = True


class TestBridge(FusionContract):
    component = "bridge"
    keys = both("strength", *NORMS, *attention("reader"))
    neutral = ("reads.*.strength",)
    towers_may_differ = True


class TestJoint(FusionContract):
    component = "joint"
    neutral_because = "it owns no weights: both streams are always in one softmax"
    keys = ()


class TestAsymmetricWindow(FusionContract):
    component = "asymmetric-window"
    keys = both(*NORMS, *attention("reader"))
    neutral = ("reads.*.reader.o.*",)
    towers_may_differ = True


class TestGlobalLocal(FusionContract):
    component = "global-local"
    keys = both(*NORMS, *attention("near"), *attention("whole"))
    neutral = ("reads.*.near.o.*", "reads.*.whole.o.*")
    towers_may_differ = True


class TestAdditive(FusionContract):
    component = "additive"
    keys = both(*NORMS[2:], "project.weight", "project.bias")
    neutral = ("reads.*.project.*",)
    towers_may_differ = True


class TestOviOneWay(FusionContract):
    component = "ovi"
    options = {"direction": "a2v", "layers": "distributed"}
    reads = ("video",)
    neutral = ("reads.video.v.*",)
    keys = tuple(key for key in TestOvi.keys if key.startswith("reads.video"))


class TestGlobalLocalOneByOne(FusionContract):
    component = "global-local"
    options = {"update": "audio-first", "init_scale": 0.1, "window": 0}
    keys = TestGlobalLocal.keys
    neutral = TestGlobalLocal.neutral
    towers_may_differ = True
