"""Probes for what gives a class away that is no lesion."""

from __future__ import annotations

import numpy as np
import pytest

from dermagan_jax.data import prepared
from dermagan_jax.lesions import CLASSES
from dermagan_jax.study import probes


def _split(count: int, seed: int, *, vignette_of: int | None = None) -> prepared.Split:
    """Noise of four classes; one of them may have a black corner, and a hospital of its own."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 160, (count, 32, 32, 3), dtype=np.uint8)
    label = np.arange(count, dtype=np.int32) % 4
    site = np.array(["A"] * count)
    if vignette_of is not None:
        marked = label == vignette_of
        image[marked, :6, :6] = image[marked, -6:, -6:] = 0
        site[marked] = "B"
    return prepared.Split(
        image=image,
        label=label,
        image_id=np.array([f"i{index}" for index in range(count)]),
        lesion_id=np.array([f"l{index // 2}" for index in range(count)]),
        source=np.array(["isic2019"] * count),
        site=site,
    )


def test_without_a_difference_nothing_fires() -> None:
    found = probes.probe(_split(400, 0), _split(200, 1))
    assert [each.name for each in found if each.fires] == []
    for each in found:
        assert each.guessing == 0.25
        assert each.accuracy.low is not None
        assert each.accuracy.low < 0.3


def test_a_hospital_with_a_vignette_of_its_own_fires() -> None:
    found = probes.probe(_split(400, 0, vignette_of=2), _split(200, 1, vignette_of=2))
    fired = {each.name: each.accuracy.value for each in found if each.fires}
    # The class of the hospital is known, and the rest is a guess among three: (1 + 1) / 4.
    assert fired["hospital and archive"] == pytest.approx(0.5, abs=0.01)
    assert fired["vignette (dark corners)"] > 0.45


def test_generated_images_with_a_vignette_of_one_class_fire() -> None:
    made = _split(400, 0, vignette_of=2)
    found = {each.name: each for each in probes.probe_generated(made)}
    assert list(found) == [
        *("vignette (dark corners)", "mean colour of the border"),
        "marks at the border (rulers)",
    ]
    assert found["vignette (dark corners)"].fires
    assert not any(each.fires for each in probes.probe_generated(_split(400, 0)))
    # What was fitted on is not what it is tried on: two images of a class, one of each.
    assert len(probes.probe_generated(_split(8, 0))) == 3
    assert probes.probe_generated(_split(4, 0)) == []


def test_corners_are_told_apart() -> None:
    image = np.full((1, 16, 16, 3), 200, np.uint8)
    image[0, :2, -2:] = 0
    np.testing.assert_array_equal(probes.corners(image), [[0, 1, 0, 0]])


def test_the_border_is_the_border() -> None:
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, 2:-2, 2:-2] = 255
    np.testing.assert_array_equal(probes.border_colour(image), [[0, 0, 0]])
    ruler = np.zeros((1, 32, 32, 3), np.uint8)
    ruler[0, :2, ::2] = 100
    texture = probes.border_texture(ruler)[0]
    assert texture[0] == 100
    assert texture[1:].max() < 20


def test_cramers_v_by_hand() -> None:
    assert probes.cramers_v(np.diag([5, 7, 9])) == pytest.approx(1)
    assert probes.cramers_v(np.array([[4, 8], [2, 4]])) == pytest.approx(0, abs=1e-12)
    # Chi squared of [[3, 1], [1, 3]] is 2, of 8 images: the root of a quarter.
    assert probes.cramers_v(np.array([[3, 1], [1, 3]])) == pytest.approx(0.5)
    assert probes.cramers_v(np.array([[3, 1], [0, 0]])) == 0


def test_accuracy_by_source_counts_all_seeds() -> None:
    split = _split(8, 0, vignette_of=1)
    right = np.stack([split.label == 1, np.ones(8, bool)])
    rows = probes.accuracy_by_source(split, right)
    assert rows == [("isic2019 A", 6, 0.5), ("isic2019 B", 2, 1.0)]


def test_what_is_found_is_described_as_json() -> None:
    training, heldout = _split(80, 0, vignette_of=3), _split(40, 1, vignette_of=3)
    found = probes.describe(training, heldout)
    assert found["sources"]["names"] == ["isic2019 A", "isic2019 B"]
    assert found["sources"]["counts"] == {
        **{name: [20, 0] for name in CLASSES},
        CLASSES[3]: [0, 20],
    }
    assert found["sources"]["cramers_v"] == pytest.approx(1)
    assert found["vignettes"] == 0.25


def test_frames_are_measured_class_by_class() -> None:
    split = _split(80, 0, vignette_of=3)
    split.image[split.label == 1] = (10, 200, 30)
    found = probes.looks_by_class(split)
    shares = {name: each["vignettes"] for name, each in found.items()}
    assert shares == {**dict.fromkeys(CLASSES, 0.0), CLASSES[3]: 1.0}
    assert found[CLASSES[1]]["border"] == [10, 200, 30]
    few = split.take(np.flatnonzero(split.label == 1))
    assert list(probes.looks_by_class(few)) == [CLASSES[1]]


def test_inside_the_circle_there_is_no_vignette() -> None:
    place = np.indices((64, 64)) - 31.5
    circle = (place**2).sum(axis=0) < 32**2
    image = np.where(circle[None, ..., None], 200, 0).astype(np.uint8).repeat(3, axis=-1)
    assert probes.vignettes(image) == 1
    inside = probes.without_vignette(image)
    assert inside.shape == image.shape
    assert (inside == 200).all()
