"""Features for tests of `dermagan evaluate`: sixteen pixels, which tell phantoms from noise."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp

from dermagan_jax import features
from dermagan_jax.study import evaluation

PIXELS = features.Extractor(
    "pixels", "Sixteen pixels.", 4, lambda image: jnp.asarray(image / 255.0).reshape(len(image), -1)
)


def evaluate(gan: Path, data: Path, out: Path, **changes: object) -> dict:
    """Evaluates by `PIXELS`, which the test puts in the place of all extractors."""
    return evaluation.evaluate(gan, data, out, **{"features": "pixels", **changes})
