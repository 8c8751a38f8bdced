"""Scores of a classifier on one split: labels and logits of one pass in, plain numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special
from sklearn import metrics

from dermagan_jax import lesions
from dermagan_jax.errors import DermaganError


def _checked(
    logits: ArrayLike, labels: ArrayLike, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits as float64 [N, K] and labels as int64 [N], or says what is wrong with them."""
    scores = np.asarray(logits, dtype=np.float64)
    targets = np.asarray(labels)
    if scores.ndim != 2 or scores.shape[1] != num_classes or num_classes < 2:
        raise DermaganError(f"logits: shape {scores.shape}; give [images, {num_classes} classes]")
    if targets.shape != scores.shape[:1] or not np.issubdtype(targets.dtype, np.integer):
        raise DermaganError(
            f"labels: {targets.dtype}{list(targets.shape)}; "
            f"give one whole number for each of the {len(scores)} images"
        )
    if not len(targets):
        raise DermaganError("labels: no images; give a split that has some")
    if targets.min() < 0 or targets.max() >= num_classes:
        raise DermaganError(
            f"labels: range {targets.min()} to {targets.max()}; give values in [0, {num_classes})"
        )
    bad_rows = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad_rows):
        raise DermaganError(
            f"logits: not finite for {len(bad_rows)} of {len(scores)} images, first image "
            f"{bad_rows[0]}; the classifier diverged: lower its learning rate"
        )
    return scores, targets.astype(np.int64)


def _ratio(part: int, whole: int) -> float | None:
    """Returns part / whole, or None where there is nothing to take a part of."""
    return part / whole if whole else None


def _log_odds(logits: np.ndarray, label: int) -> np.ndarray:
    """Returns log(p / (1 - p)) of one class: it ranks as p does, without p's rounding to 0 or 1."""
    others = np.delete(logits, label, axis=1)
    return logits[:, label] - special.logsumexp(others, axis=1)


def _class_scores(
    matrix: np.ndarray, logits: np.ndarray, labels: np.ndarray, label: int
) -> dict[str, float | None]:
    """Returns sensitivity, specificity, precision and AUC of one class against the rest."""
    true_positives = int(matrix[label, label])
    positives = int(matrix[label].sum())
    predicted = int(matrix[:, label].sum())
    negatives = len(labels) - positives
    true_negatives = negatives - (predicted - true_positives)
    auc = None
    if positives and negatives:
        auc = float(metrics.roc_auc_score(labels == label, _log_odds(logits, label)))
    return {
        "sensitivity": _ratio(true_positives, positives),
        "specificity": _ratio(true_negatives, negatives),
        "precision": _ratio(true_positives, predicted),
        "auc": auc,
    }


def sensitivity_at(
    logits: np.ndarray, labels: np.ndarray, label: int, *, specificity: float
) -> float | None:
    """Finds a class's sensitivity where its specificity is at least a given one.

    Args:
      logits: [N, K] float, finite.
      labels: [N] int in [0, K).
      label: the class.
      specificity: the least specificity, in (0, 1].

    Returns:
      The highest sensitivity of any threshold on the class's probability with that specificity on
      these same images; None where all or none are of the class.
    """
    positive = labels == label
    if positive.all() or not positive.any():
        return None
    false_positives, sensitivity, _ = metrics.roc_curve(positive, _log_odds(logits, label))
    # The curve starts at no positives at all, so there is always one.
    return float(sensitivity[false_positives <= 1 - specificity + 1e-12].max())


def evaluate(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    class_names: Sequence[str] = lesions.CLASSES,
) -> dict[str, Any]:
    """Scores a classifier's logits against the true labels.

    The prediction is the class of the largest logit, the first of equals. A value that the data
    leave undefined is None: sensitivity of a class without images, precision of a class never
    predicted, specificity and AUC where all images are of one class.

    Args:
      logits: [N, K] float, finite, in the order of `labels`.
      labels: [N] int in [0, K).
      class_names: K names in label order, at least two.

    Returns:
      Plain Python numbers, ready for JSON:
        accuracy: share of images predicted right, in [0, 1].
        loss: mean negative log-likelihood in nats, computed in float64.
        balanced_accuracy: mean sensitivity over the classes that have images.
        confusion_matrix: K lists of K counts; rows are true classes, columns predicted ones.
        per_class: {class: {sensitivity, specificity, precision, auc}}, one against the rest.
        n: number of images.

    Raises:
      DermaganError: wrong shapes, labels outside [0, K), no images, or logits that are not finite.
      AssertionError: the confusion matrix and the accuracy disagree.

    Source: the metrics of the paper's results table; the assertion guards against what
      the authors' notebook shows, a confusion matrix of 26.75% beside a reported accuracy of 72%.
    """
    scores, targets = _checked(logits, labels, len(class_names))
    predictions = scores.argmax(axis=1)
    matrix = metrics.confusion_matrix(targets, predictions, labels=range(len(class_names)))
    accuracy = float(metrics.accuracy_score(targets, predictions))
    if not np.isclose(np.trace(matrix) / len(targets), accuracy, rtol=0, atol=1e-12):
        # Not an assert statement: `python -O` would leave it out.
        raise AssertionError(f"confusion matrix {matrix.tolist()} contradicts accuracy {accuracy}")
    log_probabilities = special.log_softmax(scores, axis=1)
    loss = -log_probabilities[np.arange(len(targets)), targets].mean()
    per_class = {
        name: _class_scores(matrix, scores, targets, label)
        for label, name in enumerate(class_names)
    }
    found = [c["sensitivity"] for c in per_class.values() if c["sensitivity"] is not None]
    return {
        "accuracy": accuracy,
        "loss": float(loss),
        "balanced_accuracy": sum(found) / len(found),
        "confusion_matrix": matrix.tolist(),
        "per_class": per_class,
        "n": len(targets),
    }
