"""Measures a GAN at its checkpoints against held-out lesions, to know the best and when to stop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dermagan_jax import figures
from dermagan_jax.data import prepared
from dermagan_jax.errors import DermaganError
from dermagan_jax.features import find_extractor
from dermagan_jax.lesions import CLASSES, NUM_CLASSES
from dermagan_jax.metrics import generative
from dermagan_jax.metrics.feature_set import FeatureSet

KID = "validation/kid"
COVERAGE, ACCURACY = "validation/coverage", "validation/classification_accuracy"
PANELS = {
    KID: "mean class KID, lower is better",
    COVERAGE: "coverage of held-out images",
    ACCURACY: "accuracy of a classifier of generated images",
}


class Watch:
    """The held-out images' features, and how each checkpoint so far compares with them.

    Attributes:
      floor: the measures of as many real training images, by the names of `PANELS`.
      best_step: the step with the lowest KID so far; None before the first.
      best_kid: its KID.
    """

    def __init__(self, data_dir: Path, *, features: str, per_class: int, patience: int) -> None:
        """Computes the features of the validation split and the floor.

        Args:
          data_dir: the prepared set that the GAN is trained on.
          features: an extractor, as `features.find_extractor` reads it.
          per_class: generated images of each class to measure.
          patience: checkpoints without a lower KID after which to stop; 0 for never.

        Raises:
          DermaganError: the set has too few images, or the extractor is missing.
        """
        self.forget()
        self._patience = patience
        self._extractor = find_extractor(features)
        if (sha256 := self._extractor.train_split_sha256) is not None:
            prepared.require_train_split(
                sha256,
                prepared.load_report(data_dir)["split_hashes"]["train"],
                f"config.watch.features={features}",
                "name a classifier that was trained on this set",
            )
        self._heldout = self._extractor.features_of(
            prepared.load_split(data_dir, "validation"), label="validation images"
        )
        training = _draw(prepared.load_split(data_dir, "train"), per_class)
        self.floor = self._measure(
            self._extractor.features_of(training, label="training images, for the floor")
        )

    def forget(self) -> None:
        """Forgets the checkpoints so far."""
        self.best_step: int | None = None
        self.best_kid = float("inf")
        self._waited = 0

    def measure(self, image: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """Measures generated images.

        Args:
          image: [N, S, S, 3] uint8.
          label: [N] int, every class among them.

        Returns:
          The measures by the names of `PANELS`, and the KID of each class.
        """
        found = self._extractor.extract(image, label="generated images")
        return self._measure(FeatureSet(found, label, np.arange(len(label))))

    def _measure(self, candidate: FeatureSet) -> dict[str, float]:
        found = generative.measure(candidate, self._heldout, seed=0)
        overall, of_classes = found["overall"], found["per_class"]
        if found["mean_class_kid"] is None or overall["coverage"] is None:
            raise DermaganError(
                "the validation split is too small to measure checkpoints on: it takes two lesions "
                f"of each class and more than {generative.NEIGHBOURS} images; prepare a set with "
                "more, or set config.watch.features to ''"
            )
        return {
            KID: found["mean_class_kid"],
            **{f"{KID}/{name}": of_classes[name]["kid"].value for name in CLASSES},
            COVERAGE: overall["coverage"].value,
            ACCURACY: overall["classification_accuracy"].value,
        }

    def note(self, step: int, row: Mapping[str, float]) -> None:
        """Takes in a checkpoint's measures; rows without any are passed over."""
        kid = row.get(KID)
        if kid is None:
            return
        if kid < self.best_kid:
            self.best_step, self.best_kid, self._waited = step, kid, 0
        else:
            self._waited += 1

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return 0 < self._patience <= self._waited

    def summary(self) -> dict[str, Any]:
        """Returns what a run's summary says of it, as JSON types."""
        return {
            "features": self._extractor.name,
            "floor": self.floor,
            "best_step": self.best_step,
            "best_kid": self.best_kid if self.best_step is not None else None,
            "stopped_early": self.is_over,
        }

    def draw(self, rows: Iterable[Mapping[str, Any]], folder: Path, *, phantom: bool) -> None:
        """Draws each measure over the steps, with its floor, into `folder`."""
        rows = [row for row in rows if KID in row]
        if not rows:
            return
        steps = [row["step"] for row in rows]
        folder.mkdir(exist_ok=True)
        for name, ylabel in PANELS.items():
            figures.curves(
                {
                    "generated": (steps, [row[name] for row in rows]),
                    "real training images": (steps, [self.floor[name]] * len(steps)),
                },
                folder / f"{name.rpartition('/')[2]}.png",
                ylabel=ylabel,
                title=f"{ylabel.partition(',')[0].capitalize()}, {self._extractor.name}",
                phantom=phantom,
            )


def _draw(training: prepared.Split, per_class: int) -> prepared.Split:
    """Chooses as many training images of each class as are generated, as far as there are."""
    rng = np.random.default_rng(0)
    chosen = []
    for label in range(NUM_CLASSES):
        mine = np.flatnonzero(training.label == label)
        chosen.append(rng.choice(mine, min(per_class, len(mine)), replace=False))
    return training.take(np.concatenate(chosen))
