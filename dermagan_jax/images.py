"""Reading any image file as RGB, resizing it once, uint8 to [-1, 1] and back, grids and PNG."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dermagan_jax import files
from dermagan_jax.errors import ImageError

if TYPE_CHECKING:
    import jax

Array = TypeVar("Array", np.ndarray, "jax.Array")

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""File name endings, in lower case, that are taken for images."""

MAX_PIXELS = 110_000_000
"""Largest image that is decoded: above the 100 megapixels of the largest dermoscopy scans."""

PHANTOM_NOTE = "phantom data: says nothing about skin"
"""What every picture made from phantoms says of itself."""

NOTE_HEIGHT = 20
"""Height in pixels of the strip that holds a grid's `PHANTOM_NOTE`."""

# In place of Pillow's own limit, which warns from 89 megapixels on.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

# Pillow opens many more formats, some through outside programs (EPS runs Ghostscript).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_EIGHT_BIT_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
# A process or machine short of these would put good images into quarantine.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def read(path: str | Path) -> np.ndarray:
    """Reads an image file as upright RGB, whatever its name's ending says; see `open_rgb`.

    Args:
      path: a JPEG, PNG, WebP, BMP or TIFF file.

    Returns:
      [H, W, 3] uint8 in [0, 255].

    Raises:
      ImageError: as `open_rgb`.
    """
    return np.array(open_rgb(path))


def open_rgb(path: str | Path, *, min_side: int | None = None) -> Image.Image:
    """Reads an image file as upright RGB, whatever its name's ending says.

    CMYK, grey, palette, YCbCr and 16-bit images are converted (16 bits by value / 257, so 65535
    becomes 255), transparency is laid over white, EXIF rotation is applied, and the first frame of
    several is taken. Embedded colour profiles are ignored.

    Args:
      path: a JPEG, PNG, WebP, BMP or TIFF file.
      min_side: where given, a JPEG file is decoded at the smallest of 1/8, 1/4, 1/2 and all of its
        size whose short side is no smaller than this, which is faster. Its blocks' low frequencies
        are decoded then: nearly what averaging the full image gives.

    Returns:
      A Pillow image of mode RGB, decoded.

    Raises:
      ImageError: when the file is missing, empty, cut off, no image of these formats, larger than
        `MAX_PIXELS`, or of a number format without a fixed range (32-bit integers and floats).
    """
    with _open(path) as file:
        return _to_rgb(_decode(file, path, min_side), path)


def _open(path: str | Path) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        raise ImageError(path, f"cannot be opened ({error.strerror})") from error


def _decode(file: BinaryIO, path: str | Path, min_side: int | None) -> Image.Image:
    """Decodes an open file, or raises an ImageError, whatever Pillow trips over inside."""
    if os.fstat(file.fileno()).st_size == 0:
        raise ImageError(path, "is empty (0 bytes); download or copy it again")
    try:
        image = Image.open(file, formats=_FORMATS)
        width, height = image.size
        if width * height <= MAX_PIXELS:
            if min_side is not None:
                image.draft(None, (min_side, min_side))
            image.load()
            return _upright(image)
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(path, _too_large(str(error))) from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(path, "is not a JPEG, PNG, WebP, BMP or TIFF image") from error
    except Exception as error:
        # A damaged file raises nearly anything inside the decoders: OSError, SyntaxError,
        # struct.error, IndexError, zlib.error.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(path, f"is damaged or cut off ({reason})") from error
    raise ImageError(path, _too_large(f"{width} x {height} pixels"))


def _too_large(size: str) -> str:
    return f"is too large to decode safely ({size}; at most {MAX_PIXELS:,} pixels)"


def _upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF rotation; unreadable EXIF data leaves the picture as stored."""
    # SyntaxError is Pillow's word for data that breaks a format's rules; it also warns of some.
    with contextlib.suppress(
        SyntaxError, ValueError, TypeError, KeyError, EOFError, OSError, struct.error, UserWarning
    ):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_rgb(image: Image.Image, path: str | Path) -> Image.Image:
    """Converts a decoded image of any mode to 8-bit RGB."""
    if image.mode in _SIXTEEN_BIT_MODES:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(
                path, "holds 32-bit integers, which have no fixed range; save as 8-bit"
            )
        grey = ((values + 128) // 257).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode not in _EIGHT_BIT_MODES + _ALPHA_MODES:
        raise ImageError(path, f"has the colour mode {image.mode}; save it as 8-bit RGB")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, coloured).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes the short side to `size` with antialiasing and crops the centre square.

    Bicubic, its support widened by the scale, so that fine texture averages out and does not alias.
    Only the square is computed: the same pixels as a resize of the whole image, in bounded memory
    even for a strip. An image of `size` on its short side keeps its pixels.

    Args:
      image: [H, W, 3] uint8.
      size: side of the result in pixels, at least 1.

    Returns:
      [size, size, 3] uint8.

    Raises:
      ValueError: for another shape or dtype, or a size below 1.
    """
    _check_rgb(image)
    return np.array(central_square(Image.fromarray(image), size))


def central_square(picture: Image.Image, size: int) -> Image.Image:
    """Does what `resize_crop` does, on a Pillow image of mode RGB."""
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    return picture.resize((size, size), Image.Resampling.BICUBIC, box=box)


def to_float(image: Array) -> Array:
    """Maps uint8 to the range the networks work in: 0 to -1, 255 to 1.

    Args:
      image: uint8 of any shape, NumPy or JAX, also inside `jit`.

    Returns:
      float32 in [-1, 1], of the same shape and kind of array.
    """
    return image.astype(np.float32) / 127.5 - 1.0


def to_uint8(image: Array) -> Array:
    """Maps [-1, 1] back to uint8; `to_uint8(to_float(x)) == x` for every uint8 value.

    Args:
      image: finite floats of any shape, NumPy or JAX, also inside `jit`; values outside [-1, 1]
        are clipped.

    Returns:
      uint8 in [0, 255], rounded to the nearest (halves to even), same shape and kind of array.
    """
    # bfloat16 has 8 bits of mantissa: the arithmetic itself has to be float32.
    values = (image.astype(np.float32) + 1.0) * 127.5
    return values.round().clip(0, 255).astype(np.uint8)


def grid(
    images: np.ndarray, columns: int, padding: int = 2, *, phantom: bool = False
) -> np.ndarray:
    """Lays images out row by row with white gaps; cells left over are white.

    Args:
      images: [N, H, W, 3] uint8, N at least 1.
      columns: images a row, at least 1.
      padding: width of the gaps between images in pixels.
      phantom: writes `PHANTOM_NOTE` in a strip of `NOTE_HEIGHT` pixels below.

    Returns:
      [R * H + (R - 1) * padding, columns * W + (columns - 1) * padding, 3] uint8, where R is
      N / columns rounded up; `NOTE_HEIGHT` higher for phantoms.

    Raises:
      ValueError: for another shape or dtype, no images, or no columns.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"expected [N, H, W, 3] uint8, got {images.shape} {images.dtype}")
    if columns < 1 or padding < 0:
        raise ValueError(f"columns {columns} must be at least 1 and padding {padding} at least 0")
    num_images, height, width = images.shape[:3]
    rows = -(-num_images // columns)
    cells = np.full((rows * columns, height + padding, width + padding, 3), 255, np.uint8)
    cells[:num_images, :height, :width] = images
    cells = cells.reshape(rows, columns, height + padding, width + padding, 3)
    sheet = cells.swapaxes(1, 2).reshape(rows * (height + padding), -1, 3)
    sheet = np.ascontiguousarray(sheet[: sheet.shape[0] - padding, : sheet.shape[1] - padding])
    return _noted(sheet) if phantom else sheet


def _noted(sheet: np.ndarray) -> np.ndarray:
    strip = Image.new("RGB", (sheet.shape[1], NOTE_HEIGHT), "white")
    ImageDraw.Draw(strip).text((4, 3), PHANTOM_NOTE, fill="black", font=ImageFont.load_default(12))
    return np.concatenate([sheet, np.asarray(strip)])


def encode_png(image: np.ndarray, *, compress_level: int = 6) -> bytes:
    """Encodes an image as PNG: the same pixels give the same bytes.

    Args:
      image: [H, W, 3] uint8.
      compress_level: from 0, fast, to 9, small.

    Returns:
      The file's bytes, without a date or other metadata.

    Raises:
      ValueError: for another shape or dtype.
    """
    _check_rgb(image)
    return encode_picture(Image.fromarray(image), compress_level=compress_level)


def encode_picture(picture: Image.Image, *, compress_level: int = 6) -> bytes:
    """Does what `encode_png` does, of a Pillow image of mode RGB."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """Returns the [H, W, 3] uint8 image that `encode_png` made a file of."""
    return np.array(Image.open(io.BytesIO(data), formats=("PNG",)))


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Writes a PNG at once: a reader, or a kill half-way, never sees part of a file.

    Args:
      path: the file to write or replace; its folder must exist.
      image: [H, W, 3] uint8.

    Raises:
      DermaganError: when the folder is missing or cannot be written.
      ValueError: for another shape or dtype.
    """
    data = encode_png(image)
    with files.replacing(Path(path)) as partial:
        partial.write_bytes(data)


def _check_rgb(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected [H, W, 3] uint8, got {image.shape} {image.dtype}")
