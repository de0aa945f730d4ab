"""A network, its codecs and a sampling recipe bound together: texts, noise and first frames in, latents and clips out.

Shape legend: b clips of a batch, c channels, k given latent steps, t y x latent steps, rows, columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from ovikit.errors import UserError
from ovikit.generate.image import first_frame, read_image
from ovikit.generate.jobs import Job, Shape
from ovikit.generate.size import Size
from ovikit.generate.texts import Texts
from ovikit.networks.joint import JointModel
from ovikit.networks.protocols import Codec, Progress
from ovikit.numerics.guidance import NEGATIVE, PROMPT
from ovikit.numerics.protocols import Network
from ovikit.numerics.sample import Callback, draw_noise, sample
from ovikit.recipe.build import Sampling
from ovikit.runtime.passes import BoundNetwork
from ovikit.types import AV, Clip, ClipSpec, Context, KeyValue, Modality


class SizedCodecs:
    """The codecs of clips of any size; they share their weights."""

    def __init__(self, codecs: AV[Codec], form: ClipSpec) -> None:
        self.base, self.form = codecs, form
        self._sized: dict[Size, AV[Codec]] = {(form.height_px, form.width_px): codecs}

    def form_of(self, size: Size) -> ClipSpec:
        return replace(self.form, height_px=size[0], width_px=size[1])

    def of(self, size: Size) -> AV[Codec]:
        """The codecs of clips of a size. ValueError or UserError where they do not fit it."""
        if size not in self._sized:
            form = self.form_of(size)
            self._sized[size] = self.base.map(lambda codec: codec.for_clip(form))
        return self._sized[size]

    @torch.no_grad()
    def first(self, shape: Shape) -> Tensor:
        """(1, c, k, y, x) on the CPU: the latents of a clip's first frame. The video codec must be loaded."""
        assert shape.first is not None
        pixels = read_image(shape.first.path).pixels
        codec = self.of(shape.size_px)["video"]
        return codec.encode(first_frame(pixels, shape.size_px, shape.first.crop)).float().cpu()

    @torch.no_grad()
    def anchor(self, modality: Modality, size: Size) -> Tensor:
        """(1, c, ...) on the CPU: the latents of a clip in which nothing happens, a still mid-grey picture or silence.
        The codec must be loaded."""
        form, codec = self.form_of(size), self.of(size)[modality]
        shape = (form.samples,) if modality == "audio" else (form.frames, form.height_px, form.width_px, 3)
        # One number seen everywhere: a clip's pixels would take as much memory as its decoding.
        nothing = torch.zeros(()).expand(1, *shape)
        return codec.encode(nothing).float().cpu()

    @torch.no_grad()
    def decoded(self, modality: Modality, job: Job, latents: Tensor, progress: Progress | None = None) -> Tensor:
        """Pixels or samples of one clip, on the CPU. UserError where they are not finite."""
        samples = self.of(job.shape.size_px)[modality].decode(latents.float(), progress)[0]
        # Piece by piece: the flags of a whole clip would take as much memory as its pixels.
        if not all(bool(torch.isfinite(piece).all()) for piece in samples.split(max(1, len(samples) // 16))):
            raise UserError(
                f"clip {job.id} has values in its {modality} that are not finite",
                hint="nothing was written; look at the weights, the guidance scale and the number format",
            )
        return Clip.pixels(samples) if modality == "video" else samples.float().cpu().clamp(-1, 1)


class ClipMaker:
    """Denoises batches of clips of one size.

    texts:   holds the encoded texts of all jobs, and those that guidance steers away from
    batched: the passes of a step run as one batch
    drive:   what the sampler calls in place of the bound network
    anchors: by size, the latents that anchored passes are shown; of the modalities that guidance asks for
    """

    def __init__(
        self,
        model: JointModel,
        codecs: SizedCodecs,
        texts: Texts,
        sampling: Sampling,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        batched: bool = False,
        drive: Callable[[BoundNetwork], Network] = lambda bound: bound,
        anchors: Mapping[Size, AV[Tensor]] = MappingProxyType({}),
    ) -> None:
        self.model = model.eval()
        self.codecs, self.texts, self.sampling, self.dtype = codecs, texts, sampling, dtype
        self.device, self.batched, self._drive = torch.device(device), batched, drive
        self._anchors = anchors
        self._size_px: tuple[int, int] | None = None

    @torch.no_grad()
    def latents(
        self, jobs: Sequence[Job], first: Mapping[Shape, Tensor], callback: Callback | None = None
    ) -> AV[Tensor]:
        """The latents of clips of one size, in the order of their jobs. The network must be on its device.

        first: latents of the first frame of each shape that has one; all jobs have one, or none has

        Each clip's noise comes from its own seed, so it is the same in whatever batch the clip is made.
        """
        modalities = self.model.modalities
        codecs = self.codecs.of(jobs[0].shape.size_px)
        if jobs[0].shape.size_px != self._size_px:  # those of many sizes would fill the device
            self.model.forget_rotations()
            self._size_px = jobs[0].shape.size_px
        given = AV.of({m: [job.text[m] for job in jobs] for m in modalities})
        negative = AV.of({m: [self.sampling.negative.get(m) or ""] for m in modalities})
        contexts = {
            PROMPT: self._contexts(given),
            NEGATIVE: self._contexts(negative).map(lambda context: _repeated(context, len(jobs))),
        }
        clean: AV[Tensor] = AV()
        if jobs[0].shape.first is not None:
            clean = AV(video=torch.cat([first[job.shape] for job in jobs]).to(self.device))
        bound = BoundNetwork(
            self.model,
            contexts,
            codecs.map(lambda codec: codec.grid()),
            self.dtype,
            clean_steps=clean.map(lambda start: start.shape[2]),
            batched=self.batched,
            anchors=self._anchors.get(jobs[0].shape.size_px, AV()).map(lambda anchor: anchor.to(self.device)),
        )
        parts = self.sampling
        shapes: AV[tuple[int, ...]] = codecs.map(lambda codec: (1, *codec.shape()))
        noises = [draw_noise(shapes, job.seed, same_seed=parts.same_noise_seed) for job in jobs]
        noise = AV.of({m: torch.cat([one[m] for one in noises]).to(self.device) for m in codecs.modalities})
        return sample(
            self._drive(bound), noise, parts.schedule, parts.solver, parts.guidance, parts.steps,
            clean=clean, callback=callback,
        )  # fmt: skip

    def _contexts(self, prompts: AV[Sequence[str]]) -> AV[Context]:
        """The texts as the towers see them, with every layer's keys and values."""
        found = prompts.map(lambda some: self.texts.text(some).to(self.device, self.dtype))
        return self.model.embed_text(found, cache=True)


def clip_of(name: str, prompt: str, samples: AV[Tensor], form: ClipSpec) -> Clip:
    """A clip from what codecs decode: video (frames, height, width, 3) and audio (samples,), both in [-1, 1]."""
    video = None if samples.video is None else Clip.pixels(samples.video)
    audio = None if samples.audio is None else samples.audio.float().cpu().clamp(-1, 1)
    return Clip(name, prompt, video, audio, form.frame_rate_hz, form.sample_rate_hz)


def through_codecs(clip: Clip, codecs: AV[Codec], form: ClipSpec) -> Clip:
    """The clip after its codecs' encoding and decoding: the best that a model over these latents can do. Of a clip
    that lacks a modality, the other one. The codecs must be loaded."""

    def again(codec: Codec, samples: Tensor) -> Tensor:
        return codec.decode(codec.encode(samples[None]))[0].float()

    there = [modality for modality in codecs.modalities if modality in clip.modalities]
    given = AV.of({modality: clip.signal(modality) for modality in there})
    used = AV.of({modality: codecs[modality] for modality in there})
    return replace(clip_of(clip.name, clip.prompt, used.zip(given, again), form), truth=clip.truth)


def _repeated(context: Context, copies: int) -> Context:
    """A context of one text as that of ``copies`` clips, without copying it."""
    if copies == 1:
        return context

    def wide(value: Tensor) -> Tensor:
        return value.expand(copies, *value.shape[1:])

    return Context(
        wide(context.tokens),
        None if context.lengths is None else wide(context.lengths),
        tuple(KeyValue(wide(one.key), wide(one.value)) for one in context.cached),
    )
