"""What is set aside, and what is not: planted repeats, blur and look-alikes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dermagan_jax.data import cleaning, scan
from dermagan_jax.data.cleaning import clean, near_pairs
from dermagan_jax.data.records import Record
from dermagan_jax.data.scan import Fingerprints
from dermagan_jax.errors import DermaganError


def record(name: str, site: str = "BCN") -> Record:
    return Record(name, None, 0, "isic2019", site, f"{name}.png")


def prints_of(count: int, seed: int = 0) -> Fingerprints:
    """Images that are all decodable, sharp and unlike each other."""
    rng = np.random.default_rng(seed)
    return Fingerprints(
        content=np.asarray([f"{each:064x}" for each in range(count)]),
        pixels=np.asarray([f"{each:064x}" for each in range(count)]),
        perceptual=rng.integers(0, 256, (count, 32), dtype=np.uint8),
        thumbnail=rng.integers(0, 256, (count, 32, 32), dtype=np.uint8),
        sharpness=np.exp(rng.uniform(4, 6, count)).astype(np.float32),
        error=np.full(count, ""),
    )


def records_of(count: int) -> list[Record]:
    return [record(f"image_{each:03d}") for each in range(count)]


def flipped(hash_bytes: np.ndarray, bits: int) -> np.ndarray:
    unpacked = np.unpackbits(hash_bytes)
    unpacked[:bits] ^= 1
    return np.packbits(unpacked)


def test_unlike_images_all_stay():
    found = clean(records_of(30), prints_of(30))
    assert found.removals == []
    assert len(found.links) == 0


def test_near_pairs_equal_the_slow_way():
    # More than one block, with planted pairs within and across blocks and an undecodable image.
    count = cleaning._BLOCK + 200
    prints = prints_of(count)
    planted = {
        (3, 900): 0,
        (5, count - 1): 60,
        (1000, cleaning._BLOCK + 1): 20,
        (count - 9, count - 2): 12,
    }
    for (a, b), bits in [*planted.items(), ((6, 7), 61)]:
        prints.perceptual[b] = flipped(prints.perceptual[a], bits)
    prints.perceptual[20] = prints.perceptual[21]
    prints.error[:] = ""
    error = prints.error.astype("U9")
    error[20] = "truncated"
    pairs, bits = near_pairs(dataclasses.replace(prints, error=error))
    assert dict(zip(map(tuple, pairs.tolist()), bits.tolist(), strict=True)) == planted
    assert pairs.tolist() == sorted(pairs.tolist())


def test_exact_duplicate_keeps_the_first_and_names_it():
    prints = prints_of(10)
    prints.content[7] = prints.content[2]
    found = clean(records_of(10), prints)
    assert [(each.index, each.reason, each.repeats) for each in found.removals] == [
        (7, "exact_duplicate", 2)
    ]
    assert found.links.tolist() == [[2, 7]]


@pytest.mark.parametrize(
    ("bits", "levels", "removed", "linked"),
    [(40, 3, True, True), (41, 3, False, True), (40, 5, False, True), (61, 0, False, False)],
)
def test_near_duplicate_needs_hash_and_pixels(bits, levels, removed, linked):
    prints = prints_of(10)
    prints.perceptual[6] = flipped(prints.perceptual[1], bits)
    prints.thumbnail[1] = 100
    prints.thumbnail[6] = 100 + levels
    found = clean(records_of(10), prints)
    assert [each.index for each in found.removals] == [6] * removed
    assert found.links.tolist() == [[1, 6]] * linked
    if removed:
        assert (found.removals[0].score, found.removals[0].repeats) == (float(bits), 1)


def test_repeat_of_a_removed_image_is_compared_with_one_that_stays():
    prints = prints_of(10)
    for each in (4, 8):
        prints.perceptual[each] = prints.perceptual[0]
        prints.thumbnail[each] = prints.thumbnail[0]
    assert [(each.index, each.repeats) for each in clean(records_of(10), prints).removals] == [
        (4, 0),
        (8, 0),
    ]


def test_out_of_focus_is_relative_to_its_own_source():
    count = 60
    records = [record(f"a{each:02d}", "BCN" if each < 30 else "HAM") for each in range(count)]
    prints = prints_of(count)
    prints.sharpness[30:] *= 1000
    assert clean(records, prints).removals == []
    # As sharp as the other hospital's images, and far too blurred for this one.
    prints.sharpness[40] = prints.sharpness[3]
    found = clean(records, prints).removals
    assert [(each.index, each.reason) for each in found] == [(40, "out_of_focus")]
    assert found[0].score > cleaning.BLUR_MADS
    assert clean(records, prints, blur_mads=0).removals == []


@pytest.mark.parametrize("blur_mads", [-1.0, float("nan"), float("inf")])
def test_senseless_blur_threshold(blur_mads):
    with pytest.raises(DermaganError, match="blur_mads"):
        clean(records_of(5), prints_of(5), blur_mads=blur_mads)


def test_keep_brings_back_and_leaves_the_link():
    prints = prints_of(10)
    prints.content[7] = prints.content[2]
    found = clean(records_of(10), prints, keep=["image_007", "image_001"])
    assert found.removals == []
    assert found.kept_back == ["image_007"]
    assert found.links.tolist() == [[2, 7]]


def test_keep_of_what_is_not_there_or_cannot_be_read():
    with pytest.raises(DermaganError, match="'nobody'"):
        clean(records_of(5), prints_of(5), keep=["nobody"])
    error = np.asarray(["", "", "is truncated", "", ""])
    prints = dataclasses.replace(prints_of(5), error=error)
    with pytest.raises(DermaganError, match="image_002 cannot be decoded"):
        clean(records_of(5), prints, keep=["image_002"])
    assert clean(records_of(5), prints).removals[0].detail == "is truncated"


def lesion(seed: int, vignette: bool) -> Image.Image:
    """A blotchy patch, in a black-rimmed circle where asked."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(96, 96, 3)), (4, 4, 0))
    pixels = 150 + 60 * noise / noise.std()
    if vignette:
        y, x = np.mgrid[-1:1:96j, -1:1:96j]
        pixels[y**2 + x**2 > 0.5] = 0
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_a_stored_again_image_is_found_and_a_shared_vignette_is_not_a_likeness(tmp_path):
    names = []
    for each in range(12):
        lesion(each, vignette=True).save(tmp_path / f"{each:02d}.png")
        names.append(f"{each:02d}.png")
    lesion(3, vignette=True).save(tmp_path / "12.jpg", quality=90)
    lesion(5, vignette=True).save(tmp_path / "13.bmp")
    (tmp_path / "14.png").write_bytes((tmp_path / "01.png").read_bytes()[:500])
    names += ["12.jpg", "13.bmp", "14.png"]
    records = [Record(name[:2], None, 0, "folder", "", str(tmp_path / name)) for name in names]
    prints = scan.scan(records, tmp_path / "scan", image_size=32, num_workers=1, progress=False)
    found = clean(records, prints, blur_mads=0)
    assert [(each.index, each.reason, each.repeats) for each in found.removals] == [
        (12, "near_duplicate", 3),
        (13, "exact_duplicate", 5),
        (14, "undecodable", None),
    ]
    assert found.links.tolist() == [[3, 12], [5, 13]]
