"""Adaptive discriminator augmentation (ADA): operations with a probability that training sets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from dermagan_jax import augmentation
from dermagan_jax.diffaugment import Augmentation, shift, turn

INTERVAL = 4
TARGET = 0.6


class AdaState(struct.PyTreeNode):
    """How strongly the discriminator's images are augmented, and what speaks for a change.

    Attributes:
      p: [] float32 in [0, 1], probability of each operation.
      signs: [] float32, sum over the steps since the last change of the mean sign of the logits of
        real images.
    """

    p: jax.Array
    signs: jax.Array

    @classmethod
    def start(cls) -> AdaState:
        """Returns the state of a new run, which augments nothing."""
        return cls(jnp.zeros(()), jnp.zeros(()))


def adapt(
    state: AdaState, sign: jax.Array, step: jax.Array, batch_size: int, kimg: float
) -> AdaState:
    """Takes in one step, and after every fourth moves p towards its target.

    A discriminator that overfits is sure of the real images: their mean sign is above 0.6, and p
    rises; below, it falls.

    Args:
      state: the state before.
      sign: [] float32, mean sign of the logits of the real images.
      step: [] int32, updates done before this one.
      batch_size: real images an update sees.
      kimg: thousands of real images in which p would go from 0 to 1.

    Source: Karras et al., 2020 (StyleGAN2-ADA), section 3.1, its r_t.
    """
    signs = state.signs + sign
    due = (step + 1) % INTERVAL == 0
    move = jnp.sign(signs / INTERVAL - TARGET) * (INTERVAL * batch_size / (1000 * kimg))
    p = jnp.where(due, jnp.clip(state.p + move, 0, 1), state.p)
    return AdaState(p, jnp.where(due, 0.0, signs))


_NUM_COLOURS = 5
# Standard deviations: of brightness; of contrast, saturation and size in powers of two.
_BRIGHTNESS, _CONTRAST, _SATURATION, _SIZE = 0.2, 0.5, 1.0, 0.2


def _normal(draw: jax.Array) -> jax.Array:
    """Turns uniform numbers into standard normal ones, none beyond 3.1."""
    return jax.scipy.special.ndtri(jnp.clip(draw, 1e-3, 1 - 1e-3))


def colour_map(draw: jax.Array, p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Composes brightness, contrast, luma flip, hue and saturation.

    Args:
      draw: [10] in [0, 1): whether each of the five happens, and how strongly.
      p: [] float32, probability of each.

    Returns:
      linear: [3, 3] and offset: [3], such that a colour becomes linear @ colour + offset.
    """
    happens, strength = draw[:_NUM_COLOURS] < p, draw[_NUM_COLOURS:]
    amount = jnp.where(happens, _normal(strength), 0.0)
    gray = jnp.full((3, 3), 1 / 3)
    chroma = jnp.eye(3) - gray
    # The cross product with the gray axis turns chroma by a quarter.
    quarter = jnp.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / jnp.sqrt(3.0)
    luma = jnp.where(happens[2] & (strength[2] < 0.5), -1.0, 1.0)
    angle = jnp.where(happens[3], (2 * strength[3] - 1) * jnp.pi, 0.0)
    hue = jnp.cos(angle) * chroma + jnp.sin(angle) * quarter
    linear = luma * gray + jnp.exp2(_SATURATION * amount[4]) * hue
    linear = jnp.exp2(_CONTRAST * amount[1]) * linear
    brightness = jnp.full((3, 1), _BRIGHTNESS * amount[0])
    return linear, jnp.matmul(linear, brightness, precision=lax.Precision.HIGHEST)[:, 0]


def _place_map(draw: jax.Array, p: jax.Array) -> augmentation.AffineMap:
    """Composes scaling, stretching and rotation of one image from [6] numbers."""
    happens, strength = draw[:3] < p, draw[3:]
    size, stretch = jnp.where(happens[:2], _SIZE * _normal(strength[:2]), 0.0)
    return augmentation.affine_map(
        rotation=jnp.where(happens[2], (2 * strength[2] - 1) * jnp.pi, 0.0),
        shear=jnp.zeros(()),
        shift=jnp.zeros(2),
        zoom=jnp.exp2(jnp.stack([size + stretch, size - stretch])),
    )


def _apply(image: jax.Array, draw: jax.Array, p: jax.Array) -> jax.Array:
    def happens(draw: jax.Array) -> jax.Array:
        return (draw < p)[:, None, None, None]

    image = jnp.where(happens(draw[:, 0]), turn(image, draw[:, 1]), image)
    image = jnp.where(happens(draw[:, 2]), shift(image, draw[:, 3:5]), image)
    image = jax.vmap(lambda one, own: augmentation.warp(one, *_place_map(own, p)))(
        image, draw[:, 5:11]
    )
    linear, offset = jax.vmap(lambda own: colour_map(own, p))(draw[:, 11:])
    image = jnp.einsum("bij,bhwj->bhwi", linear, image, precision=lax.Precision.HIGHEST)
    return image + offset[:, None, None]


AUGMENTATION = Augmentation(11 + 2 * _NUM_COLOURS, _apply)
"""Symmetries and shifts, scaling, stretching and rotation, colours: each with probability p.

Source: Karras et al., 2020 (StyleGAN2-ADA), appendix B, "bgc", with its strengths. Departures: one
rotation, not two; shifts by whole pixels up to an eighth with gray coming in; bilinear sampling,
which repeats the edge.
"""
