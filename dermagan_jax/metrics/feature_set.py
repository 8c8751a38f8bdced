"""What the measures of a GAN take: features of labelled images, and whose lesions they show."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from sklearn.metrics import pairwise

from dermagan_jax import diffaugment
from dermagan_jax.errors import DermaganError


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Features of images, computed by one network.

    Attributes:
      features: [N, D] float64, finite.
      label: [N] int in [0, K).
      lesion: [N], equal where two images show one lesion; generated images have one each.
      turned: [V, N, D] float64, features of the images turned and mirrored in V ways, which
        `nearest_turn` looks at too; None for none.
    """

    features: np.ndarray
    label: np.ndarray
    lesion: np.ndarray
    turned: np.ndarray | None = None

    @classmethod
    def compute(
        cls,
        extract: Callable[[np.ndarray], np.ndarray],
        image: np.ndarray,
        label: np.ndarray,
        lesion: np.ndarray,
        *,
        turned: bool,
    ) -> FeatureSet:
        """Computes the features of images.

        Args:
          extract: from images [N, S, S, 3] uint8 to features [N, D] float64.
          image: [N, S, S, 3] uint8.
          label: [N] int.
          lesion: [N].
          turned: compute those of the images in the other symmetries of the square too, for what
            a GAN may copy that was shown real images in all of them.
        """
        if not turned:
            return cls(extract(image), label, lesion)
        views = diffaugment.turns(image)
        found = extract(views.reshape(-1, *image.shape[1:]))
        found = found.reshape(len(views), len(image), -1)
        return cls(found[0], label, lesion, found[1:])

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.features.dtype != np.float64:
            raise ValueError(f"features: {self.features.dtype}{self.features.shape}; give [N, D]")
        if not self.label.shape == self.lesion.shape == self.features.shape[:1]:
            raise ValueError(f"{len(self)} features, {self.label.shape} and {self.lesion.shape}")
        if self.turned is not None and self.turned.shape[1:] != self.features.shape:
            raise ValueError(f"turned: {self.turned.shape}; give [V, N, D]")
        if not all(np.isfinite(each).all() for each in self._views()):
            raise DermaganError("features are not finite; name another feature network")

    def __len__(self) -> int:
        return len(self.features)

    def _views(self) -> list[np.ndarray]:
        return [self.features, *([] if self.turned is None else self.turned)]

    def take(self, chosen: np.ndarray) -> FeatureSet:
        """Returns the images of these indices, or of this mask."""
        turned = None if self.turned is None else self.turned[:, chosen]
        return FeatureSet(self.features[chosen], self.label[chosen], self.lesion[chosen], turned)

    def of_class(self, label: int) -> FeatureSet:
        """Returns the images of one class."""
        return self.take(self.label == label)


def distances(a: FeatureSet, b: FeatureSet) -> np.ndarray:
    """Returns the Euclidean distances [len(a), len(b)] between the features of two sets."""
    return pairwise.euclidean_distances(a.features, b.features)


def nearest_turn(a: FeatureSet, b: FeatureSet) -> np.ndarray:
    """Returns the distances [len(a), len(b)] from whichever turn of an image of `a` is nearest.

    Where `a` has no turns, they are those of `distances`. A measure that compares such distances
    takes all its sets with turns or all without, so that none has more chances to be near.
    """
    return functools.reduce(
        np.minimum, (pairwise.euclidean_distances(view, b.features) for view in a._views())
    )
