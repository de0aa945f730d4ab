"""Fusions that read in time: windows are windows, neighbours are interpolated exactly, resampling keeps constants."""

from __future__ import annotations

import math

import pytest
import torch
from fusions_kit import APART, EVEN, LATENTS, OTHER, PIXELS, build, drawn, entering
from torch import Tensor, nn

from ovikit.networks.attention import sdpa
from ovikit.types import Modality, Stream, TokenGrid
from ovikit_fusions.windows import (
    interpolated,
    neighbour_layout,
    neighbours_read,
    overlapped,
    resampled,
    resampling_layout,
    window_layout,
    windowed,
)

VIDEO, AUDIO = LATENTS["video"].pooled((1, 2, 2)), LATENTS["audio"]
LATE = TokenGrid.uniform("audio", (4, 1, 1), 0.1)
LENGTHS = (None, torch.tensor([16, 6]), torch.tensor([1, 11]))


def softmax_average(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(h, d) of one query (h, d) over keys (m, h, d); zero over none."""
    if not len(k):
        return torch.zeros_like(q)
    weights = (torch.einsum("hd,mhd->hm", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
    return torch.einsum("hm,mhd->hd", weights, v)


def touching(span: tuple[float, float], grid: TokenGrid) -> set[int]:
    """Steps of a grid that share time with a span."""
    shared = [(min(end, span[1]) - max(start, span[0])) for start, end in grid.edges_s]
    return {i for i, seconds in enumerate(shared) if seconds > 1e-6}


def window_of(m: Modality, step: int, reach: int) -> set[int]:
    """Tokens of the other stream that a step reads, from the definition."""
    if m == "video":
        first, last = max(step - reach, 0), min(step + reach, VIDEO.shape[0] - 1)
        return touching((VIDEO.edges_s[first][0], VIDEO.edges_s[last][1]), AUDIO)
    near = touching(AUDIO.edges_s[step], VIDEO)
    if not near:  # beyond the video's end: its last steps are the nearest
        near = {VIDEO.shape[0]}
    steps = {i + by for i in near for by in range(-reach, reach + 1)} & set(range(VIDEO.shape[0]))
    return {i * PIXELS + p for i in steps for p in range(PIXELS)}


def influence(read: nn.Module, mine: Stream, other: Stream, tokens: slice) -> set[int]:
    """The other stream's tokens that some of mine depend on after reading."""
    free = other.tokens.clone().requires_grad_()
    read(mine, other.with_tokens(free)).tokens[:, tokens].square().sum().backward()
    return set(free.grad.abs().sum((0, 2)).nonzero().flatten().tolist())


@pytest.mark.parametrize("reach", [0, 1, 2])
@pytest.mark.parametrize(("name", "readers"), [("asymmetric-window", ("video",)), ("global-local", ("video", "audio"))])
def test_only_tokens_in_the_window_have_influence(name: str, readers: tuple[Modality, ...], reach: int) -> None:
    model = build(name, APART, window=reach)
    streams = entering(model)
    for m in readers:
        mine, other = streams[m], streams[OTHER[m]]
        read = model.layers[0].fusion.reads[m]
        if name == "global-local":
            nn.init.zeros_(read.whole.o.weight)
        grid = VIDEO if m == "video" else AUDIO
        size = grid.tokens_per_step
        for step in range(grid.shape[0]):
            found = influence(read, mine, other, slice(step * size, (step + 1) * size))
            assert found == window_of(m, step, reach)
    assert window_of("video", 1, 0) < window_of("video", 1, 1) < set(range(9))


def test_the_global_attention_reads_all_and_knows_no_time() -> None:
    """Without the local one, the order of what is read does not matter."""
    model = build("global-local", APART, window=0)
    streams = entering(model)
    for m, other in OTHER.items():
        read = model.layers[0].fusion.reads[m]
        for part in (read.near.o.weight, read.near.o.bias):
            nn.init.zeros_(part)
        theirs = streams[other]
        count = theirs.tokens.shape[1]
        assert influence(read, streams[m], theirs, slice(0, 1)) == set(range(count))
        turned = theirs.with_tokens(theirs.tokens.flip(1))
        with torch.no_grad():
            pair = [read(streams[m], one).tokens for one in (theirs, turned)]
        assert torch.allclose(*pair, atol=1e-12)


def test_an_audio_token_reads_the_two_pictures_around_it() -> None:
    model = build("asymmetric-window", APART)
    streams = entering(model)
    read = model.layers[0].fusion.reads["audio"]
    middles = [(start + end) / 2 for start, end in VIDEO.edges_s]
    for i, (start, end) in enumerate(AUDIO.edges_s):
        at = (start + end) / 2
        earlier = max([j for j, middle in enumerate(middles) if middle <= at], default=0)
        steps = {earlier, earlier + 1} if middles[0] < at < middles[-1] else {earlier}
        expected = {j * PIXELS + p for j in steps for p in range(PIXELS)}
        assert influence(read, streams["audio"], streams["video"], slice(i, i + 1)) == expected


def test_interpolation_is_exact_on_a_ramp() -> None:
    """Tokens that are a line in time are read at the audio token's own time, and at the ends where the line ends."""
    middles = torch.tensor([(start + end) / 2 for start, end in VIDEO.edges_s], dtype=torch.float64)
    slopes = drawn(PIXELS, 3, seed=1)
    ramp = (middles[:, None, None] * slopes + 0.5).flatten(0, 1)[None]
    found = interpolated(ramp, None, neighbour_layout(AUDIO, VIDEO))
    at = torch.tensor([(start + end) / 2 for start, end in AUDIO.edges_s], dtype=torch.float64)
    at = at.clamp(middles[0], middles[-1])
    assert torch.allclose(found[0], at[:, None, None] * slopes + 0.5, atol=1e-14)


def test_projections_of_neighbours_are_neighbours_of_projections() -> None:
    layout, x, linear = neighbour_layout(AUDIO, VIDEO), drawn(2, 16, 6, seed=1), nn.Linear(6, 5).double()
    for lengths in LENGTHS:
        pair = linear(interpolated(x, lengths, layout)), interpolated(linear(x), lengths, layout)
        assert torch.allclose(*pair, atol=1e-14)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_neighbours_are_read_as_one_by_one(lengths: Tensor | None) -> None:
    layout = neighbour_layout(AUDIO, VIDEO)
    q, x, v = drawn(2, 9, 2, 4, seed=1), drawn(2, 16, 8, seed=2), drawn(2, 16, 8, seed=3)
    k, value = (interpolated(one, lengths, layout).unflatten(-1, (2, 4)) for one in (x, v))
    found = neighbours_read(sdpa, q, k, value, lengths, layout)
    for b in range(2):
        whole = 16 if lengths is None else int(lengths[b])
        for i in range(9):
            step, share = int(layout["step"][i]), float(layout["share"][i])
            keys, values = [], []
            for p in range(PIXELS):
                here, after = step * PIXELS + p, min(step + 1, 3) * PIXELS + p
                if here >= whole:
                    continue
                by = share if after < whole else 0.0
                keys.append((1 - by) * x[b, here] + by * x[b, after])
                values.append((1 - by) * v[b, here] + by * v[b, after])
            shape = (-1, 2, 4)
            expected = softmax_average(
                q[b, i], *(torch.stack(one).view(shape) if one else torch.empty(0, 2, 4) for one in (keys, values))
            )
            assert torch.allclose(found[b, i], expected, atol=1e-12)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("reach", [0, 1])
def test_windows_are_read_as_one_by_one(reach: int, lengths: Tensor | None) -> None:
    for m, mine, other in (("video", VIDEO, AUDIO), ("audio", AUDIO, VIDEO), ("video", VIDEO, LATE)):
        n, size = len(other), mine.tokens_per_step
        q, k, v = drawn(2, len(mine), 2, 4, seed=1), drawn(2, n, 2, 4, seed=2), drawn(2, n, 2, 4, seed=3)
        told = None if lengths is None else lengths.clamp(max=n)
        layout = window_layout(mine, other, reach)
        found = windowed(sdpa, q, k, v, told, layout)
        for b in range(2):
            valid = n if told is None else int(told[b])
            for i in range(len(mine)):
                step = i // size
                inside = window_of(m, step, reach) if other is not LATE else late_window(step, reach)
                kept = sorted(j for j in inside if j < valid)
                assert torch.allclose(found[b, i], softmax_average(q[b, i], k[b, kept], v[b, kept]), atol=1e-12)


def late_window(step: int, reach: int) -> set[int]:
    first, last = max(step - reach, 0), min(step + reach, VIDEO.shape[0] - 1)
    return touching((VIDEO.edges_s[first][0], VIDEO.edges_s[last][1]), LATE)


def test_steps_that_only_touch_share_no_time() -> None:
    """Ends that are sums of rounded durations: 0.1 + 0.2 is not 0.3."""
    edges = ((0.0, 0.1), (0.1, 0.1 + 0.2), (0.1 + 0.2, 0.6))
    assert overlapped((0.3, 0.6), edges) == (2, 3)
    assert overlapped((0.1, 0.3), edges) == (1, 2)
    assert overlapped((0.0, 0.6), edges) == (0, 3)
    assert overlapped((0.6, 0.9), edges) == (3, 3)


@pytest.mark.parametrize(("mine", "other"), [(VIDEO, AUDIO), (AUDIO, VIDEO), (VIDEO, LATE), (LATE, VIDEO)])
def test_resampling_keeps_constants_and_weights_sum_to_one(mine: TokenGrid, other: TokenGrid) -> None:
    layout = resampling_layout(mine, other)
    weights = layout["weights"]
    assert torch.allclose(weights.sum(1), torch.ones(mine.shape[0], dtype=torch.float64), atol=1e-15)
    assert (weights >= 0).all()
    constant = drawn(1, 1, 5, seed=1).expand(2, len(other), 5)
    assert torch.allclose(resampled(constant, None, layout), constant[:, : mine.shape[0]].mean(1, keepdim=True))
    for i, span in enumerate(mine.edges_s):
        if near := touching(span, other):
            assert set(weights[i].nonzero().flatten().tolist()) == near
        else:
            assert weights[i].max() == 1.0


def test_resampling_to_the_same_steps_is_pooling_over_space() -> None:
    layout = resampling_layout(AUDIO, AUDIO)
    assert torch.equal(layout["weights"], torch.eye(9, dtype=torch.float64))
    x = drawn(2, 16, 5, seed=1)
    still = resampling_layout(VIDEO, VIDEO)
    assert torch.allclose(resampled(x, None, still), x.unflatten(1, (4, 4)).mean(2), atol=1e-15)


def test_resampling_reads_valid_tokens_alone() -> None:
    """A constant among them stays one, whatever lies behind; nothing valid gives zero."""
    layout, valid = resampling_layout(AUDIO, VIDEO), torch.tensor([6, 0])
    x = drawn(2, 16, 5, seed=1)
    x[:, :6] = 3.0
    found = resampled(x, valid, layout)
    reached = layout["weights"][:, :2].sum(1) > 0
    assert reached.any()
    assert not reached.all()
    assert torch.allclose(found[0, reached], torch.tensor(3.0, dtype=torch.float64))
    assert not found[0, ~reached].any()
    assert not found[1].any()
    whole = resampled(x, torch.tensor([16, 16]), layout)
    assert torch.allclose(whole, resampled(x, None, layout), atol=1e-14)


def test_what_is_added_is_the_others_own_time() -> None:
    """Every token of a video step gets the same vector: the projected mean of the audio of its time."""
    model = build("additive", EVEN)
    streams, read = entering(model), model.layers[0].fusion.reads["video"]
    with torch.no_grad():
        added = (read(streams["video"], streams["audio"]).tokens - streams["video"].tokens).unflatten(1, (4, 4))
        heard = read.project(read.other_norm(streams["audio"].tokens))
    assert torch.allclose(added, added[:, :, :1].expand_as(added), atol=1e-14)
    weights = resampling_layout(VIDEO, AUDIO)["weights"]
    assert torch.allclose(added[:, :, 0], torch.einsum("tu,buw->btw", weights, heard), atol=1e-13)


def test_layouts_are_made_once_per_pair_of_grids() -> None:
    model = build("global-local")
    first, again = (entering(model)["video"].layout["index"] for _ in range(2))
    assert first is again
    model.forget_rotations()
    assert entering(model)["video"].layout["index"] is not first
