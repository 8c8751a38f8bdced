"""The 4x4 convolution of stride 2 and its transpose, fast on every platform.

XLA's CPU backend is slow at the gradients of a transposed convolution. A convolution is bilinear:
its value, its gradient for the input and its gradient for the kernel are three bilinear maps, each
the derivative of the others. So each is written once, in the form that its platform runs fast, and
all orders of derivative follow. On accelerators the plain convolution is the fast form;
`jax.lax.platform_dependent` chooses while lowering.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from dermagan_jax.nets import winograd
from dermagan_jax.nets.bilinear import Bilinear, relate

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _plain_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=_LAYOUT)


def _plain_transpose(y: jax.Array, kernel: jax.Array) -> jax.Array:
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    return lax.conv_general_dilated(
        y,
        flipped,
        (1, 1),
        ((2, 2), (2, 2)),
        lhs_dilation=(2, 2),
        dimension_numbers=_LAYOUT,
    )


def _plain_kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        y,
        (1, 1),
        ((1, 1), (1, 1)),
        rhs_dilation=(2, 2),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
    )


def _to_blocks(x: jax.Array) -> jax.Array:
    """Moves the padded image's 2x2 squares to channels: [B, 2H, 2W, C] to [B, H+1, W+1, 4 · C]."""
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    blocks = padded.reshape(batch, height // 2 + 1, 2, width // 2 + 1, 2, channels)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2 + 1, width // 2 + 1, -1)


def _from_blocks(blocks: jax.Array) -> jax.Array:
    """Moves channels to 2x2 squares and crops: the inverse of `_to_blocks`."""
    batch, rows, columns, depth = blocks.shape
    image = blocks.reshape(batch, rows, columns, 2, 2, depth // 4).transpose(0, 1, 3, 2, 4, 5)
    return image.reshape(batch, 2 * rows, 2 * columns, depth // 4)[:, 1:-1, 1:-1]


def _block_kernel(kernel: jax.Array) -> jax.Array:
    """Splits each kernel axis in (tap, phase): [4, 4, C, F] to [2, 2, 4 · C, F]."""
    channels, features = kernel.shape[2:]
    split = kernel.reshape(2, 2, 2, 2, channels, features).transpose(0, 2, 1, 3, 4, 5)
    return split.reshape(2, 2, 4 * channels, features)


def _from_block_kernel(taps: jax.Array) -> jax.Array:
    """Joins (tap, phase) to a kernel axis: the inverse of `_block_kernel`."""
    channels, features = taps.shape[2] // 4, taps.shape[3]
    split = taps.reshape(2, 2, 2, 2, channels, features).transpose(0, 2, 1, 3, 4, 5)
    return split.reshape(4, 4, channels, features)


def _suits_winograd(y: jax.Array, channels: int) -> bool:
    return winograd.suits(y.shape[:3], 4 * channels, taps=2)


def _cpu_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    if winograd.suits((batch, height // 2, width // 2), 4 * channels, taps=2):
        return winograd.conv(_to_blocks(x), _block_kernel(kernel))
    return _plain_conv(x, kernel)


def _cpu_transpose(y: jax.Array, kernel: jax.Array) -> jax.Array:
    """The transpose as a convolution of 2x2 blocks, whose channels are the four output phases."""
    taps = _block_kernel(kernel)
    if _suits_winograd(y, kernel.shape[2]):
        return _from_blocks(winograd.conv_input_gradient(y, taps))
    flipped = taps[::-1, ::-1].swapaxes(2, 3)
    blocks = lax.conv_general_dilated(
        y, flipped, (1, 1), ((1, 1), (1, 1)), dimension_numbers=_LAYOUT
    )
    return _from_blocks(blocks)


def _cpu_kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
    blocks = _to_blocks(x)
    if _suits_winograd(y, x.shape[-1]):
        return _from_block_kernel(winograd.conv_kernel_gradient(blocks, y))
    # One matrix product a tap of the 2x2 blocks: four times as wide as a tap of the image.
    _, height, width, features = y.shape
    flat = y.reshape(-1, features)
    taps = [
        [
            blocks[:, row : row + height, column : column + width].reshape(len(flat), -1).T @ flat
            for column in (0, 1)
        ]
        for row in (0, 1)
    ]
    return _from_block_kernel(jnp.stack([jnp.stack(line) for line in taps]))


@Bilinear
def conv_down(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a 4x4 kernel at stride 2 and padding 1, which halves the image.

    Args:
      x: [B, 2H, 2W, C] float.
      kernel: [4, 4, C, F] float.

    Returns:
      [B, H, W, F] in the dtype of `x`; equal to PyTorch's `Conv2d(C, F, 4, 2, 1, bias=False)`.
    """
    return lax.platform_dependent(x, kernel, cpu=_cpu_conv, default=_plain_conv)


@Bilinear
def conv_up(y: jax.Array, kernel: jax.Array) -> jax.Array:
    """Applies the transpose of `conv_down`, which doubles the image.

    Args:
      y: [B, H, W, F] float.
      kernel: [4, 4, C, F] float, laid out as for `conv_down`.

    Returns:
      [B, 2H, 2W, C]: output pixel 2i + k - 1 collects y[i] · kernel[k], as in PyTorch's
      `ConvTranspose2d(F, C, 4, 2, 1, bias=False)`.
    """
    return lax.platform_dependent(y, kernel, cpu=_cpu_transpose, default=_plain_transpose)


@Bilinear
def conv_kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
    """Correlates an input with an output of `conv_down`: the gradient of ⟨conv_down(x, k), y⟩ in k.

    Args:
      x: [B, 2H, 2W, C] float.
      y: [B, H, W, F] float.

    Returns:
      [4, 4, C, F].
    """
    return lax.platform_dependent(x, y, cpu=_cpu_kernel_gradient, default=_plain_kernel_gradient)


relate(conv_down, for_input=conv_up, for_kernel=conv_kernel_gradient)
