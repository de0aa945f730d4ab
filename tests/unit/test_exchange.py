"""Who reads whom, and in which order, told by numbers that only one order gives."""

from __future__ import annotations

import pytest
import torch

from ovikit.networks.attention import sdpa
from ovikit.networks.exchange import Exchange, refuse_spread
from ovikit.types import AV, Modality, NoiseConditioning, Stream


def stream(value: float) -> Stream:
    one = torch.full((1, 1, 1), value)
    return Stream(one, NoiseConditioning(one, one[..., None], (1,)), one, {})


def add(modality: Modality, mine: Stream, other: Stream) -> Stream:
    return mine.with_tokens(mine.tokens + other.tokens)


def after(direction: str, update: str = "parallel", alone=None) -> tuple[float, float]:
    streams = AV(video=stream(1.0), audio=stream(10.0))
    exchange = Exchange(direction, update)
    out = exchange(streams, add) if alone is None else exchange(streams, add, alone)
    return out["video"].tokens.item(), out["audio"].tokens.item()


@pytest.mark.parametrize(
    ("direction", "update", "expected"),
    [
        ("both", "parallel", (11.0, 11.0)),
        ("both", "audio-first", (12.0, 11.0)),
        ("both", "video-first", (11.0, 21.0)),
        ("a2v", "parallel", (11.0, 10.0)),
        ("v2a", "parallel", (1.0, 11.0)),
    ],
)
def test_values_after_the_exchange(direction: str, update: str, expected: tuple[float, float]) -> None:
    assert after(direction, update) == expected


def test_who_does_not_read_does_what_it_does_alone() -> None:
    def doubled(modality: Modality, mine: Stream) -> Stream:
        return mine.with_tokens(2 * mine.tokens)

    assert after("a2v", alone=doubled) == (11.0, 20.0)
    assert after("v2a", alone=doubled) == (2.0, 11.0)


def test_spread_tokens_are_refused_by_name() -> None:
    class Spread:
        local = staticmethod(sdpa)

        def __call__(self, query, key, value, lengths=None):
            return sdpa(query, key, value, lengths)

    refuse_spread(sdpa, "braid", "needs whole streams")
    with pytest.raises(ValueError, match=r"^fusion 'braid' needs whole streams, so .*parallel\.sequence=1, or "):
        refuse_spread(Spread(), "braid", "needs whole streams")
