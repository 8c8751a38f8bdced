"""Whether a generator copies its training images, judged by held-out images of other lesions.

None of these can show that nothing was copied: they look at the nearest images under one network's
features, and at the images that were generated. Distances are those of `feature_set.nearest_turn`:
of a GAN that was shown its training images turned and mirrored, all sets are given with their
turns, and a turned copy is found too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from dermagan_jax import lesions
from dermagan_jax.metrics import intervals
from dermagan_jax.metrics.feature_set import FeatureSet, nearest_turn
from dermagan_jax.metrics.intervals import Estimate

NUM_PERMUTATIONS = 200
# Of a z-score.
_SIGN_OF_COPYING = -3.0


@dataclasses.dataclass(frozen=True)
class NeighbourRatio:
    """How much nearer generated images are to training images than to held-out ones.

    Attributes:
      median: the median over generated images of t / (t + h), t being the distance to the nearest
        training image and h that to the nearest held-out one: 0 for a copy, 0.5 where both are as
        near. There are more training images, so that it is below 0.5 without any copying too.
      share_nearer: share of the generated images that are nearer to a training image.
      median_floor: the median when lesions are dealt anew to training and held-out, which is what a
        generator that knows no lesion by heart gives, with the range of 95% of the deals.
      share_floor: the same for the share.
      p_value: share of the deals with so low a median; small is a sign of copying.
    """

    median: float
    share_nearer: float
    median_floor: Estimate
    share_floor: Estimate
    p_value: float


def neighbour_ratio(
    generated: FeatureSet, training: FeatureSet, heldout: FeatureSet, rng: np.random.Generator
) -> NeighbourRatio:
    """Compares the distances to the nearest training and the nearest held-out image.

    Args:
      generated: generated images.
      training: all images that the generator was trained on.
      heldout: images of other lesions, split off at random.
      rng: random generator of the deals.

    Source: the customary ratio t / h of nearest-neighbour distances, bounded so that an exact copy
      of a held-out image is no infinity; the floor is a permutation test over lesions, which needs
      no equal numbers.
    """
    to_real = np.concatenate(
        [nearest_turn(generated, each) for each in (training, heldout)], axis=1
    )
    lesion = np.concatenate([training.lesion, heldout.lesion])
    is_training = np.arange(len(lesion)) < len(training)
    median, share = _ratio_summary(to_real, is_training)
    names, member = np.unique(lesion, return_inverse=True)
    num_training = len(np.unique(training.lesion))
    deals = []
    for _ in range(NUM_PERMUTATIONS):
        dealt = np.zeros(len(names), bool)
        dealt[rng.permutation(len(names))[:num_training]] = True
        deals.append(_ratio_summary(to_real, dealt[member]))
    medians, shares = np.array(deals).T
    return NeighbourRatio(
        median,
        share,
        _range_of(medians),
        _range_of(shares),
        # The deal that happened is one of those that could have.
        float((1 + (medians <= median).sum()) / (1 + NUM_PERMUTATIONS)),
    )


def _ratio_summary(to_real: np.ndarray, is_training: np.ndarray) -> tuple[float, float]:
    nearest, other = (to_real[:, chosen].min(axis=1) for chosen in (is_training, ~is_training))
    ratio = np.full_like(nearest, 0.5)
    np.divide(nearest, nearest + other, out=ratio, where=nearest != other)
    return float(np.median(ratio)), float((nearest < other).mean())


def _range_of(values: np.ndarray) -> Estimate:
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(float(np.median(values)), float(low), float(high))


def c_t(generated: FeatureSet, training: FeatureSet, heldout: FeatureSet) -> float:
    """Returns C_T of one cell: a Mann-Whitney z-score of the distances to the training images.

    Below `c_t_limit` the generated images lie nearer to training images than held-out ones do,
    which is copying; far above 0 they lie further off, which is underfitting. Images of one lesion
    are not independent, so that it strays further from 0 than a z-score should.

    Source: Meehan, Chaudhuri and Dasgupta, "A Non-Parametric Test to Detect Data-Copying in
      Generative Models" (AISTATS 2020), section 4; its cells are the classes here.
    """
    ours, theirs = (nearest_turn(each, training).min(axis=1) for each in (generated, heldout))
    m, n = len(ours), len(theirs)
    u = float(stats.mannwhitneyu(ours, theirs).statistic)
    return (u - m * n / 2) / float(np.sqrt(m * n * (m + n + 1) / 12))


def c_t_limit(heldout: FeatureSet) -> float:
    """Returns the C_T below which copying is likely: -3, further off for lesions of several images.

    Where a lesion's images are all alike, which is the worst case, the held-out images' part of the
    variance is as many times too large as an image, on average, has images in its lesion, itself
    among them; where all lesions have equally many that is the images per lesion. The limit is -3
    times the root.

    Source: the design effect of clusters, Kish, "Survey Sampling" (1965), with a correlation of 1.
    """
    _, sizes = np.unique(heldout.lesion, return_counts=True)
    return _SIGN_OF_COPYING * float(np.sqrt((sizes**2).sum() / sizes.sum()))


def authentic(generated: FeatureSet, training: FeatureSet) -> np.ndarray:
    """Tells which generated images are authentic, [N] bool.

    An image is not where its nearest training image has the generated image nearer to it than any
    other training image.

    Source: Alaa et al., "How Faithful is your Synthetic Data?" (ICML 2022), section 3.2.
    """
    to_training = nearest_turn(generated, training)
    between = nearest_turn(training, training)
    np.fill_diagonal(between, np.inf)
    nearest = to_training.argmin(axis=1)
    return to_training.min(axis=1) > between.min(axis=1)[nearest]


def membership_auc(
    generated: FeatureSet, training: FeatureSet, heldout: FeatureSet, rng: np.random.Generator
) -> Estimate:
    """Returns how well an attacker tells training images by their nearest generated image.

    It is the chance that a training image is nearer to a generated one than a held-out image is:
    0.5 is guessing. The bootstrap draws lesions.

    Source: Chen et al., "GAN-Leaks" (CCS 2020), section 5.2, the attack of one who sees generated
      images only.
    """
    inside, outside = (nearest_turn(each, generated).min(axis=1) for each in (training, heldout))
    wins = (inside[:, None] < outside[None]) + 0.5 * (inside[:, None] == outside[None])
    weights = [intervals.resample(each.lesion, rng) for each in (training, heldout)]
    drawn = (weights[0] @ wins * weights[1]).sum(axis=1)
    drawn /= weights[0].sum(axis=1) * weights[1].sum(axis=1)
    return intervals.percentile_interval(wins.mean(), drawn)


def exact_copies(generated: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Tells which generated images equal one of `images` in every pixel, [N] bool.

    Args:
      generated: [N, S, S, 3] uint8.
      images: [M, S, S, 3] uint8.
    """
    known = {image.tobytes() for image in images}
    return np.array([image.tobytes() in known for image in generated])


@dataclasses.dataclass(frozen=True)
class ClosestPairs:
    """Generated images nearest to a training image, the nearest first; all [K].

    Attributes:
      generated: index of the generated image.
      training: index of the training image nearest to it.
      heldout: index of the held-out image nearest to it.
      training_distance: Euclidean distance to the former, in the features' own unit.
      heldout_distance: to the latter.
    """

    generated: np.ndarray
    training: np.ndarray
    heldout: np.ndarray
    training_distance: np.ndarray
    heldout_distance: np.ndarray


def closest_pairs(
    generated: FeatureSet, training: FeatureSet, heldout: FeatureSet, *, count: int
) -> ClosestPairs:
    """Finds the `count` generated images that lie nearest to a training image of any class."""
    to_training, to_heldout = (nearest_turn(generated, each) for each in (training, heldout))
    chosen = np.argsort(to_training.min(axis=1), kind="stable")[:count]
    return ClosestPairs(
        chosen,
        to_training[chosen].argmin(axis=1),
        to_heldout[chosen].argmin(axis=1),
        to_training[chosen].min(axis=1),
        to_heldout[chosen].min(axis=1),
    )


def measure(
    generated: FeatureSet,
    training: FeatureSet,
    heldout: FeatureSet,
    *,
    seed: int,
    class_names: Sequence[str] = lesions.CLASSES,
) -> dict[str, Any]:
    """Computes the measures of copying, per class (among images of the class) and overall.

    Args:
      generated: generated images, of every class some.
      training: all images that the generator was trained on.
      heldout: images of other lesions.
      seed: of the bootstrap and the deals.
      class_names: names in label order.

    Returns:
      `per_class` {class: measures} and `overall`; each has `neighbour_ratio` (NeighbourRatio),
      `c_t` (float; overall the mean over classes, weighted by their held-out images) and its
      `c_t_limit`,
      `authenticity` and its floor `heldout_authenticity` (Estimate), `membership_auc` (Estimate).
    """
    rng = np.random.default_rng(seed)
    per_class, cells = {}, []
    for label, name in enumerate(class_names):
        ours, seen, unseen = (each.of_class(label) for each in (generated, training, heldout))
        cells.append(c_t(ours, seen, unseen))
        per_class[name] = {**_measure_one(ours, seen, unseen, rng), "c_t": cells[-1]}
    sizes = np.bincount(heldout.label, minlength=len(class_names))
    overall = _measure_one(generated, training, heldout, rng)
    overall["c_t"] = float(np.average(cells, weights=sizes))
    return {"per_class": per_class, "overall": overall}


def _measure_one(
    generated: FeatureSet, training: FeatureSet, heldout: FeatureSet, rng: np.random.Generator
) -> dict[str, Any]:
    return {
        "neighbour_ratio": neighbour_ratio(generated, training, heldout, rng),
        "c_t_limit": c_t_limit(heldout),
        "authenticity": intervals.mean(authentic(generated, training), generated.lesion, rng),
        "heldout_authenticity": intervals.mean(authentic(heldout, training), heldout.lesion, rng),
        "membership_auc": membership_auc(generated, training, heldout, rng),
    }
