from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from dermagan_jax import lesions
from dermagan_jax.errors import DermaganError
from dermagan_jax.metrics import classification


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_hand_computed_scores():
    # Three classes; logits are log-probabilities, so the loss is the mean of -log p(true).
    probabilities = np.array(
        [
            [0.5, 0.25, 0.25],  # true 0, predicted 0
            [0.25, 0.5, 0.25],  # true 0, predicted 1
            [0.2, 0.6, 0.2],  # true 1, predicted 1
            [0.1, 0.1, 0.8],  # true 2, predicted 2
            [0.42, 0.36, 0.22],  # true 2, predicted 0
        ]
    )
    labels = np.array([0, 0, 1, 2, 2])
    result = classification.evaluate(np.log(probabilities), labels, class_names=("a", "b", "c"))
    assert result["confusion_matrix"] == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert result["accuracy"] == pytest.approx(3 / 5)
    assert result["balanced_accuracy"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert result["loss"] == pytest.approx(-math.log(0.5 * 0.25 * 0.6 * 0.8 * 0.22) / 5)
    assert result["n"] == 5
    # AUC of a: pairs (0.5, 0.25) against (0.2, 0.1, 0.42): 3 + 2 of 6 in the right order.
    # Of b: 0.6 is above all four. Of c: (0.8, 0.22) against (0.25, 0.25, 0.2): 3 + 1.
    expected = {
        "a": {"sensitivity": 1 / 2, "specificity": 2 / 3, "precision": 1 / 2, "auc": 5 / 6},
        "b": {"sensitivity": 1.0, "specificity": 3 / 4, "precision": 1 / 2, "auc": 1.0},
        "c": {"sensitivity": 1 / 2, "specificity": 1.0, "precision": 1.0, "auc": 4 / 6},
    }
    for name, scores in expected.items():
        assert result["per_class"][name] == pytest.approx(scores), name


def test_undefined_values_are_none_without_a_warning():
    # No image of class 3 nor one predicted; class 2 has an image and is never predicted.
    logits = np.eye(4)[[0, 1, 1]]
    result = classification.evaluate(logits, np.array([0, 1, 2]))
    scores = result["per_class"]
    assert scores["melanoma"] == {
        "sensitivity": None,
        "specificity": 1.0,
        "precision": None,
        "auc": None,
    }
    assert scores["benign_keratosis"]["sensitivity"] == 0.0
    assert scores["benign_keratosis"]["precision"] is None
    assert result["balanced_accuracy"] == pytest.approx(2 / 3)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_one_class_only():
    result = classification.evaluate(np.eye(4)[[1, 1]], np.array([1, 1]))
    assert result["per_class"]["basal_cell_carcinoma"] == {
        "sensitivity": 1.0,
        "specificity": None,
        "precision": 1.0,
        "auc": None,
    }
    assert result["accuracy"] == 1.0


def test_extreme_logits_give_a_finite_loss_and_a_full_ranking():
    # Softmax would round these to 0 and 1: log 0 in the loss, and ties in the ranking.
    logits = np.array([[900.0, 0, 0, 0], [800.0, 0, 0, 0], [0, 700.0, 0, 0]], np.float32)
    result = classification.evaluate(logits, np.array([0, 1, 1]))
    assert result["loss"] == pytest.approx(800 / 3)
    assert result["per_class"]["actinic_keratosis"]["auc"] == 1.0


def test_the_loss_is_computed_in_double_precision():
    logits = np.zeros((1000, 4), np.float32)
    result = classification.evaluate(logits, np.zeros(1000, int))
    assert result["loss"] == pytest.approx(math.log(4), abs=1e-14)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(8, 60))
def test_equals_scikit_learn_and_ignores_order_and_shift(seed, n):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 4)) * 3
    labels = np.concatenate([np.arange(4), rng.integers(0, 4, n - 4)])
    result = classification.evaluate(logits, labels)
    predictions = logits.argmax(1)
    assert np.trace(result["confusion_matrix"]) / n == pytest.approx(result["accuracy"])
    assert result["balanced_accuracy"] == pytest.approx(
        metrics.balanced_accuracy_score(labels, predictions)
    )
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert result["loss"] == pytest.approx(metrics.log_loss(labels, probabilities))
    for label, name in enumerate(lesions.CLASSES):
        auc = metrics.roc_auc_score(labels == label, probabilities[:, label])
        assert result["per_class"][name]["auc"] == pytest.approx(auc)
    order = rng.permutation(n)
    shift = rng.normal(size=(n, 1))
    again = classification.evaluate((logits + shift)[order], labels[order])
    assert again["confusion_matrix"] == result["confusion_matrix"]
    assert again["loss"] == pytest.approx(result["loss"])


def test_a_matrix_from_another_pass_is_caught(monkeypatch):
    # The notebooks' flaw: predictions and labels in different order.
    true_matrix = metrics.confusion_matrix

    def shuffled(targets, predictions, **options):
        return true_matrix(targets, np.roll(predictions, 1), **options)

    monkeypatch.setattr(classification.metrics, "confusion_matrix", shuffled)
    with pytest.raises(AssertionError, match=r"contradicts accuracy 1\.0"):
        classification.evaluate(np.eye(4), np.arange(4))


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), [0, 1], r"logits: shape \(2, 3\); give \[images, 4 classes\]"),
        (np.zeros(4), [0], r"logits: shape \(4,\)"),
        (np.zeros((2, 4)), [0], r"labels: int64\[1\]; give one .* 2 images"),
        (np.zeros((1, 4)), [0.5], r"labels: float64\[1\]"),
        (np.zeros((0, 4)), np.zeros(0, int), "labels: no images"),
        (np.zeros((2, 4)), [0, 4], r"labels: range 0 to 4; give values in \[0, 4\)"),
        (np.zeros((2, 4)), [-1, 0], r"labels: range -1 to 0"),
        ([[0.0] * 4, [0, np.nan, 0, 0]], [0, 1], "not finite for 1 of 2 images, first image 1"),
        ([[np.inf, 0, 0, 0]], [0], "not finite for 1 of 1 images, first image 0"),
    ],
)
def test_bad_input_is_named(logits, labels, message):
    with pytest.raises(DermaganError, match=message):
        classification.evaluate(logits, labels)
