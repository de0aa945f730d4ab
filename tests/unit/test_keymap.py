"""Renaming rules, read both ways."""

from __future__ import annotations

import pytest
import torch

from ovikit.checkpoints.keymap import KeyMap, Rule, UnmappedError

MAP = KeyMap(
    [
        Rule("{m}_net.layers.{i}.special.{r}", "layers.{i}.{m}.renamed.{r}"),
        Rule("{m}_net.flip", "{m}.flipped", torch.Tensor.t, torch.Tensor.t),
        Rule("{m}_net.{r}", "towers.{m}.{r}"),
    ]
)


def test_first_matching_rule_wins_in_both_directions() -> None:
    assert MAP.ours("video_net.layers.12.special.k.weight") == "layers.12.video.renamed.k.weight"
    assert MAP.official("layers.12.video.renamed.k.weight") == "video_net.layers.12.special.k.weight"
    assert MAP.ours("audio_net.head.bias") == "towers.audio.head.bias"


def test_tensor_operations_undo_each_other() -> None:
    tensors = {"audio_net.flip": torch.arange(6.0).reshape(2, 3), "video_net.x": torch.ones(1)}
    ours = MAP.to_ours(tensors)
    assert ours["audio.flipped"].shape == (3, 2)
    back = MAP.to_official(ours)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("name", ["text_net.head", "video_net", "videoXnet.head", "layers.a.video.renamed.k"])
def test_unknown_names_are_errors(name: str) -> None:
    with pytest.raises(UnmappedError):
        MAP.ours(name)


def test_two_tensors_never_get_one_name() -> None:
    clash = KeyMap([Rule("a.{r}", "c.{r}"), Rule("b.{r}", "c.{r}")])
    with pytest.raises(ValueError, match="two tensors would be named"):
        clash.to_ours({"a.x": torch.ones(1), "b.x": torch.ones(1)})
