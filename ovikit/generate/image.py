"""A given first frame: read from a file, brought to a clip's size.

Shape legend: h w rows and columns of the file, y x rows and columns of the clip.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from ovikit.errors import UserError

_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "PPM", "TGA", "JPEG2000")
"""Formats of pictures, those among Pillow's that start no other program."""
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")
"""Pillow's names for grey of 16 bits; it cuts those to 8 bits wrongly."""
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, struct.error, zlib.error)
"""What Pillow raises on a file that ends early or contradicts itself."""


class Picture(NamedTuple):
    """What an image file shows: upright, RGB, and what its owner should be told of it."""

    pixels: UInt8[Tensor, "h w 3"]
    notes: tuple[str, ...]

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


def read_image(path: Path | str) -> Picture:
    """The picture of an image file, in any colour mode.

    It is turned as its EXIF data say; 16 bits become 8; what is transparent shows black behind it; of several pictures
    the first is taken. UserError for a file that is missing, not an image, truncated or damaged.
    """
    path, notes = Path(path), []
    with _opened(path) as image:
        # Telephones write photographs as MPO, with a small second picture that nobody means.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            notes.append(f"{path.name} holds several pictures: the first is taken")
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in upright.info:
            upright = upright.convert("RGBA")
            if np.asarray(upright)[..., 3].min() < 255:
                notes.append(f"{path.name} is transparent in places: black is put behind it")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, (0, 0, 0, 255)), upright)
        elif upright.mode in _DEEP:
            upright = Image.fromarray(_eight_bits(np.asarray(upright)))
        elif upright.mode == "F":
            raise UserError("its pixels are floating-point numbers", str(path), "save it with 8 or 16 bits a channel")
        pixels = np.array(upright.convert("RGB"))
    return Picture(torch.from_numpy(pixels), tuple(notes))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The decoded image of a file, as it is stored."""
    if not path.exists():
        raise UserError("there is no such image", str(path))
    if path.is_dir():
        raise UserError("this is a folder, and an image is wanted", str(path))
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=formats) as image:
            image.load()
            yield image
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError("this is not an image of a known format", str(path), "PNG, JPEG and WebP are") from error
    except Image.DecompressionBombError as error:
        raise UserError("this image has more pixels than any clip could show", str(path), "make it smaller") from error
    except PermissionError as error:
        raise UserError("this image may not be read", str(path)) from error
    except _DAMAGED as error:
        raise UserError(f"this image is truncated or damaged ({error})", str(path)) from error


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """Grey of 16 bits as of 8."""
    return np.rint(grey.astype(np.float64).clip(0, 65535) / 257).astype(np.uint8)


def first_frame(
    pixels: UInt8[Tensor, "h w 3"], size_px: tuple[int, int], crop: bool
) -> Float32[Tensor, "1 1 y x 3"]:  # fmt: skip
    """The picture as a codec encodes it, a clip of one frame in [-1, 1].

    crop: keep its proportions and cut off evenly what is too much; otherwise it is stretched, which after the choice of
          a size by its proportions is by a few per cent at most

    Bicubic without a low-pass filter and not cut off at [-1, 1], as the released code resizes.
    """
    cut = _middle(pixels, size_px) if crop else pixels
    values = rearrange(cut.float() / 127.5 - 1, "h w c -> 1 c h w")
    if tuple(cut.shape[:2]) != size_px:
        values = F.interpolate(values, size_px, mode="bicubic", align_corners=False)
    return rearrange(values, "1 c y x -> 1 1 y x c").contiguous()


def _middle(pixels: UInt8[Tensor, "h w 3"], size_px: tuple[int, int]) -> UInt8[Tensor, "h2 w2 3"]:
    """The largest part around the centre that has the proportions of a size."""
    (height, width), (rows, columns) = pixels.shape[:2], size_px
    kept_height = min(height, max(1, round(width * rows / columns)))
    kept_width = min(width, max(1, round(height * columns / rows)))
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    return pixels[top : top + kept_height, left : left + kept_width]
