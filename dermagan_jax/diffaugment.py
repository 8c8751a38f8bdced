"""Differentiable augmentation of all that a discriminator sees, real and generated alike.

Every operation is a pure function of images and of numbers drawn for them, uniform in [0, 1), so
that the draw can be made once, shared out over devices, and given by a test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dermagan_jax.errors import DermaganError

TRANSLATION, CUTOUT, ZOOMED = 1 / 8, 1 / 2, 1 / 2
NUM_TURNS = 8


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A transform of images by numbers drawn for each.

    Attributes:
      num_draws: numbers that an image needs.
      apply: (image [B, S, S, 3] float, draw [B, num_draws] in [0, 1), p [] float: the probability
        of each operation, where it has one) to images of the same shape.
    """

    num_draws: int
    apply: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def shift(image: jax.Array, draw: jax.Array) -> jax.Array:
    """Moves each image by whole pixels, up to an eighth of its side; gray (0) comes in.

    Args:
      image: [B, S, S, C] float.
      draw: [B, 2] in [0, 1): all the way up or left at 0, down or right at nearly 1.
    """
    size = image.shape[1]
    reach = round(size * TRANSLATION)
    offset = (draw * (2 * reach + 1)).astype(jnp.int32)
    margin = (reach, reach)
    padded = jnp.pad(image, ((0, 0), margin, margin, (0, 0)))

    def window(padded: jax.Array, offset: jax.Array) -> jax.Array:
        start = (2 * reach - offset[0], 2 * reach - offset[1], 0)
        return lax.dynamic_slice(padded, start, (size, size, padded.shape[-1]))

    return jax.vmap(window)(padded, offset)


def cut(image: jax.Array, draw: jax.Array) -> jax.Array:
    """Grays out (0) a square of half the side of each image, as far as it lies inside.

    Args:
      image: [B, S, S, C] float.
      draw: [B, 2] in [0, 1): the square's centre, as a share of the height and width.
    """
    size = image.shape[1]
    half = round(size * CUTOUT) // 2
    centre = jnp.floor(draw * (size + 1))[:, :, None]
    place = jnp.arange(size)[None, None]
    inside = (place >= centre - half) & (place < centre + half)
    hole = inside[:, 0, :, None] & inside[:, 1, None, :]
    return jnp.where(hole[..., None], 0, image)


def recolour(image: jax.Array, draw: jax.Array) -> jax.Array:
    """Changes brightness by up to 0.5, saturation up to twofold and contrast by up to a half.

    Args:
      image: [B, S, S, 3] float.
      draw: [B, 3] in [0, 1); 0.5 leaves each of the three as it is.
    """
    brightness, saturation, contrast = (draw[:, index, None, None, None] for index in range(3))
    image = image + (brightness - 0.5)
    gray = image.mean(axis=-1, keepdims=True)
    image = gray + 2 * saturation * (image - gray)
    mean = image.mean(axis=(1, 2, 3), keepdims=True)
    return mean + (contrast + 0.5) * (image - mean)


def magnify(image: jax.Array, draw: jax.Array) -> jax.Array:
    """Doubles a quarter of every other image in size, taken at random, and drops the rest.

    A discriminator that looks through a network for large images is blind to fine patterns; this
    shows them to it, at no more cost.

    Args:
      image: [B, S, S, C] float.
      draw: [B, 3] in [0, 1): below a half where an image is magnified; the quarter's place.
    """
    _, size, _, channels = image.shape
    half = size // 2
    start = (draw[:, 1:] * (size - half + 1)).astype(jnp.int32)

    def window(image: jax.Array, start: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (start[0], start[1], 0), (half, half, channels))

    large = jax.image.resize(jax.vmap(window)(image, start), image.shape, "bilinear")
    return jnp.where((draw[:, 0] < ZOOMED)[:, None, None, None], large, image)


POLICIES: Mapping[str, tuple[int, Callable[[jax.Array, jax.Array], jax.Array]]] = MappingProxyType(
    {
        "color": (3, recolour),
        "translation": (2, shift),
        "zoom": (3, magnify),
        "cutout": (2, cut),
    }
)
"""The policies by name, each with the numbers that it draws."""


def make_diffaugment(names: str) -> Augmentation:
    """Composes policies in the order of their names.

    Args:
      names: names joined by commas, such as `color,translation,cutout`.

    Raises:
      DermaganError: a name is not known.

    Source: color, translation and cutout, Zhao et al., 2020 (DiffAugment), with the ranges of its
      reference code; zoom is ours.
    """
    chosen = names.split(",")
    for name in chosen:
        if name not in POLICIES:
            raise DermaganError(
                f"config.augment is {names!r}; give 'none', 'ada' or some of "
                f"{', '.join(POLICIES)} joined by commas"
            )

    def apply(image: jax.Array, draw: jax.Array, _: jax.Array) -> jax.Array:
        start = 0
        for name in chosen:
            count, transform = POLICIES[name]
            image = transform(image, draw[:, start : start + count])
            start += count
        return image

    return Augmentation(sum(POLICIES[name][0] for name in chosen), apply)


NONE = Augmentation(0, lambda image, *_: image)
"""Leaves images as they are."""


def turn(image: jax.Array, draw: jax.Array) -> jax.Array:
    """Applies one of the eight symmetries of the square to each image.

    A lesion has no up or left, so these are new real images, exactly, and need not be undone in the
    generated ones.

    Args:
      image: [B, S, S, C] of any dtype.
      draw: [B] in [0, 1).

    Returns:
      The images, mirrored or not, after none to three quarter turns.
    """
    kind = (NUM_TURNS * draw).astype(jnp.int32)[:, None, None, None]
    image = jnp.where(kind & 1, image[:, ::-1], image)
    image = jnp.where(kind & 2, image[:, :, ::-1], image)
    return jnp.where(kind & 4, image.swapaxes(1, 2), image)


def turns(image: np.ndarray) -> np.ndarray:
    """Shows each image in all that `turn` may make of it, first as it is.

    Args:
      image: [N, S, S, C] uint8.

    Returns:
      [8, N, S, S, C] uint8.
    """
    draws = np.arange(NUM_TURNS, dtype=np.float32) / NUM_TURNS
    shown = [turn(jnp.asarray(image), jnp.full(len(image), draw)) for draw in draws]
    return np.stack([np.asarray(each) for each in shown])
