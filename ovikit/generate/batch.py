"""A model, its codecs and a sampling recipe bound together: prompts and noise in, clips out.

Shape legend: b clips of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ovikit.errors import UserError
from ovikit.generate.jobs import Job
from ovikit.networks.joint import JointModel
from ovikit.networks.protocols import Codec, Conditioner
from ovikit.numerics.guidance import NEGATIVE, PROMPT
from ovikit.numerics.sample import Callback, draw_noise, sample
from ovikit.recipe.build import Sampling
from ovikit.runtime.passes import BoundNetwork
from ovikit.types import AV, Clip, ClipSpec, Context, KeyValue, Text


class ClipMaker:
    """Makes clips, a batch at a time. The negative text is encoded once; each prompt once, with its batch."""

    def __init__(
        self,
        model: JointModel,
        codecs: AV[Codec],
        conditioner: Conditioner,
        sampling: Sampling,
        clip: ClipSpec,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = model.eval()
        self.codecs, self.conditioner, self.sampling, self.clip = codecs, conditioner, sampling, clip
        self.device = torch.device(device)
        self.dtype = next(model.parameters()).dtype
        with torch.no_grad():
            self._negative = self._contexts(AV.of({m: [sampling.negative.get(m) or ""] for m in model.modalities}))

    def _contexts(self, prompts: AV[Sequence[str]]) -> AV[Context]:
        """The texts as the towers see them, with every layer's keys and values. One text for both is encoded once."""

        def encode(texts: Sequence[str]) -> Text:
            return self.conditioner.encode(list(texts)).to(self.device, self.dtype)

        shared = prompts.video is not None and prompts.video == prompts.audio
        once = encode(next(prompts.values())) if shared else None
        texts = prompts.map(lambda one: encode(one) if once is None else once)
        return self.model.embed_text(texts, cache=True)

    @torch.no_grad()
    def clips(self, jobs: Sequence[Job], callback: Callback | None = None) -> list[Clip]:
        """One clip per job, in order. UserError naming the clip whose samples are not finite.

        Each clip's noise comes from its own seed, so it is the same in whatever batch the clip is made.
        """
        prompts = [job.prompt for job in jobs]
        contexts = {
            PROMPT: self._contexts(AV.of(dict.fromkeys(self.model.modalities, prompts))),
            NEGATIVE: self._negative.map(lambda context: _repeated(context, len(jobs))),
        }
        codecs = AV.of({m: self.codecs[m] for m in self.model.modalities})
        network = BoundNetwork(self.model, contexts, codecs.map(lambda codec: codec.grid()), self.dtype)
        parts = self.sampling
        shapes: AV[tuple[int, ...]] = codecs.map(lambda codec: (1, *codec.shape()))
        noises = [draw_noise(shapes, job.seed, same_seed=parts.same_noise_seed) for job in jobs]
        noise = AV.of({m: torch.cat([one[m] for one in noises]).to(self.device) for m in codecs.modalities})
        latents = sample(network, noise, parts.schedule, parts.solver, parts.guidance, parts.steps, callback=callback)
        # Codecs work on one clip at a time: their memory is the pixels', not the latents'.
        return [self._decoded(job, _item(latents, i)) for i, job in enumerate(jobs)]

    def _decoded(self, job: Job, latents: AV[Tensor]) -> Clip:
        samples = latents.zip(self.codecs, lambda value, codec: codec.decode(value.float())[0].float().cpu())
        for modality, value in samples.items():
            if not bool(torch.isfinite(value).all()):
                raise UserError(
                    f"clip {job.id} has values in its {modality} that are not finite",
                    hint="nothing was written; look at the weights, the guidance scale and the number format",
                )
        return clip_of(job.id, job.prompt, samples, self.clip)


def clip_of(name: str, prompt: str, samples: AV[Tensor], form: ClipSpec) -> Clip:
    """A clip from what codecs decode: video (frames, height, width, 3) and audio (samples,), both in [-1, 1]."""
    video = None if samples.video is None else Clip.pixels(samples.video)
    audio = None if samples.audio is None else samples.audio.clamp(-1, 1)
    return Clip(name, prompt, video, audio, form.frame_rate_hz, form.sample_rate_hz)


def through_codecs(clip: Clip, codecs: AV[Codec], form: ClipSpec) -> Clip:
    """The clip after its codecs' encoding and decoding: the best that a model over these latents can do."""

    def again(codec: Codec, samples: Tensor) -> Tensor:
        return codec.decode(codec.encode(samples[None]))[0].float()

    given = AV.of({modality: clip.signal(modality) for modality in codecs.modalities})
    return replace(clip_of(clip.name, clip.prompt, codecs.zip(given, again), form), truth=clip.truth)


def _item(latents: AV[Tensor], index: int) -> AV[Tensor]:
    """The latents of one clip of a batch, as a batch of one."""
    return latents.map(lambda value: value[index : index + 1])


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
