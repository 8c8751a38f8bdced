"""Differences, their intervals and verdicts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from dermagan_jax.metrics import comparison
from dermagan_jax.metrics.comparison import Difference


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _draw(shape: tuple[int, ...], seed: int, share: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def test_the_value_is_the_difference_of_means_over_seeds_and_images():
    arm, reference = _draw((3, 2, 50), 1, 0.7), _draw((1, 4, 50), 2)
    found = comparison.paired_difference(arm, reference, np.arange(50), rng=_rng())
    assert found.value == pytest.approx(arm.mean() - reference.mean())
    assert found.low < found.value < found.high


def test_with_labels_every_class_counts_alike():
    label = np.array([0] * 30 + [1] * 10)
    arm = np.concatenate([np.ones(30), np.zeros(10)])[None, None].astype(bool)
    reference = np.zeros((1, 1, 40), bool)
    found = comparison.paired_difference(arm, reference, np.arange(40), label=label, rng=_rng())
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))
    found = comparison.paired_difference(arm, reference, np.arange(40), rng=_rng())
    assert found.value == pytest.approx(0.75)


def test_of_one_seed_the_interval_is_that_of_the_mean_difference():
    arm, reference = _draw((1, 1, 800), 1, 0.6), _draw((1, 1, 800), 2)
    found = comparison.paired_difference(arm, reference, np.arange(800), rng=_rng())
    error = (arm.astype(float) - reference).std() / np.sqrt(800)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert found.error == pytest.approx(error, rel=0.05)


def test_the_smallest_difference_counts_the_other_arms_by_hand():
    found = Difference(0.01, -0.01, 0.03, 0.3, error=0.01, degrees=1e9)
    # The normal quantiles of 0.975 and 0.8; of nine arms of 1 - 0.05 / 18 and 0.8.
    assert comparison.smallest_found(found, 1) == pytest.approx(0.01 * (1.9600 + 0.8416), rel=1e-4)
    assert comparison.smallest_found(found, 9) == pytest.approx(0.01 * (2.7729 + 0.8416), rel=1e-3)
    # Student's t of two degrees of freedom: 4.3027 and 1.0607.
    few = dataclasses.replace(found, degrees=2.0)
    assert comparison.smallest_found(few, 1) == pytest.approx(0.01 * (4.3027 + 1.0607), rel=1e-4)


def test_copies_of_images_of_the_same_lesions_add_no_certainty():
    arm, reference, lesion = _draw((2, 2, 60), 1), _draw((1, 2, 60), 2), np.arange(60)
    once = comparison.paired_difference(arm, reference, lesion, rng=_rng())
    often = comparison.paired_difference(
        arm.repeat(4, axis=2), reference.repeat(4, axis=2), lesion.repeat(4), rng=_rng()
    )
    assert often == once


def test_seeds_that_disagree_widen_the_interval():
    reference = _draw((1, 4, 2000), 2)
    same = np.concatenate([~reference[:, :, :300], reference[:, :, 300:]], axis=2)
    narrow = comparison.paired_difference(same, reference, np.arange(2000), rng=_rng())
    flipped = reference.copy()
    flipped[0, :2] = True  # Two of the four classifiers are right everywhere.
    wide = comparison.paired_difference(flipped, reference, np.arange(2000), rng=_rng())
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


def test_seeds_give_the_variance_of_their_mean_by_hand():
    # Each classifier is right everywhere or nowhere, so that only seeds vary.
    arm = np.zeros((3, 3, 40), bool)
    arm[0], arm[:, 0] = True, True
    found = comparison.paired_difference(arm, np.zeros((1, 3, 40)), np.arange(40), rng=_rng())
    # Means of 1, 1/3, 1/3 by GAN and by classifier: s² is 4/27 for each, and s²/3 of it counts.
    assert found.value == pytest.approx(5 / 9)
    assert found.error == pytest.approx(np.sqrt(2 * 4 / 27 / 3))
    assert found.degrees == pytest.approx(4)
    assert found.high - found.value == pytest.approx(2.7764 * found.error, rel=1e-4)
    assert found.p_value == pytest.approx(2 * stats.t.sf(5 / 9 / found.error, 4))


def test_the_references_classifiers_vary_by_themselves_and_gans_in_pairs():
    reference = np.zeros((2, 4, 40), bool)
    reference[:, 0] = True  # Means of 1, 0, 0, 0 by classifier: s² is 1/4, and s²/4 of it counts.
    found = comparison.paired_difference(
        np.ones((1, 1, 40)), reference[:1], np.arange(40), rng=_rng()
    )
    assert (found.value, found.error, found.degrees) == pytest.approx((0.75, 0.25, 3))
    arm = np.zeros((2, 2, 40), bool)
    arm[1] = reference[1] = True
    # By GAN the arm is at 0 and 1, the reference at 1/4 and 1: s² of the differences is 1/32. By
    # classifier the reference is at 1, 1/2, 1/2, 1/2: s² is 1/16.
    found = comparison.paired_difference(arm, reference, np.arange(40), rng=_rng())
    assert found.value == pytest.approx(-1 / 8)
    of_gans, of_classifiers = 1 / 32 / 2, 1 / 16 / 4
    assert found.error**2 == pytest.approx(of_gans + of_classifiers)


def test_p_can_be_as_small_as_the_difference_is_clear():
    reference = _draw((1, 3, 400), 1, 0.3)
    better = np.ones((2, 3, 400), bool)
    lesion = np.arange(400)
    found = comparison.paired_difference(better, reference, lesion, rng=_rng())
    # Small enough for Holm's method over fifty arms.
    assert found.p_value < 0.05 / 50
    found = comparison.paired_difference(reference, reference, lesion, rng=_rng())
    assert (found.value, found.p_value) == (0, 1)


def test_p_is_below_5_percent_where_the_interval_leaves_0_out():
    lesion = np.arange(150)
    for seed in range(40):
        arm, reference = _draw((2, 2, 150), 2 * seed, 0.55), _draw((1, 2, 150), 2 * seed + 1)
        found = comparison.paired_difference(arm, reference, lesion, rng=_rng(), num_resamples=200)
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


@pytest.mark.parametrize(
    ("of_gan", "of_classifier"), [(0.0, 0.0), (0.05, 0.05), (0.3, 0.3), (1.0, 0.0)]
)
def test_a_true_null_is_rejected_about_as_rarely_as_promised(of_gan: float, of_classifier: float):
    """Three GANs of two classifiers, five without; each has an effect of its own on all images."""
    count, rejected, rng, lesion = 300, 0, _rng(), np.arange(120)
    for _ in range(count):
        ease = rng.normal(0.6, 1.2, 120)
        gan = of_gan * rng.normal(size=(3, 1, 1))
        classifier, other = (of_classifier * rng.normal(size=(1, size, 1)) for size in (2, 5))
        arm = ease + gan + classifier + 0.8 * rng.normal(size=(3, 2, 120)) > 0
        reference = ease + other + 0.8 * rng.normal(size=(1, 5, 120)) > 0
        found = comparison.paired_difference(arm, reference, lesion, rng=rng, num_resamples=200)
        rejected += found.p_value < 0.05
    # Normal quantiles would reject 16% where GANs alone vary.
    assert stats.binomtest(rejected, count, 0.08, alternative="greater").pvalue > 0.001


def test_blocks_of_resamples_are_all_of_them_and_small():
    values = _draw((1, 1, 300), 1)
    drawn = comparison._resample(
        values[0, 0].astype(float), np.arange(300), np.zeros(300), 1_250, _rng()
    )
    assert drawn.shape == (1_250,)
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.01)
    assert len(np.unique(drawn)) > 20


def test_arms_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        comparison.paired_difference(
            _draw((2, 2, 10), 1), _draw((1, 2, 9), 1), np.arange(10), rng=_rng()
        )
    with pytest.raises(ValueError, match="cannot be compared"):
        comparison.paired_difference(
            _draw((3, 2, 10), 1), _draw((2, 2, 10), 1), np.arange(10), rng=_rng()
        )


def test_holm_by_hand():
    assert comparison.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert comparison.holm([0.6, 0.001]) == pytest.approx([0.6, 0.002])
    assert comparison.holm([0.9, 0.8]) == [1.0, 1.0]


def test_mcnemar_by_hand():
    reference = np.array([True] * 10 + [False] * 7 + [True])
    arm = np.array([True] * 9 + [False] + [True] * 6 + [False] + [True])
    # One lost, six gained: 2 * (1 + 7) / 2**7.
    assert comparison.mcnemar(arm, reference) == pytest.approx(0.125)
    assert comparison.mcnemar(arm, arm) == 1.0


@pytest.mark.parametrize(
    ("value", "low", "high", "p_value", "said"),
    [
        (0.05, 0.02, 0.08, 0.004, "helps"),
        (-0.05, -0.08, -0.02, 0.004, "harms"),
        (0.05, 0.02, 0.08, 0.06, "no evidence"),
        (0.0, -0.01, 0.015, 0.9, "no difference"),
        (0.0, -0.03, 0.015, 0.9, "no evidence"),
    ],
)
def test_verdicts(value, low, high, p_value, said):
    difference = Difference(value, low, high, p_value, error=0.015, degrees=100.0)
    assert comparison.verdict(difference, p_value, margin=0.02) == said


def test_where_nothing_varies_there_is_no_evidence() -> None:
    """Two classifiers that call every image the same are as good as each other, and no more."""
    right = np.tile(np.arange(8) % 2 == 0, (1, 1, 1))
    lesion = np.arange(8)
    found = comparison.paired_difference(right, right, lesion, rng=np.random.default_rng(0))
    assert (found.value, found.error, found.p_value) == (0.0, 0.0, 1.0)
    assert comparison.verdict(found, found.p_value, margin=0.02) == "no evidence"
