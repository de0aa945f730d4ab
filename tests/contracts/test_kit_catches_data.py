"""Components that handle clips and texts and are broken in one way each: the contract of their kind says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from kit_examples import caught, component, failures
from torch import Tensor, nn

from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.networks.protocols import Prepared
from ovikit.testing import (
    CodecContract,
    ConditionerContract,
    DatasetContract,
    EvaluatorContract,
    PromptSetContract,
)
from ovikit.testing.clips import beating_clip, noisy_clip
from ovikit.types import Clip, ClipSpec, Modality, Text, TokenGrid

# codecs


class Means:
    """Audio: means of 400 samples."""

    modality: Modality = "audio"
    channels = 1

    def __init__(self, clip: ClipSpec, step: int = 400) -> None:
        self.clip, self.step = clip, step

    def shape(self) -> tuple[int, int]:
        return 1, self.clip.samples // self.step

    def grid(self) -> TokenGrid:
        return TokenGrid.uniform("audio", (self.shape()[1], 1, 1), self.step / self.clip.sample_rate_hz)

    def for_clip(self, clip: ClipSpec) -> Means:
        return type(self)(clip)

    def encode(self, samples: Tensor) -> Tensor:
        return samples.unflatten(1, (-1, self.step)).mean(-1)[:, None]

    def decode(self, latents: Tensor, progress: object = None) -> Tensor:
        return latents[:, 0].repeat_interleave(self.step, dim=1).clamp(-1, 1)

    def fingerprint(self) -> str:
        return f"means/{self.step}"


class Long(Means):
    def decode(self, latents: Tensor, progress: object = None) -> Tensor:
        return nn.functional.pad(super().decode(latents), (0, 1))


class Sampled(Means):
    def encode(self, samples: Tensor) -> Tensor:
        found = super().encode(samples)
        return found + 1e-6 * torch.randn(found.shape)


class Decibels(Means):
    def encode(self, samples: Tensor) -> Tensor:
        return samples.unflatten(1, (-1, self.step)).square().mean(-1)[:, None].log()

    def decode(self, latents: Tensor, progress: object = None) -> Tensor:
        return super().decode(latents.exp().sqrt())


def test_codecs() -> None:
    def found(kind: type[Means], only: tuple[str, ...] = ()) -> dict[str, str]:
        return failures(CodecContract, component(lambda config, *, clip, assets: kind(clip)), only)

    assert found(Means) == {}
    check = "test_exactly_the_clip_is_decoded"
    caught(found(Long, (check,)), check, "cut or pad to the clip's form")
    check = "test_it_draws_nothing"
    caught(found(Sampled, (check,)), check, "take the mean, do not draw from it")
    caught(found(Decibels), "test_silence_and_black_are_finite", "keep logarithms away from 0")


# conditioners


class Letters:
    """Each letter is a token."""

    width = 6

    def prepare(self, prompt: str) -> Prepared:
        return Prepared(prompt)

    def encode(self, prompts: Sequence[str]) -> Text:
        rows = [torch.tensor([[ord(c) / 2**i % 1 for i in range(6)] for c in prompt or " "]) for prompt in prompts]
        lengths = torch.tensor([len(row) for row in rows])
        return Text(nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths)

    def fingerprint(self) -> str:
        return "letters"


class Padded(Letters):
    """Fills up with ones."""

    def encode(self, prompts: Sequence[str]) -> Text:
        text = super().encode(prompts)
        inside = torch.arange(text.tokens.shape[1]) < text.lengths[:, None]
        return replace(text, tokens=torch.where(inside[..., None], text.tokens, 1.0))


class Centred(Letters):
    """Takes the mean of the batch away."""

    def encode(self, prompts: Sequence[str]) -> Text:
        text = super().encode(prompts)
        inside = torch.arange(text.tokens.shape[1]) < text.lengths[:, None]
        return replace(text, tokens=(text.tokens - text.tokens.mean(dim=(0, 1))) * inside[..., None])


def test_conditioners() -> None:
    def found(kind: type[Letters]) -> dict[str, str]:
        return failures(ConditionerContract, component(lambda config, *, assets: kind()))

    assert found(Letters) == {}
    caught(found(Padded), "test_rows_past_the_length_are_zero", "write zeros there")
    caught(found(Centred), "test_prompts_of_a_batch_do_not_meet", "mask padding")


# datasets


class Noises:
    def __init__(self, clip: ClipSpec) -> None:
        self.clip, self.read = clip, 0

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Clip:
        if not 0 <= index < 3:
            raise IndexError(f"clip {index} of 3")
        return noisy_clip(self.clip, seed=index)

    def fingerprint(self) -> str:
        return "noises"


class Endless(Noises):
    def __getitem__(self, index: int) -> Clip:
        return noisy_clip(self.clip, seed=index % 3)


class Counting(Noises):
    """The next clip, whatever is asked for."""

    def __getitem__(self, index: int) -> Clip:
        super().__getitem__(index)
        self.read += 1
        return noisy_clip(self.clip, seed=self.read)


class Loud(Noises):
    def __getitem__(self, index: int) -> Clip:
        clip = super().__getitem__(index)
        assert clip.audio is not None
        return replace(clip, audio=clip.audio * 3)


def test_datasets() -> None:
    def found(kind: type[Noises]) -> dict[str, str]:
        return failures(DatasetContract, component(lambda config, *, clip: kind(clip)))

    assert found(Noises) == {}
    caught(found(Endless), "test_it_ends_where_its_length_says", "index 3 of 3 clips is accepted", "IndexError")
    caught(found(Counting), "test_the_same_index_is_the_same_clip", "seeded by the options and the index")
    caught(found(Loud), "test_clips_have_the_form_that_was_asked_for", "its audio leaves [-1, 1]")


# evaluators


class Loudness:
    version = "1"
    metrics = (MetricSpec("loudness", "higher", "", (0.0, 1.0), "1", "root mean square of the samples"),)

    def features(self, clip: Clip) -> dict[str, Any]:
        audio = clip.audio
        heard = audio is not None and bool(torch.isfinite(audio).all()) and bool(audio.any())
        return {"rms": float(audio.square().mean().sqrt()) if heard and audio is not None else None}

    def score(self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem) -> dict[str, Any]:
        return {"loudness": Unscored("silent") if audio["rms"] is None else audio["rms"]}


class Unprepared(Loudness):
    """Expects every clip to have a sound."""

    def score(self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem) -> dict[str, Any]:
        return {"loudness": audio["rms"] * 1.0}


class InDecibels(Loudness):
    """Leaves its range."""

    def score(self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem) -> dict[str, Any]:
        return {
            name: -60.0 if isinstance(one, float) else one for name, one in super().score(video, audio, item).items()
        }


class Downwards(Loudness):
    metrics = (replace(Loudness.metrics[0], direction="lower"),)


def test_evaluators() -> None:
    def found(kind: type[Loudness]) -> dict[str, str]:
        loud = beating_clip()
        assert loud.audio is not None
        clips = {
            "better": classmethod(lambda cls: loud),
            "worse": classmethod(lambda cls: replace(loud, audio=loud.audio / 2)),
        }
        return failures(
            EvaluatorContract, component(lambda config, *, clip, assets: kind()), judged=("loudness",), **clips
        )

    assert found(Loudness) == {}
    caught(found(Downwards), "test_better_clips_score_better", "lower is declared as better")
    both = {"test_every_metric_is_a_number_in_its_range_or_unscored", "test_the_sound_of_another_clip_can_be_judged"}
    for kind, words in ((Unprepared, "give Unscored(reason)"), (InDecibels, "beyond its range")):
        said = found(kind)
        assert both <= set(said) <= both | {"test_better_clips_score_better"}
        assert all(words in said[name] for name in both)


# prompt sets


class Three:
    ids = ("a", "b", "c")

    def __init__(self, clip: ClipSpec) -> None:
        self.clip = clip

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> PromptItem:
        return PromptItem(self.ids[index], "two beats")

    def reference(self, index: int) -> Clip | None:
        return beating_clip(self.clip)


class Slashes(Three):
    ids = ("set/a", "set/b", "set/c")


class Small(Three):
    def reference(self, index: int) -> Clip | None:
        return beating_clip(replace(self.clip, width_px=16))


def test_prompt_sets() -> None:
    def found(kind: type[Three]) -> dict[str, str]:
        return failures(PromptSetContract, component(lambda config, *, clip: kind(clip)))

    assert found(Three) == {}
    caught(found(Slashes), "test_ids_name_files", "set/a", "cannot be names of files")
    caught(found(Small), "test_references_have_the_form_of_the_clips", "its video is")
