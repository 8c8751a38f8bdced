"""Pictures of the way from one latent to another, and from one class to the next."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dermagan_jax import gan, gan_config, images
from dermagan_jax.generated_images import GRID_COLUMNS
from dermagan_jax.lesions import NUM_CLASSES
from dermagan_jax.synthesis import TrainedGan, draw_latents


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
    share = jnp.linspace(0, 1, GRID_COLUMNS)
    rows = []
    for label in range(NUM_CLASSES):
        start, end = _two_latents(trained, label, seed)
        variables, name = gan_config.of_class(
            trained.config, trained.variables, label, GRID_COLUMNS
        )
        rows.append((variables, interpolate(start, end, share), name))
    return _grid(trained, rows)


def morph_grid(trained: TrainedGan, seed: int) -> np.ndarray | None:
    """Draws, a row a class, one latent's image as its class turns into the next.

    Returns:
      As `images.grid` of four rows; None where each class has a network of its own.
    """
    if gan_config.is_per_class(trained.config):
        return None
    share = jnp.linspace(0, 1, GRID_COLUMNS)[:, None]
    rows = []
    for label in range(NUM_CLASSES):
        start, end = jnp.eye(NUM_CLASSES)[jnp.array([label, (label + 1) % NUM_CLASSES])]
        z, _ = _two_latents(trained, label, seed)
        mix = (1 - share) * start[None] + share * end[None]
        rows.append((trained.variables, jnp.tile(z, (GRID_COLUMNS, 1)), mix))
    return _grid(trained, rows)


def _two_latents(trained: TrainedGan, label: int, seed: int) -> jax.Array:
    return draw_latents(seed, label, 0, 2, trained.config)


def _grid(
    trained: TrainedGan, rows: Sequence[tuple[Any, jax.Array, jax.Array | None]]
) -> np.ndarray:
    """Generates a row of each (variables, latents [GRID_COLUMNS, Z], labels)."""
    sample = jax.jit(partial(gan.sample, generator=trained.generator))
    with gan_config.precision(trained.config).applied():
        drawn = np.concatenate([np.asarray(sample(*row)) for row in rows])
    phantom = trained.provenance["data"]["kind"] == "phantom"
    return images.grid(drawn, GRID_COLUMNS, phantom=phantom)
