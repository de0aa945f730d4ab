"""The clips of a run, phase by phase: texts, first frames, then each batch through the network and the codecs.

Only what a phase needs lies on the device, as the memory plan says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovikit.errors import UserError
from ovikit.generate.anchors import WHAT, anchored, encode_anchors
from ovikit.generate.batch import ClipMaker, SizedCodecs
from ovikit.generate.jobs import Job, Origin, Shape, put_clip, sidecar_of
from ovikit.generate.orders import refuse_layers
from ovikit.generate.size import Size
from ovikit.generate.source import Parts, Source
from ovikit.generate.texts import TextCache, Texts
from ovikit.generate.watch import Clock, Megabytes, Watcher
from ovikit.kernel.events import ClipFinished
from ovikit.kernel.manager import fire
from ovikit.networks.attention import Described, whole_keys
from ovikit.networks.joint import JointModel, PairLayer
from ovikit.networks.protocols import Checked
from ovikit.recipe.build import Sampling, build_sampling, check_weights, fill_model, precision_of
from ovikit.runtime.placement import Placement
from ovikit.runtime.plan import Chosen, choose_for
from ovikit.runtime.processes import Processes
from ovikit.types import AV, Clip, Modality

_DENOISING = 0.9
"""Share of a clip's way that is denoising; decoding and writing are the rest."""
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Tools:
    """What clips are made with. model: builds the network without its weights, or gives the one that is built."""

    source: Source
    parts: Parts
    codecs: SizedCodecs
    model: Callable[[], JointModel]
    processes: Processes
    clock: Clock
    shown: Watcher


class Making:
    """The batches of a run that are still to be made."""

    def __init__(
        self, tools: Tools, origin: Origin, folder: Path, batches: Sequence[Sequence[Job]], done: set[str]
    ) -> None:  # fmt: skip
        self._tools, self._origin, self._folder, self._batches, self._done = tools, origin, folder, batches, done
        self._sampling: Sampling = build_sampling(tools.source.recipe)
        self._written = 0
        self.peak = 0

    @property
    def _device(self) -> torch.device:
        return self._tools.processes.device

    def run(self) -> list[str]:
        """The ids of the clips that this process wrote. UserError where the device has too little memory."""
        try:
            return self._run()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the device ran out of memory ({str(error).splitlines()[0]})",
                str(self._device),
                "try -o runtime.memory.plan=offload-components or stream-layers, a smaller --size or --batch-size 1",
            ) from error

    def _run(self) -> list[str]:
        tools, source = self._tools, self._tools.source
        refuse_layers(self._sampling, tools.model())
        check_weights(tools.model(), source.recipe, weights=source.weights, assets=source.assets)
        for codec in tools.parts.codecs.values():
            if isinstance(codec, Checked):  # a damaged decoder should not be found after all the denoising
                codec.check()
        chosen = self._chosen()
        placement = Placement(chosen, self._device)
        texts, first = self._texts(placement), self._first_frames(placement)
        maker = self._maker(placement, chosen, texts, self._anchors(placement))
        facts = {**self._facts(chosen, maker.model), "processes": tools.processes.layout.world}
        made = []
        for batch in self._batches:
            began = time.perf_counter()
            latents = self._denoised(placement, maker, batch, first)
            if tools.processes.writer:
                made += self._finish(placement, batch, latents, began, facts)
        self.peak = _peak_bytes(placement)
        return made

    def _chosen(self) -> Chosen:
        """The memory plan for the largest batch and the largest size."""
        tools = self._tools
        sizes = [job.shape.size_px for batch in self._batches for job in batch]
        largest = tools.codecs.of(max(sizes, key=lambda size: size[0] * size[1]))
        clips = max(len(batch) for batch in self._batches)
        chosen = choose_for(tools.source.recipe, largest, tools.parts.conditioner, self._device, clips=clips)
        # Whoever shares a clip must run its passes alike, however much memory each device has free.
        chosen = replace(chosen, batched=tools.processes.by_writer(lambda: chosen.batched))
        for one in (chosen.reason, *chosen.warnings, *self._origin.details["terms"]):
            tools.shown.note(one)
        return chosen

    def _texts(self, placement: Placement) -> Texts:
        """Every text of the run, encoded; the encoder is gone again."""
        tools, conditioner = self._tools, self._tools.parts.conditioner
        modalities = tools.parts.codecs.modalities
        wanted = [job.text[m] for batch in self._batches for job in batch for m in modalities]
        wanted += [self._sampling.negative.get(m) or "" for m in modalities]
        with tools.clock("text"):
            texts = TextCache().of(conditioner)
            missing = texts.missing(wanted)
            if missing:
                with placement.text(conditioner, Megabytes(tools.shown, "loading the text encoder")):
                    tools.shown.phase("encoding prompts", len(missing), "prompts")
                    texts.encode(wanted, lambda done, total: tools.shown.progress(done))
        return texts

    def _first_frames(self, placement: Placement) -> dict[Shape, Tensor]:
        """The latents of every first frame."""
        tools = self._tools
        shapes = list(dict.fromkeys(job.shape for batch in self._batches for job in batch))
        given = [shape for shape in shapes if shape.first is not None]
        found: dict[Shape, Tensor] = {}
        if given:
            with tools.clock("first frames"), placement.codec(tools.codecs.base["video"]):
                tools.shown.phase("encoding first frames", len(given), "images")
                for shape in given:
                    found[shape] = tools.codecs.first(shape)
                    tools.shown.progress(len(found))
        return found

    def _anchors(self, placement: Placement) -> dict[Size, AV[Tensor]]:
        """By size, the latents of silence and of a still picture, where a pass of the guidance is anchored in them."""
        tools, model = self._tools, self._tools.model()
        sizes = list(dict.fromkeys(job.shape.size_px for batch in self._batches for job in batch))

        def begun(modality: Modality) -> None:
            tools.shown.phase(f"encoding {WHAT[modality]}", len(sizes), "sizes")

        if not anchored(self._sampling, model.modalities):
            return {}
        with tools.clock("anchors"):
            return encode_anchors(
                self._sampling, model.modalities, tools.codecs, sizes, placement, begun, tools.shown.progress
            )

    def _maker(self, placement: Placement, chosen: Chosen, texts: Texts, anchors: dict[Size, AV[Tensor]]) -> ClipMaker:
        """The network with its weights, ready to denoise."""
        tools, source = self._tools, self._tools.source
        with tools.clock("loading"):
            model = tools.model()
            metadata = fill_model(
                model, source.recipe, weights=source.weights, assets=source.assets,
                place=source.placing(model, placement.place),
                progress=Megabytes(tools.shown, "loading the network"),
            )  # fmt: skip
        self._origin = replace(self._origin, details={**self._origin.details, "weights": metadata})
        return ClipMaker(
            model, tools.codecs, texts, self._sampling, precision_of(source.recipe).dtype, self._device,
            chosen.batched, tools.processes.network, anchors,
        )  # fmt: skip

    def _facts(self, chosen: Chosen, model: JointModel) -> dict[str, Any]:
        """How clips are made on this machine; what attends is said."""
        layer = next(iter(model.layers))
        assert isinstance(layer, PairLayer)
        attend, dtype = whole_keys(layer.attend), precision_of(self._tools.source.recipe).dtype
        attention = attend.describe(self._device, dtype) if isinstance(attend, Described) else None
        if attention is not None:
            self._tools.shown.note(attention)
        cuda = self._device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self._device) if cuda else "cpu",
            "memory_plan": chosen.plan,
            "passes": "batched" if chosen.batched else "in turn",
            "attention": attention,
        }

    def _denoised(
        self, placement: Placement, maker: ClipMaker, batch: Sequence[Job], first: dict[Shape, Tensor]
    ) -> AV[Tensor]:
        tools = self._tools
        missing, began = len(self._missing(batch)), time.perf_counter()

        def callback(step: int, steps: int, x: AV[Tensor]) -> None:
            each = (time.perf_counter() - began) / step
            told = f"denoising {step}/{steps}, {each:.2g} s a step"
            tools.shown.part(told, self._written + missing * _DENOISING * step / steps)

        tools.shown.part(f"denoising 0/{self._sampling.steps}", self._written)
        with tools.clock("denoising"), placement.network(maker.model):
            return maker.latents(batch, first, callback)

    def _missing(self, batch: Sequence[Job]) -> list[tuple[int, Job]]:
        """The jobs of a batch whose clips are still to be made, with their places in it."""
        return [(i, job) for i, job in enumerate(batch) if job.id not in self._done]

    def _finish(
        self, placement: Placement, batch: Sequence[Job], latents: AV[Tensor], began: float, facts: dict[str, Any]
    ) -> list[str]:
        """The ids of the batch's clips, decoded and written."""
        tools, missing = self._tools, self._missing(batch)
        denoised = time.perf_counter()
        samples = self._decoded(placement, missing, latents)
        spent = time.perf_counter()
        run = {
            **facts,
            "seconds": {
                **{name: tools.clock.rounded().get(name, 0.0) for name in ("text", "first frames", "loading")},
                "denoising": round((denoised - began) / len(missing), 3),
                "decoding": round((spent - denoised) / len(missing), 3),
            },
            "peak_memory_gb": round(_peak_bytes(placement) / _GB, 3),
        }
        each = (spent - began) / len(missing)
        for _, job in missing:
            with tools.clock("writing"):
                path = self._write(job, AV.of(samples.pop(job.id)), run)
            self._written += 1
            fire(ClipFinished("generate", self._folder, job.id, path, job.prompt, job.seed, each))
            tools.shown.clip(job.id, path, each)
        return [job.id for _, job in missing]

    def _decoded(
        self, placement: Placement, missing: Sequence[tuple[int, Job]], latents: AV[Tensor]
    ) -> dict[str, dict[Modality, Tensor]]:
        """Pixels and samples by clip. Codecs work on one clip at a time: their memory is the pixels', not the
        latents'."""
        tools = self._tools
        samples: dict[str, dict[Modality, Tensor]] = {job.id: {} for _, job in missing}
        parts = len(missing) * len(latents.modalities)
        for order, (modality, value) in enumerate(latents.items()):
            with tools.clock("decoding"), placement.codec(tools.codecs.base[modality]):
                for at, (i, job) in enumerate(missing):

                    def progress(done: int, total: int, part: int = order * len(missing) + at) -> None:
                        share = (part + done / total) / parts
                        way = _DENOISING + (1 - _DENOISING) * share
                        tools.shown.part(f"decoding {100 * share:.0f} %", self._written + len(missing) * way)

                    progress(0, 1)
                    samples[job.id][modality] = tools.codecs.decoded(modality, job, value[i : i + 1], progress)
        return samples

    def _write(self, job: Job, samples: AV[Tensor], run: dict[str, Any]) -> Path:
        form = self._tools.codecs.form_of(job.shape.size_px)
        clip = Clip(job.id, job.prompt, samples.video, samples.audio, form.frame_rate_hz, form.sample_rate_hz)
        return put_clip(self._folder, job.id, clip, sidecar_of(job, self._origin, run))


def _peak_bytes(placement: Placement) -> int:
    """The most memory that a phase took so far."""
    return max((phase.peak_bytes for phase in placement.report()), default=0)
