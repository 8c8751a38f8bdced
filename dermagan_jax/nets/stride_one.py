"""Convolution of stride 1 and maxima, fast on every platform; see `stride_two` for the idea."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax

from dermagan_jax.nets import winograd
from dermagan_jax.nets.bilinear import Bilinear, Pair, relate

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _plain_valid(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_LAYOUT)


def _plain_valid_input_gradient(y: jax.Array, kernel: jax.Array) -> jax.Array:
    margin = kernel.shape[0] - 1
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    padding = ((margin, margin), (margin, margin))
    return lax.conv_general_dilated(y, flipped, (1, 1), padding, dimension_numbers=_LAYOUT)


def _plain_valid_kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
    numbers = ("CHWN", "IHWO", "HWNC")
    return lax.conv_general_dilated(x, y, (1, 1), "VALID", dimension_numbers=numbers)


# XLA's CPU convolution was seen to take 134 ms for an output 30 wide and 52 ms for one 32 wide.
_FAST_WIDTH = 16


def _wide_conv(x: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
    """Convolves at stride 1 with a margin of zeros, at a fast width, and cuts what is too much."""
    width = x.shape[2] + 2 * margin - kernel.shape[1] + 1
    padding = ((margin, margin), (margin, margin + -width % _FAST_WIDTH))
    wide = lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=_LAYOUT)
    return wide[:, :, :width]


# With fewer, Winograd's form gains little, and less where each core trains a seed of its own: on
# two cores the paper's CNN, of 60 channels, took 8% less time alone and 13% more beside another.
_FEWEST_CHANNELS = 128


def _suits_winograd(output: Sequence[int], channels: int, taps: int) -> bool:
    return channels >= _FEWEST_CHANNELS and winograd.suits(output, channels, taps)


def _cpu_valid(x: jax.Array, kernel: jax.Array) -> jax.Array:
    taps, channels = kernel.shape[1:3]
    output = (len(x), x.shape[1] - taps + 1, x.shape[2] - taps + 1)
    if _suits_winograd(output, channels, taps):
        return winograd.conv(x, kernel)
    return _wide_conv(x, kernel, 0)


def _cpu_valid_input_gradient(y: jax.Array, kernel: jax.Array) -> jax.Array:
    taps, channels = kernel.shape[1:3]
    if _suits_winograd(y.shape[:3], channels, taps):
        return winograd.conv_input_gradient(y, kernel)
    # Without the barrier XLA folds both moves into the convolution: a form 20 times slower.
    flipped = lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    return _wide_conv(y, flipped, kernel.shape[0] - 1)


def _parts(x: jax.Array, y: jax.Array) -> Pair:
    """Cuts two batches into parts that stay in a core's cache."""
    size = next(size for size in (4, 3, 2, 1) if len(x) % size == 0)
    return x.reshape(-1, size, *x.shape[1:]), y.reshape(-1, size, *y.shape[1:])


def _cpu_valid_kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
    if _suits_winograd(y.shape[:3], x.shape[3], x.shape[1] - y.shape[1] + 1):
        return winograd.conv_kernel_gradient(x, y)
    return lax.map(lambda part: _row_products(*part), _parts(x, y)).sum(axis=0)


def _row_products(x: jax.Array, y: jax.Array) -> jax.Array:
    """All taps in one product: x beside itself moved along rows, times y moved along columns."""
    window = x.shape[1] - y.shape[1] + 1
    width, features, channels = y.shape[2], y.shape[3], x.shape[3]
    rows = jnp.concatenate([x[:, :, tap : tap + width] for tap in range(window)], axis=-1)
    columns = jnp.concatenate(
        [jnp.pad(y, ((0, 0), (tap, window - 1 - tap), (0, 0), (0, 0))) for tap in range(window)],
        axis=-1,
    )
    products = rows.reshape(-1, window * channels).T @ columns.reshape(-1, window * features)
    return products.reshape(window, channels, window, features).transpose(2, 0, 1, 3)


@Bilinear
def conv_valid(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves at stride 1 without padding.

    Args:
      x: [B, H, W, C] float.
      kernel: [K, K, C, F] float.

    Returns:
      [B, H - K + 1, W - K + 1, F].
    """
    return lax.platform_dependent(x, kernel, cpu=_cpu_valid, default=_plain_valid)


@Bilinear
def _conv_valid_input_gradient(y: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.platform_dependent(
        y, kernel, cpu=_cpu_valid_input_gradient, default=_plain_valid_input_gradient
    )


@Bilinear
def _conv_valid_kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
    return lax.platform_dependent(
        x, y, cpu=_cpu_valid_kernel_gradient, default=_plain_valid_kernel_gradient
    )


relate(
    conv_valid,
    for_input=_conv_valid_input_gradient,
    for_kernel=_conv_valid_kernel_gradient,
)


def _plain_same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


def _plain_same_kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
    return _plain_valid_kernel_gradient(_framed(x), y)


# Seen on two cores: a map of side 4 takes 3.9 ms by patches and 5.3 ms by XLA's convolution, one of
# side 16 takes 81 ms and 33 ms.
_LARGEST_PATCHED_SIDE = 8


def _framed(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _neighbourhoods(x: jax.Array) -> jax.Array:
    """Gathers the 3x3 window of each pixel: [B, H, W, C] to [B, H, W, 9 · C]."""
    _, height, width, _ = x.shape
    framed = _framed(x)
    taps = [
        framed[:, row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
    ]
    return jnp.concatenate(taps, axis=-1)


def _cpu_same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    if x.shape[1] > _LARGEST_PATCHED_SIDE:
        return _plain_same(x, kernel)
    return _neighbourhoods(x) @ kernel.reshape(-1, kernel.shape[-1])


def _cpu_same_kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
    if x.shape[1] > _LARGEST_PATCHED_SIDE:
        return _cpu_valid_kernel_gradient(_framed(x), y)
    channels, features = x.shape[-1], y.shape[-1]
    products = _neighbourhoods(x).reshape(-1, 9 * channels).T @ y.reshape(-1, features)
    return products.reshape(3, 3, channels, features)


@Bilinear
def conv_same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a 3x3 kernel at stride 1, zeros around the image.

    Args:
      x: [B, H, W, C] float.
      kernel: [3, 3, C, F] float.

    Returns:
      [B, H, W, F].
    """
    return lax.platform_dependent(x, kernel, cpu=_cpu_same, default=_plain_same)


@Bilinear
def _conv_same_input_gradient(y: jax.Array, kernel: jax.Array) -> jax.Array:
    # See `_cpu_valid_input_gradient` for the barrier.
    return conv_same(y, lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3)))


@Bilinear
def _conv_same_kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
    return lax.platform_dependent(
        x, y, cpu=_cpu_same_kernel_gradient, default=_plain_same_kernel_gradient
    )


relate(
    conv_same,
    for_input=_conv_same_input_gradient,
    for_kernel=_conv_same_kernel_gradient,
)


def max_pool(x: jax.Array, window: int) -> jax.Array:
    """Takes the maximum over squares of side `window`, at stride `window`.

    A reshape and a maximum, since the gradient of a windowed maximum is slow on CPUs. Tied maxima
    share the gradient equally; PyTorch gives it all to the first.

    Args:
      x: [B, H, W, C]; rows and columns past a multiple of `window` are dropped.
      window: side of the square in pixels.

    Returns:
      [B, H // window, W // window, C].
    """
    batch, height, width, channels = x.shape
    rows, columns = height // window, width // window
    x = x[:, : rows * window, : columns * window]
    return x.reshape(batch, rows, window, columns, window, channels).max(axis=(2, 4))


def _quarters(x: jax.Array) -> list[jax.Array]:
    return [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]


def _pixel_products(x: jax.Array, kernel: jax.Array) -> list[jax.Array]:
    """Multiplies each pixel of each quarter of the image by the kernel, as sums XLA can fuse."""
    rows = kernel[:, None, None, None]
    return [
        sum(
            (quarter[..., c : c + 1] * rows[c] for c in range(1, len(rows))),
            quarter[..., :1] * rows[0],
        )
        for quarter in _quarters(x)
    ]


@Bilinear
def pointwise_conv_pool(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves 1x1 and takes the maximum of each 2x2 square, never storing the full-size map.

    With few input channels the full-size map is the largest array of a network, and writing it
    takes longer than its arithmetic. Tied maxima share the gradient equally, as in `max_pool`.

    Args:
      x: [B, 2H, 2W, C] float, C small.
      kernel: [C, F] float.

    Returns:
      [B, H, W, F]; equal to `max_pool(x @ kernel, 2)`.
    """
    first, *others = _pixel_products(x, kernel)
    return reduce(jnp.maximum, others, first)


def _plain_pool_gradients(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> Pair:
    products = _pixel_products(x, kernel)
    highest = reduce(jnp.maximum, products)
    wins = [product == highest for product in products]
    share = cotangent / sum(win.astype(cotangent.dtype) for win in wins)
    parts = [jnp.where(win, share, 0) for win in wins]
    for_kernel = [
        jnp.einsum("bhwc,bhwf->cf", quarter, part)
        for quarter, part in zip(_quarters(x), parts, strict=True)
    ]
    input_gradient = jnp.zeros_like(x)
    corners = [(row, column) for row in (0, 1) for column in (0, 1)]
    for (row, column), part in zip(corners, parts, strict=True):
        input_gradient = input_gradient.at[:, row::2, column::2].set(part @ kernel.T)
    return input_gradient, reduce(jnp.add, for_kernel)


def _cpu_pool_gradients(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> Pair:
    """A part of the batch at a time: for 64 images on one core 14 ms in place of 83 at once."""
    for_input, for_kernel = lax.map(
        lambda part: _plain_pool_gradients(part[0], kernel, part[1]), _parts(x, cotangent)
    )
    return for_input.reshape(x.shape), for_kernel.sum(axis=0)


def _pointwise_conv_pool_vjp(operands: Pair, cotangent: jax.Array) -> Pair:
    return lax.platform_dependent(
        *operands, cotangent, cpu=_cpu_pool_gradients, default=_plain_pool_gradients
    )


pointwise_conv_pool.differentiate_by(_pointwise_conv_pool_vjp)
