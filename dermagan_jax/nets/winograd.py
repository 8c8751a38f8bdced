"""Winograd's convolution: fewer multiplications for small kernels, as matrix products.

Two neighbouring outputs of a kernel of r taps take 2r multiplications one by one, r + 1 by
Winograd's algorithm; in both directions of an image that is 9 for 16 at r = 2 and 16 for 36 at
r = 3. The image, the kernel and the output each have a linear transform to r + 1 points an axis,
where the convolution is a product of matrices at each point. The value, the gradient for the input
and the gradient for the kernel use the same three transforms and their transposes.

Source: Winograd, 1980; Lavin and Gray, 2016 ("Fast Algorithms for Convolutional Neural Networks"),
section 4.1. The points are 0, 1, -1 and infinity, so every factor is 0, ±1 or ±1/2 and rounding
stays near that of the plain sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax

_OUTPUTS = 2  # of a tile, along an axis
# The kernel's gradient sums over parts of the batch that stay in a core's cache.
_TILES_OF_A_PART = 1024

# By the number of taps: rows are points; columns are what a tile holds along an axis.
_OF_INPUT = {
    2: ((1, -1, 0), (0, 1, 0), (0, 1, -1)),
    3: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
}
_OF_KERNEL = {
    2: ((1, 0), (1, 1), (0, 1)),
    3: ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
}
_OF_OUTPUT = {
    2: ((1, 0), (1, 1), (0, -1)),
    3: ((1, 0), (1, 1), (1, -1), (0, -1)),
}

# With fewer channels, moving data takes longer than the products that are saved; with fewer tiles,
# transforming the kernel does.
_FEWEST_CHANNELS = 48
_FEWEST_TILES = 48

_Matrix = Sequence[Sequence[float]]
_Grid = Sequence[Sequence[jax.Array]]


def _weighted_sum(weights: Sequence[float], parts: Sequence[jax.Array]) -> jax.Array:
    """Adds what has a weight, and multiplies only where it is not 1."""
    terms = (
        part if weight == 1 else weight * part
        for weight, part in zip(weights, parts, strict=True)
        if weight
    )
    return reduce(jnp.add, terms)


def _transform(matrix: _Matrix, grid: _Grid) -> _Grid:
    """Applies a matrix along both axes of a grid of arrays: M · grid · Mᵀ."""
    columns = [[_weighted_sum(row, column) for row in matrix] for column in zip(*grid, strict=True)]
    return [[_weighted_sum(row, line) for row in matrix] for line in zip(*columns, strict=True)]


def _transposed(matrix: _Matrix) -> _Matrix:
    return tuple(zip(*matrix, strict=True))


def _input_points(x: jax.Array, taps: int) -> _Grid:
    """[B, H + taps - 1, W + taps - 1, C] to points of [B · H/2 · W/2, C]."""
    height, width = x.shape[1] - taps + 1, x.shape[2] - taps + 1
    size = taps + _OUTPUTS - 1
    tile = [
        [
            x[:, row : row + height - 1 : 2, column : column + width - 1 : 2]
            for column in range(size)
        ]
        for row in range(size)
    ]
    points = _transform(_OF_INPUT[taps], tile)
    return [[point.reshape(-1, x.shape[-1]) for point in line] for line in points]


def _output_points(y: jax.Array, taps: int) -> _Grid:
    """[B, H, W, F] to points of [B · H/2 · W/2, F]."""
    tile = [[y[:, row::2, column::2] for column in (0, 1)] for row in (0, 1)]
    points = _transform(_OF_OUTPUT[taps], tile)
    return [[point.reshape(-1, y.shape[-1]) for point in line] for line in points]


def _kernel_points(kernel: jax.Array) -> _Grid:
    taps = len(kernel)
    return _transform(_OF_KERNEL[taps], [[kernel[r, c] for c in range(taps)] for r in range(taps)])


def _interleave(grid: _Grid) -> jax.Array:
    """Lays a grid of [B, H, W, C] out as one image, in which neighbours come from neighbours."""
    rows, columns = len(grid), len(grid[0])
    batch, height, width, channels = grid[0][0].shape
    stacked = jnp.stack([jnp.stack(line, axis=3) for line in grid], axis=2)
    return stacked.reshape(batch, rows * height, columns * width, channels)


def suits(output: Sequence[int], channels: int, taps: int) -> bool:
    """Whether `conv` can, and is worth it: [B, height, width] outputs from so many channels."""
    batch, height, width = output
    is_tiled = height % _OUTPUTS == 0 and width % _OUTPUTS == 0
    num_tiles = batch * height * width // _OUTPUTS**2
    is_large = channels >= _FEWEST_CHANNELS and num_tiles >= _FEWEST_TILES
    return taps in _OF_KERNEL and is_tiled and is_large


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves at stride 1 without padding.

    Args:
      x: [B, H + K - 1, W + K - 1, C] float, H and W even.
      kernel: [K, K, C, F] float, K 2 or 3.

    Returns:
      [B, H, W, F].
    """
    taps = len(kernel)
    shape = (len(x), (x.shape[1] - taps + 1) // 2, (x.shape[2] - taps + 1) // 2, kernel.shape[-1])
    products = [
        [(point @ factor).reshape(shape) for point, factor in zip(*lines, strict=True)]
        for lines in zip(_input_points(x, taps), _kernel_points(kernel), strict=True)
    ]
    return _interleave(_transform(_transposed(_OF_OUTPUT[taps]), products))


def conv_input_gradient(y: jax.Array, kernel: jax.Array) -> jax.Array:
    """Applies the transpose of `conv`: [B, H, W, F] to [B, H + K - 1, W + K - 1, C]."""
    taps, channels = len(kernel), kernel.shape[2]
    batch, height, width, _ = y.shape
    shape = (batch, height // 2, width // 2, channels)
    products = [
        [(point @ factor.T).reshape(shape) for point, factor in zip(*lines, strict=True)]
        for lines in zip(_output_points(y, taps), _kernel_points(kernel), strict=True)
    ]
    tile = _transform(_transposed(_OF_INPUT[taps]), products)
    lines = [_fold(line, axis=2) for line in tile]
    halves = [_fold(column, axis=1) for column in zip(*lines, strict=True)]
    image = _interleave(list(zip(*halves, strict=True)))
    return image[:, : height + taps - 1, : width + taps - 1]


def _fold(parts: Sequence[jax.Array], *, axis: int) -> list[jax.Array]:
    """Adds what neighbouring tiles share; returns the even and the odd pixels along an axis."""

    def moved(part: jax.Array, tiles: int) -> jax.Array:
        margins = [(0, 0)] * part.ndim
        margins[axis] = (tiles, 1 - tiles)
        return jnp.pad(part, margins)

    return [
        reduce(jnp.add, (moved(part, tiles) for tiles, part in enumerate(parts[phase::2])))
        for phase in (0, 1)
    ]


def conv_kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes the gradient of ⟨conv(x, kernel), y⟩ for the kernel: [K, K, C, F]."""
    tiles_an_image = y.shape[1] * y.shape[2] // _OUTPUTS**2
    size = max(1, _TILES_OF_A_PART // tiles_an_image)
    if len(x) <= size or len(x) % size:
        return _kernel_gradient(x, y)
    parts = tuple(part.reshape(-1, size, *part.shape[1:]) for part in (x, y))
    return lax.map(lambda part: _kernel_gradient(*part), parts).sum(axis=0)


def _kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
    taps = x.shape[1] - y.shape[1] + 1
    products = [
        [point.T @ other for point, other in zip(*lines, strict=True)]
        for lines in zip(_input_points(x, taps), _output_points(y, taps), strict=True)
    ]
    kernel = _transform(_transposed(_OF_KERNEL[taps]), products)
    return jnp.stack([jnp.stack(line) for line in kernel])
