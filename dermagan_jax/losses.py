"""Adversarial and classification losses, on logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import optax

LossFn = Callable[[jax.Array, jax.Array], jax.Array]


class Adversarial(NamedTuple):
    """A pair of losses, elementwise: (real_logits, fake_logits) to losses of the same shape.

    Attributes:
      discriminator: what the discriminator lowers.
      generator: what the generator lowers.
      pairs: whether `generator` reads the logits of real images.
    """

    discriminator: LossFn
    generator: LossFn
    pairs: bool = False


def _non_saturating() -> Adversarial:
    return Adversarial(
        lambda real, fake: jax.nn.softplus(-real) + jax.nn.softplus(fake),
        lambda _, fake: jax.nn.softplus(-fake),
    )


def _hinge() -> Adversarial:
    return Adversarial(
        lambda real, fake: jax.nn.relu(1 - real) + jax.nn.relu(1 + fake),
        lambda _, fake: -fake,
    )


def _relativistic() -> Adversarial:
    return Adversarial(
        lambda real, fake: jax.nn.softplus(fake - real),
        lambda real, fake: jax.nn.softplus(real - fake),
        pairs=True,
    )


ADVERSARIAL: Mapping[str, Adversarial] = MappingProxyType(
    {
        "non_saturating": _non_saturating(),
        "hinge": _hinge(),
        "relativistic": _relativistic(),
    }
)
r"""The adversarial losses by name, r and f the logits of a real and of a generated image.

* `non_saturating`: log(1 + e^-r) + log(1 + e^f), which is binary cross-entropy; log(1 + e^-f).
  Goodfellow et al., 2014, equation 1 and section 3; the paper's losses.
* `hinge`: max(0, 1 - r) + max(0, 1 + f); -f. Lim and Ye, 2017; Miyato et al., 2018.
* `relativistic`: log(1 + e^(f - r)); log(1 + e^(r - f)), pairing each real image with the generated
  one beside it. Jolicoeur-Martineau, 2019; Huang et al., 2024 (R3GAN), which needs R1 and R2.
"""


def smoothed(loss: Adversarial, label_smoothing: float) -> Adversarial:
    r"""Takes `label_smoothing` off the target of real images in the binary cross-entropy.

    :math:`-(1 - s) \log \sigma(r) - s \log \sigma(-r)` is :math:`\log(1 + e^{-r}) + s r`, so `s r`
    is what any of the losses gains.

    Args:
      loss: from `ADVERSARIAL`.
      label_smoothing: s in [0, 1).

    Source: one-sided smoothing, Salimans et al., 2016.
    """
    if not label_smoothing:
        return loss
    return loss._replace(
        discriminator=lambda real, fake: loss.discriminator(real, fake) + label_smoothing * real
    )


def gradient_penalty(score: Callable[[jax.Array], jax.Array], image: jax.Array) -> jax.Array:
    r"""Computes the mean squared gradient of a score, :math:`E |\nabla_x D(x)|^2`.

    On real images it is R1, on generated ones R2; both are weighted by half of gamma.

    Args:
      score: from images to logits [B], each of its own image up to what a batch shares.
      image: [B, S, S, 3] float.

    Returns:
      [] float.

    Source: Mescheder et al., 2018, equation 9.
    """
    gradient = jax.grad(lambda image: score(image).sum())(image)
    return (gradient**2).sum(axis=(1, 2, 3)).mean()


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Computes the mean negative log-likelihood of the labels.

    Args:
      logits: [B, K] float.
      label: [B, K] float, probabilities of the classes.

    Returns:
      [] float; log K where every logit is equal.
    """
    return optax.softmax_cross_entropy(logits, label).mean()
