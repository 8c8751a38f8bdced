"""What gives a class away that is no lesion: the hospital, the frame, the border's colour.

A classifier can learn these in place of the lesion, and so can a GAN. With a linear classifier on
64x64 images, a class that came from another hospital than the rest was worth 16 to 30 points of
accuracy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from dermagan_jax import images
from dermagan_jax.data import prepared
from dermagan_jax.lesions import CLASSES, NUM_CLASSES
from dermagan_jax.metrics import intervals

# A probe fires when its interval lies above guessing by this share.
FIRES_ABOVE = 0.05
# Source and class go together so far that a set is called confounded.
CONFOUNDED_FROM = 0.5
_BORDER = 1 / 16  # Of the side.
_CORNER = 1 / 8
_DARK = 40  # Mean of the three channels, of 255.
_SEED = 0


class Labelled(Protocol):
    """Images with their classes, real or generated: [N, S, S, 3] uint8 and [N] int."""

    @property
    def image(self) -> np.ndarray:
        """The images."""

    @property
    def label(self) -> np.ndarray:
        """Their classes."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """How well something that is no lesion predicts the class of held-out images.

    Attributes:
      name: what it looks at.
      accuracy: balanced accuracy with its 95% interval.
      guessing: the balanced accuracy of guessing.
    """

    name: str
    accuracy: intervals.Estimate
    guessing: float

    @property
    def fires(self) -> bool:
        """Whether it predicts the class by more than chance and more than a little."""
        low = self.accuracy.low
        return low is not None and low > self.guessing + FIRES_ABOVE


def source_of(split: prepared.Split) -> np.ndarray:
    """Names where each image comes from: archive and hospital, [N] str."""
    parts = zip(split.source.tolist(), split.site.tolist(), strict=True)
    return np.array([f"{source} {site}".strip() for source, site in parts])


def corners(image: np.ndarray) -> np.ndarray:
    """Measures the vignette: the share of dark pixels in each corner.

    Args:
      image: [N, S, S, 3] uint8.

    Returns:
      [N, 4] float64 in [0, 1].
    """
    side = max(round(image.shape[1] * _CORNER), 1)
    dark = image.mean(axis=-1) < _DARK
    ends = (slice(None, side), slice(-side, None))
    return np.stack(
        [dark[:, rows, columns].mean(axis=(1, 2)) for rows in ends for columns in ends], axis=1
    )


def border_colour(image: np.ndarray) -> np.ndarray:
    """Measures the mean colour of the border: [N, 3] float64 in [0, 255]."""
    width = max(round(image.shape[1] * _BORDER), 1)
    inside = np.zeros(image.shape[1:3], bool)
    inside[width:-width, width:-width] = True
    return image[:, ~inside].mean(axis=1)


def border_texture(image: np.ndarray) -> np.ndarray:
    """Measures marks such as a ruler's at the border.

    Args:
      image: [N, S, S, 3] uint8.

    Returns:
      [N, 4] float64: the mean step between neighbouring pixels along each edge, in grey levels.
    """
    width = max(round(image.shape[1] * _BORDER), 1)
    grey = image.mean(axis=-1)
    edges = (grey[:, :width], grey[:, -width:], grey[:, :, :width], grey[:, :, -width:])
    axes = (2, 2, 1, 1)
    return np.stack(
        [
            np.abs(np.diff(edge, axis=axis)).mean(axis=(1, 2))
            for edge, axis in zip(edges, axes, strict=True)
        ],
        axis=1,
    )


def cramers_v(table: np.ndarray) -> float:
    """Measures how far two kinds go together, 0 not at all and 1 wholly.

    Args:
      table: [R, C] counts.

    Returns:
      Cramér's V; 0 where a table has one row or one column.

    Source: Cramér, 1946; `scipy.stats.contingency.association`, without correction.
    """
    filled = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if min(filled.shape) < 2:
        return 0.0
    return float(stats.contingency.association(filled, method="cramer", correction=False))


def crosstab(split: prepared.Split) -> tuple[list[str], np.ndarray]:
    """Counts images by source and class: the sources' names, and [sources, K] int."""
    names, source = np.unique(source_of(split), return_inverse=True)
    table = np.zeros((len(names), NUM_CLASSES), int)
    np.add.at(table, (source, split.label), 1)
    return names.tolist(), table


# What a frame shows, generated or real.
_FRAMES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "vignette (dark corners)": corners,
    "mean colour of the border": border_colour,
    "marks at the border (rulers)": border_texture,
}


def probe(training: prepared.Split, heldout: prepared.Split) -> list[Probe]:
    """Fits a linear classifier on each thing that is no lesion.

    Args:
      training: what they are fitted on.
      heldout: other lesions, what they are tried on.
    """
    sources = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    seen = sources.fit_transform(source_of(training)[:, None])
    asked = sources.transform(source_of(heldout)[:, None])
    labels = training.label, heldout.label
    rng = np.random.default_rng(_SEED)
    by_source = _tried("hospital and archive", seen, asked, labels, heldout.lesion, rng)
    return [by_source, *_frame_probes(training.image, heldout.image, labels, heldout.lesion, rng)]


def probe_generated(images: Labelled) -> list[Probe]:
    """Asks of generated images what `probe` asks of real ones, where it can be asked.

    Half of each class's images are what a probe is fitted on, and the others what it is tried on.
    """
    fitted = np.zeros(len(images.label), bool)
    image, label = images.image, images.label
    for index in range(NUM_CLASSES):
        fitted[np.flatnonzero(label == index)[::2]] = True
    rng = np.random.default_rng(_SEED)
    labels = label[fitted], label[~fitted]
    if len(np.unique(labels[0])) < 2 or not len(labels[1]):
        return []
    return _frame_probes(image[fitted], image[~fitted], labels, np.flatnonzero(~fitted), rng)


def _frame_probes(
    training: np.ndarray,
    heldout: np.ndarray,
    labels: tuple[np.ndarray, np.ndarray],
    lesion: np.ndarray,
    rng: np.random.Generator,
) -> list[Probe]:
    return [
        _tried(name, look(training), look(heldout), labels, lesion, rng)
        for name, look in _FRAMES.items()
    ]


def _tried(
    name: str,
    training: np.ndarray,
    heldout: np.ndarray,
    labels: tuple[np.ndarray, np.ndarray],
    lesion: np.ndarray,
    rng: np.random.Generator,
) -> Probe:
    """Fits one probe on [N, D] measurements, and tries it on others, of the given lesions."""
    fitted_label, label = labels
    # Each class counts alike, as in a balanced accuracy.
    present, member, count = np.unique(label, return_inverse=True, return_counts=True)
    weight = (len(label) / len(present) / count)[member]
    model = make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced")
    )
    right = model.fit(training, fitted_label).predict(heldout) == label
    return Probe(name, intervals.mean(right * weight, lesion, rng), 1 / len(present))


def accuracy_by_source(split: prepared.Split, right: np.ndarray) -> list[tuple[str, int, float]]:
    """Averages over the images of each source.

    Args:
      split: the images.
      right: [..., N] bool, whether predictions were right.

    Returns:
      Of each source its name, its images and its accuracy.
    """
    source = source_of(split)
    return [
        (str(name), int((source == name).sum()), float(right[..., source == name].mean()))
        for name in np.unique(source)
    ]


def without_vignette(image: np.ndarray) -> np.ndarray:
    """Crops images to the square inside the circle of a vignette, and resizes them back.

    Args:
      image: [N, S, S, 3] uint8.

    Returns:
      [N, S, S, 3] uint8.
    """
    size = image.shape[1]
    margin = round(size * (1 - 1 / math.sqrt(2)) / 2)
    inner = image[:, margin : size - margin, margin : size - margin]
    return np.stack([images.resize_crop(each, size) for each in inner])


def as_json(found: Sequence[Probe]) -> list[dict[str, Any]]:
    """Returns probes as JSON types."""
    return [{**dataclasses.asdict(each), "fires": each.fires} for each in found]


def describe(training: prepared.Split, heldout: prepared.Split) -> dict[str, Any]:
    """Collects what the probes say, as JSON types.

    Args:
      training: the training split.
      heldout: the split on which the probes are tried; not the test split.
    """
    names, table = crosstab(training)
    return {
        "probes": as_json(probe(training, heldout)),
        "sources": {
            "names": names,
            "counts": {
                name: column.tolist() for name, column in zip(CLASSES, table.T, strict=True)
            },
            "cramers_v": cramers_v(table),
        },
        "vignettes": vignettes(training.image),
        "looks": looks_by_class(training),
    }


def vignettes(image: np.ndarray) -> float:
    """Returns the share of images with two dark corners or more."""
    return float(((corners(image) > 0.5).sum(axis=1) >= 2).mean())


def looks_by_class(images: Labelled) -> dict[str, dict[str, Any]]:
    """Measures the frame of each class's images, so that generated ones stand beside real ones.

    Returns:
      By class name: `vignettes`, the share of images with one, `border`, the mean colour of the
      border as three numbers in [0, 255], and `marks`, the mean step between neighbouring pixels
      along it, in grey levels; of the classes that have images.
    """
    found = {}
    for label, name in enumerate(CLASSES):
        image = images.image[images.label == label]
        if len(image):
            border = border_colour(image).mean(axis=0).tolist()
            marks = float(border_texture(image).mean())
            found[name] = {"vignettes": vignettes(image), "border": border, "marks": marks}
    return found
