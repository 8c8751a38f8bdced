"""ResNet50, equal to Keras's application."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax

from dermagan_jax.nets import layers

_DEPTHS = (3, 4, 6, 3)


class ResNet50(nn.Module):
    """The convolutions of ResNet50 and the mean over their last map.

    The layers have Keras's names.

    Attributes:
      norm_learns: while training, normalise by the batch and update the running statistics; without
        it, they stay as they were loaded, as Keras advises for fine-tuning.

    Source: He et al., 2016; `keras.applications.ResNet50`, without the top and with average
    pooling, whose convolutions have biases and whose blocks take their stride in the first one.
    """

    norm_learns: bool = False

    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Computes [B, 2048] float32 features, the mean over `maps`."""
        return self.maps(image, train=train).mean(axis=(1, 2))

    @nn.compact
    def maps(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Computes [B, S / 32, S / 32, 2048] float32 maps.

        Args:
          image: [B, S, S, 3] float32, as Keras prepares it for this network; S from 32.
          train: see `norm_learns`.
        """
        norm = partial(
            nn.BatchNorm,
            use_running_average=not (train and self.norm_learns),
            momentum=0.99,
            epsilon=1.001e-5,
        )

        def conv_norm(x: jax.Array, features: int, size: int, stride: int, name: str) -> jax.Array:
            conv: layers.ConvSame | nn.Conv
            conv_name = f"{name}_conv"
            if size == 3:
                # XLA's convolution of a map of side 2 takes 200 times as long on a CPU.
                init = nn.linear.default_kernel_init
                conv = layers.ConvSame(features, init, use_bias=True, name=conv_name)
            else:
                conv = nn.Conv(features, (size, size), stride, size // 2, name=conv_name)
            return norm(name=f"{name}_bn")(conv(x))

        x = nn.relu(conv_norm(image, 64, 7, 2, "conv1"))
        # The margin is 0 and not minus infinity: after ReLU that is the same maximum.
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, depth in enumerate(_DEPTHS, 2):
            features = 16 << stage
            for block in range(1, depth + 1):
                name, stride = f"conv{stage}_block{block}", 2 if stage > 2 and block == 1 else 1
                shortcut = x if block > 1 else conv_norm(x, 4 * features, 1, stride, f"{name}_0")
                x = nn.relu(conv_norm(x, features, 1, stride, f"{name}_1"))
                x = nn.relu(conv_norm(x, features, 3, 1, f"{name}_2"))
                x = nn.relu(conv_norm(x, 4 * features, 1, 1, f"{name}_3") + shortcut)
        return x
