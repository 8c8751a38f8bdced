"""What a prepared set shows of itself: manifest, quarantine list, counts and pictures."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dermagan_jax import figures, files, images
from dermagan_jax.data import cleaning, prepared, scan
from dermagan_jax.data.records import Record
from dermagan_jax.data.splits import OTHERS, SPLITS
from dermagan_jax.lesions import CLASSES, NUM_CLASSES, OTHER_NAME, SHORT_NAMES, class_name

SAMPLES_PER_CLASS = 40
QUARANTINE_COLUMNS = ("image_id", "reason", "score", "repeats", "detail", "path")


def manifest_rows(
    records: Sequence[Record], prints: scan.Fingerprints, split: np.ndarray, group: np.ndarray
) -> list[dict[str, str]]:
    """Returns the rows of `splits.csv`: every image that was not set aside.

    Args:
      records: the images in the scan's order.
      prints: their fingerprints.
      split: [N] str, "removed" for those set aside.
      group: [N] int, place of the first image of each image's group.
    """
    rows = []
    for place, record in enumerate(records):
        if split[place] != "removed":
            values = (
                record.image_id,
                record.lesion_id or "",
                records[group[place]].image_id,
                class_name(record.label),
                record.source,
                record.site,
                str(split[place]),
                str(prints.content[place]),
                str(prints.pixels[place]),
            )
            rows.append(dict(zip(prepared.MANIFEST_COLUMNS, values, strict=True)))
    return rows


def write_quarantine(
    out: Path, scan_folder: Path, records: Sequence[Record], found: cleaning.Cleaning
) -> None:
    """Writes `quarantine.csv`, and `quarantine.png` with the first 100 beside what they repeat."""
    rows = []
    for removal in found.removals:
        record = records[removal.index]
        original = None if removal.repeats is None else records[removal.repeats].image_id
        values = (record.image_id, removal.reason, f"{removal.score:g}", original or "")
        rows.append(
            dict(zip(QUARANTINE_COLUMNS, (*values, removal.detail, record.path), strict=True))
        )
    write_csv(out / "quarantine.csv", QUARANTINE_COLUMNS, rows)
    (out / "quarantine.png").unlink(missing_ok=True)
    shown = [removal for removal in found.removals if removal.reason != "undecodable"][:100]
    if shown:
        # Each image that repeats another stands beside the one that it repeats.
        wanted = [each.index for each in shown] + [
            each.index if each.repeats is None else each.repeats for each in shown
        ]
        pictures = _pictures(scan_folder, len(records), wanted)
        pairs = [picture for pair in zip(*np.split(pictures, 2), strict=True) for picture in pair]
        phantom = any(record.source == "phantom" for record in records)
        grid = images.grid(np.stack(pairs), 10, phantom=phantom)
        images.write_png(out / "quarantine.png", grid)


def _pictures(scan_folder: Path, num_records: int, wanted: Sequence[int]) -> np.ndarray:
    """Reads single images of the scan: [len(wanted), S, S, 3] uint8."""
    found, start, places = {}, 0, set(wanted)
    for chunk in scan.resized_pngs(scan_folder, num_records):
        for place, png in enumerate(chunk, start):
            if place in places:
                found[place] = images.decode_png(png)
        start += len(chunk)
    return np.stack([found[place] for place in wanted])


def class_by_site(rows: Sequence[Mapping[str, str]]) -> dict[str, dict[str, int]]:
    """Counts the images of each class from each hospital: where it is uneven, results mislead."""
    sites = sorted({row["site"] for row in rows if row["split"] != OTHERS})
    counted = Counter((row["class"], row["site"]) for row in rows if row["split"] in SPLITS)
    return {name: {site or "unknown": counted[name, site] for site in sites} for name in CLASSES}


def draw(
    out: Path,
    scan_folder: Path,
    records: Sequence[Record],
    split: np.ndarray,
    counts: Mapping[str, Mapping[str, int]],
    kind: str,
) -> None:
    """Draws the counts of classes and splits, and a grid of images that each is trained on."""
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    phantom = kind == "phantom"
    total = {name: sum(counts[each][name] for each in SPLITS) for name in CLASSES}
    figures.class_counts(total, folder / "class_counts.png", title="Images", phantom=phantom)
    figures.split_counts(
        counts, folder / "split_counts.png", title="Images by split", phantom=phantom
    )
    label = np.asarray([record.label for record in records])
    shown = {
        SHORT_NAMES[each].lower(): (split == "train") & (label == each)
        for each in range(NUM_CLASSES)
    }
    shown[OTHER_NAME] = split == OTHERS
    for name, is_member in shown.items():
        members = np.flatnonzero(is_member)[:SAMPLES_PER_CLASS].tolist()
        if members:
            pictures = _pictures(scan_folder, len(records), members)
            grid = images.grid(pictures, 10, phantom=phantom)
            images.write_png(folder / f"samples_{name}.png", grid)


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Writes a CSV file at once, so that a kill leaves the old one or the new one."""
    with files.replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
