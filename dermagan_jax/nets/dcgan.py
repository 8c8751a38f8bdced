"""The paper's DCGAN generator and discriminator."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dermagan_jax.nets import layers


def num_doublings(image_size: int) -> int:
    """Returns how often 4 pixels double to `image_size`."""
    doublings = (image_size // 4).bit_length() - 1
    if doublings < 1 or 4 << doublings != image_size:
        raise ValueError(f"image_size is {image_size}; it must be 4 times a power of two, from 8")
    return doublings


def batch_norm(train: bool, axis_name: str | None, dtype: DTypeLike) -> partial[nn.BatchNorm]:
    """Returns PyTorch's BatchNorm, to be called for each layer."""
    # Flax's momentum is one minus PyTorch's 0.1. Flax keeps the biased running variance, PyTorch
    # the unbiased one: a factor n / (n - 1), n = batch x pixels.
    return partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        axis_name=axis_name,
        dtype=dtype,
    )


class Generator(nn.Module):
    """Maps latents to images by transposed convolutions that double a 4x4 map.

    At 64x64 and width 64 the channels run 512, 256, 128, 64, 3 and there are 6,951,808 parameters
    with a latent of 512; another size starts from more or fewer doublings of `width`.

    Attributes:
      width: channels of the last hidden map.
      image_size: side of the image in pixels, 4 times a power of two.
      axis_name: mapped axis over which BatchNorm shares its statistics (pmap, shard_map).
      dtype: what the layers compute in; parameters and statistics are float32.

    Source: the paper's generator table; initialisation is PyTorch's default, as in the notebooks.
    """

    width: int = 64
    image_size: int = 64
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, label: jax.Array | None = None, *, train: bool) -> jax.Array:
        """Generates images.

        Args:
          z: [B, Z] float32 latents, standard normal.
          label: not used; one network knows one class.
          train: normalise by the batch and update `batch_stats`, or use the running statistics.

        Returns:
          [B, image_size, image_size, 3] float32 in [-1, 1].
        """
        del label
        doublings = num_doublings(self.image_size)
        norm = batch_norm(train, self.axis_name, self.dtype)
        channels = self.width << (doublings - 1)
        # A 4x4 transposed convolution of a 1x1 map is a matrix product.
        shape = (4, 4, z.shape[-1], channels)
        kernel = self.param("kernel", layers.torch_conv_transpose_init, shape)
        matrix = kernel.transpose(2, 0, 1, 3).reshape(z.shape[-1], -1)
        x = z.astype(self.dtype) @ matrix.astype(self.dtype)
        x = nn.relu(norm()(x.reshape(-1, 4, 4, channels)))
        for step in range(1, doublings):
            x = nn.relu(norm()(layers.ConvUp(channels >> step)(x)))
        return nn.tanh(layers.ConvUp(3)(x).astype(jnp.float32))


class Discriminator(nn.Module):
    """Scores images by strided convolutions that halve them down to 4x4.

    At 64x64 and width 64 there are 2,765,696 parameters. BatchNorm follows the first layer too.

    Attributes:
      batch_norm: a batch must hold either real or generated images.
      width: channels of the first hidden map.
      axis_name: mapped axis over which BatchNorm shares its statistics (pmap, shard_map).
      dtype: what the layers compute in; parameters and statistics are float32.

    Source: the paper's discriminator table. The paper ends in a sigmoid; here it belongs to the
    loss, which is the same function and stable.
    """

    batch_norm: ClassVar[bool] = True

    width: int = 64
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, image: jax.Array, label: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """Scores images.

        Args:
          image: [B, S, S, 3] float32 in [-1, 1], S 4 times a power of two.
          label: not used; one network knows one class.
          train: normalise by the batch and update `batch_stats`, or use the running statistics.

        Returns:
          [B] float32 logits of "real".
        """
        del label
        norm = batch_norm(train, self.axis_name, self.dtype)
        x = image.astype(self.dtype)
        for step in range(num_doublings(image.shape[1])):
            x = norm()(layers.ConvDown(self.width << step)(x))
            x = nn.leaky_relu(x, negative_slope=0.2)
        # A 4x4 convolution of a 4x4 map to one channel is a matrix product.
        kernel = self.param("kernel", layers.torch_conv_init, (4, 4, x.shape[-1], 1))
        return (x.reshape(x.shape[0], -1).astype(jnp.float32) @ kernel.reshape(-1, 1))[:, 0]
