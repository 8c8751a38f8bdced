"""Losses by hand-computed values."""

from __future__ import annotations

import math

import chex
import jax
import jax.numpy as jnp
import pytest

from dermagan_jax import losses

BCE = losses.ADVERSARIAL["non_saturating"]


def test_an_ignorant_discriminator_loses_two_log_two() -> None:
    zeros = jnp.zeros(3)
    chex.assert_trees_all_close(BCE.discriminator(zeros, zeros), jnp.full(3, 2 * math.log(2)))
    chex.assert_trees_all_close(BCE.generator(zeros, zeros), jnp.full(3, math.log(2)))


def test_binary_cross_entropy_by_hand() -> None:
    # sigma(log 3) = 3/4: a real image scored so costs -log 3/4, a generated one -log 1/4.
    logit = jnp.full(2, math.log(3))
    expected = -math.log(0.75) - math.log(0.25)
    chex.assert_trees_all_close(BCE.discriminator(logit, logit), jnp.full(2, expected), rtol=1e-6)
    smoothed = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25)) - math.log(0.25)
    ours = losses.smoothed(BCE, 0.1).discriminator(logit, logit)
    chex.assert_trees_all_close(ours, jnp.full(2, smoothed), rtol=1e-6)


def test_losses_and_gradients_stay_finite_where_a_sigmoid_would_saturate() -> None:
    sure = jnp.array([-200.0])
    chex.assert_trees_all_close(BCE.generator(sure, sure), jnp.array([200.0]))
    # The non-saturating loss keeps a gradient of -1 where log(1 - D) would have none.
    assert float(jax.grad(lambda x: BCE.generator(x, x).sum())(sure)[0]) == pytest.approx(-1.0)


def test_hinge_and_relativistic_by_hand() -> None:
    real, fake = jnp.array([2.0, 0.5]), jnp.array([-3.0, 0.25])
    hinge = losses.ADVERSARIAL["hinge"]
    chex.assert_trees_all_close(hinge.discriminator(real, fake), jnp.array([0.0, 0.5 + 1.25]))
    chex.assert_trees_all_close(hinge.generator(real, fake), jnp.array([3.0, -0.25]))
    pairs = losses.ADVERSARIAL["relativistic"]
    lead = real - fake
    chex.assert_trees_all_close(pairs.discriminator(real, fake), jnp.log1p(jnp.exp(-lead)))
    chex.assert_trees_all_close(pairs.generator(real, fake), jnp.log1p(jnp.exp(lead)))
    assert pairs.pairs
    assert not hinge.pairs


def test_gradient_penalty_of_a_score_by_hand() -> None:
    """The gradient of sum(w x + x²) is w + 2x."""
    image = jax.random.normal(jax.random.key(0), (3, 2, 2, 3))
    weight = jax.random.normal(jax.random.key(1), (1, 2, 2, 3))
    ours = losses.gradient_penalty(lambda x: (weight * x + x**2).sum(axis=(1, 2, 3)), image)
    expected = ((weight + 2 * image) ** 2).sum() / 3
    assert float(ours) == pytest.approx(float(expected), rel=1e-6)


def test_cross_entropy_by_hand() -> None:
    logits = jnp.log(jnp.array([[1.0, 2.0, 1.0, 4.0], [5.0, 1.0, 1.0, 1.0]]))
    expected = -(math.log(4 / 8) + math.log(5 / 8)) / 2
    ours = losses.cross_entropy(logits, jax.nn.one_hot(jnp.array([3, 0]), 4))
    assert float(ours) == pytest.approx(expected, rel=1e-6)
