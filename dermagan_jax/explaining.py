"""Where in an image a classifier looks: Grad-CAM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps

from dermagan_jax import images
from dermagan_jax.classifier_config import LESION_CNN
from dermagan_jax.data.pipeline import LabelledImages, eval_batches
from dermagan_jax.trained_classifier import TrainedClassifier

# The module whose map is looked at, and its method.
_PAPERS_MAP, _BACKBONES_MAP = ("ConvValid_0", "__call__"), ("backbone", "maps")
_OVERLAY = 0.45
_AT_ONCE = 32  # Images: each keeps a network's gradients in memory.


def _with_map(
    trained: TrainedClassifier, image: jax.Array, change: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Classifies images, their last convolution's map changed on the way: logits and map."""
    place, model = _PAPERS_MAP, trained.model
    if trained.network != LESION_CNN:
        # A frozen network lets no gradient through.
        place, model = _BACKBONES_MAP, model.clone(frozen=False)
    kept: list[jax.Array] = []

    def intercept(
        method: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], context: Any
    ) -> Any:
        output = method(*args, **kwargs)
        if (context.module.name, context.method_name) != place:
            return output
        kept.append(output)
        return change(output)

    with nn.intercept_methods(intercept):
        logits: Any = model.apply(trained.variables, image, train=False)
    return logits, kept[0]


def grad_cam(trained: TrainedClassifier, image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Computes how much each place of an image speaks for a class.

    Args:
      trained: the classifier.
      image: [N, S, S, 3] uint8, of the side that it takes.
      label: [N] int, the class to explain for each image.

    Returns:
      [N, S, S] float32 in [0, 1], 1 at the place that says most; all 0 where none speaks for it.

    Source: Selvaraju et al., 2017 (Grad-CAM), equations 1 and 2, on the last convolution's map.
    """

    def maps_of(image: jax.Array, label: jax.Array) -> jax.Array:
        pixels = images.to_float(image)
        shape = jax.eval_shape(lambda: _with_map(trained, pixels, lambda kept: kept)[1]).shape

        def score(delta: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits, kept = _with_map(trained, pixels, lambda kept: kept + delta)
            return jnp.take_along_axis(logits, label[:, None], axis=1).sum(), kept

        gradient, kept = jax.grad(score, has_aux=True)(jnp.zeros(shape))
        weight = gradient.mean(axis=(1, 2), keepdims=True)
        heat = nn.relu((weight * kept).sum(axis=-1))
        heat = jax.image.resize(heat, image.shape[:3], "bilinear")
        return heat / jnp.maximum(heat.max(axis=(1, 2), keepdims=True), 1e-12)

    explain = jax.jit(maps_of)
    batches = eval_batches(LabelledImages(image, label), batch_size=min(len(image), _AT_ONCE))
    return np.concatenate(
        [np.asarray(explain(batch["image"], batch["label"]))[:count] for batch, count in batches]
    )


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Paints heat over an image.

    Args:
      image: [S, S, 3] uint8.
      heat: [S, S] float in [0, 1].

    Returns:
      [S, S, 3] uint8, the image where there is no heat, and cividis's yellow where it is greatest.
    """
    colour = colormaps["cividis"](heat)[..., :3] * 255
    share = _OVERLAY * heat[..., None]
    return ((1 - share) * image + share * colour).round().astype(np.uint8)
