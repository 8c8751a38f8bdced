"""Pictures of the way from one latent to another, and from one class to the next."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dermagan_jax import gan, gan_config, images
from dermagan_jax.lesions import NUM_CLASSES
from dermagan_jax.synthesis import TrainedGan, draw_latents

COLUMNS = 10


def interpolate(start: jax.Array, end: jax.Array, share: jax.Array) -> jax.Array:
    """Walks on the arc between two latents, whose points are as long as latents are.

    Args:
      start: [Z] float32.
      end: [Z] float32.
      share: [N] float32 in [0, 1] of the way.

    Returns:
      [N, Z] float32.

    Source: spherical interpolation, White, 2016.
    """
    cosine = jnp.vdot(start, end) / (jnp.linalg.norm(start) * jnp.linalg.norm(end))
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    share = share[:, None]
    ways = jnp.sin((1 - share) * angle) * start[None] + jnp.sin(share * angle) * end[None]
    straight = (1 - share) * start[None] + share * end[None]
    return jnp.where(jnp.sin(angle) > 1e-4, ways / jnp.sin(angle), straight)


def interpolation_grid(trained: TrainedGan, seed: int) -> np.ndarray:
    """Draws, a row a class, the way from the seed's first image to its second.

    Returns:
      As `images.grid` of four rows.
    """
    share = jnp.linspace(0, 1, COLUMNS)
    rows = []
    for label in range(NUM_CLASSES):
        start, end = _two_latents(trained, label, seed)
        rows.append((interpolate(start, end, share), np.eye(NUM_CLASSES)[label]))
    return _grid(trained, rows)


def morph_grid(trained: TrainedGan, seed: int) -> np.ndarray | None:
    """Draws, a row a class, one latent's image as its class turns into the next.

    Returns:
      As `images.grid` of four rows; None where each class has a network of its own.
    """
    if gan_config.is_per_class(trained.config):
        return None
    share = np.linspace(0, 1, COLUMNS)[:, None]
    rows = []
    for label in range(NUM_CLASSES):
        start, end = np.eye(NUM_CLASSES)[[label, (label + 1) % NUM_CLASSES]]
        z, _ = _two_latents(trained, label, seed)
        rows.append((jnp.tile(z, (COLUMNS, 1)), (1 - share) * start[None] + share * end[None]))
    return _grid(trained, rows)


def _two_latents(trained: TrainedGan, label: int, seed: int) -> jax.Array:
    return draw_latents(seed, label, 0, 2, trained.config)


def _grid(trained: TrainedGan, rows: list[tuple[jax.Array, np.ndarray]]) -> np.ndarray:
    """Generates rows of (latents [COLUMNS, Z], labels [4] or [COLUMNS, 4]), a row a class."""
    sample = jax.jit(partial(gan.sample, generator=trained.generator))
    drawn = []
    for label, (z, mix) in enumerate(rows):
        variables: Mapping[str, Any] = trained.variables
        name = None
        if gan_config.is_per_class(trained.config):
            variables = jax.tree.map(lambda leaf, label=label: leaf[label], variables)
        else:
            name = jnp.broadcast_to(jnp.asarray(mix, jnp.float32), (COLUMNS, NUM_CLASSES))
        drawn.append(np.asarray(sample(variables, z, name)))
    phantom = trained.provenance["data"]["kind"] == "phantom"
    return images.grid(np.concatenate(drawn), COLUMNS, phantom=phantom)
