"""Linen layers around the fast forms of `stride_one` and `stride_two`."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import flax.linen as nn
import jax
import jax.numpy as jnp

from dermagan_jax.nets import stride_one, stride_two

Initializer = Callable[..., jax.Array]

# PyTorch's default for convolutions, uniform in ±1/sqrt(fan_in). For a transposed convolution it
# counts the fan-in on the output channels.
torch_conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
torch_conv_transpose_init = nn.initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2
)


class ConvDown(nn.Module):
    """`stride_two.conv_down` with a learned kernel: [B, 2H, 2W, C] to [B, H, W, features]."""

    features: int
    kernel_init: Initializer = torch_conv_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer."""
        shape = (4, 4, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        return stride_two.conv_down(x, kernel.astype(x.dtype))


class ConvUp(nn.Module):
    """`stride_two.conv_up` with a learned kernel: [B, H, W, C] to [B, 2H, 2W, features].

    The parameter is laid out [4, 4, C, features], input channels before output channels.
    """

    features: int
    kernel_init: Initializer = torch_conv_transpose_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer."""
        shape = (4, 4, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        return stride_two.conv_up(x, kernel.swapaxes(2, 3).astype(x.dtype))


def _spread(kernel: jax.Array) -> jax.Array:
    """Convolves a kernel with a 2x2 square of ones: [3, 3, C, F] to [4, 4, C, F]."""
    pads = [((row, 1 - row), (column, 1 - column)) for row in (0, 1) for column in (0, 1)]
    return reduce(jnp.add, (jnp.pad(kernel, (*pad, (0, 0), (0, 0))) for pad in pads))


class UpsampleConv(nn.Module):
    """Nearest upsampling by two and a 3x3 convolution: [B, H, W, C] to [B, 2H, 2W, features].

    The two are one transposed convolution of stride 2, whose 4x4 kernel adds up the taps that meet
    the same pixel: 4 products a tap of the output where the two steps take 9.
    """

    features: int
    kernel_init: Initializer = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(x.dtype)
        # `conv_up` is the transpose of a convolution, which reads its kernel turned round.
        return stride_two.conv_up(x, _spread(kernel[::-1, ::-1]).swapaxes(2, 3))


class ConvMeanPool(nn.Module):
    """A 3x3 convolution and the mean of 2x2 squares: [B, 2H, 2W, C] to [B, H, W, features].

    One convolution of stride 2, see `UpsampleConv`.
    """

    features: int
    kernel_init: Initializer = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(x.dtype)
        return stride_two.conv_down(x, _spread(kernel) / 4)


class ConvSame(nn.Module):
    """`stride_one.conv_same` with a learned kernel, and a learned bias on request."""

    features: int
    kernel_init: Initializer = nn.initializers.he_normal()
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        x = stride_one.conv_same(x, kernel.astype(x.dtype))
        if not self.use_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x + bias.astype(x.dtype)[None, None, None]


class Bias(nn.Module):
    """Adds a learned number to each channel, at first 0."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer to [B, H, W, C]."""
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return x + bias.astype(x.dtype)[None, None, None]


class ConvValid(nn.Module):
    """`stride_one.conv_valid` with a learned kernel and bias."""

    features: int
    window: int
    kernel_init: Initializer = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer."""
        shape = (self.window, self.window, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        convolved = stride_one.conv_valid(x, kernel.astype(x.dtype))
        return convolved + bias.astype(x.dtype)[None, None, None]


class PointwiseConvPool(nn.Module):
    """`stride_one.pointwise_conv_pool` with a learned kernel and bias."""

    features: int
    kernel_init: Initializer = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        # The bias is the same for the four pixels of a square, so it may follow the maximum.
        pooled = stride_one.pointwise_conv_pool(x, kernel.astype(x.dtype))
        return pooled + bias.astype(x.dtype)[None, None, None]
