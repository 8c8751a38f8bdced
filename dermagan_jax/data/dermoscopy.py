"""The prepared set as a TensorFlow Datasets builder."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dermagan_jax.data import beam, scan
from dermagan_jax.data.records import Record
from dermagan_jax.data.splits import OTHERS, SPLITS
from dermagan_jax.data.tensorflow_cpu import tf
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES

NAME = "dermoscopy"
VERSION = "1.0.0"
_TEXTS = ("image_id", "lesion_id", "source", "site")
_BATCH_SIZE = 256
ReadError = tf.errors.OpError

Part = tuple[int, list[tuple[int, Record]]]
"""The number of a chunk, and images of a split in it by their places."""


class _LocalInfo(tfds.core.DatasetInfo):
    """A data set's description that is never looked for in TFDS's cloud bucket."""

    def initialize_from_bucket(self) -> None:
        """Does nothing; TFDS's own leaves an empty folder in the system's temporary one."""


class Dermoscopy(tfds.core.GeneratorBasedBuilder):
    """Writes the resized images of a scan, split as assigned."""

    name = NAME
    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        *,
        data_dir: str,
        records: Sequence[Record] = (),
        split: np.ndarray | None = None,
        scan_folder: Path | None = None,
        image_size: int = 64,
        on_cluster: bool = False,
        **kwargs: Any,
    ) -> None:
        """Prepares to write below `data_dir`.

        Args:
          data_dir: the folder for `dermoscopy/1.0.0`.
          records: the images in the scan's order.
          split: [N] str, the split of each.
          scan_folder: the scan's chunks.
          image_size: side of the images in pixels.
          on_cluster: write by Apache Beam, whose options the download configuration holds.
          **kwargs: TFDS's own.
        """
        self._on_cluster = on_cluster
        self._records, self._split = records, split
        self._scan_folder, self._image_size = scan_folder, image_size
        super().__init__(data_dir=data_dir, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (self._image_size, self._image_size, 3)
        return _LocalInfo(
            builder=self,
            description="Skin-lesion images, resized once, split by lesion. Research use only.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=shape, encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=CLASSES),
                    "image_id": tfds.features.Text(),
                    "lesion_id": tfds.features.Text(),
                    "source": tfds.features.Text(),
                    "site": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: object) -> Mapping[str, Any]:  # noqa: ARG002
        has_others = self._split is not None and (self._split == OTHERS).any()
        names = (*SPLITS, OTHERS) if has_others else SPLITS
        return {name: self._generate_examples(name) for name in names}

    def _generate_examples(self, name: str) -> Any:
        """Returns the examples of a split: an iterator, or what Beam makes into one."""
        if self._scan_folder is None or self._split is None:
            raise ValueError("nothing to write: records, split and scan_folder are to be given")
        parts = self._parts(name, self._split)
        examples = functools.partial(_examples, self._scan_folder)
        if self._on_cluster:
            return beam.flat_map(examples, parts)
        return itertools.chain.from_iterable(map(examples, parts))

    def _parts(self, name: str, split: np.ndarray) -> list[Part]:
        """Lists, chunk by chunk, where the images of a split lie."""
        parts = []
        for start in range(0, len(self._records), scan.CHUNK_SIZE):
            members = np.flatnonzero(split[start : start + scan.CHUNK_SIZE] == name).tolist()
            records = [(place, self._records[start + place]) for place in members]
            parts.append((start // scan.CHUNK_SIZE, records))
        return [part for part in parts if part[1]]


def _examples(scan_folder: Path, part: Part) -> Iterator[tuple[str, dict[str, Any]]]:
    index, records = part
    chunk = scan.chunk_pngs(scan_folder, index)
    for place, record in records:
        yield (
            record.image_id,
            {
                "image": chunk[place],
                "label": record.label,
                "image_id": record.image_id,
                "lesion_id": record.lesion_id or "",
                "source": record.source,
                "site": record.site,
            },
        )


def write(
    out: Path,
    records: Sequence[Record],
    split: np.ndarray,
    *,
    scan_folder: Path,
    image_size: int,
    cluster: beam.Cluster | None = None,
) -> None:
    """Writes `out/dermoscopy/1.0.0`, which `tfds.builder_from_directory` reads.

    Args:
      out: the prepared set's folder.
      records: the images in the scan's order.
      split: [N] str, the split of each; those of no split are left out.
      scan_folder: the scan's chunks.
      image_size: side of the images in pixels.
      cluster: from `beam.options`, to write on many machines; None for this one.

    Raises:
      DermaganError: when the disk is full or fails.
    """
    try:
        _write(out, records, split, scan_folder, image_size, cluster)
    # TFDS raises what TensorFlow meets, wrapped in a RuntimeError.
    except (OSError, RuntimeError, ReadError) as error:
        reason = str(error).strip().splitlines()[0][-160:]
        raise DermaganError(
            f"{out / NAME}: cannot be written ({reason}); free some space and run the same command "
            "again"
        ) from error


def _write(
    out: Path,
    records: Sequence[Record],
    split: np.ndarray,
    scan_folder: Path,
    image_size: int,
    cluster: beam.Cluster | None,
) -> None:
    with _quiet(), contextlib.redirect_stdout(io.StringIO()):
        builder = Dermoscopy(
            data_dir=str(out),
            records=records,
            split=split,
            scan_folder=scan_folder,
            image_size=image_size,
            on_cluster=cluster is not None,
        )
        # No statistics, no registration of checksums, nothing fetched.
        settings = tfds.download.DownloadConfig(
            register_checksums=False,
            compute_stats=tfds.download.ComputeStatsMode.SKIP,
            beam_options=cluster,
        )
        builder.download_and_prepare(
            download_dir=str(out / NAME / "downloads"), download_config=settings
        )
    # TFDS makes it whether or not anything is downloaded.
    shutil.rmtree(out / NAME / "downloads", ignore_errors=True)


def read(out: Path, split: str) -> dict[str, np.ndarray]:
    """Reads one split, sorted by image id.

    Returns:
      `image` [N, S, S, 3] uint8, `label` [N] int32, and [N] str arrays `image_id`, `lesion_id`,
      `source` and `site`.
    """
    batches = list(iterate(out, split))
    if not batches:
        raise ValueError("it holds no images")
    columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    order = np.argsort(columns["image_id"])
    return {name: column[order] for name, column in columns.items()}


def iterate(out: Path, split: str) -> Iterator[dict[str, np.ndarray]]:
    """Yields one split in the order of its files, up to 256 images at a time, as `read` does."""
    with _quiet():
        builder = tfds.builder_from_directory(str(out / NAME / VERSION))
        stored = builder.as_dataset(split=split, shuffle_files=False, batch_size=_BATCH_SIZE)
        for batch in tfds.as_numpy(stored):
            texts = {name: np.char.decode(batch[name].astype(bytes), "utf-8") for name in _TEXTS}
            yield {"image": batch["image"], "label": batch["label"].astype(np.int32), **texts}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS's notes and progress bars; its errors stay."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
