"""One clip, made as ``ovikit generate`` makes it, and where each of its audio tokens looks in the picture meanwhile.

Shape legend: a audio tokens, v video tokens, t y x video steps, rows, columns of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from ovikit.errors import UserError, listed
from ovikit.evaluation.protocols import PromptItem
from ovikit.figures.recorder import Recorder
from ovikit.generate.anchors import encode_anchors
from ovikit.generate.batch import ClipMaker, SizedCodecs
from ovikit.generate.jobs import Job, Shape
from ovikit.generate.orders import prepared_texts, refuse_layers
from ovikit.generate.source import Parts, Source, build_parts, find_source
from ovikit.generate.texts import TextCache, Texts
from ovikit.generate.watch import Megabytes, Unwatched, Watcher
from ovikit.networks.joint import WHOLE, JointModel
from ovikit.networks.protocols import Attend, Checked
from ovikit.numerics.guidance import PROMPT
from ovikit.numerics.protocols import Network, Pass
from ovikit.recipe.build import (
    Sampling,
    Spread,
    build_model,
    build_sampling,
    check_weights,
    clip_spec,
    fill_model,
    find_assets,
    precision_of,
)
from ovikit.runtime.passes import BoundNetwork
from ovikit.runtime.placement import Placement
from ovikit.runtime.plan import choose_for
from ovikit.types import AV, Clip, Modality, TokenGrid

MOST_TOKENS = 40
_LIGHTNING = ".ckpt"


@dataclass(frozen=True, slots=True)
class Attention:
    """What audio tokens attend to in the fusion.

    maps:   each row sums to 1 over the video tokens
    grids:  of the tokens
    layers: that have such attention, and were averaged over
    step:   the denoising step that it was recorded in, of so many
    """

    clip: Clip
    maps: Float32[Tensor, "a v"]
    grids: AV[TokenGrid]
    layers: tuple[int, ...]
    step: int
    steps: int

    def over_frames(self) -> Float32[Tensor, "a t y x"]:
        """The maps by video step, row and column."""
        return self.maps.unflatten(1, self.grids["video"].shape)


def find_weighted(source: Path, overrides: Sequence[str], weights: Path | None, checkpoint: Path | None) -> Source:
    """The source with the network's weights of ``checkpoint``, where that is given; others are found as by generate.

    UserError for a checkpoint that holds the state of a training, and where both name the network's weights.
    """
    if checkpoint is None:
        return find_source(source, overrides, weights)
    if checkpoint.suffix == _LIGHTNING:
        hint = "ovikit.training.checkpoints.weights_of_checkpoint gives the file with its weights"
        raise UserError("this is the state of a training, not a file of weights", str(checkpoint), hint)
    if not checkpoint.is_file():
        raise UserError(
            "no such weights file",
            str(checkpoint),
            "give a file; of a run, it is weights.safetensors or one of its checkpoints",
        )
    if weights is not None and not weights.is_dir():
        raise UserError("--checkpoint and --weights both name the network's weights", hint="leave one of them out")
    found = find_source(source, overrides, checkpoint)
    return found if weights is None else replace(found, assets=find_assets(weights))


def record_attention(
    source: Source,
    item: PromptItem,
    *,
    choose: Callable[[TokenGrid], list[int]] = lambda grid: [],
    step: int | None = None,
    layers: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    watcher: Watcher | None = None,
) -> tuple[Attention, list[int]]:
    """Makes the clip of a prompt with the noise of the recipe's seed, and records one evaluation on the way.

    choose: the audio tokens that are wanted, given along, each once; asked before anything is read: it may refuse
    step:   of denoising, from 1 on; default: the middle one
    layers: to average over; default: all that have such attention

    The clip is the one that ``ovikit generate`` makes: what is recorded is an evaluation more. UserError for a model
    whose fusion lets no audio token attend to video tokens, for a step or a layer that is not there, and for whatever
    generate refuses.
    """
    shown = watcher or Unwatched()
    session = _Session(source, torch.device(device), shown)
    session.refuse(step, layers)
    chosen = list(dict.fromkeys(choose(session.grids()["audio"])))
    if len(chosen) > MOST_TOKENS:
        raise UserError(f"a picture has at most {MOST_TOKENS} rows, not {len(chosen)}", hint="choose fewer tokens")
    job = session.job(item)
    try:
        made = session.run(job, session.texts(job), step or (session.sampling.steps + 1) // 2, layers)
    except torch.OutOfMemoryError as error:
        hint = "try -o runtime.memory.plan=offload-components or stream-layers, or a smaller clip"
        raise UserError("the device ran out of memory", str(device), hint) from error
    return made, chosen


class _Session:
    """The parts of one recording. Building it reads no weights."""

    def __init__(self, source: Source, device: torch.device, shown: Watcher) -> None:
        self.source, self.device, self.shown = source, device, shown
        self.parts: Parts = build_parts(source)
        self.codecs = SizedCodecs(self.parts.codecs, clip_spec(source.recipe))
        self.sampling: Sampling = build_sampling(source.recipe)
        self.recorders: list[Recorder] = []
        self.model: JointModel = build_model(
            source.recipe, self.parts.codecs, self.parts.conditioner, "meta", Spread(WHOLE, self._recorder)
        )

    def _recorder(self, attend: Attend) -> Recorder:
        self.recorders.append(Recorder(attend))
        return self.recorders[-1]

    def refuse(self, step: int | None, layers: Sequence[int] | None) -> None:
        """UserError for what cannot be recorded, as far as it can be told before anything is read."""
        recipe, model, steps = self.source.recipe, self.model, self.sampling.steps
        if len(model.modalities) < 2:
            raise UserError(
                f"recipe '{recipe.name}' makes {' '.join(model.modalities)} alone: there is no attention between two",
                "model",
            )
        if all(layer.fusion is None for layer in model.layers):
            raise no_attention(recipe.model.fusion.type)
        if step is not None and not 1 <= step <= steps:
            raise UserError(f"there is no step {step}: the recipe denoises in {steps}, from 1 on", "--step")
        beyond = [str(i) for i in layers or () if not 0 <= i < len(model.layers)]
        if beyond:
            raise UserError(
                f"there is no layer {listed(beyond, 5)}: the model has {len(model.layers)}, from 0 on", "--layers"
            )
        tokens = self.grids().map(len)
        refuse_alike(tokens["audio"], tokens)
        refuse_layers(self.sampling, model)
        check_weights(model, recipe, weights=self.source.weights, assets=self.source.assets)
        for codec in self.parts.codecs.values():
            if isinstance(codec, Checked):
                codec.check()

    def grids(self) -> AV[TokenGrid]:
        return AV.of({m: self.model.tower(m).grid(codec.grid()) for m, codec in self.parts.codecs.items()})

    def job(self, item: PromptItem) -> Job:
        text = prepared_texts([item], self.parts.conditioner, self.shown.note, self.model.modalities)[0]
        form = self.codecs.form
        return Job(
            item.id, item.id, item.prompt, text, self.source.recipe.sampling.seed,
            Shape((form.height_px, form.width_px)),
        )  # fmt: skip

    def placement(self) -> Placement:
        chosen = choose_for(self.source.recipe, self.parts.codecs, self.parts.conditioner, self.device)
        for one in (chosen.reason, *chosen.warnings, *self.parts.terms()):
            self.shown.note(one)
        # What is compiled keeps no notes.
        return Placement(replace(chosen, compile=False), self.device)

    def texts(self, job: Job) -> Texts:
        """The prompt and the negative prompts, encoded; the encoder is gone again."""
        modalities = self.model.modalities
        wanted = [*(job.text[m] for m in modalities), *(self.sampling.negative.get(m) or "" for m in modalities)]
        self.shown.phase("encoding the prompt", 0, "")
        return TextCache().encode(self.parts.conditioner, wanted, device=self.device)

    def run(self, job: Job, texts: Texts, step: int, layers: Sequence[int] | None) -> Attention:
        placement, recipe, steps = self.placement(), self.source.recipe, self.sampling.steps
        anchors = encode_anchors(
            self.sampling, self.model.modalities, self.codecs, [job.shape.size_px], placement
        )  # fmt: skip
        fill_model(
            self.model, recipe, weights=self.source.weights, assets=self.source.assets,
            place=self.source.placing(self.model, placement.place),
            progress=Megabytes(self.shown, "loading the network"),
        )  # fmt: skip
        chosen = range(len(self.model.layers)) if layers is None else layers
        listening = _Listening(self.recorders[0], self.model, self.grids().map(len), step, tuple(chosen))
        maker = ClipMaker(
            self.model, self.codecs, texts, self.sampling, precision_of(recipe).dtype, self.device,
            placement.chosen.batched, listening.drive, anchors,
        )  # fmt: skip

        def told(done: int, total: int, x: AV[Tensor]) -> None:
            listening.done = done
            if done == step:  # better told now than after all the denoising
                listening.refuse(recipe.model.fusion.type, layers is not None)
            self.shown.progress(done)

        self.shown.phase("denoising", steps, "steps")
        with placement.network(self.model):
            latents = maker.latents([job], {}, told)
        samples: dict[Modality, Tensor] = {}
        for modality, value in latents.items():
            self.shown.phase(f"decoding {modality}", 0, "")
            with placement.codec(self.codecs.base[modality]):
                samples[modality] = self.codecs.decoded(modality, job, value)
        form = self.codecs.form
        clip = Clip(
            job.id, job.prompt, samples["video"], samples["audio"], form.frame_rate_hz, form.sample_rate_hz
        )  # fmt: skip
        found = listening.recorded
        maps = torch.stack([one for calls in found.values() for one in calls]).mean(dim=0)
        return Attention(clip, maps, self.grids(), tuple(found), step, steps)


@dataclass(slots=True)
class _Listening:
    """Lets the recorder listen to one evaluation of the prompt, at the first noise level of one step.

    That evaluation is one more than the sampler asks for, so that what it asks for is as it would be anyway: its passes
    may run as one batch.

    done: steps that are finished
    """

    recorder: Recorder
    model: JointModel
    tokens: AV[int]
    step: int
    layers: tuple[int, ...]
    done: int = 0
    _heard: bool = False

    def drive(self, bound: BoundNetwork) -> Network:
        def network(x: AV[Tensor], told: AV[float], passes: tuple[Pass, ...]) -> Mapping[str, AV[Tensor]]:
            if self.done == self.step - 1 and not self._heard:
                self._heard = True
                refuse_alike(bound.contexts[PROMPT]["audio"].tokens.shape[1], self.tokens)
                with self.recorder.listening(self.model, self.tokens, self.layers):
                    bound.evaluate(x, told, Pass(PROMPT, PROMPT))
            return bound(x, told, passes)

        return network

    @property
    def recorded(self) -> dict[int, list[Tensor]]:
        """By layer, what was recorded."""
        return {i: calls for i, calls in self.recorder.found.items() if calls}

    def refuse(self, fusion: str, asked: bool) -> None:
        """UserError where nothing was recorded."""
        if not self.recorder.found:
            raise no_attention(fusion)
        if asked and not self.recorded:
            there = ", ".join(map(str, self.recorder.found))
            raise UserError("none of these layers has such attention", "--layers", f"those that have: {there}")


def refuse_alike(others: int, tokens: AV[int]) -> None:
    """UserError where what audio tokens attend to besides has as many tokens as the picture, or as both together."""
    if others in (tokens["video"], tokens["video"] + tokens["audio"]):
        what = "the picture" if others == tokens["video"] else "picture and sound"
        raise UserError(
            f"{others} tokens of {what} and as many of the sound or the text: calls cannot be told apart",
            hint="record a clip of another length or size: -o clip.duration_s=...",
        )


def no_attention(fusion: str) -> UserError:
    """The error of a fusion in which no audio token attends to all of the video's."""
    return UserError(
        f"fusion '{fusion}' has no such attention to show: in no layer do the audio tokens attend to all video tokens",
        "model.fusion",
        "there is some where one modality reads the other through attention, as in 'ovi' or 'joint'",
    )


def tokens_at(grid: TokenGrid, times_s: Sequence[float]) -> list[int]:
    """The token that sounds at each time. UserError for a time outside of the clip."""
    found: list[int] = []
    for time in times_s:
        inside = [i for i, (start, end) in enumerate(grid.edges_s) if start <= time < end]
        if not inside:
            raise UserError(f"{time:g} s lies outside of the sound, which lasts {grid.edges_s[-1][1]:.2f} s", "--at")
        found.append(inside[0])
    return found


def numbered_tokens(grid: TokenGrid, tokens: Sequence[int]) -> list[int]:
    """The tokens themselves. UserError for one that is not there."""
    beyond = [str(token) for token in tokens if not 0 <= token < len(grid)]
    if beyond:
        raise UserError(f"there is no audio token {listed(beyond, 5)}: a clip has {len(grid)}, from 0 on", "--tokens")
    return list(tokens)


def spread_tokens(grid: TokenGrid, count: int = 4) -> list[int]:
    """Tokens at even distances over the clip."""
    return sorted({int((i + 0.5) * len(grid) / count) for i in range(count)})
