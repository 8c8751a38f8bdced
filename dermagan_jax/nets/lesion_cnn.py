"""The paper's lesion classifier."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dermagan_jax.lesions import NUM_CLASSES
from dermagan_jax.nets import layers, stride_one

IMAGE_SIZE = 64  # Side of the images that it takes.


class LesionCNN(nn.Module):
    """Classifies 64x64 images with two convolutions and three dense layers; 521,758 parameters.

    Attributes:
      dropout_rate: fraction of units dropped after each hidden dense layer while training.
      num_classes: number of logits.
      dtype: what the layers compute in; parameters are float32.

    Source: the paper's CNN table. It states a pooling stride of 1; the parameter count of the
    notebooks shows that the stride equals the pool size. Glorot-uniform kernels and zero biases,
    as in Keras: with PyTorch's default the network was seen to stay at chance for 2,700 steps.
    """

    dropout_rate: float = 0.2
    num_classes: int = NUM_CLASSES
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Classifies images.

        Args:
          image: [B, 64, 64, 3] float32 in [-1, 1].
          train: apply dropout, which draws from the rng stream "dropout".

        Returns:
          [B, num_classes] float32 logits.
        """
        init = nn.initializers.glorot_uniform()
        # ReLU and maximum commute: pooling first leaves ReLU a smaller map.
        x = nn.relu(layers.PointwiseConvPool(60)(image.astype(self.dtype)))
        x = layers.ConvValid(50, window=3)(x)
        x = nn.relu(stride_one.max_pool(x, 5))
        x = x.reshape(x.shape[0], -1)
        for features in (256, 128):
            x = nn.relu(nn.Dense(features, kernel_init=init, dtype=self.dtype)(x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=init)(x.astype(jnp.float32))
