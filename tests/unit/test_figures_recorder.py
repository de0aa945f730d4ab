"""The recorder: it hears the right calls, its probabilities are those of the attention, and it changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from training_kit import KitTower, NoTurn

from ovikit.figures.recorder import Recorder, mean_attention
from ovikit.networks.attention import sdpa
from ovikit.networks.joint import JointModel, at_hand
from ovikit.types import AV

VIDEO, AUDIO, HEADS, WIDTH = 12, 5, 3, 8
TOKENS = AV(video=VIDEO, audio=AUDIO)


def a_model() -> JointModel:
    """A model whose layers can be visited."""
    towers = AV(KitTower("video", 3, 6, 1, 0.0), KitTower("audio", 2, 6, 1, 0.0))
    return JointModel(towers, [None], NoTurn(), sdpa)


def drawn(tokens: int, seed: int) -> Tensor:
    return torch.randn(1, tokens, HEADS, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def recorded(query: Tensor, key: Tensor, layers: tuple[int, ...] = (0,)) -> dict[int, list[Tensor]]:
    recorder, model = Recorder(sdpa), a_model()
    with recorder.listening(model, TOKENS, layers), model.visit(0):
        recorder(query, key, key)
    assert model.visit is at_hand
    return recorder.found


def probabilities(query: Tensor, key: Tensor) -> Tensor:
    return (torch.einsum("bnhd,bmhd->bhnm", query, key) / math.sqrt(WIDTH)).softmax(-1)[0]


def test_rows_are_the_mean_softmax_over_the_video_tokens() -> None:
    query, key = drawn(AUDIO, 1), drawn(VIDEO, 2)
    (found,) = recorded(query, key)[0]
    assert torch.allclose(found.double(), probabilities(query, key).mean(0), atol=1e-6)
    assert torch.allclose(found.sum(1), torch.ones(AUDIO), atol=1e-6)


def test_attended_values_are_those_of_the_recorded_probabilities() -> None:
    """Values that mark each key: what the attention gives back is the row itself."""
    query, key = drawn(AUDIO, 1)[:, :, :1], drawn(VIDEO, 2)[:, :, :1]
    marks = torch.eye(VIDEO, 2 * WIDTH, dtype=torch.float64)[None, :, None]
    attended = torch.cat([sdpa(query, key, part)[0, :, 0] for part in marks.chunk(2, dim=-1)], dim=1)[:, :VIDEO]
    assert torch.allclose(mean_attention(query[0], key[0]).double(), attended, atol=1e-6)


def test_permuted_tokens_give_permuted_maps() -> None:
    query, key = drawn(AUDIO, 1), drawn(VIDEO, 2)
    rows, columns = (torch.randperm(n, generator=torch.Generator().manual_seed(3)) for n in (AUDIO, VIDEO))
    (found,), (moved,) = recorded(query, key)[0], recorded(query[:, rows], key[:, columns])[0]
    assert torch.allclose(moved, found[rows][:, columns], atol=1e-6)
    assert not torch.allclose(moved, found, atol=1e-3)


def test_joint_attention_is_cut_to_sound_over_picture() -> None:
    """The share of the video in the whole softmax, scaled to a sum of 1."""
    query, key = drawn(VIDEO + AUDIO, 1), drawn(VIDEO + AUDIO, 2)
    (found,) = recorded(query, key)[0]
    whole = probabilities(query, key)[:, VIDEO:, :VIDEO]
    assert torch.allclose(found.double(), (whole / whole.sum(-1, keepdim=True)).mean(0), atol=1e-6)


def test_sound_that_attends_to_both_is_cut_to_the_picture() -> None:
    query, key = drawn(AUDIO, 1), drawn(VIDEO + AUDIO, 2)
    (found,) = recorded(query, key)[0]
    assert torch.allclose(found.double(), probabilities(query, key[:, :VIDEO]).mean(0), atol=1e-6)


@pytest.mark.parametrize(
    ("queries", "keys"), [(VIDEO, AUDIO), (VIDEO, VIDEO), (AUDIO, AUDIO), (AUDIO, 7), (VIDEO, VIDEO + AUDIO)]
)
def test_other_calls_are_not_heard(queries: int, keys: int) -> None:
    assert recorded(drawn(queries, 1), drawn(keys, 2)) == {}


def test_layers_that_were_not_chosen_are_only_noted() -> None:
    assert recorded(drawn(AUDIO, 1), drawn(VIDEO, 2), layers=(4,)) == {0: []}


def test_values_are_the_other_attends_to_the_bit_and_nothing_is_heard_outside() -> None:
    query, key, value = drawn(AUDIO, 1), drawn(VIDEO, 2), drawn(VIDEO, 3)
    lengths = torch.tensor([7])
    recorder, model = Recorder(sdpa), a_model()
    expected = sdpa(query, key, value), sdpa(query, key, value, lengths)
    with recorder.listening(model, TOKENS, (0,)), model.visit(0):
        assert torch.equal(recorder(query, key, value), expected[0])
    recorder.found.clear()
    assert torch.equal(recorder(query, key, value, lengths), expected[1])
    assert recorder.found == {}
