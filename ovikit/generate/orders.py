"""What is asked for, checked before anything large is read: prompts as they are encoded, sizes, first frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch

from ovikit.errors import UserError, listed
from ovikit.evaluation.protocols import PromptItem
from ovikit.files import sha256_of
from ovikit.generate.batch import SizedCodecs
from ovikit.generate.image import read_image
from ovikit.generate.jobs import FirstFrame, Shape
from ovikit.generate.media import MOST_SIDE_PX
from ovikit.generate.size import Size, SizeRule, told
from ovikit.networks.joint import JointModel
from ovikit.networks.protocols import Conditioner
from ovikit.networks.reading import texts_of
from ovikit.numerics.evaluations import passes_of_run
from ovikit.numerics.protocols import Pass, StartsStill
from ovikit.recipe.build import Sampling
from ovikit.types import AV, MODALITIES, Modality

Note = Callable[[str], None]


def prepared_texts(
    items: Sequence[PromptItem],
    conditioner: Conditioner,
    note: Note,
    modalities: tuple[Modality, ...] = MODALITIES,
) -> list[AV[str]]:
    """The prompts as the conditioner encodes them, for each tower. What their authors should know is noted once, with
    the prompts that it is about. UserError listing every prompt that cannot be encoded.

    modalities: of the model; that a prompt says nothing for one of them is noted
    """
    texts: list[AV[str]] = []
    about: dict[str, list[str]] = {}
    refused: list[str] = []
    for item in items:
        try:
            prepared = conditioner.prepare(item.prompt)
        except UserError as error:
            refused.append(f"{item.id}: {error.what}")
            continue
        text = texts_of(conditioner, prepared.text)
        texts.append(text)
        for one in (*prepared.notes, *nothing_said(text, modalities)):
            about.setdefault(one, []).append(item.id)
    if refused:
        raise UserError(f"{len(refused)} prompts cannot be used", hint="\n  ".join(refused[:20]))
    for one, ids in about.items():
        note(f"prompt: {one}" if len(items) == 1 else f"prompt {listed(list(dict.fromkeys(ids)), 3)}: {one}")
    return texts


def nothing_said(text: AV[str], modalities: tuple[Modality, ...]) -> list[str]:
    """What is to be told of towers for which a prompt says nothing, though it does for others."""
    silent = [modality for modality in modalities if not text[modality].strip()]
    if not any(one.strip() for one in text.values()):
        return []
    lacking = {"video": "says nothing of what is seen", "audio": "has no audio caption"}
    return [f"it {lacking[modality]}: the {modality} tower reads the empty prompt" for modality in silent]


def size_rule(codecs: SizedCodecs, model: JointModel, area_px: int | None) -> SizeRule:
    """The sizes that clips of a model may have. UserError for a model without pictures."""
    if "video" not in model.modalities:
        raise UserError("this recipe makes no pictures: it takes neither a size nor a first frame")
    form = codecs.form
    tokens = model.tower("video").grid(codecs.base["video"].grid())
    step = form.height_px // tokens.shape[1], form.width_px // tokens.shape[2]
    return SizeRule((form.height_px, form.width_px), step, area_px)


def shapes_of(
    items: Sequence[PromptItem],
    own: Size,
    rule: Callable[[], SizeRule],
    asked: Size | None,
    note: Note,
) -> list[Shape]:
    """The size and first frame of each prompt's clips.

    own:   the recipe's size
    rule:  what it allows beyond that, asked where it matters
    asked: size for all clips; without one, a first frame decides it

    UserError for a size that does not fit, or an image that cannot be read.
    """
    common = own if asked is None else rule().asked(asked)
    if asked is not None and common != asked:
        note(f"size: {told(asked)} becomes {told(common)} (height x width), the recipe's area in whole tokens")

    @cache
    def with_image(path: Path) -> Shape:
        picture = read_image(path)
        for one in picture.notes:
            note(one)
        given = picture.size_px
        chosen = rule().shown(given) if asked is None else common
        free = asked is None and rule().area_px is not None
        crop = not free and given[0] * chosen[1] != given[1] * chosen[0]
        how = "cropped to" if crop else "resized to"
        if given != chosen:
            note(f"first frame: {path.name} is {told(given)} (height x width) and is {how} {told(chosen)}")
        return Shape(chosen, FirstFrame(path, sha256_of(path), crop))

    return [Shape(common) if item.image is None else with_image(item.image) for item in items]


def passes_of(sampling: Sampling, modalities: tuple[Modality, ...]) -> list[Pass]:
    """Every pass that a run makes at one of its levels or between them, once each."""
    parts = sampling
    asked = passes_of_run(parts.schedule, parts.solver, parts.guidance, parts.steps, modalities)
    return list(dict.fromkeys(run for passes in asked for run in passes))


def refuse_layers(sampling: Sampling, model: JointModel) -> None:
    """UserError for a guidance that changes layers which the model has not got, since such a pass would change nothing,
    and for one that stands still where the solver takes a velocity of 0 for a prediction."""
    _refuse_standing_still(sampling)
    changed = [one.perturbation for one in passes_of(sampling, model.modalities)]
    beyond = {i for one in changed for i in (*one.skip_layers, *one.skip_self) if i >= len(model.layers)}
    if beyond:
        raise UserError(
            f"there is no layer {listed(sorted(map(str, beyond)), 5)}: the model has {len(model.layers)}, from 0 on",
            "sampling.guidance",
        )


def _refuse_standing_still(sampling: Sampling) -> None:
    guidance = sampling.guidance
    if not isinstance(guidance, StartsStill) or guidance.zero_above is None:
        return
    if sampling.solver.init(AV(torch.zeros(1, 1, 1, 1, 1))) is not None:
        raise UserError(
            "zero_above makes the velocity 0 at first, and this solver remembers what was predicted there",
            "sampling.guidance",
            "take a solver without a history: euler, heun or res-2s",
        )


def refuse_unfit(shapes: Sequence[Shape], codecs: SizedCodecs, model: JointModel, rule: SizeRule) -> None:
    """UserError for a size that a codec or the video tower cannot work with."""
    for size in dict.fromkeys(shape.size_px for shape in shapes):
        if max(size) > MOST_SIDE_PX:
            raise UserError(
                f"clips of {told(size)} (height x width) cannot be written: a side has at most {MOST_SIDE_PX} pixels",
                "--size",
                "take an image, or give a --size, of more even sides",
            )
        try:
            model.tower("video").grid(codecs.of(size)["video"].grid())
        except (ValueError, UserError) as error:
            raise UserError(
                f"clips of {told(size)} (height x width) do not fit this recipe: {error}",
                "--size",
                f"sides are multiples of {rule.step[0]} and {rule.step[1]} pixels",
            ) from error
