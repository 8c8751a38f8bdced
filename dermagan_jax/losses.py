"""Adversarial and classification losses, on logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def discriminator_bce(
    real_logits: jax.Array, fake_logits: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
    r"""Computes the discriminator's binary cross-entropy, real and generated summed.

    .. math:: -E[(1 - s) \log \sigma(D(x)) + s \log \sigma(-D(x))] - E[\log \sigma(-D(G(z)))]

    Args:
      real_logits: [B] float logits of "real" for real images.
      fake_logits: [B] float logits of "real" for generated images.
      label_smoothing: s in [0, 1), taken off the target of real images only.

    Returns:
      [] float; 2 log 2 where the discriminator knows nothing.

    Source: Goodfellow et al., 2014, equation 1; one-sided smoothing, Salimans et al., 2016.
    """
    real = optax.sigmoid_binary_cross_entropy(
        real_logits, jnp.full_like(real_logits, 1 - label_smoothing)
    )
    fake = optax.sigmoid_binary_cross_entropy(fake_logits, jnp.zeros_like(fake_logits))
    return real.mean() + fake.mean()


def generator_bce(fake_logits: jax.Array) -> jax.Array:
    r"""Computes the non-saturating generator loss, :math:`-E[\log \sigma(D(G(z)))]`.

    Args:
      fake_logits: [B] float logits of "real" for generated images.

    Returns:
      [] float; log 2 where the discriminator knows nothing.

    Source: Goodfellow et al., 2014, section 3; the paper's loss for its generator.
    """
    target = jnp.ones_like(fake_logits)
    return optax.sigmoid_binary_cross_entropy(fake_logits, target).mean()


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Computes the mean negative log-likelihood of the labels.

    Args:
      logits: [B, K] float.
      label: [B] int in [0, K).

    Returns:
      [] float; log K where every logit is equal.
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
