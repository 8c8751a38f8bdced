"""How near generated images are to real ones, on features; always to be read beside the floor.

The floor is the same measure of real training images in place of the generated ones, as many of
each class, against the same held-out images: what a generator that makes images like the training
images, several of a lesion and all, can be expected to reach. Of recall it is no bound: the balls
of training images reach to siblings of one lesion, those of generated images, which have none,
further. A generator whose lesions are all different may have a higher recall than the floor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dermagan_jax import lesions
from dermagan_jax.metrics import intervals
from dermagan_jax.metrics.feature_set import FeatureSet, distances
from dermagan_jax.metrics.intervals import Estimate

NEIGHBOURS = 5
# Of the linear probe: strong enough that it ends within its iterations on a thousand features.
_INVERSE_PENALTY, _MAX_ITERATIONS = 0.01, 1000


def kid(candidate: FeatureSet, reference: FeatureSet, rng: np.random.Generator) -> Estimate | None:
    """Returns the kernel distance (KID): the squared MMD under (x·y / D + 1)^3, without bias.

    It is the U-statistic of all pairs, to which the customary mean over random subsets tends for
    any subset size; 0 is expected for two samples of one distribution, and values below 0 occur.
    Pairs of one lesion are left out, as are pairs of an image with itself: neither is two draws.
    The bootstrap draws lesions, and no pair of two copies of one lesion counts; near 0 it is a
    little too wide.

    Args:
      candidate: generated images, or real ones for the floor.
      reference: held-out images.
      rng: random generator of the bootstrap.

    Returns:
      The estimate; None where a set shows fewer than two lesions.

    Source: Bińkowski et al., "Demystifying MMD GANs" (ICLR 2018), section 3 and appendix D.
    """
    return _kid_interval(_drawn_kids(candidate, reference, rng))


def _drawn_kids(
    candidate: FeatureSet, reference: FeatureSet, rng: np.random.Generator
) -> np.ndarray | None:
    """Returns the KID and then that of each resample, [1 + NUM_RESAMPLES]; see `kid`."""
    sets = (candidate, reference)
    if any(len(np.unique(each.lesion)) < 2 for each in sets):
        return None
    # The first row takes all images once.
    weights = [
        np.concatenate([np.ones((1, len(each))), intervals.resample(each.lesion, rng)])
        for each in sets
    ]
    return _weighted_mmd(candidate, reference, *weights)


def _kid_interval(drawn: np.ndarray | None) -> Estimate | None:
    return None if drawn is None else intervals.percentile_interval(drawn[0], drawn[1:])


def _kernel(a: FeatureSet, b: FeatureSet) -> np.ndarray:
    return (a.features @ b.features.T / a.features.shape[1] + 1) ** 3


def _weighted_mmd(
    a: FeatureSet, b: FeatureSet, a_weights: np.ndarray, b_weights: np.ndarray
) -> np.ndarray:
    """Returns the squared MMD for each row of weights, [B]."""
    between = (a_weights @ _kernel(a, b) * b_weights).sum(axis=1)
    between /= a_weights.sum(axis=1) * b_weights.sum(axis=1)
    return _within(a, a_weights) + _within(b, b_weights) - 2 * between


def _within(each: FeatureSet, weights: np.ndarray) -> np.ndarray:
    """Returns the weighted mean of the kernel over pairs of different lesions; NaN without any."""
    counts = (each.lesion[:, None] != each.lesion[None]).astype(np.float64)
    total = (weights @ (_kernel(each, each) * counts) * weights).sum(axis=1)
    pairs = (weights @ counts * weights).sum(axis=1)
    return np.divide(total, pairs, out=np.full_like(total, np.nan), where=pairs > 0)


def fid(candidate: FeatureSet, reference: FeatureSet) -> float | None:
    """Returns the Fréchet distance between Gaussians fitted to the features (FID).

    With fewer images than features both covariances are singular and the value is far too high, by
    an amount that depends on the number of images: compare it with nothing but the floor beside it.

    The trace of the root of the covariances' product is the sum of the singular values of A Bᵀ,
    where A and B hold the centred features, each divided by the root of its number less one.

    Args:
      candidate: generated images, or real ones for the floor.
      reference: held-out images.

    Returns:
      The distance; None where a set has fewer than two images.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (NeurIPS 2017).
    """
    if min(len(candidate), len(reference)) < 2:
        return None
    means = [each.features.mean(axis=0) for each in (candidate, reference)]
    a, b = (
        (each.features - mean) / np.sqrt(len(each) - 1)
        for each, mean in zip((candidate, reference), means, strict=True)
    )
    root_trace = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    shift = means[0] - means[1]
    return float(shift @ shift + (a**2).sum() + (b**2).sum() - 2 * root_trace)


@dataclasses.dataclass(frozen=True)
class Neighbourhoods:
    """What of each image falls into the other set's neighbourhoods; the measures are the means.

    Attributes:
      precision: [N] bool, whether a candidate is inside any ball of the reference.
      density: [N] float, the number of balls of the reference that it is inside, divided by k.
      recall: [M] bool, whether a reference image is inside any ball of the candidates.
      coverage: [M] bool, whether any candidate is inside the ball of a reference image.
    """

    precision: np.ndarray
    density: np.ndarray
    recall: np.ndarray
    coverage: np.ndarray


def neighbourhoods(
    candidate: FeatureSet, reference: FeatureSet, *, k: int = NEIGHBOURS
) -> Neighbourhoods | None:
    """Looks which images are inside the balls of the other set.

    An image's ball reaches to its k-th nearest neighbour in its own set.

    Args:
      candidate: generated images, or real ones for the floor.
      reference: held-out images.
      k: which neighbour gives the radius.

    Returns:
      The values of each image; None where a set has no more than k images.

    Source: Kynkäänniemi et al., "Improved Precision and Recall Metric" (NeurIPS 2019), equation 2;
      Naeem et al., "Reliable Fidelity and Diversity Metrics" (ICML 2020), equations 3 and 5.
    """
    if min(len(candidate), len(reference)) <= k:
        return None
    between = distances(candidate, reference)
    inside_reference = between < _radii(distances(reference, reference), k)[None]
    inside_candidate = between < _radii(distances(candidate, candidate), k)[:, None]
    return Neighbourhoods(
        precision=np.any(inside_reference, axis=1),
        density=inside_reference.sum(axis=1) / k,
        recall=np.any(inside_candidate, axis=0),
        coverage=np.any(inside_reference, axis=0),
    )


def _radii(within: np.ndarray, k: int) -> np.ndarray:
    # Index 0 of the sorted row is the image itself.
    return np.partition(within, k, axis=1)[:, k]


def _likeness(
    candidate: FeatureSet, reference: FeatureSet, found: Neighbourhoods
) -> dict[str, Estimate]:
    """Returns precision and density with intervals that vary both sets.

    Both are means over the candidates, of balls that the held-out images make: without one of their
    lesions there are fewer, and others reach further. So each lesion of the candidates and each
    held-out one is left out in turn, and the two variances are added.
    """
    without_lesion = _without_each_lesion(candidate, reference, NEIGHBOURS)
    return {
        name: intervals.jackknife_interval(
            values.mean(),
            [intervals.means_left_out(values, candidate.lesion), of_lesions],
            bounds=bounds,
        )
        for name, values, of_lesions, bounds in (
            ("precision", found.precision, without_lesion[0], (0.0, 1.0)),
            ("density", found.density, without_lesion[1], (0.0, np.inf)),
        )
    }


def _without_each_lesion(candidate: FeatureSet, reference: FeatureSet, k: int) -> np.ndarray:
    """Returns precision and density without each held-out lesion, [2, L]; L is 0 for too few."""
    names, sizes = np.unique(reference.lesion, return_counts=True)
    if len(reference) - sizes.max() <= k:
        return np.empty((2, 0))
    between, within = distances(candidate, reference), distances(reference, reference)
    found = np.empty((2, len(names)))
    for column, name in enumerate(names):
        kept = reference.lesion != name
        inside = between[:, kept] < _radii(within[np.ix_(kept, kept)], k)[None]
        found[:, column] = inside.any(axis=1).mean(), inside.sum() / (k * len(candidate))
    return found


def predict_by(candidate: FeatureSet, reference: FeatureSet) -> np.ndarray:
    """Trains a linear classifier on the candidates and returns its labels for the reference, [M].

    How often they are right is the classification accuracy score. The classifier is a logistic
    regression on standardised features (inverse penalty 0.01), where the source trains a ResNet on
    the images.

    Source: Ravuri and Vinyals, "Classification Accuracy Score for Conditional Generative Models"
      (NeurIPS 2019).
    """
    probe = make_pipeline(
        StandardScaler(), LogisticRegression(C=_INVERSE_PENALTY, max_iter=_MAX_ITERATIONS)
    )
    return probe.fit(candidate.features, candidate.label).predict(reference.features)


def measure(
    candidate: FeatureSet,
    reference: FeatureSet,
    *,
    seed: int,
    class_names: Sequence[str] = lesions.CLASSES,
) -> dict[str, Any]:
    """Computes all measures of one set of images, per class and overall.

    Args:
      candidate: generated images, or real ones for the floor; of every class some.
      reference: held-out images, of every class some.
      seed: of the bootstrap.
      class_names: names in label order.

    Returns:
      `per_class` {class: measures} and `overall`, all images pooled; each has `images`,
      `reference_images`, `kid`, `fid`, `precision`, `recall`, `density`, `coverage` and
      `classification_accuracy`, as Estimate, float or None. `mean_class_kid`: the mean over the
      classes, which unlike the pooled value also counts images of the wrong class against a GAN;
      `mean_class_kid_interval`, the same with its interval as an Estimate.

      What the intervals vary: KID's draws lesions of both sets; precision's and density's leave out
      lesions of both sets; recall's, coverage's and the accuracy's draw the held-out images that
      are counted, and hold the candidates, the balls and the classifier as they are.
    """
    rng = np.random.default_rng(seed)
    right = predict_by(candidate, reference) == reference.label
    per_class, kids = {}, []
    for label, name in enumerate(class_names):
        chosen = reference.label == label
        ours, theirs = candidate.of_class(label), reference.take(chosen)
        kids.append(_drawn_kids(ours, theirs, rng))
        per_class[name] = _measure_one(ours, theirs, kids[-1], right[chosen], rng)
    # Lesions are drawn class by class, so that any draws of the classes go together.
    found = [each for each in kids if each is not None]
    mean_kid = _kid_interval(np.mean(found, axis=0) if len(found) == len(kids) else None)
    pooled = _drawn_kids(candidate, reference, rng)
    return {
        "per_class": per_class,
        "overall": _measure_one(candidate, reference, pooled, right, rng),
        "mean_class_kid": None if mean_kid is None else mean_kid.value,
        "mean_class_kid_interval": mean_kid,
    }


def _measure_one(
    candidate: FeatureSet,
    reference: FeatureSet,
    kids: np.ndarray | None,
    right: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, Any]:
    found = neighbourhoods(candidate, reference)
    of_both = (
        dict.fromkeys(("precision", "density"))
        if found is None
        else _likeness(candidate, reference, found)
    )
    of_reference = {
        name: found and intervals.mean(getattr(found, name), reference.lesion, rng)
        for name in ("recall", "coverage")
    }
    return {
        "images": len(candidate),
        "reference_images": len(reference),
        "kid": _kid_interval(kids),
        "fid": fid(candidate, reference),
        **of_both,
        **of_reference,
        "classification_accuracy": intervals.mean(right, reference.lesion, rng),
    }
