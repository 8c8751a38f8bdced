"""What the measures of a GAN take: features of labelled images, and whose lesions they show."""

from __future__ import annotations

import dataclasses

import numpy as np
from sklearn.metrics import pairwise

from dermagan_jax.errors import DermaganError


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Features of images, computed by one network.

    Attributes:
      features: [N, D] float64, finite.
      label: [N] int in [0, K).
      lesion: [N], equal where two images show one lesion; generated images have one each.
    """

    features: np.ndarray
    label: np.ndarray
    lesion: np.ndarray

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.features.dtype != np.float64:
            raise ValueError(f"features: {self.features.dtype}{self.features.shape}; give [N, D]")
        if not self.label.shape == self.lesion.shape == self.features.shape[:1]:
            raise ValueError(f"{len(self)} features, {self.label.shape} and {self.lesion.shape}")
        if not np.isfinite(self.features).all():
            raise DermaganError("features are not finite; name another feature network")

    def __len__(self) -> int:
        return len(self.features)

    def take(self, chosen: np.ndarray) -> FeatureSet:
        """Returns the images of these indices, or of this mask."""
        return FeatureSet(self.features[chosen], self.label[chosen], self.lesion[chosen])

    def of_class(self, label: int) -> FeatureSet:
        """Returns the images of one class."""
        return self.take(self.label == label)


def distances(a: FeatureSet, b: FeatureSet) -> np.ndarray:
    """Returns the Euclidean distances [len(a), len(b)] between the features of two sets."""
    return pairwise.euclidean_distances(a.features, b.features)
