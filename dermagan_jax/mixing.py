"""Training images that are mixtures of two, and their labels likewise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp

from dermagan_jax.errors import DermaganError

Mixer = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""(image [B, S, S, C] float, label [B, K] float32, key) to both, mixed."""

MIXUP_ALPHA, CUTMIX_ALPHA = 0.2, 1.0


def _partners(values: jax.Array, order: jax.Array) -> jax.Array:
    return jnp.take(values, order, axis=0)


def mixup(image: jax.Array, label: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Averages each image with another of the batch, by one weight from Beta(0.2, 0.2).

    Args:
      image: [B, S, S, C] float.
      label: [B, K] float32, probabilities of the classes.
      key: a JAX key.

    Source: Zhang et al., 2018 (mixup), with its weight for a batch and alpha for ImageNet.
    """
    weight_key, order_key = jax.random.split(key)
    weight = jax.random.beta(weight_key, MIXUP_ALPHA, MIXUP_ALPHA)
    order = jax.random.permutation(order_key, len(image))

    def mix(values: jax.Array) -> jax.Array:
        return weight * values + (1 - weight) * _partners(values, order)

    return mix(image), mix(label)


def cutmix(image: jax.Array, label: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pastes a rectangle of another image of the batch into each, and mixes labels by its area.

    Args:
      image: [B, S, S, C] float.
      label: [B, K] float32, probabilities of the classes.
      key: a JAX key.

    Source: Yun et al., 2019 (CutMix), section 3.1: a share from Beta(1, 1), the rectangle as the
    image shaped, its centre anywhere, and the label by the area that lies inside.
    """
    share_key, centre_key, order_key = jax.random.split(key, 3)
    height, width = image.shape[1:3]
    half = jnp.sqrt(jax.random.beta(share_key, CUTMIX_ALPHA, CUTMIX_ALPHA)) / 2
    centre = jax.random.uniform(centre_key, (2,))
    order = jax.random.permutation(order_key, len(image))

    def inside(size: int, centre: jax.Array) -> jax.Array:
        place = (jnp.arange(size) + 0.5) / size
        return jnp.abs(place - centre) < half

    hole = inside(height, centre[0])[:, None] & inside(width, centre[1])[None]
    pasted = hole.mean()
    image = jnp.where(hole[None, :, :, None], _partners(image, order), image)
    return image, (1 - pasted) * label + pasted * _partners(label, order)


MIXERS: Mapping[str, Mixer | None] = MappingProxyType(
    {"none": None, "mixup": mixup, "cutmix": cutmix}
)
"""The ways to mix by the names that a configuration gives."""


def find_mixer(name: str) -> Mixer | None:
    """Looks a mixer up by name; None where nothing is mixed.

    Raises:
      DermaganError: there is none of that name.
    """
    if name not in MIXERS:
        known = ", ".join(map(repr, MIXERS))
        raise DermaganError(f"config.mixing is {name!r}; known: {known}")
    return MIXERS[name]
