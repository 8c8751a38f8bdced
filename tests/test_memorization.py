"""Signs of copying: found where images are copied, absent where they are not, right by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from feature_sets import draw, make_set
from golden.formula import formula

from dermagan_jax.metrics import memorization
from dermagan_jax.metrics.feature_set import FeatureSet, nearest_turn

GOLDEN = np.load(Path(__file__).parent / "golden" / "copying.npz")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_equal_what_other_means_give(rng):
    training = make_set(formula((60, 6), seed=51))
    heldout = make_set(formula((40, 6), seed=52), lesion=np.arange(60, 100))
    way = np.arange(50)[:, None] / 50
    generated = make_set(
        (1 - way) * formula((50, 6), seed=53).astype(np.float64) + way * training.features[:50]
    )
    ratio = memorization.neighbour_ratio(generated, training, heldout, rng)
    found = {
        "ratio_median": ratio.median,
        "ratio_share": ratio.share_nearer,
        "c_t": memorization.c_t(generated, training, heldout),
        "authenticity": memorization.authentic(generated, training).mean(),
        "membership_auc": memorization.membership_auc(generated, training, heldout, rng).value,
    }
    for name, value in found.items():
        assert value == pytest.approx(GOLDEN[name], abs=1e-5), name


@pytest.fixture
def training(rng):
    return draw(rng, 60, images=3)


@pytest.fixture
def heldout(rng):
    return draw(rng, 20, images=3, first_lesion=1000)


@pytest.fixture
def copier(rng, training):
    """A generator that repeats its training images with a little noise."""
    chosen = training.features[rng.integers(len(training), size=90)]
    return make_set(chosen + 0.02 * rng.normal(size=chosen.shape))


@pytest.fixture
def honest(rng):
    """A generator of the distribution itself."""
    return make_set(draw(rng, 90).features)


def test_neighbour_ratio_by_hand(rng):
    # Distances to training 1, 3, 0 and to held-out 2, 2, 0: 1/3, 3/5 and, of two zeros, 1/2.
    generated = make_set([[1.0, 0], [0, 3], [9, 0]])
    found = memorization.neighbour_ratio(
        generated,
        make_set([[0.0, 0], [9, 0]]),
        make_set([[3.0, 0], [0, 5], [9, 0]], lesion=[7, 8, 9]),
        rng,
    )
    assert found.median == 0.5
    assert found.share_nearer == pytest.approx(1 / 3)


def test_the_ratio_of_a_copier_is_below_its_floor(copier, honest, training, heldout, rng):
    copied = memorization.neighbour_ratio(copier, training, heldout, rng)
    assert copied.median < copied.median_floor.low
    assert copied.share_nearer > copied.share_floor.high
    assert copied.p_value == pytest.approx(1 / 201)
    fair = memorization.neighbour_ratio(honest, training, heldout, rng)
    assert fair.median_floor.low <= fair.median <= fair.median_floor.high
    # Three of four images are training images, so three of four are the nearest.
    assert fair.share_floor.value == pytest.approx(0.75, abs=0.05)
    assert fair.p_value > 0.05


def test_deals_keep_lesions_whole(rng):
    # Two lesions of two images each: dealt whole, each deal is the true one or its mirror.
    generated = make_set([1.0])
    found = memorization.neighbour_ratio(
        generated, make_set([0.0, 9], lesion=[0, 0]), make_set([4.0, 8], lesion=[1, 1]), rng
    )
    assert found.median == 0.25
    assert (found.median_floor.low, found.median_floor.high) == (0.25, 0.75)
    assert found.p_value == pytest.approx(0.5, abs=0.1)


def test_c_t_by_hand():
    # Distances to 0 of the generated 1, 2 and of the held-out 3, 4, 5: none of 6 pairs is won.
    training, heldout = make_set([0.0]), make_set([3.0, 4, 5])
    found = memorization.c_t(make_set([1.0, 2]), training, heldout)
    assert found == pytest.approx((0 - 3) / np.sqrt(2 * 3 * 6 / 12))
    further = memorization.c_t(make_set([6.0, 7]), training, heldout)
    assert further == pytest.approx(-found)
    assert memorization.c_t(heldout, training, heldout) == pytest.approx(0)


def test_c_t_tells_copying_from_underfitting(copier, honest, training, heldout, rng):
    assert memorization.c_t(copier, training, heldout) < -5
    assert abs(memorization.c_t(honest, training, heldout)) < 3
    underfitted = make_set(honest.features + 4)
    assert memorization.c_t(underfitted, training, heldout) > 5


def test_the_limit_of_c_t_by_hand():
    assert memorization.c_t_limit(make_set([0.0, 1, 2])) == pytest.approx(-3)
    pairs = make_set([0.0, 1, 2, 3], lesion=[0, 0, 1, 1])
    assert memorization.c_t_limit(pairs) == pytest.approx(-3 * np.sqrt(2))
    # An image of four in a lesion of one, three in one of three.
    uneven = make_set([0.0, 1, 2, 3], lesion=[0, 1, 1, 1])
    assert memorization.c_t_limit(uneven) == pytest.approx(-3 * np.sqrt((1 + 9) / 4))


def test_the_limit_of_c_t_holds_where_a_lesions_images_are_all_alike(rng):
    """Honest generators are below -3 every so often there, and below the limit next to never."""
    training = draw(rng, 60, size=2)
    values, limits = [], []
    for _ in range(400):
        one = draw(rng, 10, size=2)
        unseen = make_set(one.features.repeat(9, axis=0), lesion=one.lesion.repeat(9))
        honest = draw(rng, 90, size=2)
        values.append(memorization.c_t(honest, training, unseen))
        limits.append(memorization.c_t_limit(unseen))
    assert np.mean(np.array(values) < -3) > 0.02
    assert np.mean(np.array(values) < np.array(limits)) < 0.005


def test_authenticity_by_hand():
    # 0 and 1 are 1 apart, 10 is 9 from its neighbour. Nearest to 0.2 is 0 at 0.2 < 1: no. To 3 it
    # is 1 at 2 > 1: yes. To 14 it is 10 at 4 < 9: no. To 20 it is 10 at 10 > 9: yes.
    found = memorization.authentic(make_set([0.2, 3, 14, 20]), make_set([0.0, 1, 10]))
    np.testing.assert_array_equal(found, [False, True, False, True])


def test_membership_by_hand(rng):
    # Distances to the generated 0 of training 1, 2, 3 and of held-out 2, 4: pairs won 1, 1, 0 and
    # 1, 1, 1, one tie of half a point: 5 won, 1/2 tied of 6... (2, 2) is the tie, (3, 2) is lost.
    found = memorization.membership_auc(
        make_set([0.0]), make_set([1.0, 2, 3]), make_set([2.0, 4]), rng
    )
    assert found.value == pytest.approx((1 + 0.5 + 0 + 3) / 6)


def test_an_attacker_finds_the_members_of_a_copier_only(copier, honest, training, heldout, rng):
    assert memorization.membership_auc(copier, training, heldout, rng).low > 0.5
    fair = memorization.membership_auc(honest, training, heldout, rng)
    assert fair.low < 0.5 < fair.high


def test_exact_copies_are_equal_in_every_pixel(rng):
    images = rng.integers(0, 256, (4, 8, 8, 3), np.uint8)
    generated = images[[2, 0]].copy()
    generated[1, 3, 3, 1] ^= 1
    np.testing.assert_array_equal(memorization.exact_copies(generated, images), [True, False])


def test_closest_pairs_are_the_closest_first():
    found = memorization.closest_pairs(
        make_set([5.0, 0.5, 8.9]), make_set([0.0, 9]), make_set([30.0, 7, 1]), count=2
    )
    np.testing.assert_array_equal(found.generated, [2, 1])
    np.testing.assert_array_equal(found.training, [1, 0])
    np.testing.assert_array_equal(found.heldout, [1, 2])
    np.testing.assert_allclose(found.training_distance, [0.1, 0.5])
    np.testing.assert_allclose(found.heldout_distance, [1.9, 0.5])


def turned(one: FeatureSet) -> FeatureSet:
    """Adds seven turns of images whose features are a ring of eight pixels."""
    rings = [np.roll(one.features, places, axis=1) for places in range(1, 8)]
    return dataclasses.replace(one, turned=np.stack(rings))


def test_a_turned_copy_is_as_near_as_one_that_is_not(rng):
    training, heldout = (turned(draw(rng, 40, first_lesion=first)) for first in (0, 99))
    copies = make_set(np.roll(training.features, 3, axis=1))
    sets = (copies, dataclasses.replace(training, turned=None), heldout)
    assert not np.isclose(nearest_turn(*sets[:2]).min(axis=1), 0).any()
    np.testing.assert_allclose(nearest_turn(turned(copies), training).min(axis=1), 0, atol=1e-6)
    found, blind = (
        memorization.measure(*each, seed=0, class_names=("a",))["overall"]
        for each in (
            (turned(copies), training, heldout),
            tuple(dataclasses.replace(each, turned=None) for each in sets),
        )
    )
    assert found["membership_auc"].value == 1
    assert found["authenticity"].value == 0
    assert found["neighbour_ratio"].median == pytest.approx(0, abs=1e-6)
    assert found["c_t"] < found["c_t_limit"]
    assert blind["membership_auc"].low < 0.5
    assert blind["neighbour_ratio"].p_value > 0.05
    pairs = memorization.closest_pairs(turned(copies), training, heldout, count=40)
    np.testing.assert_array_equal(pairs.training, pairs.generated)


def test_turns_give_no_set_more_chances_to_be_near(rng):
    """An honest generator's images are no nearer to training images for being turned."""
    training, heldout = (turned(draw(rng, 60, first_lesion=first)) for first in (0, 99))
    honest = turned(make_set(draw(rng, 90).features))
    found = memorization.measure(honest, training, heldout, seed=0, class_names=("a",))["overall"]
    assert abs(found["c_t"]) < 3
    assert found["membership_auc"].low < 0.5 < found["membership_auc"].high
    assert found["neighbour_ratio"].p_value > 0.05
    shares = [found[name].value for name in ("authenticity", "heldout_authenticity")]
    assert shares[0] == pytest.approx(shares[1], abs=0.15)


def test_turns_stay_with_their_images(rng):
    chosen = turned(draw(rng, 4)).take(np.array([2, 0]))
    np.testing.assert_array_equal(chosen.turned[0], np.roll(chosen.features, 1, axis=1))


def joined(a: FeatureSet, b: FeatureSet) -> FeatureSet:
    """Two classes: the second 100 further on, its lesions with numbers of their own."""
    features = np.concatenate([a.features, b.features + 100])
    label = np.repeat([0, 1], [len(a), len(b)])
    return make_set(features, label=label, lesion=np.concatenate([a.lesion, b.lesion + 500]))


def test_copying_in_one_class_shows_in_that_class(copier, honest, training, heldout, rng):
    other, unseen = draw(rng, 60, images=3), draw(rng, 10, images=3, first_lesion=2000)
    found = memorization.measure(
        joined(copier, honest),
        joined(training, other),
        joined(heldout, unseen),
        seed=0,
        class_names=("a", "b"),
    )
    a, b = found["per_class"]["a"], found["per_class"]["b"]
    assert a["membership_auc"].low > 0.5
    assert b["membership_auc"].low < 0.5
    assert a["authenticity"].value == 0.0
    assert b["authenticity"].value > 0.4
    assert 0.1 < a["heldout_authenticity"].value < 1
    assert a["c_t"] < -5 < b["c_t"]
    # Weighted by the held-out images, 60 and 30.
    assert found["overall"]["c_t"] == pytest.approx((2 * a["c_t"] + b["c_t"]) / 3)
    assert found["overall"]["neighbour_ratio"].p_value == pytest.approx(1 / 201)
