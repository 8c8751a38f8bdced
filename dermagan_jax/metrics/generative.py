"""How near generated images are to real ones, on features; always to be read beside the floor.

The floor is the same measure of real training images in place of the generated ones, as many of
each class, against the same held-out images: no generator can be expected to do better.
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
    sets = (candidate, reference)
    if any(len(np.unique(each.lesion)) < 2 for each in sets):
        return None
    # The first row takes all images once.
    weights = [
        np.concatenate([np.ones((1, len(each))), intervals.resample(each.lesion, rng)])
        for each in sets
    ]
    value, *drawn = _weighted_mmd(candidate, reference, *weights)
    return intervals.percentile_interval(value, np.asarray(drawn))


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
    inside_reference = between < _radii(reference, k)[None]
    inside_candidate = between < _radii(candidate, k)[:, None]
    return Neighbourhoods(
        precision=np.any(inside_reference, axis=1),
        density=inside_reference.sum(axis=1) / k,
        recall=np.any(inside_candidate, axis=0),
        coverage=np.any(inside_reference, axis=0),
    )


def _radii(each: FeatureSet, k: int) -> np.ndarray:
    # Index 0 of the sorted row is the image itself.
    return np.partition(distances(each, each), k, axis=1)[:, k]


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
      classes, which unlike the pooled value also counts images of the wrong class against a GAN.
    """
    rng = np.random.default_rng(seed)
    right = predict_by(candidate, reference) == reference.label
    per_class = {}
    for label, name in enumerate(class_names):
        chosen = reference.label == label
        per_class[name] = _measure_one(
            candidate.of_class(label), reference.take(chosen), right[chosen], rng
        )
    kids = [each["kid"] for each in per_class.values()]
    return {
        "per_class": per_class,
        "overall": _measure_one(candidate, reference, right, rng),
        "mean_class_kid": None if None in kids else float(np.mean([each.value for each in kids])),
    }


def _measure_one(
    candidate: FeatureSet, reference: FeatureSet, right: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    found = neighbourhoods(candidate, reference)
    of_candidates = {
        name: found and intervals.mean(getattr(found, name), candidate.lesion, rng)
        for name in ("precision", "density")
    }
    of_reference = {
        name: found and intervals.mean(getattr(found, name), reference.lesion, rng)
        for name in ("recall", "coverage")
    }
    return {
        "images": len(candidate),
        "reference_images": len(reference),
        "kid": kid(candidate, reference, rng),
        "fid": fid(candidate, reference),
        **of_candidates,
        **of_reference,
        "classification_accuracy": intervals.mean(right, reference.lesion, rng),
    }
