"""How far a classifier's probabilities can be taken at their word, and how to mend them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, special

NUM_BINS = 10
_LOG_TEMPERATURES = (-4.0, 4.0)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Finds the number by which to divide logits so that their likelihood is greatest.

    Args:
      logits: [N, K] float, of images that the classifier was not trained on and is not tested on.
      labels: [N] int in [0, K).

    Returns:
      The temperature: above 1 where the classifier is too sure of itself; within e^±4.

    Source: Guo et al., 2017, section 4.2.
    """

    def loss(log_temperature: float) -> float:
        scaled = special.log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(scaled[np.arange(len(labels)), labels].mean())

    found = optimize.minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded")
    return float(np.exp(found.x))


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """Compares how sure predictions are with how often they are right.

    Args:
      probabilities: [N, K] float, rows that add up to 1.
      labels: [N] int in [0, K).

    Returns:
      For each of ten equal parts of [0, 1] that holds predictions: `confidence` and `accuracy`,
      their means, and `n`, their number.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    part = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        {
            "confidence": float(confidence[part == each].mean()),
            "accuracy": float(correct[part == each].mean()),
            "n": int((part == each).sum()),
        }
        for each in np.unique(part)
    ]


def measure(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Measures the calibration of probabilities.

    Args:
      probabilities: [N, K] float, rows that add up to 1.
      labels: [N] int in [0, K).

    Returns:
      Plain numbers:
        expected_calibration_error: mean distance of confidence and accuracy over `reliability`'s
          parts, weighted by their images, in [0, 1].
        brier: mean squared distance from the one-hot label, summed over classes, in [0, 2].
        reliability: see there.

    Source: Guo et al., 2017, equation 3; Brier, 1950.
    """
    rows = reliability(probabilities, labels)
    gaps = sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in rows)
    target = np.eye(probabilities.shape[1])[labels]
    return {
        "expected_calibration_error": gaps / len(labels),
        "brier": float(((probabilities - target) ** 2).sum(axis=1).mean()),
        "reliability": rows,
    }


def pooled(found: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """Joins what `reliability` gives for several classifiers of the same images, part by part."""
    parts: dict[int, list[Mapping[str, float]]] = {}
    for row in itertools.chain(*found):
        # The mean of a part lies in it.
        part = min(int(row["confidence"] * NUM_BINS), NUM_BINS - 1)
        parts.setdefault(part, []).append(row)
    joined = []
    for _, rows in sorted(parts.items()):
        count = [row["n"] for row in rows]
        means = {
            name: float(np.average([row[name] for row in rows], weights=count))
            for name in ("confidence", "accuracy")
        }
        joined.append({**means, "n": sum(count)})
    return joined
