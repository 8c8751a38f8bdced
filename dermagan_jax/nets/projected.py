"""A discriminator that looks at images through a classifier which others have trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dermagan_jax.nets import efficientnet_lite, layers, pretrained
from dermagan_jax.nets.resgan import MINIBATCH_GROUP, minibatch_deviation

LAST_SIDE = 4
_kernel_init = nn.initializers.he_normal()


def _leaky(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, negative_slope=0.2)


def _resize(x: jax.Array, side: int) -> jax.Array:
    return jax.image.resize(x, (x.shape[0], side, side, x.shape[-1]), "bilinear")


def random_kernels(
    key: jax.Array, channels: Sequence[int], width: int
) -> dict[str, dict[str, jax.Array]]:
    """Draws the fixed 1x1 convolutions that mix the maps of the classifier.

    Args:
      key: a JAX key.
      channels: of the maps, from the largest map to the smallest.
      width: channels that the largest map is mixed to, and doubled for each that follows.

    Returns:
      `across`: [C, F] float32 of each map, which mixes its channels; `down`: [F, F / 2], which
      leads from each but the first to the next larger one.
    """
    keys = iter(jax.random.split(key, 2 * len(channels)))
    across, down = {}, {}
    for index, count in enumerate(channels):
        features = width << index
        across[str(index)] = _kernel_init(next(keys), (count, features))
        if index:
            down[str(index)] = _kernel_init(next(keys), (features, features // 2))
    return {"across": across, "down": down}


def mix(maps: Sequence[jax.Array], kernels: dict[str, dict[str, jax.Array]]) -> list[jax.Array]:
    """Mixes maps across channels, and each with the smaller ones.

    Args:
      maps: [B, S, S, C] float, from the largest to the smallest.
      kernels: from `random_kernels`.

    Returns:
      For each map one of its side, [B, S, S, F].

    Source: Sauer et al., 2021 (Projected GAN), section 3.2. Its maps are doubled in side once more.
    """
    mixed: list[jax.Array] = []
    for index in reversed(range(len(maps))):
        x = maps[index] @ kernels["across"][str(index)]
        if mixed:
            above = _resize(mixed[0] @ kernels["down"][str(index + 1)], x.shape[1])
            x = (x + above) * math.sqrt(0.5)
        mixed.insert(0, x)
    return mixed


class Head(nn.Module):
    """Scores the places of a map, which it halves to a side of four at most.

    Attributes:
      features: channels of the hidden maps.
      dtype: what the layers compute in; parameters are float32.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array | None, *, train: bool) -> jax.Array:
        """Scores [B, S, S, C] maps of classes [B, K], one-hot: [B, 2, places] float32 logits.

        The first are unconditional; the second are the same without a class.
        """

        def layer(module: nn.Module, x: jax.Array) -> jax.Array:
            return nn.SpectralNorm(module)(x, update_stats=train)

        def down(x: jax.Array) -> jax.Array:
            bias = layers.Bias()
            return _leaky(bias(layer(layers.ConvDown(self.features, _kernel_init), x)))

        x = x.astype(self.dtype)
        if x.shape[1] <= LAST_SIDE:
            x = _leaky(layer(nn.Dense(self.features, dtype=self.dtype), x))
        while x.shape[1] > LAST_SIDE:
            x = down(x)
        x = minibatch_deviation(x, MINIBATCH_GROUP)
        x = _leaky(layer(nn.Dense(self.features, dtype=self.dtype), x))
        logits = layer(nn.Dense(1, dtype=self.dtype), x)[..., 0].astype(jnp.float32)
        conditional = logits
        if label is not None:
            # From 0: what random classes would ask of the generator takes long to unlearn.
            embed = nn.Dense(self.features, use_bias=False, kernel_init=nn.initializers.zeros)
            match = jnp.einsum("bhwc,bc->bhw", x.astype(jnp.float32), embed(label))
            conditional = logits + match
        return jnp.stack([logits, conditional], axis=1).reshape(x.shape[0], 2, -1)


class Discriminator(nn.Module):
    """Scores images by what a frozen EfficientNet-Lite0 sees in them, at four sizes.

    The frozen weights and the random mixing are kept in `batch_stats`: a checkpoint holds them, and
    no optimizer touches them. Measures on features of the same network favour a GAN that was
    trained with it; take another's beside them.

    Attributes:
      width: channels of the largest mixed map; see `random_kernels`.
      head_width: channels in the heads.
      side: side to which images are resized, a multiple of 32.
      transitional: return the unconditional logits beside the conditional ones.
      dtype: what the heads compute in; parameters are float32.

    Source: Sauer et al., 2021 (Projected GAN), with the projection of Miyato and Koyama, 2018, for
    the class, and without BatchNorm.
    """

    batch_norm = False

    width: int = 32
    head_width: int = 64
    side: int = 64
    transitional: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, image: jax.Array, label: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """Scores images.

        Args:
          image: [B, S, S, 3] float32 in [-1, 1].
          label: [B, K] float32, one-hot; None is unconditional.
          train: update the estimates of the kernels' largest singular values.

        Returns:
          [B, N] float32 logits of "real", one for each place of each map; [B, 2, N] when
          transitional, unconditional and conditional.
        """
        extractor = efficientnet_lite.EfficientNetLite0(output="maps")
        frozen: Any = self.variable("batch_stats", "frozen", _frozen_variables).value
        scaled = efficientnet_lite.scaled(image)
        if image.shape[1] != self.side:
            scaled = _resize(scaled, self.side)
        maps: Any = extractor.apply(frozen, scaled)
        kernels: Any = self.variable(
            "batch_stats",
            "mixing",
            lambda: random_kernels(
                self.make_rng("params"), [each.shape[-1] for each in maps], self.width
            ),
        ).value
        heads = [Head(self.head_width, self.dtype) for _ in maps]
        scores = [
            head(each, label, train=train)
            for head, each in zip(heads, mix(maps, kernels), strict=True)
        ]
        logits = jnp.concatenate(scores, axis=-1)
        return logits if self.transitional else logits[:, 1]


def _frozen_variables() -> dict[str, Any]:
    return jax.tree.map(jnp.asarray, pretrained.efficientnet_lite0_variables())
