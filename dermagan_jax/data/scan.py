"""One pass over the raw images: decode, fingerprint, resize; the result lies on disk in chunks.

A chunk is a `.npz` file of 256 images, written whole or not at all, so that a stopped scan goes on
where it was and memory does not grow with the set.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import Image
from tqdm import tqdm

import dermagan_jax
from dermagan_jax import files, images
from dermagan_jax.data import beam, sources
from dermagan_jax.data.records import Record
from dermagan_jax.errors import DermaganError, ImageError

Part = tuple[Sequence[Record], Path]
"""Images of one chunk, and its file."""

CHUNK_SIZE = 256
_FORMAT = 2  # Raised when chunks hold something else, so that an unfinished scan is begun anew.
HASH_SIZE = 16  # Side of the perceptual hash: 256 bits.
_SHARPNESS_SIZE = 128
_WITH_EDGES = np.arange(-1, _SHARPNESS_SIZE + 1).clip(0, _SHARPNESS_SIZE - 1)
_THUMBNAIL_SIZE = 32
_PNG_LEVEL = 2  # Half the time of the usual 6, and a tenth more bytes.
_BLACK = 40  # Grey levels up to this are a vignette's surround.
_IS_BRIGHT = [255 * (level > _BLACK) for level in range(256)]


@dataclasses.dataclass(frozen=True)
class Fingerprints:
    """What is known of each image after the scan, in the order of the records.

    Attributes:
      content: [N] SHA-256 of the decoded pixels and their shape, "" where undecodable.
      pixels: [N] the same of the resized image.
      perceptual: [N, 32] uint8, 256 bits of perceptual hash.
      thumbnail: [N, 32, 32] uint8 grey, to confirm what the hash suggests.
      sharpness: [N] float32, variance of the Laplacian of the grey field of view at 128 pixels.
      error: [N] reason why an image cannot be decoded, "" where it can.
    """

    content: np.ndarray
    pixels: np.ndarray
    perceptual: np.ndarray
    thumbnail: np.ndarray
    sharpness: np.ndarray
    error: np.ndarray

    @property
    def decoded(self) -> np.ndarray:
        """[N] bool: the image could be decoded."""
        return self.error == ""

    def first(self, count: int) -> Fingerprints:
        """Returns those of the first images."""
        return Fingerprints(
            *(getattr(self, each.name)[:count] for each in dataclasses.fields(self))
        )


def scan(
    records: Sequence[Record],
    folder: Path,
    *,
    image_size: int,
    num_workers: int | None = None,
    cluster: beam.Cluster | None = None,
    progress: bool = True,
) -> Fingerprints:
    """Decodes, fingerprints and resizes every image, in several processes or on many machines.

    Args:
      records: the images.
      folder: where the chunks lie; chunks made of the same files are not made again, and those of
        other ones are thrown away.
      image_size: side of the resized images in pixels.
      num_workers: processes, or None for one a core.
      cluster: from `beam.options`, for machines that all see the images and `folder`; None for
        processes of this one.
      progress: whether to draw a progress bar.

    Returns:
      The fingerprints; the resized images are read by `resized_pngs`.

    Raises:
      DermaganError: when a chunk cannot be written.
    """
    try:
        _claim(folder, _key(records, image_size))
    except OSError as error:
        raise _cannot_write(folder, error) from error
    paths = [_path(folder, index) for index in range(-(-len(records) // CHUNK_SIZE))]
    parts = [
        (records[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE], path)
        for index, path in enumerate(paths)
        if not path.is_file()
    ]
    if cluster is None:
        _scan_here(parts, len(records), image_size, num_workers, progress)
    else:
        try:
            beam.run_all(functools.partial(_scan_part, image_size), parts, cluster)
        # What a worker elsewhere meets comes back in a RuntimeError.
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0][-160:]
            raise DermaganError(
                f"{folder}: Apache Beam ended with an error ({reason}); mend its cause and run the "
                "same command again, which makes the chunks that are missing"
            ) from error
    return _load_fingerprints(folder, len(paths))


def _scan_here(
    parts: Sequence[Part], total: int, image_size: int, num_workers: int | None, progress: bool
) -> None:
    workers = min(num_workers or os.cpu_count() or 1, max(len(parts), 1))
    bar = tqdm(
        total=total,
        initial=total - sum(len(records) for records, _ in parts),
        desc="decode and resize",
        unit="image",
        disable=not progress,
    )
    # Spawned, not forked: the parent may hold the threads of JAX and TensorFlow.
    context = multiprocessing.get_context("spawn")
    try:
        with (
            bar,
            concurrent.futures.ProcessPoolExecutor(
                workers, mp_context=context, initializer=_end_with_parent
            ) as pool,
        ):
            tasks = [pool.submit(_scan_part, image_size, part) for part in parts]
            for task in concurrent.futures.as_completed(tasks):
                bar.update(task.result())
    except concurrent.futures.process.BrokenProcessPool as error:
        raise DermaganError(
            "a decoding process was ended from outside, most often for want of memory; run the "
            "same command again with fewer --workers"
        ) from error
    except OSError as error:
        raise _cannot_write(parts[0][1].parent, error) from error


def _end_with_parent() -> None:
    """Ends this worker when the process that started it is gone.

    A pool's workers wait for work for ever if that process is killed: each holds both ends of the
    pipe that work comes through.
    """
    parent = multiprocessing.parent_process()

    def wait_and_end() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()


def resized_pngs(folder: Path, num_records: int) -> Iterator[list[bytes]]:
    """Yields the resized images of a scan chunk by chunk: at most 256 PNG files."""
    for index in range(-(-num_records // CHUNK_SIZE)):
        yield chunk_pngs(folder, index)


def chunk_pngs(folder: Path, index: int) -> list[bytes]:
    """Reads the resized images of one chunk of a scan."""
    with _opened(_path(folder, index)) as chunk:
        joined, ends = chunk["png"].tobytes(), np.cumsum(chunk["png_size"]).tolist()
    return [joined[start:end] for start, end in itertools.pairwise([0, *ends])]


def _opened(path: Path) -> contextlib.AbstractContextManager[Mapping[str, np.ndarray]]:
    """Opens a chunk."""
    remedy = "delete it and run the same command again, which reads its images anew"
    return files.opened_arrays(path, remedy=remedy)


def content_sha256(image: np.ndarray) -> str:
    """Returns the SHA-256 of an image's shape and pixels, hexadecimal."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _cannot_write(folder: Path, error: OSError) -> DermaganError:
    return DermaganError(
        f"{folder}: cannot be written ({error.strerror}); free some space and run the same command "
        "again"
    )


def _key(records: Sequence[Record], image_size: int) -> str:
    """Returns a hash of what the chunks depend on: the files, their sizes and times, in order."""
    made_by = f"{dermagan_jax.__version__} {_FORMAT} {image_size} {CHUNK_SIZE}"
    digest = hashlib.sha256(made_by.encode())
    for record in records:
        path = Path(record.path)
        status = path.stat() if path.is_file() else None
        dated = (status.st_size, status.st_mtime_ns) if status else None
        digest.update(repr((record.image_id, record.path, dated)).encode())
    return digest.hexdigest()


def _claim(folder: Path, key: str) -> None:
    """Makes `folder` hold the chunks of `key` and no others."""
    path = folder / "key"
    if not path.is_file() or path.read_bytes() != key.encode():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with files.replacing(path) as partial:
            partial.write_text(key)


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.npz"


def _scan_part(image_size: int, part: Part) -> int:
    """Writes the chunk of some images; returns how many they are."""
    records, path = part
    rows, pngs = zip(*(_scan_image(record, image_size) for record in records), strict=True)
    columns: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    columns["png"] = np.frombuffer(b"".join(pngs), np.uint8)
    columns["png_size"] = np.asarray([len(png) for png in pngs])
    with files.replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **columns)
    return len(records)


def _scan_image(record: Record, image_size: int) -> tuple[dict[str, np.ndarray], bytes]:
    """Returns an image's fingerprints, and it resized as PNG."""
    try:
        picture = sources.open_image(record, min_side=_min_side(image_size))
        error = ""
    except ImageError as caught:
        picture, error = Image.new("RGB", (image_size, image_size)), caught.reason[:200]
    resized = images.central_square(picture, image_size)
    view = _field_of_view(picture.convert("L"))
    row = {
        "content": np.asarray("" if error else content_sha256(np.asarray(picture)), "U64"),
        "pixels": np.asarray(content_sha256(np.asarray(resized)), "U64"),
        "perceptual": np.packbits(imagehash.phash(view, hash_size=HASH_SIZE).hash),
        "thumbnail": np.asarray(view.resize((_THUMBNAIL_SIZE, _THUMBNAIL_SIZE))),
        "sharpness": _sharpness(view),
        "error": np.asarray(error, "U200"),
    }
    return row, images.encode_picture(resized, compress_level=_PNG_LEVEL)


def _min_side(image_size: int) -> int:
    """Returns how far a JPEG file may be made smaller in decoding: the short side's least pixels.

    Three times the image's, so that the resize still does the smoothing, and enough for the
    fingerprints' field of view, which is 0.7 of a side.
    """
    return 3 * max(image_size, _SHARPNESS_SIZE // 2)


def _sharpness(view: Image.Image) -> np.ndarray:
    """Returns the variance of the Laplacian, float32; at the border the edge pixels go on."""
    level = np.asarray(view.resize((_SHARPNESS_SIZE, _SHARPNESS_SIZE)), np.float32)
    # Not NumPy's pad, which takes as long as all the rest.
    padded = level[_WITH_EDGES][:, _WITH_EDGES]
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return np.asarray((around - 4 * level).var(), np.float32)


def _field_of_view(grey: Image.Image) -> Image.Image:
    """Cuts the square inside a dermoscope's circle, or the middle where there is no vignette.

    Else all images with a black surround would look alike to a perceptual hash, which was seen:
    most of its pairs in ISIC 2019 were different lesions in the same circle.
    """
    left, top, right, bottom = grey.point(_IS_BRIGHT).getbbox() or (
        0,
        0,
        *grey.size,
    )
    across = (1 - 2**-0.5) / 2  # What a circle's inscribed square leaves on each side.
    margin_x, margin_y = across * (right - left), across * (bottom - top)
    return grey.crop(
        (
            round(left + margin_x),
            round(top + margin_y),
            round(right - margin_x),
            round(bottom - margin_y),
        )
    )


def _load_fingerprints(folder: Path, num_chunks: int) -> Fingerprints:
    names = [field.name for field in dataclasses.fields(Fingerprints)]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for index in range(num_chunks):
        with _opened(_path(folder, index)) as chunk:
            for name in names:
                column = chunk[name]
                # 200 characters for every image's error, most often none, would be most of it.
                parts[name].append(np.asarray(column.tolist()) if name == "error" else column)
    return Fingerprints(**{name: np.concatenate(parts.pop(name)) for name in names})
