"""Feature sets for tests of the measures."""

from __future__ import annotations

import numpy as np

from dermagan_jax.metrics.feature_set import FeatureSet


def make_set(features, *, label=0, lesion=None) -> FeatureSet:
    """A set of one class and, unless said otherwise, one image a lesion; [N] means one feature."""
    features = np.asarray(features, np.float64)
    features = features[:, None] if features.ndim == 1 else features
    number = len(features)
    label = np.broadcast_to(label, number).astype(np.int32)
    return FeatureSet(features, label, np.arange(number) if lesion is None else np.array(lesion))


def draw(rng, num_lesions, *, images=1, shift=0.0, size=8, first_lesion=0) -> FeatureSet:
    """Normal features; images of one lesion lie near each other."""
    centre = rng.normal(size=(num_lesions, 1, size)) + shift
    features = centre + 0.3 * rng.normal(size=(num_lesions, images, size))
    lesion = np.repeat(np.arange(num_lesions), images) + first_lesion
    return make_set(features.reshape(-1, size), lesion=lesion)
