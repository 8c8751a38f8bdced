"""Depthwise convolution, one filter a channel, fast on every platform; see `stride_two`."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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


def _margins(x: jax.Array, size: int, stride: int) -> list[tuple[int, int]]:
    return lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cpu_depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Adds the shifted images times one number a channel: one fused pass over the pixels."""
    size = kernel.shape[0]
    padded = jnp.pad(x, ((0, 0), *_margins(x, size, stride), (0, 0)))
    height, width = (-(-side // stride) for side in x.shape[1:3])
    total = jnp.zeros((x.shape[0], height, width, x.shape[3]), x.dtype)
    for row, column in np.ndindex(size, size):
        shifted = padded[
            :,
            row : row + stride * (height - 1) + 1 : stride,
            column : column + stride * (width - 1) + 1 : stride,
        ]
        total += shifted * kernel[row, column][None, None, None]
    return total


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, Any]:
    return _cpu_depthwise(x, kernel, stride), (x, kernel)


def _backward(stride: int, kept: Any, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    return _pull_back(cotangent, kernel, x, stride), _kernel_gradient(cotangent, kernel, x, stride)


_cpu_depthwise.defvjp(_forward, _backward)


def _kernel_gradient(
    cotangent: jax.Array, kernel: jax.Array, x: jax.Array, stride: int
) -> jax.Array:
    """Sums image by image: XLA's CPU backend adds whole maps faster than it adds within them."""
    size = kernel.shape[0]
    padded = jnp.pad(x, ((0, 0), *_margins(x, size, stride), (0, 0)))
    height, width, features = cotangent.shape[1:]
    places = list(np.ndindex(size, size))

    def add(totals: list[jax.Array], image: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        shown, pulled = image
        added = [
            total
            + pulled
            * shown[
                row : row + stride * (height - 1) + 1 : stride,
                column : column + stride * (width - 1) + 1 : stride,
            ]
            for total, (row, column) in zip(totals, places, strict=True)
        ]
        return added, None

    nothing = [jnp.zeros((height, width, features), x.dtype) for _ in places]
    totals, _ = lax.scan(add, nothing, (padded, cotangent))
    return jnp.stack([total.sum(axis=(0, 1)) for total in totals]).reshape(kernel.shape)


def _pull_back(cotangent: jax.Array, kernel: jax.Array, x: jax.Array, stride: int) -> jax.Array:
    """Leads a gradient back to the input, in one fused pass for each place within a stride.

    Output y has input p = stride y + r - margin under the kernel's row r. Inputs p that are equal
    modulo the stride meet the same rows of the kernel.
    """
    size = kernel.shape[0]
    reach = size  # More zeros than any shift needs.
    padded = jnp.pad(cotangent, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    (top, _), (left, _) = _margins(x, size, stride)
    height, width = (-(-side // stride) for side in x.shape[1:3])

    def taps(place: int, margin: int) -> list[tuple[int, int]]:
        """Returns the kernel's indices that meet inputs of a place, and where their outputs are."""
        first, shift = (place + margin) % stride, (place + margin) // stride
        return [(first + stride * j, shift - j) for j in range(-(-(size - first) // stride))]

    phases = []
    for place_y, place_x in np.ndindex(stride, stride):
        total = jnp.zeros((x.shape[0], height, width, x.shape[3]), x.dtype)
        for row, down in taps(place_y, top):
            for column, right in taps(place_x, left):
                shifted = padded[
                    :,
                    reach + down : reach + down + height,
                    reach + right : reach + right + width,
                ]
                total += shifted * kernel[row, column][None, None, None]
        phases.append(total)
    if stride == 1:
        return phases[0]
    woven = jnp.stack(phases).reshape(stride, stride, *phases[0].shape)
    woven = woven.transpose(2, 3, 0, 4, 1, 5)
    whole = woven.reshape(x.shape[0], stride * height, stride * width, x.shape[3])
    return whole[:, : x.shape[1], : x.shape[2]]


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
        cpu=lambda x, kernel: _cpu_depthwise(x, kernel, stride),
        default=lambda x, kernel: _plain_depthwise(x, kernel, stride=stride),
    )
