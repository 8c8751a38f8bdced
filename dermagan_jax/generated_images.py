"""Labelled generated images, in memory and as a folder of PNG files that knows their origin."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dermagan_jax import files, images
from dermagan_jax.data import prepared, tables
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES, NUM_CLASSES

MANIFEST = "manifest.csv"
PROVENANCE = "generation.json"
GRID_COLUMNS = 10
_MANIFEST_COLUMNS = ("file", "class", "seed", "index", "checkpoint_step", "train_split_sha256")


@dataclasses.dataclass(frozen=True)
class Generated:
    """Generated images and where they come from.

    Attributes:
      image: [N, S, S, 3] uint8, class by class.
      label: [N] int32 in [0, 4).
      index: [N] int64, which of the class's candidates each is.
      provenance: what the folder's `generation.json` holds.
    """

    image: np.ndarray
    label: np.ndarray
    index: np.ndarray
    provenance: Mapping[str, Any]

    def take(self, chosen: np.ndarray) -> Generated:
        """Returns the images of these indices."""
        arrays = {name: getattr(self, name)[chosen] for name in ("image", "label", "index")}
        return dataclasses.replace(self, **arrays)

    def first(self, counts: Mapping[str, int]) -> Generated:
        """Returns the first images of each class.

        Args:
          counts: how many, by class name.

        Raises:
          DermaganError: when there are fewer.
        """
        chosen = []
        for label, name in enumerate(CLASSES):
            members = np.flatnonzero(self.label == label)
            if len(members) < counts[name]:
                raise DermaganError(
                    f"{counts[name]} generated images of {name} are asked for and there are "
                    f"{len(members)}; generate more or lower config.synthetic.per_class or ratio"
                )
            chosen.append(members[: counts[name]])
        return self.take(np.concatenate(chosen))

    def require_train_split(self, sha256: str) -> None:
        """Refuses images of a GAN that saw other lesions than the classifier may.

        Args:
          sha256: content hash of the classifier's training split.

        Raises:
          LeakError: when it is not the hash of the GAN's training split.
        """
        prepared.require_train_split(
            self.provenance["train_split_sha256"],
            sha256,
            "the GAN",
            "train it on this prepared set",
        )


def require_free(out: Path) -> None:
    """Refuses a folder that `write_folder` would refuse, whatever the images.

    Raises:
      DermaganError: `out` is a file, or holds what no call of `dermagan generate` made.
    """
    is_ours = any((out / name).is_file() for name in (PROVENANCE, _CLAIM))
    if not is_ours and out.exists() and not (out.is_dir() and files.is_empty(out)):
        raise DermaganError(f"{out}: exists and was not made by `dermagan generate`; name another")


def write_folder(generated: Generated, out: Path) -> None:
    """Writes images as PNG in class folders, with manifest, provenance and a grid.

    The provenance is written last and marks the folder complete; the same images give the same
    bytes, so a second run over an interrupted one ends in the same folder.

    Args:
      generated: from `synthesis.generate`.
      out: new, empty, or a folder that this function made of the same images.

    Raises:
      DermaganError: when `out` holds something else, another process writes to it, or it cannot be
        written.
    """
    _require_ours(out, generated.provenance)
    with files.held(out, doing="generating images"):
        # Another call may have begun and ended since.
        _require_ours(out, generated.provenance)
        files.write_json(out / _CLAIM, generated.provenance)
        _write(generated, out)
        (out / _CLAIM).unlink(missing_ok=True)


def _write(generated: Generated, out: Path) -> None:
    """Writes the images, and last what marks them complete."""
    rows, number_in_class = [], dict.fromkeys(CLASSES, 0)
    for label in np.unique(generated.label).tolist():
        _make_folder(out / CLASSES[label])
    for image, label, index in zip(
        generated.image, generated.label, generated.index.tolist(), strict=True
    ):
        name = CLASSES[label]
        file = f"{name}/{name}_{number_in_class[name]:06d}.png"
        number_in_class[name] += 1
        images.write_png(out / file, image)
        provenance = generated.provenance
        origin = (provenance["checkpoint_step"], provenance["train_split_sha256"])
        rows.append((file, name, provenance["seed"], index, *origin))
    with files.replacing(out / MANIFEST) as path, path.open("w", newline="") as manifest:
        writer = csv.writer(manifest, lineterminator="\n")
        writer.writerow(_MANIFEST_COLUMNS)
        writer.writerows(rows)
    images.write_png(out / "grid.png", class_grid(generated))
    files.write_json(out / PROVENANCE, generated.provenance)


def class_grid(generated: Generated) -> np.ndarray:
    """Returns a grid of the first images of each class, a row a class."""
    rows = []
    for label in range(NUM_CLASSES):
        row = generated.image[generated.label == label][:GRID_COLUMNS]
        blank = np.full((GRID_COLUMNS - len(row), *generated.image.shape[1:]), 255, np.uint8)
        rows.append(np.concatenate([row, blank]))
    phantom = generated.provenance["kind"] == "phantom"
    return images.grid(np.concatenate(rows), GRID_COLUMNS, phantom=phantom)


_FIELDS: files.Fields = {
    "kind": str,
    "seed": int,
    "checkpoint_step": int,
    "train_split_sha256": str,
}
_REMEDY = "make the folder anew with `dermagan generate`"


def load_folder(folder: Path) -> Generated:
    """Reads a folder that `write_folder` made.

    Raises:
      DermaganError: when it is not one, or an image is missing or damaged.
    """
    if not (folder / PROVENANCE).exists():
        raise DermaganError(f"{folder}: is no complete folder of generated images; {_REMEDY}")
    provenance = files.read_json(folder / PROVENANCE, _FIELDS, remedy=_REMEDY)
    pixels, labels, indices = [], [], []
    for number, row in tables.read_rows(folder / MANIFEST, _MANIFEST_COLUMNS, remedy=_REMEDY):
        if row["class"] not in CLASSES or not row["index"].isdecimal():
            raise DermaganError(
                f"{folder / MANIFEST}: row {number}: class {row['class']!r} and index "
                f"{row['index']!r} are none of ours; {_REMEDY}"
            )
        pixels.append(images.read(_inside(folder, row["file"])))
        labels.append(CLASSES.index(row["class"]))
        indices.append(int(row["index"]))
    if len({each.shape for each in pixels}) != 1:
        raise DermaganError(f"{folder}: holds no images, or images of different sizes; {_REMEDY}")
    label = np.asarray(labels, np.int32)
    return Generated(np.stack(pixels), label, np.asarray(indices), provenance)


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
        raise DermaganError(f"{folder / MANIFEST}: names {name!r}, outside its folder")
    return path


# Marks a folder as ours before the first image: only our own leftovers are written over.
_CLAIM = ".generating.json"


def _require_ours(out: Path, provenance: Mapping[str, Any]) -> None:
    if (out / PROVENANCE).is_file() or (out / _CLAIM).is_file():
        found = out / (PROVENANCE if (out / PROVENANCE).is_file() else _CLAIM)
        if files.read_json(found, {}, remedy=_REMEDY) != json.loads(json.dumps(dict(provenance))):
            raise DermaganError(
                f"{out}: holds images of another checkpoint, seed or number; name another folder"
            )
    require_free(out)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DermaganError(
            f"{folder}: cannot be written ({error.strerror}); name another, on a disk with space"
        ) from error
