"""A prepared set on disk: reading it, and proving that its splits share nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dermagan_jax import files
from dermagan_jax.data import dermoscopy, tables
from dermagan_jax.data.scan import content_sha256
from dermagan_jax.data.splits import OTHERS, SPLITS
from dermagan_jax.errors import DermaganError, LeakError
from dermagan_jax.lesions import CLASSES, label_of_class

REPORT = "data_report.json"
MANIFEST = "splits.csv"
MANIFEST_COLUMNS = (
    "image_id",
    "lesion_id",
    "group",
    "class",
    "source",
    "site",
    "split",
    "content_sha256",
    "pixels_sha256",
)
# What two splits may not share, and what may be shared in a set that says that it leaks.
_NEVER_SHARED = ("image_id", "content_sha256", "pixels_sha256")
_SHARED_IF_LEAKY = ("lesion_id", "group")
# What a GAN of the set may have seen.
_TRAINED_ON = ("train", OTHERS)

_logger = logging.getLogger("dermagan")


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of one split, sorted by id.

    Attributes:
      image: [N, S, S, 3] uint8.
      label: [N] int32 in [0, 4); -1, `lesions.OTHER`, for lesions of other diagnoses.
      image_id: [N] str; `lesion_id`, `source` and `site` likewise, "" where there is none.
    """

    image: np.ndarray
    label: np.ndarray
    image_id: np.ndarray
    lesion_id: np.ndarray
    source: np.ndarray
    site: np.ndarray

    @property
    def lesion(self) -> np.ndarray:
        """The lesion of each image, [N] str: one without a name is a lesion of its own."""
        return np.where(self.lesion_id == "", self.image_id, self.lesion_id)

    def take(self, chosen: np.ndarray) -> Split:
        """Returns the images of these indices, or of this mask."""
        return Split(*(getattr(self, each.name)[chosen] for each in dataclasses.fields(self)))


_REPORT_FIELDS: files.Fields = {
    "kind": str,
    "recipe": (str, type(None)),
    "image_size": int,
    "leaky": bool,
    "licences": list,
    "counts": dict,
    **{f"counts.{split}.{name}": int for split in SPLITS for name in CLASSES},
    "removed": dict,
    "warnings": list,
    **{f"split_hashes.{split}": str for split in SPLITS},
}


def load_report(data_dir: Path) -> dict[str, Any]:
    """Reads `data_report.json`, which is there only when a set is complete.

    Raises:
      DermaganError: when the folder is no complete prepared set.
    """
    path = data_dir / REPORT
    if not path.exists():
        what = "was not finished" if (data_dir / "plan.json").is_file() else "is no prepared set"
        raise DermaganError(f"{data_dir}: {what}; run `dermagan prepare --out {data_dir} …`")
    return files.read_json(path, _REPORT_FIELDS, remedy="prepare the set again")


def load_split(data_dir: Path, split: str) -> Split:
    """Reads one of the splits `train`, `validation` and `test`, or `others`, through TFDS.

    Raises:
      DermaganError: when the set is not complete, or its files are damaged.
    """
    known = load_report(data_dir)["split_hashes"]
    if split not in known:
        raise DermaganError(f"{data_dir}: has no split {split!r}; give one of {', '.join(known)}")
    with _reading(data_dir, split):
        return Split(**dermoscopy.read(data_dir, split))


def write_report(data_dir: Path, report: Mapping[str, Any]) -> None:
    """Writes `data_report.json` at once; it is written last and marks a set complete."""
    files.write_json(data_dir / REPORT, report)


def split_sha256(rows: Iterable[tuple[str, int, str]]) -> str:
    """Returns the content hash of a split: over its (image id, label, pixel hash), sorted."""
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def audit(data_dir: Path, report: Mapping[str, Any] | None = None) -> None:
    """Proves that no two splits share an image, a lesion, a group of look-alikes or a hash.

    The stored pixels are hashed anew, so a changed image or manifest is found too.

    Args:
      data_dir: the prepared set.
      report: what is to become its report, or None for the one on disk.

    Raises:
      DermaganError: when the set is incomplete, or its images are not those of its manifest.
      LeakError: when two splits share something; names the images.
    """
    report = load_report(data_dir) if report is None else report
    rows = read_manifest(data_dir)
    for column in _NEVER_SHARED:
        _require_disjoint(data_dir, rows, column)
    if report["leaky"]:
        _logger.warning("%s: split by image on purpose: lesions are in several splits", data_dir)
    else:
        for column in _SHARED_IF_LEAKY:
            _require_disjoint(data_dir, rows, column)
    for split, sha256 in report["split_hashes"].items():
        _require_stored(data_dir, rows, split, sha256)


def require_train_split(theirs: str, ours: str, what: str, remedy: str) -> None:
    """Refuses what was trained on other lesions than it may know.

    Args:
      theirs: content hash of the training split that `what` was trained on.
      ours: content hash of the training split at hand.
      what: what was trained, for the message.
      remedy: what to do, for the message.

    Raises:
      LeakError: when they are not the same.
    """
    if theirs != ours:
        raise LeakError(
            f"{what}: was trained on another training split ({theirs[:12]}…, here {ours[:12]}…), "
            f"which may hold test lesions; {remedy}"
        )


def require_unseen(trained_on: Path, train_split_sha256: str, data_dir: Path) -> None:
    """Proves that weights from another set's training split know nothing of this set's tests.

    Args:
      trained_on: the prepared set that the weights were trained on.
      train_split_sha256: the hash that the weights carry of its training split.
      data_dir: the prepared set whose validation and test splits must be new to them.

    Raises:
      DermaganError: `trained_on` is no prepared set any more, or another.
      LeakError: its training split shares an image, a lesion or a group of look-alikes with those
        splits; of look-alikes only what one of the two sets holds can be known.
    """
    found = load_report(trained_on)["split_hashes"]["train"]
    if found != train_split_sha256:
        raise DermaganError(
            f"{trained_on}: is not the set that the weights were trained on ({found[:12]}… here, "
            f"{train_split_sha256[:12]}… there); put that set back to have it checked"
        )
    of_theirs, of_ours = (read_manifest(folder) for folder in (trained_on, data_dir))
    theirs = [row for row in of_theirs if row["split"] in _TRAINED_ON]
    ours = [row for row in of_ours if row["split"] in ("validation", "test")]
    known = {
        column: {row[column]: row["image_id"] for row in theirs if row[column]}
        for column in (*_NEVER_SHARED, "lesion_id")
    }
    known["group"] = _related_groups(of_theirs, of_ours)
    for column, seen in known.items():
        shared = [row for row in ours if row[column] in seen]
        if shared:
            row = shared[0]
            raise LeakError(
                f"{trained_on}: its training split shares {column} with {len(shared)} images of "
                f"the validation and test splits of {data_dir}; {row['image_id']} ({row['split']}) "
                f"is one, beside {seen[row[column]]}; start from a GAN of other lesions"
            )


def _related_groups(
    theirs: Sequence[Mapping[str, str]], ours: Sequence[Mapping[str, str]]
) -> dict[str, str]:
    """Finds the groups of one set that look like training images of another.

    A group's name says nothing in another set, where it may have other members. So either set's
    groups count, for the images that it holds.

    Args:
      theirs: the manifest of the set whose training images were seen.
      ours: the manifest whose groups are looked for.

    Returns:
      {a group of ours: the id of an image in it that theirs holds in a training image's group}.
    """
    trained = {row["group"] for row in theirs if row["split"] in _TRAINED_ON}
    related = [row for row in theirs if row["group"] in trained]
    found: dict[str, str] = {}
    for column in _NEVER_SHARED:
        names = {row[column]: row["image_id"] for row in related}
        found |= {row["group"]: names[row[column]] for row in ours if row[column] in names}
    return found


def read_manifest(data_dir: Path) -> list[dict[str, str]]:
    """Reads splits.csv: a row for each image, of the columns in `MANIFEST_COLUMNS`.

    Raises:
      DermaganError: it cannot be read.
    """
    rows = tables.read_rows(data_dir / MANIFEST, MANIFEST_COLUMNS, remedy="prepare the set again")
    return [row for _, row in rows]


def _require_disjoint(data_dir: Path, rows: Sequence[Mapping[str, str]], column: str) -> None:
    members: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row[column] and row["split"] in (*SPLITS, OTHERS):
            members[row[column]].setdefault(row["split"], row["image_id"])
    shared = {value: splits for value, splits in members.items() if len(splits) > 1}
    if shared:
        value, splits = next(iter(sorted(shared.items())))
        named = " and ".join(f"{image_id} ({split})" for split, image_id in splits.items())
        raise LeakError(
            f"{data_dir}: {len(shared)} values of {column} are in more than one split; "
            f"{value[:40]} is that of {named}; prepare the set again"
        )


def _require_stored(
    data_dir: Path, rows: Sequence[Mapping[str, str]], split: str, expected: str
) -> None:
    with _reading(data_dir, split):
        stored = {
            str(name): (int(label), content_sha256(image))
            for batch in dermoscopy.iterate(data_dir, split)
            for name, label, image in zip(
                batch["image_id"], batch["label"], batch["image"], strict=True
            )
        }
    listed = {
        row["image_id"]: (label_of_class(row["class"]), row["pixels_sha256"])
        for row in rows
        if row["split"] == split
    }
    if stored != listed:
        differing = sorted(
            name for name in stored.keys() | listed.keys() if stored.get(name) != listed.get(name)
        )
        raise LeakError(
            f"{data_dir}: {len(differing)} images of {split} are not those of {MANIFEST}, the "
            f"first {differing[0]}; prepare the set again"
        )
    if split_sha256((name, *values) for name, values in stored.items()) != expected:
        raise LeakError(
            f"{data_dir}: the {split} split is not that of {REPORT}; prepare the set again"
        )


@contextlib.contextmanager
def _reading(data_dir: Path, split: str) -> Iterator[None]:
    """Turns what TFDS and TensorFlow raise at a damaged or missing file into a `DermaganError`."""
    try:
        yield
    # Whatever their layers meet.
    except (OSError, ValueError, KeyError, RuntimeError, dermoscopy.ReadError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else "damaged"
        raise DermaganError(
            f"{data_dir}: split {split} cannot be read ({reason}); prepare the set again"
        ) from error
