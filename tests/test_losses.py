"""Losses by hand-computed values."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest

from dermagan_jax import losses


def test_an_ignorant_discriminator_loses_two_log_two() -> None:
    zeros = jnp.zeros(3)
    assert float(losses.discriminator_bce(zeros, zeros)) == pytest.approx(2 * math.log(2))
    assert float(losses.generator_bce(zeros)) == pytest.approx(math.log(2))


def test_discriminator_bce_by_hand() -> None:
    # sigma(log 3) = 3/4: a real image scored so costs -log 3/4, a generated one -log 1/4.
    logit = jnp.full(2, math.log(3))
    expected = -math.log(0.75) - math.log(0.25)
    assert float(losses.discriminator_bce(logit, logit)) == pytest.approx(expected, rel=1e-6)
    smoothed = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25)) - math.log(0.25)
    ours = losses.discriminator_bce(logit, logit, label_smoothing=0.1)
    assert float(ours) == pytest.approx(smoothed, rel=1e-6)


def test_losses_and_gradients_stay_finite_where_a_sigmoid_would_saturate() -> None:
    sure = jnp.array([-200.0])
    assert float(losses.generator_bce(sure)) == pytest.approx(200.0)
    # The non-saturating loss keeps a gradient of -1 where log(1 - D) would have none.
    assert float(jax.grad(lambda x: losses.generator_bce(x))(sure)[0]) == pytest.approx(-1.0)


def test_cross_entropy_by_hand() -> None:
    logits = jnp.log(jnp.array([[1.0, 2.0, 1.0, 4.0], [5.0, 1.0, 1.0, 1.0]]))
    expected = -(math.log(4 / 8) + math.log(5 / 8)) / 2
    ours = losses.cross_entropy(logits, jnp.array([3, 0]))
    assert float(ours) == pytest.approx(expected, rel=1e-6)
