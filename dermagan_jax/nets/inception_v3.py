"""InceptionV3, the network on whose features FID and KID are customarily measured."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

NUM_LAYERS = 94

_max_pool = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))
_average = functools.partial(
    nn.avg_pool, window_shape=(3, 3), padding="SAME", count_include_pad=False
)

# Applies convolutions in turn; each is features, height, width and, unless 1 and "SAME", the stride
# and the margin.
_Chain = Callable[..., jax.Array]


class ConvNorm(nn.Module):
    """Convolution, BatchNorm with running statistics and without a scale, ReLU."""

    features: int
    height: int
    width: int
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer to [B, H, W, C]."""
        window, strides = (self.height, self.width), (self.stride, self.stride)
        x = nn.Conv(self.features, window, strides, self.padding, use_bias=False, name="conv")(x)
        norm = nn.BatchNorm(use_running_average=True, epsilon=1e-3, use_scale=False, name="norm")
        return nn.relu(norm(x))


def _stem(chain: _Chain, x: jax.Array) -> jax.Array:
    x = chain(x, (32, 3, 3, 2, "VALID"), (32, 3, 3, 1, "VALID"), (64, 3, 3))
    return _max_pool(chain(_max_pool(x), (80, 1, 1), (192, 3, 3, 1, "VALID")))


def _square(chain: _Chain, x: jax.Array, pooled: int) -> list[jax.Array]:
    return [
        chain(x, (64, 1, 1)),
        chain(x, (48, 1, 1), (64, 5, 5)),
        chain(x, (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        chain(_average(x), (pooled, 1, 1)),
    ]


def _first_reduction(chain: _Chain, x: jax.Array) -> list[jax.Array]:
    return [
        chain(x, (384, 3, 3, 2, "VALID")),
        chain(x, (64, 1, 1), (96, 3, 3), (96, 3, 3, 2, "VALID")),
        _max_pool(x),
    ]


def _crossed(chain: _Chain, x: jax.Array, n: int) -> list[jax.Array]:
    return [
        chain(x, (192, 1, 1)),
        chain(x, (n, 1, 1), (n, 1, 7), (192, 7, 1)),
        chain(x, (n, 1, 1), (n, 7, 1), (n, 1, 7), (n, 7, 1), (192, 1, 7)),
        chain(_average(x), (192, 1, 1)),
    ]


def _second_reduction(chain: _Chain, x: jax.Array) -> list[jax.Array]:
    return [
        chain(x, (192, 1, 1), (320, 3, 3, 2, "VALID")),
        chain(x, (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2, "VALID")),
        _max_pool(x),
    ]


def _forked(chain: _Chain, x: jax.Array) -> list[jax.Array]:
    branches = [chain(x, (320, 1, 1))]
    for steps in (((384, 1, 1),), ((448, 1, 1), (384, 3, 3))):
        trunk = chain(x, *steps)
        branches += [chain(trunk, (384, 1, 3)), chain(trunk, (384, 3, 1))]
    return [*branches, chain(_average(x), (192, 1, 1))]


_BLOCKS: tuple[Callable[[_Chain, jax.Array], list[jax.Array]], ...] = (
    *(functools.partial(_square, pooled=pooled) for pooled in (32, 64, 64)),
    _first_reduction,
    *(functools.partial(_crossed, n=n) for n in (128, 160, 160, 192)),
    _second_reduction,
    *(_forked, _forked),
)


class InceptionV3(nn.Module):
    """InceptionV3 without its classifier, in evaluation mode; layers are numbered as in Keras.

    Source: Szegedy et al., "Rethinking the Inception Architecture" (CVPR 2016), as
      `keras.applications.InceptionV3` builds it. FID's authors used other weights of the network:
      values on Keras's weights are not those of publications.
    """

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Computes features.

        Args:
          image: [B, S, S, 3] float32 in [-1, 1], S at least 75; Keras's weights are for 299.

        Returns:
          [B, 2048] float32, the mean over the last map.
        """
        number = itertools.count()

        def chain(x: jax.Array, *steps: tuple) -> jax.Array:
            for step in steps:
                x = ConvNorm(*step, name=f"layer{next(number)}")(x)
            return x

        x = _stem(chain, image)
        for block in _BLOCKS:
            x = jnp.concatenate(block(chain, x), axis=-1)
        return x.mean(axis=(1, 2))
