"""Sizes of clips: what the released code makes of a request or of a picture, and what fits a recipe without an area."""

from __future__ import annotations

import pytest

from ovikit.errors import UserError
from ovikit.generate.size import SizeRule, parse_size

AREAS = {"720": 518_400, "960": 921_600}

# height and width: of the clip that has them as its first frame, and of the one that asks for them, as the released
# code computes both at the areas of its variants
RELEASED = [
    ((720, 1280), "720", (544, 960), (544, 960)),
    ((720, 1280), "960", (704, 1280), (704, 1280)),
    ((1280, 720), "960", (1280, 704), (1280, 704)),
    ((512, 992), "720", (512, 992), (512, 992)),
    ((512, 992), "960", (704, 1344), (704, 1344)),
    ((1024, 1024), "720", (704, 704), (704, 704)),
    ((1024, 1024), "960", (960, 960), (960, 960)),
    ((3024, 4032), "720", (608, 832), (640, 832)),
    ((3024, 4032), "960", (832, 1120), (832, 1120)),
    ((448, 1120), "720", (448, 1152), (448, 1152)),
    ((100, 3000), "960", (160, 5248), (160, 5248)),
]


@pytest.mark.parametrize(("given", "area", "shown", "asked"), RELEASED)
def test_sizes_are_those_of_the_released_code(given, area, shown, asked):
    rule = SizeRule((704, 704), (32, 32), AREAS[area])
    assert rule.shown(given) == shown
    assert rule.asked(given) == asked


@pytest.mark.parametrize("step", [(32, 32), (16, 64), (64, 64)])
def test_every_side_is_a_whole_number_of_tokens_near_the_area(step):
    rule = SizeRule((704, 704), step, 518_400)
    for height in range(200, 2000, 123):
        for width in range(200, 2000, 117):
            for found in (rule.shown((height, width)), rule.asked((height, width))):
                assert found[0] % step[0] == found[1] % step[1] == 0
                assert abs(found[0] * found[1] / 518_400 - 1) < 0.16


def test_without_an_area_sizes_are_taken_as_they_are_or_refused_with_the_multiples():
    rule = SizeRule((64, 96), (32, 16))
    assert rule.asked((128, 48)) == (128, 48)
    assert rule.shown((1000, 10)) == (64, 96)
    with pytest.raises(UserError, match=r"width of 40 pixels is not a multiple of 16\n.*64x96.*multiples of 32 and 16"):
        rule.asked((64, 40))


def test_a_size_is_read_height_first():
    assert parse_size("704x1280") == parse_size(" 704 X 1280 ") == parse_size("704×1280") == (704, 1280)


@pytest.mark.parametrize("text", ["704", "0x64", "-64x64", "64x64x3", "1e3x64", "x", "123456x1"])
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"is not a size\n.*--size 704x1280"):
        parse_size(text)
