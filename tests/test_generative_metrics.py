"""The measures of a GAN: by hand, against two other implementations, and by what they must do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from feature_sets import draw, make_set
from golden.formula import formula
from scipy import linalg

from dermagan_jax.errors import DermaganError
from dermagan_jax.metrics import generative, intervals
from dermagan_jax.metrics.feature_set import FeatureSet
from dermagan_jax.metrics.intervals import Estimate

GOLDEN, COPYING = (
    np.load(Path(__file__).parent / "golden" / f"{name}.npz") for name in ("measures", "copying")
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def golden_sets() -> tuple[FeatureSet, FeatureSet]:
    candidate = make_set(formula((90, 6), seed=43, scale=0.7, shift=0.6))
    return candidate, make_set(formula((90, 6), seed=41))


def test_equal_torch_fidelity_and_prdc(golden_sets, rng):
    candidate, reference = golden_sets
    assert generative.kid(candidate, reference, rng).value == pytest.approx(GOLDEN["kid"], rel=1e-5)
    candidate = candidate.take(np.arange(70))
    assert generative.fid(candidate, reference) == pytest.approx(GOLDEN["fid"], rel=1e-5)
    found = generative.neighbourhoods(candidate, reference)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(found, name).mean() == pytest.approx(GOLDEN[name], abs=1e-6), name


def test_kid_by_hand(rng):
    # Kernel (xy + 1)^3. Within {0, 1}: k(0, 1) = 1. Within {1, 2}: k(1, 2) = 27. Between:
    # k(0, .) = 1 twice, k(1, 1) = 8, k(1, 2) = 27, mean 37/4.
    found = generative.kid(make_set([0, 1]), make_set([1, 2]), rng)
    assert found.value == pytest.approx(1 + 27 - 2 * 37 / 4)
    # A sibling of the first image: the pairs left are (0, 1) and (2, 1), k = 1 and 27.
    siblings = make_set([0, 1, 2], lesion=[5, 6, 5])
    between = np.mean([1, 1, 8, 27, 27, 125])
    found = generative.kid(siblings, make_set([1, 2]), rng)
    assert found.value == pytest.approx((1 + 27) / 2 + 27 - 2 * between)
    assert generative.kid(make_set([1, 2], lesion=[0, 0]), make_set([1, 2]), rng) is None


def test_kid_is_unbiased_and_its_interval_holds_the_truth(rng):
    found = [
        generative.kid(draw(rng, 20, images=3), draw(rng, 15, images=2), rng) for _ in range(80)
    ]
    values = np.array([each.value for each in found])
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean()) < 3 * error
    assert np.mean([each.low <= 0 <= each.high for each in found]) >= 0.95
    # Siblings taken for lesions of their own would put the floor far above 0.
    naive = [
        generative.kid(
            make_set(draw(rng, 20, images=3).features), make_set(draw(rng, 15).features), rng
        ).value
        for _ in range(20)
    ]
    assert np.mean(naive) > 6 * error


def test_kid_grows_with_the_distance(rng):
    reference = draw(rng, 60)
    values = [generative.kid(draw(rng, 60, shift=s), reference, rng) for s in (0.0, 0.5, 1.0)]
    assert values[0].value < values[1].value < values[2].value
    assert values[0].high < values[2].low


def test_fid_by_hand_and_by_its_textbook_form(rng):
    # One feature: (difference of means)^2 + (difference of standard deviations)^2.
    a, b = make_set([0, 2]), make_set([3, 9])
    assert generative.fid(a, b) == pytest.approx(25 + (np.sqrt(2) - np.sqrt(18)) ** 2)
    a, b = draw(rng, 40, size=5), draw(rng, 30, size=5, shift=0.3)
    covariances = [np.cov(each.features, rowvar=False) for each in (a, b)]
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    shift = a.features.mean(axis=0) - b.features.mean(axis=0)
    textbook = shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert generative.fid(a, b) == pytest.approx(textbook)
    assert generative.fid(a, a) == pytest.approx(0, abs=1e-9)
    assert generative.fid(make_set([1]), b) is None


def test_fid_is_too_high_with_few_images_as_its_docstring_says(rng):
    few, many = (generative.fid(draw(rng, n, size=30), draw(rng, n, size=30)) for n in (20, 600))
    assert few > 10 * many


def test_neighbourhoods_by_hand():
    # k = 1. Reference 0, 1, 10: radii 1, 1, 9. Candidates 1.5, 30, 32: radii 28.5, 2, 2.
    found = generative.neighbourhoods(make_set([1.5, 30, 32]), make_set([0, 1, 10]), k=1)
    # 1.5 is within 1 of 1 and within 9 of 10; the others are in no ball.
    np.testing.assert_array_equal(found.precision, [True, False, False])
    np.testing.assert_array_equal(found.density, [2, 0, 0])
    np.testing.assert_array_equal(found.coverage, [False, True, True])
    np.testing.assert_array_equal(found.recall, [True, True, True])
    assert generative.neighbourhoods(make_set([1, 2]), make_set([1, 2, 3]), k=2) is None


def test_precision_and_density_without_a_lesion_by_hand():
    # k = 1. Lesions a: 0, 1; b: 10, 12. Radii 1, 1, 2, 2; candidates 0.5, 11, 30.
    reference = make_set([0, 1, 10, 12], lesion=["a", "a", "b", "b"])
    candidate = make_set([0.5, 11, 30])
    # Without either, the balls of the other, in each of which one candidate is twice.
    found = generative._without_each_lesion(candidate, reference, 1)
    np.testing.assert_allclose(found, [[1 / 3, 1 / 3], [2 / 3, 2 / 3]])
    # Without one of three lesions of an image each, the ball of the nearest reaches further.
    found = generative._without_each_lesion(make_set([4.0]), make_set([0, 1, 5]), 1)
    np.testing.assert_allclose(found[0], [1, 1, 0])
    assert generative._without_each_lesion(candidate, reference, 2).shape == (2, 0)


def test_the_intervals_of_precision_and_density_hold_the_truth_with_few_lesions(rng):
    """Twelve lesions of four images that are nearly one: intervals by image would hold it half."""
    found = []
    for _ in range(100):
        centre = rng.normal(size=(12, 1, 2))
        images = centre + 0.05 * rng.normal(size=(12, 4, 2))
        reference = make_set(images.reshape(-1, 2), lesion=np.repeat(np.arange(12), 4))
        candidate = make_set(0.8 * rng.normal(size=(60, 2)))
        of_images = generative.neighbourhoods(candidate, reference)
        found.append((of_images, generative._likeness(candidate, reference, of_images)))
    for name in ("precision", "density"):
        estimates = [each[name] for _, each in found]
        values = np.array([each.value for each in estimates])
        truth = values.mean()
        held = np.mean([each.low <= truth <= each.high for each in estimates])
        assert 0.93 <= held <= 1, name
        # Wide for a reason: no more than twice what the values vary.
        width = np.mean([each.high - each.low for each in estimates])
        assert width < 2 * 3.92 * values.std(), name
        fixed = [getattr(of_images, name) for of_images, _ in found]
        half = [1.96 * each.std() / np.sqrt(len(each)) for each in fixed]
        assert np.mean(np.abs(values - truth) <= half) < 0.7, name
    assert all(0 <= each["precision"].low <= each["precision"].high <= 1 for _, each in found)


def test_the_linear_probe_learns_from_candidates_and_is_judged_on_the_reference(rng):
    sets = {
        name: make_set(rng.normal(size=(80, 4)) + 5 * sign * np.eye(4)[labels], label=labels)
        for name, sign in (("right", 1), ("wrong", -1))
        for labels in [np.arange(80) % 4]
    }
    right = sets["right"]
    assert (generative.predict_by(right, right) == right.label).mean() > 0.95
    assert (generative.predict_by(sets["wrong"], right) == right.label).mean() < 0.1


def test_the_linear_probe_equals_newtons_method():
    training, heldout, noise = (
        formula((n, 6), seed=seed).astype(np.float64) for n, seed in ((60, 51), (40, 52), (50, 53))
    )
    way = np.arange(50)[:, None] / 50
    generated = (1 - way) * noise + way * training[:50]
    candidate, reference = (
        make_set(x, label=(x[:, 0] + x[:, 1] > 0) + 2 * (x[:, 2] - x[:, 3] > 0))
        for x in (generated, heldout)
    )
    right = generative.predict_by(candidate, reference) == reference.label
    assert right.mean() == pytest.approx(COPYING["classification_accuracy"], abs=1e-6)


def two_classes(rng, number, shift=0.0) -> FeatureSet:
    labels = np.arange(number) % 2
    centre = np.where(labels, 2.0, -2.0)[:, None]
    return make_set(rng.normal(size=(number, 4)) + centre + shift, label=labels)


def test_all_measures_stand_beside_their_floor(rng):
    reference = two_classes(rng, 60)
    arguments = {"seed": 3, "class_names": ("a", "b")}
    floor = generative.measure(two_classes(rng, 60), reference, **arguments)
    off = generative.measure(two_classes(rng, 60, shift=1.5), reference, **arguments)
    for mine, theirs in (
        (floor["overall"], off["overall"]),
        (floor["per_class"]["a"], off["per_class"]["a"]),
    ):
        assert mine["kid"].high < theirs["kid"].low
        assert mine["fid"] < theirs["fid"]
        for name in ("precision", "recall", "density", "coverage"):
            assert mine[name].value > theirs[name].value, name
    assert floor["overall"]["images"] == floor["overall"]["reference_images"] == 60
    assert floor["per_class"]["b"]["images"] == 30
    assert floor["overall"]["classification_accuracy"].value == 1.0
    # Shifted to the right, the left class is taken for the right one.
    assert off["per_class"]["b"]["classification_accuracy"].value < 1.0
    again = generative.measure(two_classes(np.random.default_rng(1), 60), reference, **arguments)
    other = generative.measure(
        two_classes(np.random.default_rng(1), 60), reference, **{**arguments, "seed": 4}
    )
    assert again["overall"]["kid"].value == other["overall"]["kid"].value
    assert again["overall"]["kid"] != other["overall"]["kid"]


def test_the_mean_kid_has_the_interval_of_the_classes_draws(rng):
    reference, candidate = two_classes(rng, 60), two_classes(rng, 60, shift=0.5)
    found = generative.measure(candidate, reference, seed=3, class_names=("a", "b"))
    interval, kids = (
        found["mean_class_kid_interval"],
        [each["kid"] for each in found["per_class"].values()],
    )
    assert interval.value == found["mean_class_kid"] == np.mean([each.value for each in kids])
    assert interval.low < interval.value < interval.high
    # Of two independent classes the variances add up; halved is the mean.
    widths = np.array([each.high - each.low for each in kids])
    expected = np.sqrt((widths**2).sum()) / 2
    assert interval.high - interval.low == pytest.approx(expected, rel=0.15)
    one = dataclasses.replace(reference, lesion=np.where(reference.label, 7, reference.lesion))
    few = generative.measure(candidate, one, seed=3, class_names=("a", "b"))
    assert few["mean_class_kid"] is few["mean_class_kid_interval"] is None


def test_recall_may_pass_its_floor_where_lesions_have_siblings(rng):
    """The balls of training images reach to siblings only, those of images without any further."""
    heldout, training = (draw(rng, 40, images=6) for _ in range(2))
    generated = make_set(draw(rng, 240).features)
    recall, floor = (
        generative.neighbourhoods(each, heldout).recall.mean() for each in (generated, training)
    )
    assert recall > floor + 0.02


def test_intervals_draw_whole_lesions(rng):
    weights = intervals.resample(np.array(["a", "b", "a", "c"]), rng)
    assert weights.shape == (intervals.NUM_RESAMPLES, 4)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)
    assert weights.mean() == pytest.approx(1, abs=0.05)


def test_an_interval_is_wider_by_lesion_than_by_image(rng):
    values = np.repeat(rng.normal(size=25), 4)
    by_lesion = intervals.mean(values, np.repeat(np.arange(25), 4), rng)
    by_image = intervals.mean(values, np.arange(100), rng)
    assert by_lesion.value == by_image.value == values.mean()
    width = by_image.high - by_image.low
    # The standard error of a mean of 100, 3.92 of which are the interval.
    assert width == pytest.approx(3.92 * values.std() / 10, rel=0.1)
    assert by_lesion.high - by_lesion.low == pytest.approx(2 * width, rel=0.15)


def test_a_jackknife_of_a_mean_is_its_standard_error(rng):
    values = rng.normal(size=40)
    left_out = intervals.means_left_out(values, np.arange(40))
    np.testing.assert_allclose(left_out[3], np.delete(values, 3).mean())
    found = intervals.jackknife_interval(values.mean(), [left_out], bounds=(-9, 9))
    # Student's t of 39 degrees of freedom, by a table.
    half = 2.0227 * values.std(ddof=1) / np.sqrt(40)
    assert found.high - found.value == pytest.approx(half, rel=1e-4)
    assert found.value - found.low == pytest.approx(half, rel=1e-4)
    both = intervals.jackknife_interval(values.mean(), [left_out, left_out], bounds=(-9, 9))
    # Twice the variance, 78 degrees.
    assert both.high - both.value == pytest.approx(half * np.sqrt(2) * 1.9908 / 2.0227, rel=1e-4)
    clipped = intervals.jackknife_interval(values.mean(), [left_out], bounds=(-9, values.mean()))
    assert (clipped.low, clipped.high) == (found.low, values.mean())
    np.testing.assert_allclose(
        intervals.means_left_out(np.array([1.0, 2, 6]), np.array(["a", "b", "a"])), [2, 3.5]
    )


def test_a_jackknife_needs_two_groups_of_each_source():
    found = intervals.jackknife_interval(0.5, [np.ones(3), np.ones(1)], bounds=(0, 1))
    assert found == Estimate(0.5, None, None)
    found = intervals.jackknife_interval(1.0, [np.ones(3), np.ones(2)], bounds=(0, 1))
    assert found == Estimate(1.0, 1.0, 1.0)
    assert len(intervals.means_left_out(np.ones(3), np.zeros(3))) == 0


def test_an_interval_needs_two_lesions_and_enough_defined_resamples(rng):
    one = intervals.mean(np.array([1.0, 3.0]), np.array([7, 7]), rng)
    assert one == Estimate(2.0, None, None)
    values = np.full(intervals.NUM_RESAMPLES, np.nan)
    assert intervals.percentile_interval(1.0, values) == Estimate(1.0, None, None)
    values[:600] = np.linspace(0, 1, 600)
    assert intervals.percentile_interval(0.5, values) == Estimate(
        0.5, pytest.approx(0.025), pytest.approx(0.975)
    )


def test_features_that_are_no_features_are_refused():
    with pytest.raises(DermaganError, match="not finite"):
        make_set([[1.0, np.nan]])
    good = make_set([[1.0], [2.0]])
    with pytest.raises(ValueError, match="2 features"):
        dataclasses.replace(good, label=np.zeros(3, int))
    with pytest.raises(ValueError, match="float32"):
        dataclasses.replace(good, features=good.features.astype(np.float32))
    with pytest.raises(ValueError, match="turned"):
        dataclasses.replace(good, turned=np.zeros((7, 3, 1)))
    with pytest.raises(DermaganError, match="not finite"):
        dataclasses.replace(good, turned=np.full((7, 2, 1), np.nan))
