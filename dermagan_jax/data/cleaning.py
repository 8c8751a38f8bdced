"""Finds images that are damaged, out of focus or there twice, and says why; deletes nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

import numpy as np

from dermagan_jax.data.records import Record
from dermagan_jax.data.scan import Fingerprints
from dermagan_jax.errors import DermaganError

REASONS = ("undecodable", "exact_duplicate", "near_duplicate", "out_of_focus")

# Seen on the four classes of ISIC 2019 (9,612 images): of 290 pairs at most 60 of 256 bits apart,
# 280 are two images of one lesion. Up to 40 bits and 4 grey levels apart, pairs are one photograph
# stored twice; beyond, they are mostly two photographs of one lesion, worth keeping but not apart.
LINK_BITS = 60
DUPLICATE_BITS = 40
DUPLICATE_GREY_LEVELS = 4.0
# On the same images this sets aside the few that a look at the 100 least sharp finds blurred.
BLUR_MADS = 2.5
_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class Removal:
    """One image set aside.

    Attributes:
      index: its place among the records.
      reason: one of `REASONS`.
      score: bits between hashes for a near duplicate, median absolute deviations below the
        median of log sharpness for an image out of focus; else 0.
      repeats: place of the image that it repeats, or None.
      detail: why it cannot be decoded, else "".
    """

    index: int
    reason: str
    score: float = 0.0
    repeats: int | None = None
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """What `clean` found.

    Attributes:
      removals: images set aside, in the order of the records.
      links: [M, 2] int pairs of places that must share a split, those of removed images included.
      kept_back: ids that the user's list brought back.
    """

    removals: list[Removal]
    links: np.ndarray
    kept_back: list[str]


def clean(
    records: Sequence[Record],
    fingerprints: Fingerprints,
    *,
    keep: Collection[str] = (),
    blur_mads: float = BLUR_MADS,
) -> Cleaning:
    """Decides which images to set aside. Of two equal images the first in order stays.

    Args:
      records: the images, sorted by id.
      fingerprints: of the same images.
      keep: ids to keep whatever is found, but for images that cannot be decoded.
      blur_mads: an image is out of focus when the logarithm of its sharpness is more than this
        many scaled median absolute deviations below the median of its source; 0 switches it off.

    Raises:
      DermaganError: when `keep` names an image that is not there, or cannot be decoded; when
        `blur_mads` is negative or no number.
    """
    if not (math.isfinite(blur_mads) and blur_mads >= 0):
        raise DermaganError(f"blur_mads is {blur_mads}; give a number above 0, or 0 for none")
    removals: dict[int, Removal] = {
        int(index): Removal(int(index), "undecodable", detail=str(fingerprints.error[index]))
        for index in np.flatnonzero(~fingerprints.decoded)
    }
    _check_keep(records, keep, removals)
    first: dict[str, int] = {}
    links: list[tuple[int, int]] = []
    for index in map(int, np.flatnonzero(fingerprints.decoded)):
        original = first.setdefault(str(fingerprints.content[index]), index)
        if original != index:
            links.append((original, index))
            removals[index] = Removal(index, "exact_duplicate", repeats=original)
    pairs, bits = near_pairs(fingerprints)
    links += [(int(a), int(b)) for a, b in pairs]
    levels = _grey_levels_apart(fingerprints, pairs)
    for (a, b), distance, apart in zip(pairs.tolist(), bits.tolist(), levels, strict=True):
        is_same = distance <= DUPLICATE_BITS and apart < DUPLICATE_GREY_LEVELS
        if is_same and a not in removals and b not in removals:
            removals[b] = Removal(b, "near_duplicate", score=float(distance), repeats=a)
    for index, score in _out_of_focus(records, fingerprints, blur_mads):
        removals.setdefault(index, Removal(index, "out_of_focus", score=score))
    wanted = set(keep)
    kept_back = sorted(records[i].image_id for i in removals if records[i].image_id in wanted)
    left = [removals[i] for i in sorted(removals) if records[i].image_id not in wanted]
    # An exact duplicate is a look-alike too, and is counted once.
    unique = np.unique(np.asarray(links, np.int64).reshape(-1, 2), axis=0)
    return Cleaning(left, unique, kept_back)


def near_pairs(fingerprints: Fingerprints) -> tuple[np.ndarray, np.ndarray]:
    """Finds pairs of images whose perceptual hashes are at most `LINK_BITS` apart.

    By matrix products over blocks, so that memory stays small and 100,000 images take a minute.

    Returns:
      [M, 2] int64 places, the lower first, in order; [M] int64 bits apart.
    """
    places = np.flatnonzero(fingerprints.decoded)
    # With bits as ±1 the product of two hashes is 256 minus twice the bits apart.
    signs = np.unpackbits(fingerprints.perceptual[places], axis=1).astype(np.float32) * 2 - 1
    num_bits = signs.shape[1]
    pairs, distances = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    for top in range(0, len(signs), _BLOCK):
        for left in range(top, len(signs), _BLOCK):
            product = signs[top : top + _BLOCK] @ signs[left : left + _BLOCK].T
            row, column = np.nonzero(product >= num_bits - 2 * LINK_BITS)
            upper = top + row < left + column
            row, column = row[upper], column[upper]
            pairs.append(np.stack([places[top + row], places[left + column]], axis=1))
            distances.append(((num_bits - product[row, column]) / 2).astype(np.int64))
    joined, bits = np.concatenate(pairs), np.concatenate(distances)
    order = np.lexsort((joined[:, 1], joined[:, 0]))
    return joined[order], bits[order]


def _grey_levels_apart(fingerprints: Fingerprints, pairs: np.ndarray) -> np.ndarray:
    thumbnail = fingerprints.thumbnail
    return np.asarray(
        [np.abs(thumbnail[a].astype(float) - thumbnail[b]).mean() for a, b in pairs.tolist()]
    )


def _out_of_focus(
    records: Sequence[Record], fingerprints: Fingerprints, blur_mads: float
) -> list[tuple[int, float]]:
    if not blur_mads:
        return []
    found = []
    source = np.asarray([f"{record.source}/{record.site}" for record in records])
    for name in np.unique(source):
        members = np.flatnonzero((source == name) & fingerprints.decoded)
        if not len(members):
            continue
        level = np.log(np.maximum(fingerprints.sharpness[members], 1e-6))
        spread = 1.4826 * np.median(np.abs(level - np.median(level)))
        if spread > 0:
            score = (np.median(level) - level) / spread
            blurred = score > blur_mads
            found += [
                (int(index), round(float(value), 2))
                for index, value in zip(members[blurred], score[blurred], strict=True)
            ]
    return found


def _check_keep(
    records: Sequence[Record], keep: Collection[str], undecodable: dict[int, Removal]
) -> None:
    known = {record.image_id for record in records}
    unknown = sorted(set(keep) - known)
    if unknown:
        raise DermaganError(
            f"--keep: {len(unknown)} ids are in no source, the first {unknown[0]!r}; "
            "give one image id a line, as quarantine.csv names them"
        )
    for index, removal in undecodable.items():
        if records[index].image_id in keep:
            raise DermaganError(
                f"--keep: {records[index].image_id} cannot be decoded ({removal.detail}); "
                "take it off the list or replace the file"
            )
