"""Every odd kind of image file, the resize, and the two ways between uint8 and [-1, 1]."""

from __future__ import annotations

import errno
import io
import struct
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dermagan_jax import images
from dermagan_jax.errors import ImageError

LEFT, RIGHT = (200, 30, 60), (20, 180, 90)


def two_halves(width: int = 24, height: int = 16) -> np.ndarray:
    """An image whose left half is one colour and whose right half another."""
    image = np.empty((height, width, 3), np.uint8)
    image[:, : width // 2] = LEFT
    image[:, width // 2 :] = RIGHT
    return image


def assert_close(image: np.ndarray, expected: np.ndarray, tolerance: int = 3) -> None:
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= tolerance


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG file by hand, for kinds that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in chunks)


@pytest.mark.parametrize("suffix", sorted(images.IMAGE_SUFFIXES))
def test_reads_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    options = {"subsampling": 0, "quality": 95} if suffix in (".jpg", ".jpeg") else {}
    Image.fromarray(two_halves()).save(path, **({"lossless": True} | options))
    assert_close(images.read(path), two_halves(), tolerance=6 if options else 0)
    assert_close(images.read(str(path)), images.read(path), tolerance=0)


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    Image.fromarray(two_halves()).save(path, format="PNG")
    np.testing.assert_array_equal(images.read(path), two_halves())


@pytest.mark.parametrize(
    ("name", "kind"), [("a.tif", "TIFF"), ("a.webp", "WEBP"), ("a.jpg", "MPO")]
)
def test_the_first_of_several_frames(tmp_path: Path, name: str, kind: str) -> None:
    first, second = Image.fromarray(two_halves()), Image.new("RGB", (24, 16))
    options = {} if kind == "TIFF" else {"lossless": True, "quality": 95}
    first.save(tmp_path / name, kind, save_all=True, append_images=[second], **options)
    assert_close(images.read(tmp_path / name)[:, :8], two_halves()[:, :8], tolerance=6)


def test_grey_and_bilevel(tmp_path: Path) -> None:
    grey = np.array([[0, 77, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(images.read(tmp_path / "grey.png")[0, :, 1], [0, 77, 255])
    Image.fromarray(grey > 99).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(images.read(tmp_path / "bits.png")[0, :, 2], [0, 0, 255])


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "plain.png")
    palette.save(tmp_path / "clear.png", transparency=1)
    assert images.read(tmp_path / "plain.png").tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert images.read(tmp_path / "clear.png").tolist() == [[[10, 20, 30], [255] * 3]]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_alpha_is_laid_over_white(tmp_path: Path, suffix: str) -> None:
    pixels = np.array([[[100, 0, 200, 255], [100, 0, 200, 0], [100, 0, 200, 51]]], np.uint8)
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", **options)
    # 51 / 255 = 0.2: 0.2 * 100 + 0.8 * 255 = 224, 0.8 * 255 = 204, 0.2 * 200 + 204 = 244.
    expected = np.array([[[100, 0, 200], [255, 255, 255], [224, 204, 244]]])
    assert_close(images.read(tmp_path / f"a{suffix}"), expected, tolerance=1)


def test_grey_with_alpha_and_a_transparent_colour(tmp_path: Path) -> None:
    Image.merge("LA", [Image.new("L", (1, 1), 40), Image.new("L", (1, 1), 0)]).save(
        tmp_path / "la.png"
    )
    assert images.read(tmp_path / "la.png").tolist() == [[[255, 255, 255]]]
    Image.fromarray(two_halves()).save(tmp_path / "key.png", transparency=LEFT)
    image = images.read(tmp_path / "key.png")
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[0, -1].tolist() == list(RIGHT)


def test_cmyk(tmp_path: Path) -> None:
    # No cyan, half magenta, full yellow, no black: (255, 127, 0).
    Image.new("CMYK", (16, 16), (0, 128, 255, 0)).save(tmp_path / "a.tif")
    Image.new("CMYK", (16, 16), (0, 128, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    for name in ("a.tif", "a.jpg"):
        assert_close(images.read(tmp_path / name), np.full((16, 16, 3), (255, 127, 0)))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_grey(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65535, 128, 129]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    # v / 257 to the nearest: 128 / 257 is just below a half, 129 / 257 just above.
    assert images.read(tmp_path / name)[0, :, 0].tolist() == [0, 1, 128, 255, 0, 1]


def test_sixteen_bit_rgb_and_big_endian_grey(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">6H", 0, 128 * 257, 65535, 65535, 0, 64 * 257)
    (tmp_path / "rgb.png").write_bytes(png(2, 1, 16, 2, row))
    assert images.read(tmp_path / "rgb.png").tolist() == [[[0, 128, 255], [255, 0, 64]]]
    (tmp_path / "grey.png").write_bytes(png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 65535, 257)))
    assert images.read(tmp_path / "grey.png")[0, :, 0].tolist() == [255, 1]


@pytest.mark.parametrize("pixels", [np.ones((4, 4), np.float32), np.full((4, 4), 70_000, np.int32)])
def test_numbers_without_a_range_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="8-bit"):
        images.read(tmp_path / "a.tif")


# Orientation: what the camera's EXIF says must be done to the stored picture to see it upright.
STORED = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_exif_rotation(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = two_halves()
    upright[:8, :4] = (250, 250, 250)  # a marked corner tells all eight apart
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    options = {"quality": 95, "subsampling": 0} if suffix == ".jpg" else {}
    stored.save(tmp_path / f"a{suffix}", exif=exif, **options)
    assert_close(images.read(tmp_path / f"a{suffix}"), upright, tolerance=40 if options else 0)


def test_broken_exif_leaves_the_picture(tmp_path: Path) -> None:
    Image.fromarray(two_halves()).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0rubbish")
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), two_halves())


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_truncated_files(tmp_path: Path, suffix: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageError) as caught:
        images.read(path)
    assert caught.value.path == str(path)
    assert "\n" not in caught.value.reason


def test_damage_anywhere_is_an_image_error_or_an_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    path = tmp_path / "a"
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, format=kind)
        for _ in range(40):
            data = bytearray(buffer.getvalue())
            for place in rng.integers(0, min(len(data), 400), 4):
                data[place] = rng.integers(256)
            path.write_bytes(bytes(data))
            try:
                image = images.read(path)
            except ImageError:
                continue
            assert image.dtype == np.uint8
            assert image.shape[2:] == (3,)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"lesion_id,image_id,dx\n", "is not a JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a JPEG"),
        (b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;", "is not a JPEG"),
        (png(12_000, 12_000, 8, 2, b""), "144000000|12000 x 12000"),
        (png(200_000, 200_000, 8, 2, b""), "too large"),
    ],
    ids=["empty", "text", "eps", "gif", "bomb", "larger bomb"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_refuses_what_is_no_sensible_image(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ImageError, match=reason):
        images.read(tmp_path / "a.jpg")


def test_bomb_under_errors_for_warnings(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(12_000, 12_000, 8, 2, b""))
    with pytest.raises(ImageError, match="too large"):
        images.read(tmp_path / "a.png")


def test_a_scan_of_100_megapixels_is_within_the_limit(tmp_path: Path) -> None:
    assert images.MAX_PIXELS >= 100_000_000
    # 90 megapixels: more than Pillow takes without a warning, which pytest makes an error.
    Image.new("1", (30_000, 3_000), 1).save(tmp_path / "a.png")
    image = images.read(tmp_path / "a.png")
    assert image.shape == (3_000, 30_000, 3)
    assert image[-1, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("name", "reason"), [("none.jpg", "No such file"), ("", "directory")])
def test_missing_file_and_folder(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        images.read(tmp_path / name)


def test_a_machine_short_of_files_is_not_a_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match="Too many open files"):
        images.read("a.jpg")


def test_resize_crop_takes_the_centre_square() -> None:
    image = np.zeros((40, 100, 3), np.uint8)
    image[:] = 2 * np.arange(100)[None, :, None]
    # Columns 30 to 69 are kept; output column j is centred on column 30 + 4 j + 1.5.
    expected = np.broadcast_to((63 + 8 * np.arange(10))[None, :, None], (10, 10, 3))
    assert_close(images.resize_crop(image, 10), expected, tolerance=1)
    upright = images.resize_crop(image.swapaxes(0, 1), 10)
    assert_close(upright, expected.swapaxes(0, 1), tolerance=1)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(150, 210, 10), (330, 110, 10), (84, 84, 21), (20, 32, 40)]
)
def test_resize_crop_equals_a_resize_of_the_whole(height: int, width: int, size: int) -> None:
    image = np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)
    short = min(height, width)
    whole = (width * size // short, height * size // short)
    pillow = Image.fromarray(image).resize(whole, Image.Resampling.BICUBIC)
    left, top = (whole[0] - size) // 2, (whole[1] - size) // 2
    expected = np.asarray(pillow)[top : top + size, left : left + size]
    assert_close(images.resize_crop(image, size), expected, tolerance=1)


def test_resize_crop_averages_fine_texture() -> None:
    # A one-pixel checkerboard has no detail left at an eighth: grey, not a moiré of 0 and 255.
    board = np.indices((128, 128)).sum(0) % 2 * 255
    image = np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8)
    assert_close(
        images.resize_crop(image, 16)[2:-2, 2:-2], np.full((12, 12, 3), 127.5), tolerance=2
    )


def test_resize_crop_leaves_the_right_size_alone() -> None:
    image = np.random.default_rng(3).integers(0, 256, (64, 67, 3), dtype=np.uint8)
    cropped = images.resize_crop(image, 64)
    np.testing.assert_array_equal(cropped, image[:, 1:65])
    cropped[:] = 0
    assert image.any(), "the result is a copy"
    assert images.resize_crop(image[:8, :8], 32).shape == (32, 32, 3)


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_shapes_and_dtypes_are_checked(bad: np.ndarray) -> None:
    for function in (lambda x: images.resize_crop(x, 2), images.encode_png):
        with pytest.raises(ValueError, match="expected"):
            function(bad)
    with pytest.raises(ValueError, match="expected"):
        images.grid(bad[None], 2)
    with pytest.raises(ValueError, match="size"):
        images.resize_crop(np.zeros((4, 4, 3), np.uint8), 0)


ALL_VALUES = np.arange(256, dtype=np.uint8)


def test_to_float_by_hand() -> None:
    values = images.to_float(np.array([0, 51, 255], np.uint8))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, [-1.0, -0.6, 1.0], rtol=1e-6)


@pytest.mark.parametrize("wrap", [np.asarray, jnp.asarray])
def test_round_trip_is_exact(wrap) -> None:
    pixels = wrap(ALL_VALUES)
    back = images.to_uint8(images.to_float(pixels))
    assert isinstance(back, type(pixels))
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, ALL_VALUES)


def test_round_trip_inside_jit() -> None:
    there_and_back = jax.jit(lambda x: images.to_uint8(images.to_float(x)))
    np.testing.assert_array_equal(there_and_back(ALL_VALUES), ALL_VALUES)


def test_to_uint8_rounds_and_clips() -> None:
    floats = np.array([-3.0, -1.0, -0.001, 0.001, 0.0042, 1.0, 1.5], np.float32)
    # (x + 1) * 127.5 = ..., 127.3725, 127.6275, 128.0355, ...
    expected = [0, 0, 127, 128, 128, 255, 255]
    assert images.to_uint8(floats).tolist() == expected
    assert images.to_uint8(jnp.asarray(floats)).tolist() == expected
    # 0.5078125 * 127.5 = 64.75; bfloat16, which counts in halves there, would make it 64.5 and 64.
    assert images.to_uint8(jnp.array([-0.4921875], jnp.bfloat16)).tolist() == [65]


def test_grid_by_hand() -> None:
    tiles = np.stack([np.full((2, 3, 3), 10 * n, np.uint8) for n in range(1, 6)])
    sheet = images.grid(tiles, columns=3, padding=1)
    assert sheet.shape == (2 * 2 + 1, 3 * 3 + 2, 3)
    o = 255
    row = [10, 10, 10, o, 20, 20, 20, o, 30, 30, 30]
    last = [40, 40, 40, o, 50, 50, 50, o, o, o, o]
    assert sheet[:, :, 0].tolist() == [row, row, [o] * 11, last, last]


def test_grid_without_gaps_and_with_spare_columns() -> None:
    tiles = np.random.default_rng(4).integers(0, 200, (4, 5, 6, 3), dtype=np.uint8)
    sheet = images.grid(tiles, columns=2, padding=0)
    for number, (top, left) in enumerate([(0, 0), (0, 6), (5, 0), (5, 6)]):
        np.testing.assert_array_equal(sheet[top : top + 5, left : left + 6], tiles[number])
    assert images.grid(tiles, columns=6).shape == (5, 6 * 6 + 5 * 2, 3)


def test_a_grid_carries_its_note_in_a_strip_below():
    tiles = np.zeros((4, 40, 70, 3), np.uint8)
    plain, noted = images.grid(tiles, 4), images.grid(tiles, 4, phantom=True)
    np.testing.assert_array_equal(noted[: len(plain)], plain)
    strip = noted[len(plain) :]
    assert strip.shape == (images.NOTE_HEIGHT, plain.shape[1], 3)
    # The text stands inside the strip: ink in the middle, none at its edges.
    ink = (strip < 128).any(axis=2)
    assert ink.sum() > 200
    assert not ink[[0, -1]].any()
    assert not ink[:, [0, -1]].any()


def test_grid_refuses_what_it_cannot_lay_out():
    tiles = np.zeros((6, 5, 6, 3), np.uint8)
    with pytest.raises(ValueError, match="columns"):
        images.grid(tiles, columns=0)
    with pytest.raises(ValueError, match="expected"):
        images.grid(tiles[:0], columns=2)


def test_png_is_lossless_and_deterministic(tmp_path: Path) -> None:
    image = np.random.default_rng(5).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert images.encode_png(image) == images.encode_png(image.copy())
    images.write_png(tmp_path / "a.png", image)
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), image)
    assert (tmp_path / "a.png").read_bytes() == images.encode_png(image)
    for level in (0, 2, 9):
        data = images.encode_png(image, compress_level=level)
        np.testing.assert_array_equal(images.decode_png(data), image)


def test_real_images(real_data: Path) -> None:
    folder = real_data / "HAM10000" / "HAM10000_images_part_1"
    for path in sorted(folder.iterdir())[:20]:
        image = images.read(path)
        assert image.shape == (150, 200, 3)
        small = images.resize_crop(image, 64)
        # The mean colour of the centre square is that of its small copy.
        centre = image[:, 25:175].reshape(-1, 3).mean(0)
        np.testing.assert_allclose(small.reshape(-1, 3).mean(0), centre, atol=2)
