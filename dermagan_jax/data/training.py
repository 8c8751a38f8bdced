"""Opens a prepared set for training: audited, the training split in memory, the rest on request."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dermagan_jax.data import prepared
from dermagan_jax.data.pipeline import LabelledImages
from dermagan_jax.data.splits import OTHERS
from dermagan_jax.errors import DermaganError


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """A prepared set in which no two splits share an image or a lesion.

    Attributes:
      folder: the prepared set's folder.
      report: its data_report.json.
      train: the training split.
    """

    folder: Path
    report: Mapping[str, Any]
    train: LabelledImages

    def split(self, name: str) -> LabelledImages:
        """Reads the split `validation` or `test`; the test split is for the very end."""
        return _read(self.folder, name)

    def others(self) -> LabelledImages:
        """Reads the lesions of other diagnoses, all labelled `lesions.OTHER`.

        Raises:
          DermaganError: the set was prepared without them.
        """
        if OTHERS not in self.report["split_hashes"]:
            raise DermaganError(
                f"{self.folder}: holds no other lesions; prepare it with --others, or set "
                "config.others_kimg to 0"
            )
        return _read(self.folder, OTHERS)

    def description(self) -> dict[str, Any]:
        """Returns what a run records of its data, as JSON types."""
        return {
            "kind": self.report["kind"],
            "recipe": self.report["recipe"],
            "train_split_sha256": self.report["split_hashes"]["train"],
            "counts": self.train.counts(),
            "leaky": self.report["leaky"],
            "licences": self.report["licences"],
        }


def open_for_training(folder: str, *, image_size: int) -> TrainingData:
    """Audits a prepared set and reads its training split.

    Args:
      folder: what the configuration's `data_dir` says.
      image_size: side of the images that the networks take.

    Raises:
      DermaganError: no or another kind of folder, or images of another size.
      LeakError: two splits share an image, a lesion or a near duplicate.
    """
    if not folder:
        raise DermaganError(
            "config.data_dir is empty; give --config.data_dir=DIR, a folder that "
            "`dermagan prepare` made"
        )
    path = Path(folder)
    report = prepared.load_report(path)
    if report["image_size"] != image_size:
        raise DermaganError(
            f"{path}: holds images of {report['image_size']} pixels, and the network takes "
            f"{image_size}; prepare the set with --image-size {image_size}"
        )
    prepared.audit(path)
    return TrainingData(path, report, _read(path, "train"))


def _read(folder: Path, name: str) -> LabelledImages:
    split = prepared.load_split(folder, name)
    return LabelledImages(split.image, split.label)
