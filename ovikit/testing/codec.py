"""The contract of codecs: what goes in comes back, in exactly the frames or samples that were asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from ovikit.checkpoints.assets import Assets
from ovikit.errors import UserError
from ovikit.networks.protocols import Codec, Weighted
from ovikit.testing.clips import CLIP, beating_clip, noisy_clip, silent_clip
from ovikit.testing.contract import Contract, global_generators_unused
from ovikit.types import Clip, ClipSpec


class CodecContract(Contract):
    """Subclass it and name the component; ``files`` writes the weights that it reads.

    clip, other_clip: forms that it can encode
    changed:   options, each of which changes the latents or what is decoded from them
    tolerance: how far latents may be off after they were decoded and encoded again, relative to their size; None: it
               promises nothing, and ``tolerance_because`` says why
    noise:     how far results of one item may differ with its company, relative to their size
    """

    kind = "codec"
    clip: ClassVar[ClipSpec] = CLIP
    other_clip: ClassVar[ClipSpec] = replace(CLIP, duration_s=2.0)
    changed: ClassVar[Mapping[str, Any]] = {}
    tolerance: ClassVar[float | None] = 1e-3
    tolerance_because: ClassVar[str] = ""
    noise: ClassVar[float] = 1e-5

    @classmethod
    def context(cls) -> dict[str, Any]:
        return {"clip": cls.clip, "assets": Assets(cls.folder())}

    @classmethod
    @cache
    def loaded(cls) -> Codec:
        """The codec with its weights."""
        made: Codec = cls.build()
        if isinstance(made, Weighted):
            made.load("cpu")
        return made

    def _signals(self, *clips: Clip) -> Tensor:
        return torch.stack([clip.signal(self.loaded().modality) for clip in clips])

    def _samples(self, form: ClipSpec | None = None) -> Tensor:
        """Two clips, as the codec is given them."""
        form = form or self.clip
        return self._signals(beating_clip(form), noisy_clip(form))

    def _encoded(self, samples: Tensor) -> Tensor:
        with torch.no_grad():
            return self.loaded().encode(samples)

    def _decoded(self, latents: Tensor) -> Tensor:
        with torch.no_grad():
            return self.loaded().decode(latents)

    def test_latents_have_the_declared_shape_and_grid(self) -> None:
        """``encode`` gives what ``shape`` and ``channels`` say, on a ``grid`` that lasts about as long as the clip."""
        codec, latents = self.loaded(), self._encoded(self._samples())
        shape, grid = codec.shape(), codec.grid()
        assert tuple(latents.shape) == (2, *shape), f"latents are {tuple(latents.shape)}, shape() says {(2, *shape)}"
        assert codec.channels == shape[0], f"channels is {codec.channels}, latents have {shape[0]}"
        assert grid.modality == codec.modality, f"the grid is of {grid.modality}, the codec of {codec.modality}"
        cells = shape[1:] if codec.modality == "video" else (shape[1], 1, 1)
        assert grid.shape == tuple(cells), f"the grid is {grid.shape}, latents are {tuple(cells)}"
        starts, ends = zip(*grid.edges_s, strict=True)
        longest = max(end - start for start, end in grid.edges_s)
        assert starts[0] == 0, f"the grid starts at {starts[0]} s, not at 0"
        assert starts[1:] == pytest.approx(ends[:-1]), "steps of the grid do not follow each other"
        off = abs(ends[-1] - self.clip.duration_s)
        assert off <= longest + 1e-9, f"the grid ends at {ends[-1]} s of a clip of {self.clip.duration_s} s"

    def test_exactly_the_clip_is_decoded(self) -> None:
        """Frames and samples are those of the clip's form, float32, in [-1, 1], finite."""
        samples = self._samples()
        decoded = self._decoded(self._encoded(samples))
        wanted, found = tuple(samples.shape), tuple(decoded.shape)
        assert found == wanted, f"decoded are {found}, the clip is {wanted}; cut or pad to the clip's form"
        assert decoded.dtype == torch.float32, f"decoded are {decoded.dtype}; give float32"
        assert bool(torch.isfinite(decoded).all()), "decoded are NaN or Inf"
        worst = float(decoded.abs().max())
        assert worst <= 1 + 1e-6, f"decoded values reach {worst:.3g}; keep them in [-1, 1]"

    def test_silence_and_black_are_finite(self) -> None:
        """The quietest and the loudest clips there are give finite latents and come back finite."""
        silent, noise = self._signals(silent_clip(self.clip)), self._signals(noisy_clip(self.clip))
        for what, samples in (
            ("nothing", torch.zeros_like(silent)),
            ("black", silent),
            ("full", torch.ones_like(noise)),
        ):
            latents = self._encoded(samples)
            assert bool(torch.isfinite(latents).all()), f"latents of {what} are NaN or Inf; keep logarithms away from 0"
            assert bool(torch.isfinite(self._decoded(latents)).all()), f"what is decoded of {what} is NaN or Inf"

    def test_it_draws_nothing(self) -> None:
        """The same clip has the same latents, and the same latents are decoded the same."""
        samples = self._samples()
        with global_generators_unused(f"the codec '{self.found().name}'"):
            first, again = self._encoded(samples), self._encoded(samples)
            assert torch.equal(first, again), "a second call gives other latents; take the mean, do not draw from it"
            assert torch.equal(self._decoded(first), self._decoded(first)), "decoded twice, latents give two clips"

    def test_clips_of_a_batch_do_not_meet(self) -> None:
        """A clip in a batch has the latents that it has alone, and is decoded as alone."""
        samples = self._samples()
        latents = self._encoded(samples)
        decoded = self._decoded(latents)
        for i in range(len(samples)):
            off = _off(self._encoded(samples[i : i + 1])[0], latents[i])
            assert off <= self.noise, (
                f"latents of clip {i} are {off:.2g} off in a batch from alone; no batch statistics"
            )
            off = _off(self._decoded(latents[i : i + 1])[0], decoded[i])
            assert off <= self.noise, f"clip {i} is decoded {off:.2g} off in a batch from alone"

    def test_what_was_decoded_has_the_same_latents(self) -> None:
        """Latents that are decoded and encoded again stay, within ``tolerance``."""
        if self.tolerance is None:
            assert self.tolerance_because, "tolerance is None; say in tolerance_because why nothing is promised"
            pytest.skip(self.tolerance_because)
        latents = self._encoded(self._signals(beating_clip(self.clip)))
        off = math.sqrt(
            float((self._encoded(self._decoded(latents)) - latents).square().mean() / latents.square().mean())
        )
        assert off <= self.tolerance, (
            f"latents come back {off:.3g} off, and {self.tolerance:.3g} is promised in tolerance"
        )

    def test_another_form_of_clip(self) -> None:
        """``for_clip`` is the same codec for clips of another form: its own shape, the same weights."""
        other = self.loaded().for_clip(self.other_clip)
        assert other.shape() != self.loaded().shape(), "for_clip gives the shape of the old form"
        samples = self._samples(self.other_clip)
        with torch.no_grad():
            latents = other.encode(samples)
            decoded = other.decode(latents)
        assert tuple(latents.shape) == (2, *other.shape()), f"latents are {tuple(latents.shape)}, not {other.shape()}"
        assert decoded.shape == samples.shape, f"decoded are {tuple(decoded.shape)}, the clip is {tuple(samples.shape)}"
        back = other.for_clip(self.clip)
        with torch.no_grad():
            again = back.encode(self._samples())
        assert torch.equal(again, self._encoded(self._samples())), "and back again, a clip has other latents"

    def test_a_first_frame_alone(self) -> None:
        """A given first frame has one latent step, or is refused with the reason."""
        codec = self.loaded()
        if codec.modality == "audio":
            pytest.skip("audio has no first frame")
        try:
            latents = self._encoded(self._samples()[:, :1])
        except UserError:
            return  # it begins with a whole block of frames, and says so
        wanted = (2, codec.channels, 1, *codec.shape()[2:])
        assert tuple(latents.shape) == wanted, f"latents of a first frame are {tuple(latents.shape)}, not {wanted}"

    def test_the_fingerprint_tells_codecs_apart(self) -> None:
        """Latents are cached by the fingerprint: equal for equal codecs, another one for others."""
        own, again = self.build().fingerprint(), self.build().fingerprint()
        assert own == again, f"two equal codecs have the fingerprints {own!r} and {again!r}; build it from the options"
        for name, value in self.changed.items():
            other = self.build({name: value}).fingerprint()
            assert other != own, (
                f"with {name}={value!r} latents change and the fingerprint does not; take {name} into it"
            )


def _off(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
