"""Convolutions and pooling whose gradients are fast on every platform.

XLA's CPU backend is slow at the gradients of a transposed convolution and of a windowed maximum.
A convolution is bilinear: its value, its gradient for the input and its gradient for the kernel
are three bilinear maps, each the derivative of the others. So each is written once, in the form
that its platform runs fast, and all orders of derivative follow. On accelerators the plain
convolution is the fast form; `jax.lax.platform_dependent` chooses while lowering.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce, update_wrapper

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Initializer = Callable[..., jax.Array]
Pair = tuple[jax.Array, jax.Array]

_LAYOUT = ("NHWC", "HWIO", "NHWC")

# PyTorch's default for convolutions, uniform in ±1/sqrt(fan_in). For a transposed convolution it
# counts the fan-in on the output channels.
torch_conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
torch_conv_transpose_init = nn.initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2
)


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


def _subpixel_transpose(y: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 2x2 convolution that gives the four output phases as channels, then depth to space."""
    batch, height, width, features = y.shape
    channels = kernel.shape[2]
    # Split both kernel axes in (tap, phase); the taps run against the window, so reverse them.
    phases = kernel.reshape(2, 2, 2, 2, channels, features)[::-1, :, ::-1]
    phases = phases.transpose(0, 2, 5, 1, 3, 4).reshape(2, 2, features, 4 * channels)
    blocks = lax.conv_general_dilated(
        y, phases, (1, 1), ((1, 1), (1, 1)), dimension_numbers=_LAYOUT
    )
    blocks = blocks.reshape(batch, height + 1, width + 1, 2, 2, channels)
    image = blocks.transpose(0, 1, 3, 2, 4, 5)
    image = image.reshape(batch, 2 * height + 2, 2 * width + 2, channels)
    return image[:, 1:-1, 1:-1]


def _tap_products(x: jax.Array, y: jax.Array, *, window: int, stride: int) -> jax.Array:
    """One matrix product a kernel tap, on slices of the input: no patch matrix is built."""
    _, height, width, features = y.shape
    channels = x.shape[-1]
    flat = y.reshape(-1, features)
    taps = [
        x[
            :,
            row : row + stride * height : stride,
            column : column + stride * width : stride,
        ]
        .reshape(-1, channels)
        .T
        @ flat
        for row in range(window)
        for column in range(window)
    ]
    return jnp.stack(taps).reshape(window, window, channels, features)


def _tapwise_kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return _tap_products(padded, y, window=4, stride=2)


def _varying_axes(operand: jax.Array) -> frozenset[str]:
    return jax.typeof(operand).manual_axis_type.varying


def _vary_alike(a: jax.Array, b: jax.Array) -> Pair:
    """Inside `shard_map`, marks both operands as varying over the axes over which either does.

    A kernel that all devices share has a gradient that they share: the mark's own derivative is the
    sum over the devices, which a hand-written derivative would leave out.
    """
    axes = _varying_axes(a) | _varying_axes(b)

    def mark(operand: jax.Array) -> jax.Array:
        missing = tuple(axes - _varying_axes(operand))
        return lax.pcast(operand, missing, to="varying") if missing else operand

    return mark(a), mark(b)


class _Bilinear:
    """A map of two arrays that is linear in each, its derivatives given by other such maps."""

    def __init__(self, form: Callable[[jax.Array, jax.Array], jax.Array]) -> None:
        update_wrapper(self, form)
        self._form = jax.custom_vjp(form)

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return self._form(*_vary_alike(a, b))

    def differentiate_by(self, rule: Callable[[Pair, jax.Array], Pair]) -> None:
        """Sets the rule (operands, cotangent) to (gradient for a, gradient for b)."""
        self._form.defvjp(lambda a, b: (self(a, b), (a, b)), rule)


@_Bilinear
def conv_down(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a 4x4 kernel at stride 2 and padding 1, which halves the image.

    Args:
      x: [B, 2H, 2W, C] float.
      kernel: [4, 4, C, F] float.

    Returns:
      [B, H, W, F] in the dtype of `x`; equal to PyTorch's `Conv2d(C, F, 4, 2, 1, bias=False)`.
    """
    return _plain_conv(x, kernel)


@_Bilinear
def conv_up(y: jax.Array, kernel: jax.Array) -> jax.Array:
    """Applies the transpose of `conv_down`, which doubles the image.

    Args:
      y: [B, H, W, F] float.
      kernel: [4, 4, C, F] float, laid out as for `conv_down`.

    Returns:
      [B, 2H, 2W, C]: output pixel 2i + k - 1 collects y[i] · kernel[k], as in PyTorch's
      `ConvTranspose2d(F, C, 4, 2, 1, bias=False)`.
    """
    return lax.platform_dependent(y, kernel, cpu=_subpixel_transpose, default=_plain_transpose)


@_Bilinear
def conv_kernel_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
    """Correlates an input with an output of `conv_down`: the gradient of ⟨conv_down(x, k), y⟩ in k.

    Args:
      x: [B, 2H, 2W, C] float.
      y: [B, H, W, F] float.

    Returns:
      [4, 4, C, F].
    """
    return lax.platform_dependent(
        x, y, cpu=_tapwise_kernel_gradient, default=_plain_kernel_gradient
    )


def _conv_down_vjp(operands: Pair, cotangent: jax.Array) -> Pair:
    x, kernel = operands
    return conv_up(cotangent, kernel), conv_kernel_gradient(x, cotangent)


def _conv_up_vjp(operands: Pair, cotangent: jax.Array) -> Pair:
    y, kernel = operands
    return conv_down(cotangent, kernel), conv_kernel_gradient(cotangent, y)


def _conv_kernel_gradient_vjp(operands: Pair, cotangent: jax.Array) -> Pair:
    x, y = operands
    return conv_up(y, cotangent), conv_down(x, cotangent)


conv_down.differentiate_by(_conv_down_vjp)
conv_up.differentiate_by(_conv_up_vjp)
conv_kernel_gradient.differentiate_by(_conv_kernel_gradient_vjp)


class ConvDown(nn.Module):
    """`conv_down` with a learned kernel and no bias: [B, 2H, 2W, C] to [B, H, W, features]."""

    features: int
    kernel_init: Initializer = torch_conv_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer."""
        shape = (4, 4, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        return conv_down(x, kernel.astype(x.dtype))


class ConvUp(nn.Module):
    """`conv_up` with a learned kernel and no bias: [B, H, W, C] to [B, 2H, 2W, features].

    The parameter is laid out [4, 4, C, features], input channels before output channels.
    """

    features: int
    kernel_init: Initializer = torch_conv_transpose_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer."""
        shape = (4, 4, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        return conv_up(x, kernel.swapaxes(2, 3).astype(x.dtype))


def _plain_valid(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_LAYOUT)


@_Bilinear
def conv_valid(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves at stride 1 without padding.

    Args:
      x: [B, H, W, C] float.
      kernel: [K, K, C, F] float.

    Returns:
      [B, H - K + 1, W - K + 1, F].
    """
    return _plain_valid(x, kernel)


def _conv_valid_vjp(operands: Pair, cotangent: jax.Array) -> Pair:
    x, kernel = operands
    _, for_input = jax.vjp(lambda x: _plain_valid(x, kernel), x)
    _, for_kernel = jax.vjp(lambda kernel: _plain_valid(x, kernel), kernel)
    kernel_gradient = lax.platform_dependent(
        x,
        cotangent,
        cpu=partial(_tap_products, window=kernel.shape[0], stride=1),
        default=lambda _, cotangent: for_kernel(cotangent)[0],
    )
    return for_input(cotangent)[0], kernel_gradient


conv_valid.differentiate_by(_conv_valid_vjp)


class ConvValid(nn.Module):
    """`conv_valid` with a learned kernel and bias."""

    features: int
    window: int
    kernel_init: Initializer = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer."""
        shape = (self.window, self.window, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return conv_valid(x, kernel.astype(x.dtype)) + bias.astype(x.dtype)[None, None, None]


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


@_Bilinear
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


def _pointwise_conv_pool_vjp(operands: Pair, cotangent: jax.Array) -> Pair:
    x, kernel = operands
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


pointwise_conv_pool.differentiate_by(_pointwise_conv_pool_vjp)


class PointwiseConvPool(nn.Module):
    """`pointwise_conv_pool` with a learned kernel and bias."""

    features: int
    kernel_init: Initializer = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        # The bias is the same for the four pixels of a square, so it may follow the maximum.
        pooled = pointwise_conv_pool(x, kernel.astype(x.dtype))
        return pooled + bias.astype(x.dtype)[None, None, None]
