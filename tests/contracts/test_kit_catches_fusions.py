"""Fusions that are broken in one way each: the contract says so, by the one check that is about it."""

from __future__ import annotations

from typing import Any

import torch
from kit_examples import FUSION_TOLD, Meeting, Reader, caught, failures, fusion
from torch import Generator, Tensor, nn

from ovikit.kernel.component import Component
from ovikit.networks.precision import Precision
from ovikit.networks.protocols import Attend
from ovikit.networks.stages import context_stage, self_stage
from ovikit.testing import FusionContract
from ovikit.testing.reference import FLOAT64
from ovikit.types import Stream


def fusion_failures(broken: Component, only: tuple[str, ...] = (), **told: Any) -> dict[str, str]:
    return failures(FusionContract, broken, only, **{**FUSION_TOLD, "other_shapes": (), **told})


def test_an_honest_fusion_passes() -> None:
    assert fusion_failures(fusion(), other_shapes=FusionContract.other_shapes) == {}
    one_way = {"reads": ("video",), "keys": tuple(k for k in FUSION_TOLD["keys"] if ".video." in k)}
    assert fusion_failures(fusion(reads=("video",)), **one_way) == {}


class MeanOverBatch(Reader):
    def forward(self, own: Stream, other: Stream) -> Tensor:
        read = super().forward(own, other)
        return read - 0.1 * read.mean(dim=(0, 1)).detach()


class Deaf(Reader):
    def lengths(self, own: Stream, other: Stream) -> Tensor | None:
        return None


class Detached(Reader):
    def forward(self, own: Stream, other: Stream) -> Tensor:
        return super().forward(own, other.with_tokens(other.tokens.detach()))


class Spare(Reader):
    """Has a weight that does nothing."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.spare = nn.Linear(2, 2, bias=False)


class Leaky(Meeting):
    """Adds something that no gate closes."""

    def before(self, block: Any, stream: Stream, mod: Any) -> Stream:
        stream = super().before(block, stream, mod)
        return stream.with_tokens(stream.tokens * 1.01)


class Noisy(Reader):
    def forward(self, own: Stream, other: Stream) -> Tensor:
        torch.rand(1)
        return super().forward(own, other)


class UnexplainedWeight(Reader):
    """Leaves the gate as the memory happened to be."""

    def init_weights(self, generator: Generator) -> None:
        pass


class Hosted(Reader):
    """Reads a value back to the host."""

    def forward(self, own: Stream, other: Stream) -> Tensor:
        read = super().forward(own, other)
        return read * (1 if read.detach().mean().item() < 1e6 else 2)


class Remembering(Meeting):
    """Counts its calls."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.calls = 0

    def before(self, block: Any, stream: Stream, mod: Any) -> Stream:
        stream = super().before(block, stream, mod)
        self.calls += 1
        return stream.with_tokens(stream.tokens * (1 + 1e-3 * (self.calls % 2 == 0 and self.calls > 4)))


class OneLevel(Meeting):
    """Knows of one noise level per clip only: the last one."""

    def before(self, block: Any, stream: Stream, mod: Any) -> Stream:
        stream = context_stage(block, self_stage(block, stream, mod, self.attend), self.attend)
        (first, *rest) = stream.noise.spans
        if rest:
            gone = torch.zeros_like(stream.tokens[:, :first])
            return stream.with_tokens(torch.cat((gone, stream.tokens[:, first:]), dim=1))
        return stream


class WideOnly(Reader):
    """Reads the residual stream as it is, whatever its weights are."""

    def __init__(self, width: int, other: int, heads: int, attend: Attend, precision: Precision) -> None:
        super().__init__(width, other, heads, attend, FLOAT64)


def test_fusion_that_mixes_the_batch() -> None:
    found = fusion_failures(fusion(MeanOverBatch))
    assert "over the batch" in found["test_items_of_a_batch_do_not_meet"]
    assert set(found) <= {"test_items_of_a_batch_do_not_meet", "test_a_clean_start_is_a_level_of_zero",
                          "test_tokens_past_the_length_are_not_read"}  # fmt: skip


def test_fusion_that_reads_past_the_length() -> None:
    caught(fusion_failures(fusion(Deaf)), "test_tokens_past_the_length_are_not_read", "past their length", "lengths")


def test_fusion_without_gradient_to_the_other_stream() -> None:
    caught(fusion_failures(fusion(Detached)), "test_it_reads_the_declared_streams", "detach nothing")


def test_fusion_that_reads_more_than_it_says() -> None:
    found = fusion_failures(fusion(), reads=("video",))
    caught(found, "test_it_reads_the_declared_streams", "audio depends on video", "name audio in reads")


def test_fusion_that_reads_less_than_it_says() -> None:
    keys = tuple(key for key in FUSION_TOLD["keys"] if ".video." in key)
    found = fusion_failures(fusion(reads=("video",)), keys=keys)
    caught(found, "test_it_reads_the_declared_streams", "audio does not change with video")


def test_fusion_with_a_weight_that_does_nothing() -> None:
    keys = (*FUSION_TOLD["keys"], "readers.video.spare.weight", "readers.audio.spare.weight")
    found = fusion_failures(fusion(Spare), keys=keys)
    caught(found, "test_gradient_reaches_every_weight_and_both_inputs", "readers.video.spare.weight", "remove them")
    excuse = {"*.spare.weight": "kept for old files"}
    check = ("test_gradient_reaches_every_weight_and_both_inputs",)
    assert fusion_failures(fusion(Spare), check, keys=keys, without_gradient=excuse) == {}


def test_fusion_that_is_not_neutral_where_it_says_so() -> None:
    found = fusion_failures(fusion(layer=Leaky))
    caught(found, "test_neutral_weights_leave_the_towers_alone", "*.gate", "run_block")


def test_fusion_whose_neutral_weights_do_not_exist_or_are_not_told() -> None:
    check = "test_neutral_weights_leave_the_towers_alone"
    found = fusion_failures(fusion(), neutral=("*.gain",))
    caught(found, check, "no weight is called", "*.gain", "readers.video.gate")
    caught(fusion_failures(fusion(), (check,), neutral=None), check, "neutral_because")
    assert fusion_failures(fusion(), (check,), neutral=None, neutral_because="one attention over both") == {}


def test_fusion_that_draws_from_the_global_generator() -> None:
    caught(fusion_failures(fusion(Noisy)), "test_global_random_numbers_are_left_alone", "torch.Generator")


def test_fusion_with_a_weight_that_is_never_set() -> None:
    found = fusion_failures(fusion(UnexplainedWeight))
    assert "init_weights(generator)" in found["test_weights_come_from_the_generator"]
    assert "readers.video.gate" in found["test_weights_come_from_the_generator"]


def test_fusion_that_waits_for_the_device() -> None:
    caught(fusion_failures(fusion(Hosted)), "test_it_runs_on_the_meta_device", ".item()")


def test_fusion_that_remembers_its_calls() -> None:
    found = fusion_failures(fusion(layer=Remembering))
    assert "keep nothing of a call" in found["test_calls_leave_nothing_behind"]


def test_fusion_that_knows_one_noise_level_only() -> None:
    caught(fusion_failures(fusion(layer=OneLevel)), "test_a_clean_start_is_a_level_of_zero", "by_span")


def test_fusion_that_cannot_run_in_bfloat16() -> None:
    caught(fusion_failures(fusion(WideOnly)), "test_it_runs_in_half_precision", "precision.narrow")


def test_fusion_with_too_few_layers() -> None:
    check = "test_layers_are_as_many_as_both_towers_have"
    caught(fusion_failures(fusion(missing=1), (check,)), check, "asked for 1 layers", "build one, or None, for each")


def test_fusion_whose_names_changed() -> None:
    check = "test_names_are_pinned"
    caught(fusion_failures(fusion(), keys=("readers.video.old",)), check, "gone ['readers.video.old']", "keys = (")
    caught(fusion_failures(fusion(), (check,), keys=None), check, "not pinned", '    "readers.video.gate",')


def test_fusion_that_takes_towers_it_cannot_run() -> None:
    check, shapes = "test_towers_of_other_shapes", FusionContract.other_shapes
    caught(fusion_failures(fusion(explained=False), other_shapes=shapes), check, "raise ValueError")
    found = fusion_failures(fusion(), (check,), other_shapes=shapes, towers_may_differ=True)
    caught(found, check, "although towers_may_differ")
