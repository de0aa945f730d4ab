"""The options that fusions share: which layers a choice stands for, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ovikit.kernel.fusion_options import FusedLayersConfig, FusionConfig, fused_layers, one_each, refuse_options


@pytest.mark.parametrize("depth", range(1, 40))
def test_patterns_are_sorted_subsets_that_begin_at_the_first_layer(depth: int) -> None:
    found = {name: fused_layers(name, depth) for name in ("full", "shallow", "distributed", "progressive")}
    for chosen in found.values():
        assert list(chosen) == sorted(set(chosen))
        assert chosen[0] == 0
        assert chosen[-1] < depth
    assert found["full"] == tuple(range(depth))
    assert found["shallow"] == tuple(i for i in range(depth) if 3 * i < depth)
    assert found["distributed"] == tuple(i for i in range(depth) if i % 3 == 0)
    first = sum(1 for i in range(depth) if 4 * i < depth)
    assert found["progressive"] == tuple(i for i in range(depth) if i < first or (i - first) % 3 == 0)


def test_patterns_of_the_released_depth() -> None:
    assert [len(fused_layers(name, 30)) for name in ("full", "shallow", "distributed", "progressive")] == [
        30, 10, 10, 16,
    ]  # fmt: skip
    assert fused_layers("progressive", 30) == (*range(8), 8, 11, 14, 17, 20, 23, 26, 29)


def test_a_list_is_taken_in_order_and_within_the_depth() -> None:
    assert fused_layers((4, 0), 5) == (0, 4)
    assert one_each((4, 0), 5, lambda: "here") == ["here", None, None, None, "here"]
    with pytest.raises(ValueError, match=r"^layers names 5, but the layers that both towers have are 0 to 4$"):
        fused_layers((0, 5), 5)


def test_what_is_made_for_each_layer_is_its_own() -> None:
    made = one_each("full", 3, object)
    assert len(set(map(id, made))) == 3


def test_layers_come_from_json_as_from_python() -> None:
    assert FusedLayersConfig.model_validate_json('{"layers": [2, 0]}').layers == (2, 0)
    assert FusedLayersConfig(layers=(2, 0)).layers == (2, 0)
    assert FusedLayersConfig.model_validate_json('{"layers": "shallow"}').layers == "shallow"


@pytest.mark.parametrize("layers", ["all", [True], [1.0], ["0"], 3, None, {"a": 1}])
def test_other_layers_are_refused_in_one_sentence(layers: object) -> None:
    with pytest.raises(ValidationError) as caught:
        FusedLayersConfig.model_validate({"layers": layers})
    (only,) = caught.value.errors()
    assert only["loc"] == ("layers",)
    assert only["msg"].endswith(
        "should be one of full, shallow, distributed, progressive, or a list of layers counted from 0"
    )


def test_an_order_needs_two_readers() -> None:
    assert FusionConfig(update="audio-first").direction == "both"
    assert FusionConfig(direction="v2a").update == "parallel"
    with pytest.raises(ValidationError, match="update 'video-first' has no meaning with direction 'v2a'"):
        FusionConfig(direction="v2a", update="video-first")


def test_refused_options_are_told_with_their_reasons() -> None:
    reasons = {"one": "there is none", "two": "it is always so"}
    data = {"three": 3}
    assert refuse_options(data, reasons) is data
    with pytest.raises(ValueError, match=r"^one has no meaning here: there is none$"):
        refuse_options({"one": 1, "three": 3}, reasons)
