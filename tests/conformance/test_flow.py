"""MS: RAFT against a record of another package's, its parts against plain loops, and both rules by hand."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flow_kit import NAME, filled, film, numbers, pictures, small_raft, use_small_network, write_weights
from torch.nn import functional as F

from ovikit.checkpoints.assets import Assets
from ovikit.errors import UserError
from ovikit.evaluation.protocols import PromptItem, Unscored
from ovikit.types import Clip
from ovikit_versebench.seeing.flow import AT_ONCE, FlowMagnitude, halved, halved_px, margins_px
from ovikit_versebench.seeing.raft import (
    LEVELS,
    LOOKUPS,
    RADIUS,
    Encoder,
    Raft,
    correlations,
    lookup,
    places,
    upsampled,
)

ITEM = PromptItem("0", "a film")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_small_network(monkeypatch)
    return write_weights(tmp_path / "weights")


def judge(weights: Path, rules: str = "fixed", every_s: float = 0.25) -> FlowMagnitude:
    return FlowMagnitude(Assets(weights), NAME, rules, every_s)


def ms(found: FlowMagnitude, clip: Clip) -> float | Unscored:
    features = found.features(clip)
    return found.score(features, features, ITEM)["ms"]


# The published network.


def test_names_and_shapes_are_the_published_ones():
    """The digest is of the state dict of ptlflow 0.4.2's RAFT, whose names are the published ones; raft-things.pth has
    21 MB, four bytes a number."""
    with torch.device("meta"):
        state = Raft().state_dict()
    lines = sorted(f"{name} {tuple(value.shape)}" for name, value in state.items())
    assert (len(lines), sum(value.numel() for value in state.values())) == (179, 5_261_329)
    digest = "d23655e307bf410219d8a58379c482ad43b5adc1dfdb404a9600781c2cc216af"
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest


RECORDED = [
    [
        [0.53557, 1.85155, 1.0196, 1.33747, 1.23287, 0.73085],
        [1.3092, 1.70777, 2.0603, 2.43236, 4.3129, 0.00867],
        [0.18373, 4.91589, 4.93853, 5.02271, 4.93371, 1.60097],
        [0.54592, 3.68067, 4.23183, 4.75543, 3.80696, 1.33067],
        [0.8054, 3.75941, 1.24348, 2.82444, 2.71991, 1.15367],
        [0.27841, -0.02781, 0.05097, 0.1416, 0.46434, -0.48684],
    ],
    [
        [0.56279, 0.04631, -0.43448, -0.7953, -1.3307, -1.05236],
        [1.0402, 2.80137, 3.66026, 2.74749, 3.094, 0.9296],
        [2.10028, 1.12323, 4.1273, 3.40162, 4.71262, 4.00891],
        [2.17332, 3.63667, 4.71912, 4.88641, 5.33455, 3.563],
        [2.3942, 1.16025, 2.30366, 1.84364, 2.56649, 3.32786],
        [0.88701, 1.06742, 1.34016, 0.89022, 1.97169, 2.35216],
    ],
]
"""Flow after three iterations by ptlflow 0.4.2's RAFT (its forward, encoders, correlations and update, without its
reading and scaling of pictures), with the weights of ``filled`` and two pictures of ``pictures``: both components at
every 24th row from the 6th and every 24th column from the 4th."""


@torch.inference_mode()
def test_the_flow_is_that_of_another_package():
    first, second = pictures(2, 128, 144).float()
    flow = filled(Raft())(first[None], second[None], iterations=3)[0]
    torch.testing.assert_close(flow[:, 5::24, 3::24], torch.tensor(RECORDED), atol=2e-4, rtol=1e-4)


# Its parts.


def looked_up(features: tuple[torch.Tensor, torch.Tensor], where: torch.Tensor) -> torch.Tensor:
    """What ``lookup`` should give for one pair: the whole volume of four dimensions, averaged, and sampled one number
    at a time."""
    first, second = (one.double() for one in features)
    channels, h, w = first.shape
    volume = torch.einsum("cyx,cvu->yxvu", first, second) / math.sqrt(channels)
    found = torch.zeros(LOOKUPS, h, w, dtype=torch.float64)
    for y in range(h):
        for x in range(w):
            k = 0
            for level in range(LEVELS):
                cell = 2**level
                rows, columns = h // cell, w // cell
                whole = volume[y, x, : rows * cell, : columns * cell]
                small = whole.reshape(rows, cell, columns, cell).mean(dim=(1, 3))
                for right in range(-RADIUS, RADIUS + 1):
                    for down in range(-RADIUS, RADIUS + 1):
                        u, v = float(where[0, y, x]) / cell + right, float(where[1, y, x]) / cell + down
                        found[k, y, x] = sum(
                            small[j, i] * (1 - abs(u - i)) * (1 - abs(v - j))
                            for i in (math.floor(u), math.floor(u) + 1)
                            for j in (math.floor(v), math.floor(v) + 1)
                            if 0 <= i < columns and 0 <= j < rows
                        )
                        k += 1
    return found


def test_lookups_are_samples_of_the_whole_volume():
    """Of 9 by 11 blocks, whose last level has one cell, at places inside and outside."""
    features = numbers(2 * 5 * 9 * 11, 0).view(2, 5, 9, 11)
    where = places(9, 11, like=features) + 6 * numbers(2 * 9 * 11, 1).view(2, 9, 11)
    pyramid = correlations(features[:1], features[1:])
    assert [tuple(one.shape[-2:]) for one in pyramid] == [(9, 11), (4, 5), (2, 2), (1, 1)]
    found = lookup(pyramid, where[None])[0]
    wanted = looked_up((features[0], features[1]), where)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_what_moved_is_found_where_it_went():
    """A texture that is rolled by whole blocks is most alike at that offset, even by the directions of features that
    nobody trained."""
    encoder = filled(Encoder((6, 8, 10), 32, torch.nn.InstanceNorm2d))
    still = numbers(3 * 192 * 192, 2).view(1, 3, 192, 192)
    for right, down in ((2, -1), (-3, 0), (0, 4)):
        moved = still.roll((8 * down, 8 * right), dims=(2, 3))
        features = [F.normalize(encoder(one), dim=1) for one in (still, moved)]
        alike = lookup(correlations(*features), places(24, 24, like=still)[None])[0, :81]
        inside = alike[:, 5:-5, 5:-5].flatten(1).argmax(dim=0)
        assert float((inside == (right + RADIUS) * 9 + down + RADIUS).float().mean()) > 0.95


def test_a_constant_flow_is_eight_times_itself():
    weights = 3 * numbers(9 * 64 * 4 * 5, 3).view(1, 9 * 64, 4, 5)
    flow = torch.tensor([1.5, -0.25]).view(1, 2, 1, 1).expand(1, 2, 4, 5)
    found = upsampled(flow, weights)
    assert found.shape == (1, 2, 32, 40)
    torch.testing.assert_close(found[..., 8:-8, 8:-8], (8 * flow[..., :1, :1]).expand(1, 2, 16, 24))


def test_a_pixel_takes_the_neighbour_that_its_weights_name():
    flow = numbers(2 * 4 * 5, 4).view(1, 2, 4, 5)
    weights = torch.full((1, 9, 8, 8, 4, 5), -1e4)
    weights[:, 4] = 0  # each pixel its own block,
    weights[0, 4, 2, 6, 1, 3], weights[0, 5, 2, 6, 1, 3] = -1e4, 0  # but one the block to its right
    found = upsampled(flow, weights.flatten(1, 3))
    wanted = 8 * flow.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    wanted[0, :, 1 * 8 + 2, 3 * 8 + 6] = 8 * flow[0, :, 1, 4]
    torch.testing.assert_close(found, wanted)


@torch.inference_mode()
def test_pairs_of_a_batch_do_not_meet():
    network, first, second = filled(small_raft()), pictures(3, 64, 80, 5).float(), pictures(3, 64, 80, 6).float()
    together = network(first, second, 4)
    for k in range(3):
        torch.testing.assert_close(
            network(first[k : k + 1], second[k : k + 1], 4)[0], together[k], atol=1e-4, rtol=1e-4
        )


# The pictures that it is given.


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((64, 128), (0, 0, 0, 0)), ((65, 127), (0, 1, 3, 4)), ((30, 100), (2, 2, 17, 17)), ((1, 71), (0, 1, 31, 32))],
)
def test_margins_make_whole_blocks_around_the_middle(size, wanted):
    margins = margins_px(*size)
    assert margins == wanted
    picture = numbers(3 * size[0] * size[1], 7).view(1, 3, *size)
    padded = F.pad(picture, margins, mode="replicate")
    assert all(side % 8 == 0 and side >= 64 for side in padded.shape[-2:])
    assert torch.equal(F.pad(padded, [-margin for margin in margins]), picture)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((480, 640), (480, 640)), ((720, 1280), (360, 640)), ((721, 1283), (180, 320)), ((1080, 1920), (270, 480))],
)
def test_pictures_are_halved_as_opencv_does(size, wanted):
    cv2 = pytest.importorskip("cv2")
    assert halved_px(*size) == wanted
    picture = (127.5 * (numbers(size[0] * size[1] * 3, 8) + 1)).byte().view(*size, 3)
    found = halved(picture.permute(2, 0, 1)[None].float())[0].permute(1, 2, 0)
    theirs = cv2.resize(picture.numpy(), wanted[::-1], interpolation=cv2.INTER_LINEAR)
    apart = (found - torch.from_numpy(theirs)).abs()
    assert float(apart.max()) <= 1  # OpenCV rounds its weights to 1/2048
    assert float(apart.mean()) < 0.2


# Both rules.


@torch.inference_mode()
def flows(weights: Path, clip: Clip, starts: list[int], crop: tuple[slice, slice]) -> torch.Tensor:
    """(pairs, 2, height, width), one pair at a time, padded by hand."""
    network = small_raft()
    state = torch.load(weights / NAME, weights_only=True)
    network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    assert clip.video is not None
    found = []
    for k in starts:
        pair = clip.video[k : k + 2].permute(0, 3, 1, 2).float()
        left, top = crop[1].start, crop[0].start
        rows = torch.arange(-top, 136 - top).clamp(0, pair.shape[2] - 1)
        columns = torch.arange(-left, 144 - left).clamp(0, pair.shape[3] - 1)
        wide = pair[:, :, rows][:, :, :, columns]
        found.append(network.eval()(wide[:1], wide[1:])[0][:, crop[0], crop[1]])
    return torch.stack(found)


INSIDE = (slice(2, 134), slice(2, 141))
"""A picture of 132 by 139 pixels in the middle of one of 136 by 144."""


def odd_film(count: int, rate_hz: float) -> Clip:
    clip = film(count, 144, 144, rate_hz)
    assert clip.video is not None
    return replace(clip, video=clip.video[:, :132, :139].contiguous())


def test_fixed_is_length_in_heights_per_second(weights):
    """Of a pair each quarter of a second, without the padding."""
    clip = odd_film(2 * AT_ONCE + 4, rate_hz=8.0)
    wanted = (
        flows(weights, clip, list(range(0, 2 * AT_ONCE + 3, 2)), INSIDE).pow(2).sum(dim=1).sqrt().mean() / 132 * 8.0
    )
    assert ms(judge(weights), clip) == pytest.approx(float(wanted), rel=1e-4)


def test_official_is_the_magnitude_of_components_in_pixels(weights):
    """Of each pair, with the padding, and whatever the rate."""
    clip = odd_film(AT_ONCE + 2, rate_hz=8.0)
    whole = flows(weights, clip, list(range(AT_ONCE + 1)), INSIDE)
    found = ms(judge(weights, "official"), clip)
    assert clip.video is not None
    padded = F.pad(clip.video.permute(0, 3, 1, 2).float(), (2, 3, 2, 2), mode="replicate")
    filmed = replace(clip, video=padded.permute(0, 2, 3, 1).byte().contiguous())
    with_padding = flows(weights, filmed, list(range(AT_ONCE + 1)), (slice(0, 136), slice(0, 144)))
    assert found == pytest.approx(float(with_padding.abs().mean()), rel=1e-4)
    assert found != pytest.approx(float(whole.abs().mean()), rel=1e-3)
    assert found == pytest.approx(ms(judge(weights, "official"), replace(clip, frame_rate_hz=30.0)), rel=1e-6)


def test_the_same_frames_twice_as_fast_move_twice_as_fast(weights):
    clip = film(5, 64, 72, rate_hz=8.0)
    slow, fast = ms(judge(weights), clip), ms(judge(weights, every_s=0.125), replace(clip, frame_rate_hz=16.0))
    assert isinstance(slow, float)
    assert slow > 0
    assert fast == pytest.approx(2 * slow, rel=1e-6)


def test_frames_that_are_the_same_do_not_move(weights):
    """Which the network does not say of itself; half of the pairs still is half of the speed."""
    clip = film(3, 128, 136, rate_hz=4.0)
    assert clip.video is not None
    first, second, _ = clip.video
    still = replace(clip, video=torch.stack((first, first, first)))
    assert ms(judge(weights), still) == 0.0
    official = ms(judge(weights, "official"), still)
    assert isinstance(official, float)
    assert official > 0
    moving = ms(judge(weights), replace(clip, video=torch.stack((first, second))))
    halting = ms(judge(weights), replace(clip, video=torch.stack((first, second, second))))
    assert halting == pytest.approx(moving / 2, rel=1e-5)


def test_small_pictures_are_padded_or_unscored(weights):
    clip = film(2, 120, 160)
    assert isinstance(ms(judge(weights), clip), float)
    lacking = Unscored("the tool has no number for pictures with a side below 128 px")
    assert ms(judge(weights, "official"), clip) == lacking
    assert isinstance(ms(judge(weights, "official"), film(2, 128, 128)), float)
    tiny = replace(clip, video=film(2, 16, 24).video)
    assert isinstance(ms(judge(weights), tiny), float)


def test_what_cannot_be_told_has_a_reason(weights):
    for rules in ("fixed", "official"):
        found = judge(weights, rules)
        for clip in (film(1, 128, 128), replace(film(2, 128, 128), video=None)):
            assert ms(found, clip) == Unscored("there are fewer than two frames")
    spoilt = filled(small_raft())
    spoilt.state_dict()["fnet.conv2.bias"].fill_(torch.nan)
    write_weights(weights, spoilt)
    assert ms(judge(weights), film(2, 64, 64)) == Unscored("the flow is NaN or Inf")


def test_rules_and_weights_are_part_of_the_version(weights):
    fixed, official = judge(weights), judge(weights, "official")
    assert [one.metrics[0].unit for one in (fixed, official)] == ["heights/s", "px/frame"]
    write_weights(weights, filled(Raft()))
    versions = {one.metrics[0].version for one in (fixed, official, judge(weights), judge(weights, every_s=0.5))}
    assert len(versions) == 4
    assert judge(weights, "official", 0.5).version == judge(weights, "official").version


def test_weights_that_do_not_fit_or_are_missing_are_told(tmp_path, weights):
    missing = judge(tmp_path).needs[0].missing
    assert missing is not None
    assert "https://github.com/princeton-vl/RAFT" in missing
    state = torch.load(weights / NAME, weights_only=True)
    name = "module.cnet.layer2.0.downsample.1.running_var"
    for wrong, told in (
        ({key: value for key, value in state.items() if key != name}, "1 tensors missing: cnet.layer2.0.downsample.1"),
        (state | {"module.extra": torch.zeros(1)}, "1 tensors not in the model: extra"),
        (state | {name: torch.zeros(3)}, "1 tensors of another shape"),
    ):
        torch.save(wrong, weights / NAME)
        with pytest.raises(UserError, match=told) as caught:
            judge(weights).features(film(2, 64, 64))
        assert NAME in str(caught.value.where)
