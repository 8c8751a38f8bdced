"""Raw images as a user has them: JPEG files in class folders, no two alike."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from benchmarks.turns import ROOT
from dermagan_jax import images
from dermagan_jax.data import phantom, sources
from dermagan_jax.data.records import Record
from dermagan_jax.lesions import CLASSES, NUM_CLASSES

FOLDER = ROOT / "runs" / "bench"
REAL_IMAGES = "DERMAGAN_TEST_DATA"
"""Names a folder that holds `HAM10000`, whose pictures then take the place of phantoms."""

# HAM10000's size, at a quality that gives about 60 KB a file.
SIZE = (600, 450)
_JPEG_QUALITY = 90
_NOISE_LEVELS = 4.0
_BASES_PER_CLASS = 32
_BASE_SIZE = 256
_TASK_SIZE = 500
_BASES = ".bases.npy"  # Hidden, so that no reader of the folder takes it for an image.


def photographs(count: int) -> Path:
    """Makes a folder of `count` JPEG files, a user's raw images as far as a computer can tell.

    Each is a turned, enlarged piece of one of a few pictures, with noise of its own, so that no two
    are taken for copies of one photograph.

    Args:
      count: how many, spread evenly over the classes.

    Returns:
      The folder, as `--source folder=DIR` takes it; it is not made again when it is there.
    """
    kind = "real" if os.environ.get(REAL_IMAGES) else "phantom"
    folder = FOLDER / f"photographs_{kind}_{count}"
    if (folder / ".done").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(mp_context=context) as pool:
        bases = list(pool.map(_base, range(NUM_CLASSES * _BASES_PER_CLASS)))
        np.save(folder / _BASES, np.stack(bases))
        list(pool.map(functools.partial(_write, folder, count), range(0, count, _TASK_SIZE)))
    # Two images a lesion.
    rows = [f"{_place(i)},{i // (2 * NUM_CLASSES)}_{i % NUM_CLASSES}" for i in range(count)]
    (folder / "lesions.csv").write_text("\n".join(["file,lesion_id", *rows]) + "\n")
    (folder / ".done").touch()
    return folder


def _base(number: int) -> np.ndarray:
    """Returns a picture to cut pieces of: [256, 256, 3] uint8; consecutive ones are of a class."""
    label, number = divmod(number, _BASES_PER_CLASS)
    root = os.environ.get(REAL_IMAGES)
    if not root:
        return phantom.render(f"phantom:0:{label}:{number}:0", size=_BASE_SIZE)
    record = _real_records(root, label)[number]
    return images.resize_crop(sources.load_image(record), _BASE_SIZE)


@functools.cache
def _real_records(root: str, label: int) -> list[Record]:
    listing = sources.read_source("ham10000", str(Path(root) / "HAM10000"))
    return [record for record in listing.records if record.label == label]


def _place(index: int) -> str:
    return f"{CLASSES[index % NUM_CLASSES]}/{index:06d}.jpg"


def _write(folder: Path, count: int, start: int) -> None:
    bases = np.load(folder / _BASES)
    width, height = SIZE
    rng = np.random.default_rng(0)
    noise = rng.normal(128, _NOISE_LEVELS, (2 * height, 2 * width, 3))
    grain = Image.fromarray(noise.round().astype(np.uint8))
    for index in range(start, min(start + _TASK_SIZE, count)):
        rng = np.random.default_rng(index)
        number = index % NUM_CLASSES * _BASES_PER_CLASS + int(rng.integers(_BASES_PER_CLASS))
        picture = _piece(Image.fromarray(bases[number]), rng)
        left, top = int(rng.integers(width)), int(rng.integers(height))
        grained = ImageChops.add(
            picture, grain.crop((left, top, left + width, top + height)), offset=-128
        )
        grained.save(folder / _place(index), quality=_JPEG_QUALITY)


def _piece(base: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cuts a turned rectangle of any size and place that the picture holds, and enlarges it."""
    width, height = SIZE
    radius = rng.uniform(0.25, 0.5) * _BASE_SIZE  # Of the circle around the rectangle.
    middle_x, middle_y = rng.uniform(radius, _BASE_SIZE - radius, 2)
    angle, scale = rng.uniform(0, 2 * np.pi), 2 * radius / np.hypot(width, height)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = (
        *(cos, -sin, middle_x - (cos * width - sin * height) / 2),
        *(sin, cos, middle_y - (sin * width + cos * height) / 2),
    )
    return base.transform(SIZE, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
