"""HAM10000, ISIC 2018, ISIC 2019, class folders and phantoms as one list of records.

The archives are read as they unpack; nothing is decoded here. Images of other diagnoses are counted
and left out; an image that two sources share is kept once, under ISIC 2019's label.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dermagan_jax import images, lesions
from dermagan_jax.data import class_folders, phantom, tables
from dermagan_jax.data.records import Record
from dermagan_jax.errors import DermaganError

SOURCE_KINDS = ("ham10000", "isic2018", "isic2019", "folder", "phantom")
"""The kinds of source, as they are written before the `=` of `--source KIND=VALUE`."""

DEFAULT_PHANTOMS_PER_CLASS = 600

_AKIEC_KINDS = ("ham10000", "isic2018")

# HAM10000's codes in capitals are ISIC 2018's columns.
_LABELS: Mapping[str, int | None] = {
    **lesions.ISIC2018_COLUMNS,
    **lesions.ISIC2019_COLUMNS,
}

_MERGE_WARNINGS = {
    "excluded": "{source}: {count} images dropped, because ISIC 2019 calls them {detail}.",
    "relabelled": "{source}: {count} images have ISIC 2019's label {detail} in place of their own.",
    "renamed": "{source}: {count} images renamed, because another folder uses their name.",
    "repeated": "{source}: {count} images dropped that {detail} holds too.",
}


@dataclasses.dataclass(frozen=True)
class SourceListing:
    """What one source, or several merged ones, hold of the four classes.

    Attributes:
      records: the images on disk, sorted by image id.
      absent: sorted ids of our four classes that the tables list and the folders lack.
      skipped: {the archive's code in capitals: number of images} of the other diagnoses.
      others: the images of those diagnoses that are on disk, sorted by image id.
      warnings: sentences for the report.
      kind: the source's kind, or "" for merged ones.
      diagnoses: {image id: the archive's code in capitals} of every image that the tables list,
        of all diagnoses; by it ISIC 2019 overrules the others in `merge_sources`.
    """

    records: list[Record]
    absent: list[str]
    skipped: dict[str, int]
    warnings: list[str]
    kind: str = ""
    diagnoses: Mapping[str, str] = dataclasses.field(default_factory=dict)
    others: list[Record] = dataclasses.field(default_factory=list)


def parse_source(text: str) -> tuple[str, str]:
    """Splits `KIND=VALUE` as the command line takes it.

    Args:
      text: `ham10000=DIR`, `isic2018=DIR`, `isic2019=DIR`, `folder=DIR`, `phantom`, or
        `phantom=N` with N images a class.

    Returns:
      The kind, and the folder or number as text.

    Raises:
      DermaganError: for an unknown kind, a missing folder name or a number that is none.
    """
    kind, _, value = text.partition("=")
    if kind not in SOURCE_KINDS:
        raise DermaganError(
            f"--source {text}: unknown kind {kind!r}; write one of {', '.join(SOURCE_KINDS)}, "
            "such as ham10000=DIR"
        )
    if kind == "phantom":
        value = value if "=" in text else str(DEFAULT_PHANTOMS_PER_CLASS)
        _phantoms_per_class(value)
    elif not value:
        raise DermaganError(f"--source {text}: names no folder; write {kind}=DIR")
    return kind, value


def _phantoms_per_class(value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise DermaganError(
            f"--source phantom={value}: expected a number of images a class of at least 1, "
            "such as phantom=600"
        )
    return int(value)


def read_source(kind: str, value: str, *, seed: int = 0) -> SourceListing:
    """Lists one source's images of the four classes.

    Args:
      kind: one of `SOURCE_KINDS`.
      value: its folder, or for phantoms the number of images a class.
      seed: seed of the phantoms; the other kinds have no chance in them.

    Returns:
      The listing.

    Raises:
      DermaganError: when a folder, table or column is missing, a row cannot be understood, a class
        folder has an unknown name, or no image of a listed class is on disk.
    """
    if kind == "phantom":
        return _read_phantoms(value, seed)
    if kind not in SOURCE_KINDS:
        raise DermaganError(f"unknown source {kind!r}; write one of {', '.join(SOURCE_KINDS)}")
    root = Path(value).expanduser()
    readers = {
        "ham10000": _read_ham10000,
        "isic2018": _read_isic2018,
        "isic2019": _read_isic2019,
        "folder": _read_folder,
    }
    try:
        return readers[kind](root)
    except OSError as error:
        raise DermaganError(
            f"{error.filename or root}: cannot be read ({error.strerror}); check its permissions"
        ) from error


def load_image(record: Record) -> np.ndarray:
    """Decodes a record's image, or renders its phantom: [H, W, 3] uint8; see `open_image`."""
    return np.array(open_image(record))


def open_image(record: Record, *, min_side: int | None = None) -> Image.Image:
    """Decodes a record's image, or renders its phantom.

    Args:
      record: from a listing.
      min_side: see `images.open_rgb`.

    Returns:
      A Pillow image of mode RGB.

    Raises:
      ImageError: when the file cannot be decoded.
    """
    if record.path.startswith("phantom:"):
        return Image.fromarray(phantom.render(record.path))
    return images.open_rgb(record.path, min_side=min_side)


def _read_phantoms(value: str, seed: int) -> SourceListing:
    records = phantom.records(_phantoms_per_class(value), seed=seed)
    return SourceListing(_by_id(records), [], {}, [], kind="phantom")


def _read_folder(root: Path) -> SourceListing:
    records, warnings = class_folders.read_records(root)
    return SourceListing(_by_id(records), [], {}, warnings, kind="folder")


def _read_ham10000(root: Path) -> SourceListing:
    # The Harvard Dataverse serves the table without a suffix.
    table = tables.find_table(root, ("HAM10000_metadata.csv", "HAM10000_metadata"))
    codes = tables.read_codes(table, "image_id", "dx", tuple(lesions.HAM10000_CODES))
    return _read_archive(
        kind="ham10000",
        table=table,
        diagnoses={image_id: code.upper() for image_id, code in codes.items()},
        labels={code.upper(): label for code, label in lesions.HAM10000_CODES.items()},
        lesion_ids=tables.read_column(table, "image_id", "lesion_id"),
        paths=tables.index_images(root, "HAM10000_images"),
    )


def _read_isic2018(root: Path) -> SourceListing:
    stem = "ISIC2018_Task3_Training"
    truth, grouping = f"{stem}_GroundTruth", f"{stem}_LesionGroupings.csv"
    table = tables.find_table(root, (f"{truth}.csv", f"{truth}/{truth}.csv"))
    groups = tables.find_table(root, (grouping, f"{truth}/{grouping}"))
    return _read_archive(
        kind="isic2018",
        table=table,
        diagnoses=tables.read_one_hot(table, "image", tuple(lesions.ISIC2018_COLUMNS)),
        labels=lesions.ISIC2018_COLUMNS,
        lesion_ids=tables.read_column(groups, "image", "lesion_id"),
        paths=tables.index_images(root, f"{stem}_Input"),
    )


def _read_isic2019(root: Path) -> SourceListing:
    table = tables.find_table(root, ("ISIC_2019_Training_GroundTruth.csv",))
    metadata = tables.find_table(root, ("ISIC_2019_Training_Metadata.csv",))
    return _read_archive(
        kind="isic2019",
        table=table,
        diagnoses=tables.read_one_hot(table, "image", tuple(lesions.ISIC2019_COLUMNS)),
        labels=lesions.ISIC2019_COLUMNS,
        lesion_ids=tables.read_column(metadata, "image", "lesion_id"),
        paths=tables.index_images(root, "ISIC_2019_Training_Input"),
    )


def _read_archive(
    *,
    kind: str,
    table: Path,
    diagnoses: Mapping[str, str],
    labels: Mapping[str, int | None],
    lesion_ids: Mapping[str, str],
    paths: Mapping[str, str],
) -> SourceListing:
    """Joins an archive's diagnoses, lesion ids and image files into a listing."""
    records, others, absent, skipped = [], [], [], Counter[str]()
    absent_labels, present_labels = Counter[int](), Counter[int]()
    for image_id, code in diagnoses.items():
        label, path, lesion_id = labels[code], paths.get(image_id), lesion_ids.get(image_id)
        if label is None:
            skipped[code] += 1
            if path is not None:
                record = Record(image_id, lesion_id, lesions.OTHER, kind, _site(lesion_id), path)
                others.append(record)
        elif path is None:
            absent.append(image_id)
            absent_labels[label] += 1
        else:
            present_labels[label] += 1
            records.append(Record(image_id, lesion_id, label, kind, _site(lesion_id), path))
    for label, count in sorted(absent_labels.items()):
        if not present_labels[label]:
            raise DermaganError(
                f"{table}: lists {count} images of {lesions.CLASSES[label]} and none is in "
                f"{table.parent}; unpack the archive's image folder there"
            )
    if not records:
        raise DermaganError(f"{table}: lists no image of the four classes; is it the whole table?")
    warnings = []
    if absent:
        warnings.append(f"{kind}: {len(absent)} listed images of the four classes are not on disk.")
    return SourceListing(
        records=_by_id(records),
        absent=sorted(absent),
        skipped=dict(sorted(skipped.items())),
        warnings=warnings + _akiec_warning(records),
        kind=kind,
        diagnoses=diagnoses,
        others=_by_id(others),
    )


def _by_id(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record.image_id)


def _site(lesion_id: str | None) -> str:
    """Returns the letters a lesion id begins with: `MSK` for `MSK4_0011170`."""
    match = re.match("[A-Za-z]+", lesion_id or "")
    return match.group().upper() if match else ""


def _akiec_warning(records: Iterable[Record], confirmed: Container[str] = ()) -> list[str]:
    """Counts the images whose only label is HAM10000's `akiec` (EVIDENCE #4)."""
    actinic = lesions.CLASSES.index("actinic_keratosis")
    count = sum(
        record.label == actinic
        and record.source in _AKIEC_KINDS
        and record.image_id not in confirmed
        for record in records
    )
    if not count:
        return []
    warning = (
        f"{count} images are kept as actinic keratosis on HAM10000's word akiec, which includes "
        "Bowen's disease (squamous cell carcinoma in situ); add --source isic2019=DIR, which tells "
        "the two apart."
    )
    return [warning]


def merge_sources(listings: Sequence[SourceListing]) -> SourceListing:
    """Merges sources so that each image is there once, under ISIC 2019's label where it has one.

    HAM10000 is wholly inside ISIC 2019 (EVIDENCE #3) and its `akiec` is partly Bowen's disease
    (#4). A second copy of an image is dropped; an image whose diagnosis in ISIC 2019 is none of the
    four is dropped from the other sources too; where ISIC 2019 lists an image and only the other
    source has the file, that file is taken with ISIC 2019's label. Two class folders may use one
    name for two images: the later one is renamed.

    Args:
      listings: as `read_source` gives them.

    Returns:
      One listing; its warnings count what was dropped, relabelled and renamed.
    """
    if not listings:
        raise DermaganError("no source given; add --source KIND=DIR")
    if len(listings) == 1:
        return listings[0]
    # ISIC 2019 first: of two copies the first is kept, and the first diagnosis counts.
    ordered = sorted(listings, key=lambda listing: listing.kind != "isic2019")
    diagnoses: dict[str, str] = {}
    ruling: dict[str, str] = {}
    for listing in ordered:
        for image_id, code in listing.diagnoses.items():
            diagnoses.setdefault(image_id, code)
        if listing.kind == "isic2019":
            ruling = dict(diagnoses)

    kept: dict[str, Record] = {}
    events: Counter[tuple[str, str, str]] = Counter()
    for listing in ordered:
        for record in listing.records:
            _merge_record(kept, record, ruling, events)
    others: dict[str, Record] = {}
    for record in (each for listing in ordered for each in listing.others):
        code = ruling.get(record.image_id, "")
        if record.image_id not in kept and _LABELS.get(code) is None:
            others.setdefault(record.image_id, record)
    absent = {image_id for listing in ordered for image_id in listing.absent} - kept.keys()
    skipped = Counter(code for code in diagnoses.values() if _LABELS[code] is None)

    warnings = []
    for listing in listings:
        own = _akiec_warning(listing.records)
        warnings += [warning for warning in listing.warnings if warning not in own]
    warnings += [
        _MERGE_WARNINGS[event].format(count=count, source=source, detail=detail)
        for (event, source, detail), count in sorted(events.items())
    ]
    return SourceListing(
        records=_by_id(kept.values()),
        absent=sorted(i for i in absent if i not in ruling or _LABELS[ruling[i]] is not None),
        skipped=dict(sorted(skipped.items())),
        others=_by_id(others.values()),
        warnings=warnings + _akiec_warning(kept.values(), confirmed=ruling),
        diagnoses=diagnoses,
    )


def _merge_record(
    kept: dict[str, Record],
    record: Record,
    ruling: Mapping[str, str],
    events: Counter[tuple[str, str, str]],
) -> None:
    """Adds one record to those kept, or drops it, and counts what was done."""
    if record.source in _AKIEC_KINDS and record.image_id in ruling:
        code = ruling[record.image_id]
        label = _LABELS[code]
        if label is None:
            events["excluded", record.source, code] += 1
            return
        if label != record.label:
            events["relabelled", record.source, code] += 1
            record = dataclasses.replace(record, label=label)
    twin = kept.get(record.image_id)
    if twin is None:
        kept[record.image_id] = record
    elif record.source == "folder" and record.path != twin.path:
        events["renamed", record.source, ""] += 1
        number = 2
        while f"{record.image_id}~{number}" in kept:
            number += 1
        image_id = f"{record.image_id}~{number}"
        kept[image_id] = dataclasses.replace(record, image_id=image_id)
    else:
        events["repeated", record.source, twin.source] += 1
        # A lesion id that only the dropped copy has still keeps siblings in one split.
        kept[record.image_id] = dataclasses.replace(
            twin,
            lesion_id=twin.lesion_id or record.lesion_id,
            site=twin.site or record.site,
        )
