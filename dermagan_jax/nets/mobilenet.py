"""MobileNet and MobileNetV2, equal to Keras's applications of width 1."""

from __future__ import annotations

import flax.linen as nn
import jax

from dermagan_jax.nets.depthwise import depthwise

# Output channels and stride of each block.
_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
# Repeats, stride of the first and output channels of each stage of MobileNetV2.
_STAGES = ((1, 1, 16), (2, 2, 24), (3, 2, 32), (4, 2, 64), (3, 1, 96), (3, 2, 160), (1, 1, 320))
_EXPANSION = 6


def _norm(running: bool, momentum: float, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=running, momentum=momentum, epsilon=1e-3, name=name)


class Depthwise(nn.Module):
    """Depthwise 3x3 convolution, without a bias."""

    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer to [B, H, W, C]; with a stride of 2, H and W must be even."""
        init = nn.initializers.normal(1 / 3)
        kernel = self.param("kernel", init, (3, 3, x.shape[-1]))
        return depthwise(x, kernel, stride=self.stride)


class MobileNet(nn.Module):
    """The convolutions of MobileNet and the mean over their last map.

    The layers have Keras's names.

    Attributes:
      norm_learns: see `resnet.ResNet50`.

    Source: Howard et al., 2017; `keras.applications.MobileNet`, without the top and with average
    pooling.
    """

    norm_learns: bool = False

    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Computes [B, 1024] float32 features, the mean over `maps`."""
        return self.maps(image, train=train).mean(axis=(1, 2))

    @nn.compact
    def maps(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Computes [B, S / 32, S / 32, 1024] float32 maps.

        Args:
          image: [B, S, S, 3] float32 in [-1, 1]; S is a multiple of 32.
          train: see `norm_learns`.
        """
        running = not (train and self.norm_learns)

        def norm(x: jax.Array, name: str) -> jax.Array:
            return nn.relu6(_norm(running, 0.99, name=f"{name}_bn")(x))

        x = norm(nn.Conv(32, (3, 3), 2, use_bias=False, name="conv1")(image), "conv1")
        for block, (features, stride) in enumerate(_BLOCKS, 1):
            across, down = f"conv_pw_{block}", f"conv_dw_{block}"
            x = norm(Depthwise(stride, name=down)(x), down)
            x = norm(nn.Conv(features, (1, 1), use_bias=False, name=across)(x), across)
        return x


class MobileNetV2(nn.Module):
    """The convolutions of MobileNetV2 and the mean over their last map.

    The layers have Keras's names.

    Attributes:
      norm_learns: see `resnet.ResNet50`.

    Source: Sandler et al., 2018; `keras.applications.MobileNetV2`, without the top and with average
    pooling.
    """

    norm_learns: bool = False

    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Computes [B, 1280] float32 features, the mean over `maps`."""
        return self.maps(image, train=train).mean(axis=(1, 2))

    @nn.compact
    def maps(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Computes [B, S / 32, S / 32, 1280] float32 maps.

        Args:
          image: [B, S, S, 3] float32 in [-1, 1]; S is a multiple of 32.
          train: see `norm_learns`.
        """
        running = not (train and self.norm_learns)

        def norm(x: jax.Array, name: str) -> jax.Array:
            return _norm(running, 0.999, name=name)(x)

        def across(x: jax.Array, features: int, name: str) -> jax.Array:
            return nn.Conv(features, (1, 1), use_bias=False, name=name)(x)

        x = nn.Conv(32, (3, 3), 2, use_bias=False, name="Conv1")(image)
        x = nn.relu6(norm(x, "bn_Conv1"))
        block = 0
        for repeats, first_stride, features in _STAGES:
            for repeat in range(repeats):
                prefix = f"block_{block}_" if block else "expanded_conv_"
                wide = x
                if block:
                    wide = across(x, _EXPANSION * x.shape[-1], f"{prefix}expand")
                    wide = nn.relu6(norm(wide, f"{prefix}expand_BN"))
                stride = first_stride if repeat == 0 else 1
                wide = Depthwise(stride, name=f"{prefix}depthwise")(wide)
                wide = nn.relu6(norm(wide, f"{prefix}depthwise_BN"))
                narrow = norm(across(wide, features, f"{prefix}project"), f"{prefix}project_BN")
                x = narrow + x if narrow.shape == x.shape else narrow
                block += 1
        return nn.relu6(norm(across(x, 1280, "Conv_1"), "Conv_1_bn"))
