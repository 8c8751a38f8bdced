"""Depthwise convolution, one filter a channel, fast on every platform; see `stride_two`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _plain_depthwise(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        (stride, stride),
        "SAME",
        dimension_numbers=_LAYOUT,
        feature_group_count=x.shape[-1],
    )


def _cpu_depthwise(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """Adds the shifted images times one number a channel: one fused pass over the pixels."""
    size = kernel.shape[0]
    windows = (size, size)
    (top, bottom), (left, right) = lax.padtype_to_pads(
        x.shape[1:3], windows, (stride, stride), "SAME"
    )
    padded = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    height, width = (-(-side // stride) for side in x.shape[1:3])
    total = jnp.zeros((x.shape[0], height, width, x.shape[3]), x.dtype)
    for row in range(size):
        for column in range(size):
            shifted = padded[
                :,
                row : row + stride * (height - 1) + 1 : stride,
                column : column + stride * (width - 1) + 1 : stride,
            ]
            total += shifted * kernel[row, column][None, None, None]
    return total


def depthwise(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """Convolves each channel with its own filter, with TensorFlow's "SAME" margins.

    XLA's CPU backend has no fast form of a convolution with as many groups as channels.

    Args:
      x: [B, H, W, C] float.
      kernel: [K, K, C] float.
      stride: step between the outputs.

    Returns:
      [B, H / stride, W / stride, C], rounded up, in the dtype of `x`.
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _cpu_depthwise(x, kernel, stride=stride),
        default=lambda x, kernel: _plain_depthwise(x, kernel, stride=stride),
    )
