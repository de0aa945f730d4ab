"""First frames: every way of storing a picture gives the same one, upright; what cannot be read is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ovikit.errors import UserError
from ovikit.generate.image import first_frame, read_image

HEIGHT, WIDTH = 6, 10


@pytest.fixture
def pixels() -> np.ndarray:
    """A picture without symmetries."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([20 * columns, 40 * rows, 10 * rows + 12 * columns], axis=-1).astype(np.uint8)


def shown(path) -> np.ndarray:
    return read_image(path).pixels.numpy()


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.webp", "a.tga"])
def test_lossless_formats_agree(tmp_path, pixels, name):
    options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
    Image.fromarray(pixels).save(tmp_path / name, **options)
    assert (shown(tmp_path / name) == pixels).all()
    assert read_image(tmp_path / name).size_px == (HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_exif_data_say(tmp_path, pixels, orientation):
    turns = {
        1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1), 6: lambda p: np.rot90(p), 7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
        8: lambda p: np.rot90(p, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(turns[orientation](pixels))
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    assert (shown(tmp_path / "a.png") == pixels).all()


def test_palette_grey_and_sixteen_bits_become_rgb(tmp_path, pixels):
    grey = pixels[..., 2]
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(grey > 90).save(tmp_path / "1.png")
    Image.fromarray(pixels).quantize(256).save(tmp_path / "palette.png")
    assert (shown(tmp_path / "8.png") == grey[..., None]).all()
    assert (shown(tmp_path / "16.png") == shown(tmp_path / "8.png")).all()
    assert (shown(tmp_path / "1.png") == 255 * (grey > 90)[..., None]).all()
    assert np.abs(shown(tmp_path / "palette.png").astype(int) - pixels).max() < 30


def test_black_is_put_behind_what_is_transparent_and_that_is_said(tmp_path, pixels):
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:3] = 0
    Image.fromarray(np.concatenate([pixels, alpha], axis=-1)).save(tmp_path / "half.png")
    found = read_image(tmp_path / "half.png")
    assert (found.pixels[:3] == 0).all()
    assert (found.pixels[3:].numpy() == pixels[3:]).all()
    assert "black" in found.notes[0]
    Image.fromarray(np.concatenate([pixels, np.full_like(alpha, 255)], axis=-1)).save(tmp_path / "opaque.png")
    assert read_image(tmp_path / "opaque.png").notes == ()
    assert (shown(tmp_path / "opaque.png") == pixels).all()
    key = Image.fromarray(np.zeros((2, 2), np.uint8) + 200)
    key.save(tmp_path / "key.png", transparency=200)  # a grey that stands for transparent
    assert (shown(tmp_path / "key.png") == 0).all()


def test_of_an_animation_the_first_frame_is_taken_and_that_is_said(tmp_path, pixels):
    frames = [Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    found = read_image(tmp_path / "a.gif")
    assert (found.pixels == 10).all()
    assert "the first is taken" in found.notes[0]


def test_what_cannot_be_read_is_named(tmp_path, pixels):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    for share in (0.2, 0.5, 0.9):
        (tmp_path / "cut.png").write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
        with pytest.raises(UserError, match=r"cut\.png: this image is truncated or damaged"):
            read_image(tmp_path / "cut.png")
    Image.open(whole).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-500])
    with pytest.raises(UserError, match=r"cut\.jpg: this image is truncated"):
        read_image(tmp_path / "cut.jpg")
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(UserError, match=r"no\.png: this is not an image"):
        read_image(tmp_path / "no.png")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty\.png: this is not an image"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(UserError, match="no such image"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UserError, match="a folder"):
        read_image(tmp_path)
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match="floating-point"):
        read_image(tmp_path / "float.tif")


def test_a_picture_of_the_clips_size_is_taken_as_it_is(pixels):
    found = first_frame(torch.from_numpy(pixels), (HEIGHT, WIDTH), crop=False)
    assert found.shape == (1, 1, HEIGHT, WIDTH, 3)
    assert torch.equal(found[0, 0], torch.from_numpy(pixels).float() / 127.5 - 1)


def test_resizing_keeps_a_slope(pixels):
    """A linear ramp stays linear, and in its place, where the filter does not reach over the edge."""
    ramp = torch.arange(0, 240, 4, dtype=torch.uint8)[None, :, None].expand(40, 60, 3)
    found = first_frame(ramp, (20, 30), crop=False)[0, 0, :, 2:-2]
    wanted = (torch.arange(2, 28) * 2 + 0.5) * 4 / 127.5 - 1
    assert torch.allclose(found, wanted[None, :, None].expand_as(found), atol=1e-5)


@pytest.mark.parametrize(("size", "kept"), [((20, 20), (20, 20)), ((20, 80), (10, 40)), ((40, 10), (20, 5))])
def test_cropping_cuts_off_evenly_and_keeps_proportions(size, kept):
    picture = torch.zeros(20, 40, 3, dtype=torch.uint8)
    top, left = (20 - kept[0]) // 2, (40 - kept[1]) // 2
    picture[top : top + kept[0], left : left + kept[1]] = 200
    found = first_frame(picture, size, crop=True)
    assert found.shape == (1, 1, *size, 3)
    assert torch.allclose(found, torch.full_like(found, 200 / 127.5 - 1))
