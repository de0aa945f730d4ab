"""What happens in a clip of the toy world, drawn from a seed: the truth, before anything is rendered.

A ball flashes or bounces one to three times; each time a tone sounds. The prompt tells colour, size, place,
kind and number. It does not tell when: picture and sound have to agree on that by themselves.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

COLOURS = ("red", "green", "blue")
PITCHES = ("low", "middle", "high")
"""The pitch word of each colour, in the order of ``COLOURS``."""
PITCH_HZ = (220.0, 554.37, 1318.51)
"""A3, C#5 and E6: far apart on the mel scale, and a chord when heard one after the other."""
SIZES = ("small", "large")
PLACES = ("on the left", "in the middle", "on the right")
KINDS = ("flash", "bounce")
VERBS = {"flash": "flashes", "bounce": "bounces"}
TIMES = ("once", "twice", "three times")
NUMBERS = ("one", "two", "three")

MARGIN_S = 0.25
GAP_S = 0.45
TAIL_S = 0.3
_HELD_OUT_EVERY = 6
_STREAMS = {"train": 0, "held-out": 1}


@dataclass(frozen=True, slots=True)
class Cast:
    """What a prompt says, as indices into the word lists; ``count`` is the number of events."""

    colour: int
    size: int
    place: int
    kind: int
    count: int

    @property
    def held_out(self) -> bool:
        """Whether training never shows this combination: a sixth of them, every single word of which it does show."""
        return (self.colour + 2 * self.size + 2 * self.place + 3 * self.kind + self.count) % _HELD_OUT_EVERY == 0

    def prompt(self) -> str:
        """The prompt, Ovi's way: what is seen, then what is heard."""
        verb = VERBS[KINDS[self.kind]]
        seen = f"A {SIZES[self.size]} {COLOURS[self.colour]} ball {verb} {TIMES[self.count - 1]} {PLACES[self.place]}."
        tones = "tone" if self.count == 1 else "tones"
        return f"{seen} Audio: {NUMBERS[self.count - 1]} {PITCHES[self.colour]} {tones}."


CASTS = tuple(
    Cast(*values, count)
    for *values, count in product(
        range(len(COLOURS)), range(len(SIZES)), range(len(PLACES)), range(len(KINDS)), (1, 2, 3)
    )
)
TRAIN_CASTS = tuple(cast for cast in CASTS if not cast.held_out)
HELD_OUT_CASTS = tuple(cast for cast in CASTS if cast.held_out)


@dataclass(frozen=True, slots=True)
class Story:
    """One clip's truth. Places and sizes are fractions of the picture's height.

    event_frames: frame that first shows each event; the tone starts at that frame's time, to the sample
    """

    cast: Cast
    event_frames: tuple[int, ...]
    x: float
    rest: float
    radius: float
    loudness: float
    warmth: float

    def truth(self, frame_rate_hz: float) -> dict[str, Any]:
        """The truth as plain JSON values, times in seconds."""
        cast = self.cast
        return {
            "event_times_s": [round(frame / frame_rate_hz, 6) for frame in self.event_frames],
            "colour": COLOURS[cast.colour],
            "pitch": PITCHES[cast.colour],
            "pitch_hz": PITCH_HZ[cast.colour],
            "count": cast.count,
            "position": PLACES[cast.place],
            "size": SIZES[cast.size],
            "kind": KINDS[cast.kind],
            "story": {k: v for k, v in asdict(self).items() if k not in ("cast", "event_frames")},
        }


def tell(
    seed: int, index: int, stream: str, frames: int, frame_rate_hz: float, kinds: tuple[str, ...] = KINDS
) -> Story:
    """The story of clip ``index`` of a stream, ``train`` or ``held-out``: the same for the same arguments.

    The streams share no random number and no combination of words.
    """
    rng = np.random.default_rng([seed, _STREAMS[stream], index])
    casts = [c for c in (TRAIN_CASTS if stream == "train" else HELD_OUT_CASTS) if KINDS[c.kind] in kinds]
    cast = casts[int(rng.integers(len(casts)))]
    return Story(
        cast=cast,
        event_frames=_event_frames(rng, cast.count, frames, frame_rate_hz),
        x=(0.25, 0.5, 0.75)[cast.place] + float(rng.uniform(-0.02, 0.02)),
        rest=float(rng.uniform(0.36, 0.40)),
        radius=(0.14, 0.22)[cast.size] * float(rng.uniform(0.97, 1.03)),
        loudness=float(rng.uniform(0.45, 0.6)),
        warmth=float(rng.uniform(0.0, 1.0)),
    )


def _event_frames(rng: np.random.Generator, count: int, frames: int, frame_rate_hz: float) -> tuple[int, ...]:
    """Frames of the events: uniform over all choices that keep the margins and the gap. ValueError if none does."""
    gap = round(GAP_S * frame_rate_hz)
    first = round(MARGIN_S * frame_rate_hz)
    room = frames - round(TAIL_S * frame_rate_hz) - first - gap * (count - 1)
    if room < 1:
        raise ValueError(f"{count} events do not fit into {frames} frames at {frame_rate_hz} Hz")
    starts = np.sort(rng.choice(room + count - 1, size=count, replace=False)) - np.arange(count)
    return tuple(int(first + start + gap * i) for i, start in enumerate(starts))
