"""Temperature, expected calibration error, Brier score."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from dermagan_jax.metrics import calibration


def _honest(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the truth, and labels drawn by it."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(count, 4))
    labels = [rng.choice(4, p=row) for row in special.softmax(logits, axis=1)]
    return logits, np.array(labels)


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_undoes_a_factor(factor):
    logits, labels = _honest(20_000)
    assert calibration.fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.05)


def test_honest_probabilities_have_no_error_and_bold_ones_have():
    logits, labels = _honest(20_000)
    honest = calibration.measure(special.softmax(logits, axis=1), labels)
    bold = calibration.measure(special.softmax(4 * logits, axis=1), labels)
    assert honest["expected_calibration_error"] < 0.02
    assert bold["expected_calibration_error"] > 0.1
    assert bold["brier"] > honest["brier"]


def test_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.96, 0.04], [0.34, 0.66], [0.0, 1.0]])
    found = calibration.measure(probabilities, np.array([0, 1, 1, 1]))
    # Part 9 of ten holds 0.95, 0.96 and 1.0, two of them right; part 6 holds 0.66, right.
    assert found["reliability"] == [
        {"confidence": pytest.approx(0.66), "accuracy": 1.0, "n": 1},
        {"confidence": pytest.approx(2.91 / 3), "accuracy": pytest.approx(2 / 3), "n": 3},
    ]
    expected = (0.34 + 3 * (2.91 / 3 - 2 / 3)) / 4
    assert found["expected_calibration_error"] == pytest.approx(expected)
    brier = (2 * 0.05**2 + 2 * 0.96**2 + 2 * 0.34**2 + 0) / 4
    assert found["brier"] == pytest.approx(brier)


def test_seeds_are_pooled_part_by_part():
    one = [
        {"confidence": 0.66, "accuracy": 1.0, "n": 1},
        {"confidence": 1.0, "accuracy": 0.5, "n": 2},
    ]
    other = [{"confidence": 0.62, "accuracy": 0.0, "n": 3}]
    assert calibration.pooled([one, other]) == [
        {"confidence": pytest.approx(0.63), "accuracy": pytest.approx(0.25), "n": 4},
        {"confidence": 1.0, "accuracy": 0.5, "n": 2},
    ]
