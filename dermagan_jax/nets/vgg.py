"""VGG16 and VGG19, equal to Keras's applications."""

from __future__ import annotations

import flax.linen as nn
import jax

DEPTHS_16 = (2, 2, 3, 3, 3)
DEPTHS_19 = (2, 2, 4, 4, 4)


class VGG(nn.Module):
    """The convolutions of VGG and the mean over their last map.

    The layers have Keras's names.

    Attributes:
      depths: convolutions in each of the five blocks.

    Source: Simonyan and Zisserman, 2015; `keras.applications.VGG16` and `VGG19`, without the top
    and with average pooling.
    """

    depths: tuple[int, ...] = DEPTHS_16

    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Computes [B, 512] float32 features, the mean over `maps`."""
        return self.maps(image, train=train).mean(axis=(1, 2))

    @nn.compact
    def maps(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Computes [B, S / 32, S / 32, 512] float32 maps.

        Args:
          image: [B, S, S, 3] float32, as Keras prepares it for this network; S from 32.
          train: changes nothing: there is neither dropout nor BatchNorm.
        """
        del train
        x = image
        for block, depth in enumerate(self.depths, 1):
            features = min(32 << block, 512)
            for number in range(1, depth + 1):
                conv = nn.Conv(features, (3, 3), name=f"block{block}_conv{number}")
                x = nn.relu(conv(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return x
