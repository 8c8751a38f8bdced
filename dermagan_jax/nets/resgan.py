"""A conditional residual generator and discriminator for a few hundred images a class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dermagan_jax.nets import layers
from dermagan_jax.nets.dcgan import batch_norm, num_doublings

_CLASS_EMBEDDING = "class_embedding"
MINIBATCH_GROUP = 4


def _identity(_: jax.Array, shape: tuple[int, int], dtype: DTypeLike) -> jax.Array:
    return jnp.eye(*shape, dtype=dtype)


def _leaky(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, negative_slope=0.2)


def _mean_pool(x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def upsample(x: jax.Array) -> jax.Array:
    """Doubles the sides of [B, H, W, C] bilinearly: pixels that are repeated show as squares."""
    batch, height, width, channels = x.shape
    return jax.image.resize(x, (batch, 2 * height, 2 * width, channels), "bilinear")


class ConditionalNorm(nn.Module):
    """BatchNorm whose gain and bias are linear in a code, then ReLU.

    Attributes:
      axis_name: mapped axis over which the statistics are shared.
      dtype: what the layer computes in.

    Source: de Vries et al., 2017; with the latent in the code, Brock et al., 2019 (BigGAN).
    """

    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, code: jax.Array, *, train: bool) -> jax.Array:
        """Normalises [B, H, W, C] by the batch and modulates it by [B, N]."""
        norm = batch_norm(train, self.axis_name, self.dtype)
        x = norm(use_scale=False, use_bias=False)(x)
        init = nn.initializers.normal(0.02)
        gain, bias = (
            nn.Dense(x.shape[-1], kernel_init=init, dtype=self.dtype)(code)[:, None, None]
            for _ in range(2)
        )
        return nn.relu(x * (1 + gain) + bias)


class SelfAttention(nn.Module):
    """Adds to each place a mean over all places, weighted by likeness; at first nothing.

    Source: Zhang et al., 2019 (SAGAN), section 3, with its eighth of the channels to compare and
    half to carry, and keys and values from a mean-pooled map where the paper takes maxima.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer to [B, H, W, C]."""
        batch, height, width, channels = x.shape
        narrow, half = max(channels // 8, 1), max(channels // 2, 1)

        def places(x: jax.Array, features: int) -> jax.Array:
            return nn.Dense(features, use_bias=False, dtype=x.dtype)(x).reshape(batch, -1, features)

        small = _mean_pool(x)
        query, key, value = places(x, narrow), places(small, narrow), places(small, half)
        weight = nn.softmax(query @ key.swapaxes(1, 2) / math.sqrt(narrow))
        mixed = nn.Dense(channels, use_bias=False, dtype=x.dtype)(weight @ value)
        gain = self.param("gain", nn.initializers.zeros, ())
        return x + gain.astype(x.dtype) * mixed.reshape(batch, height, width, channels)


class Generator(nn.Module):
    """Maps latents and classes to images by residual blocks that double a 4x4 map.

    Attributes:
      width: channels of the last hidden map, whose side is half the image's.
      max_width: channels at most.
      image_size: side of the image in pixels, 4 times a power of two.
      convs: further 3x3 convolutions in a block.
      attention_size: side of the map with self-attention; 0 for none.
      axis_name: mapped axis over which the normalisation shares its statistics.
      dtype: what the layers compute in; parameters and statistics are float32.

    Source: the residual generator of Miyato and Koyama, 2018, with latent and class in every
    normalisation as in BigGAN. The last block is the DCGAN's transposed convolution to colours.
    """

    width: int = 64
    max_width: int = 256
    image_size: int = 64
    convs: int = 0
    attention_size: int = 0
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, label: jax.Array | None = None, *, train: bool) -> jax.Array:
        """Generates images.

        Args:
          z: [B, Z] float32 latents.
          label: [B, K] float32, one-hot or scaled down by a transition; None is unconditional.
          train: normalise by the batch and update `batch_stats`, or use the running statistics.

        Returns:
          [B, image_size, image_size, 3] float32 in [-1, 1].
        """
        doublings = num_doublings(self.image_size)
        channels = [min(self.width << step, self.max_width) for step in range(doublings)][::-1]
        code = z
        if label is not None:
            # One number a class: a wide embedding adds up many weights' steps, so that classes move
            # before latents do, and on a few hundred images each ends in one image.
            embed = nn.Dense(
                label.shape[1], use_bias=False, kernel_init=_identity, name=_CLASS_EMBEDDING
            )
            code = jnp.concatenate([z, embed(label)], axis=-1)
        code = code.astype(self.dtype)

        def norm(x: jax.Array) -> jax.Array:
            return ConditionalNorm(self.axis_name, self.dtype)(x, code, train=train)

        x = nn.Dense(16 * channels[0], dtype=self.dtype)(code).reshape(-1, 4, 4, channels[0])
        for features in channels[1:]:
            shortcut = nn.Dense(features, use_bias=False, dtype=self.dtype)(x)
            x = layers.UpsampleConv(features)(norm(x))
            for _ in range(self.convs):
                x = layers.ConvSame(features)(norm(x))
            x = x + upsample(shortcut)
            if x.shape[1] == self.attention_size:
                x = SelfAttention()(x)
        return nn.tanh(
            layers.UpsampleConv(3, nn.initializers.normal(0.02))(norm(x)).astype(jnp.float32)
        )


def with_class_weight(params: Mapping[str, Any], weight: jax.Array) -> dict[str, Any]:
    """Returns a generator's parameters with which a one-hot label counts as `weight` times itself.

    Args:
      params: of a conditional `Generator`.
      weight: [] float32.
    """
    embedding = jax.tree.map(lambda kernel: weight * kernel, params[_CLASS_EMBEDDING])
    return {**params, _CLASS_EMBEDDING: embedding}


def minibatch_deviation(x: jax.Array, group: int) -> jax.Array:
    """Appends a channel that says how much the images of a group differ.

    A group is a run of consecutive images, so that devices which share a batch form the groups that
    one device would, as long as each gets a multiple of `group`.

    Args:
      x: [B, H, W, C] float.
      group: images of a group; smaller batches are one group.

    Returns:
      [B, H, W, C + 1].

    Raises:
      ValueError: when the batch does not divide into groups.

    Source: Karras et al., 2018 (Progressive GAN), section 3.
    """
    batch, height, width, _ = x.shape
    group = min(group, batch)
    if batch % group:
        raise ValueError(f"a batch of {batch} does not divide into groups of {group}")
    variance = x.reshape(-1, group, *x.shape[1:]).var(axis=1)
    deviation = jnp.sqrt(variance + 1e-8).mean(axis=(1, 2, 3)).repeat(group)
    channel = jnp.broadcast_to(deviation[:, None, None, None], (batch, height, width, 1))
    return jnp.concatenate([x, channel.astype(x.dtype)], axis=-1)


class Discriminator(nn.Module):
    """Scores images of classes by residual blocks that halve them down to 4x4.

    Attributes:
      width: channels of the first hidden map, whose side is half the image's.
      max_width: channels at most.
      convs: further 3x3 convolutions in a block.
      attention_size: side of the map with self-attention; 0 for none.
      batch_norm: BatchNorm before each convolution of a block, for comparison; a batch must then
        hold either real or generated images.
      spectral_norm: divide each kernel by its largest singular value.
      transitional: return the unconditional logit beside the conditional one.
      axis_name: mapped axis over which BatchNorm shares its statistics.
      dtype: what the layers compute in; parameters and statistics are float32.

    Source: the residual discriminator and the projection of Miyato and Koyama, 2018; spectral
    normalisation, Miyato et al., 2018; the last layers of Karras et al., 2018.
    """

    width: int = 64
    max_width: int = 256
    convs: int = 0
    attention_size: int = 0
    batch_norm: bool = False
    spectral_norm: bool = False
    transitional: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, image: jax.Array, label: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """Scores images.

        Args:
          image: [B, S, S, 3] float32 in [-1, 1], S 4 times a power of two.
          label: [B, K] float32, one-hot; None is unconditional.
          train: update the running statistics, where there are any.

        Returns:
          [B] float32 logits of "real"; [B, 2] when transitional, unconditional and conditional.
        """

        def act(x: jax.Array) -> jax.Array:
            if self.batch_norm:
                x = batch_norm(train, self.axis_name, self.dtype)()(x)
            return _leaky(x)

        def layer(module: nn.Module, x: jax.Array) -> jax.Array:
            if self.spectral_norm:
                return nn.SpectralNorm(module)(x, update_stats=train)
            return module(x)

        def conv(make: Callable[..., nn.Module], features: int, x: jax.Array) -> jax.Array:
            bias = layers.Bias()
            return bias(layer(make(features), x))

        def dense(features: int, x: jax.Array, bias: bool = True) -> jax.Array:
            init = nn.initializers.he_normal()
            return layer(nn.Dense(features, bias, kernel_init=init, dtype=self.dtype), x)

        doublings = num_doublings(image.shape[1])
        channels = [min(self.width << step, self.max_width) for step in range(doublings)]
        first = partial(layers.ConvDown, kernel_init=nn.initializers.he_normal())
        x = conv(first, channels[0], image.astype(self.dtype))
        for features in channels[1:]:
            if x.shape[1] == self.attention_size:
                x = SelfAttention()(x)
            shortcut = dense(features, _mean_pool(x), bias=False)
            for _ in range(self.convs):
                x = conv(layers.ConvSame, x.shape[-1], act(x))
            x = conv(layers.ConvMeanPool, features, act(x))
            x = (x + shortcut) * math.sqrt(0.5)
        x = conv(layers.ConvSame, channels[-1], minibatch_deviation(act(x), MINIBATCH_GROUP))
        x = _leaky(x).reshape(x.shape[0], -1)
        feature = _leaky(dense(channels[-1], x)).astype(jnp.float32)
        unconditional = dense(1, feature).astype(jnp.float32)
        if label is None:
            return unconditional[:, 0]
        # From 0: what random classes would ask of the generator takes long to unlearn.
        key = nn.Dense(channels[-1], use_bias=False, kernel_init=nn.initializers.zeros)(label)
        match = (feature * key).sum(axis=-1, keepdims=True) / math.sqrt(channels[-1])
        conditional = unconditional + match
        if self.transitional:
            return jnp.concatenate([unconditional, conditional], axis=-1)
        return conditional[:, 0]
