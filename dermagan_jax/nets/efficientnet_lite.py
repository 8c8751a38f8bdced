"""EfficientNet-Lite0, an ImageNet classifier whose pooled features measure images."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax

from dermagan_jax.nets.depthwise import depthwise

# Repeats, kernel size, stride of the first, expansion, output channels: one row a stage.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_FEATURES, NUM_FEATURES, NUM_CLASSES = 32, 1280, 1000

_norm = functools.partial(nn.BatchNorm, use_running_average=True, epsilon=1e-3, name="norm")


def scaled(image: jax.Array) -> jax.Array:
    """Turns images in [-1, 1] into (pixel - 127) / 128, as TensorFlow's release takes them."""
    return (image * 127.5 + 0.5) / 128.0


class Pointwise(nn.Module):
    """1x1 convolution and BatchNorm with running statistics."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer to [B, H, W, C]."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        return _norm()(x @ kernel)


class Depthwise(nn.Module):
    """Depthwise convolution and BatchNorm with running statistics."""

    window: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer to [B, H, W, C]."""
        init = nn.initializers.normal(1 / self.window)
        kernel = self.param("kernel", init, (self.window, self.window, x.shape[-1]))
        return _norm()(depthwise(x, kernel, stride=self.stride))


class Stem(nn.Module):
    """3x3 convolution of stride 2 and BatchNorm with running statistics."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer to [B, H, W, C]."""
        init = nn.initializers.he_normal()
        kernel = self.param("kernel", init, (3, 3, x.shape[-1], self.features))
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=numbers)
        return _norm()(x)


class InvertedBottleneck(nn.Module):
    """Widens by `expansion`, filters each channel, narrows; adds its input where shapes allow."""

    features: int
    window: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the block to [B, H, W, C]."""
        wide = x
        if self.expansion > 1:
            wide = nn.relu6(Pointwise(self.expansion * x.shape[-1], name="expand")(x))
        wide = nn.relu6(Depthwise(self.window, self.stride, name="depthwise")(wide))
        narrow = Pointwise(self.features, name="project")(wide)
        return narrow + x if narrow.shape == x.shape else narrow


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 in evaluation mode.

    Source: Tan and Le, "EfficientNet" (ICML 2019); the Lite variant of TensorFlow's model garden:
    ReLU6 for Swish, no squeeze-and-excitation. Equal to the network of the PyPI package
    `efficientnet-lite-pytorch` to 1e-4 on images whose side is a multiple of 32; that package fixes
    its margins for 224 pixels, TensorFlow and this module take them from the image.

    Attributes:
      output: "scores"; or "maps", the last map of each side from a quarter of the image's down; or
        "last_map", whose mean the features are.
    """

    output: str = "scores"

    @nn.compact
    def __call__(self, image: jax.Array) -> tuple[jax.Array, ...]:
        """Classifies images.

        Args:
          image: [B, S, S, 3] float32, as the caller's weights were trained to take them.

        Returns:
          features: [B, 1280] float32, the mean over the last map.
          logits: [B, 1000] float32.
          Or "maps": [B, S / 4, S / 4, 24], [B, S / 8, S / 8, 40],
          [B, S / 16, S / 16, 112] and [B, S / 32, S / 32, 320] float32; or "last_map":
          [B, S / 32, S / 32, 1280] float32.
        """
        x = nn.relu6(Stem(_STEM_FEATURES, name="stem")(image))
        maps: dict[int, jax.Array] = {}
        index = 0
        for repeats, window, stride, expansion, features in _STAGES:
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                block = InvertedBottleneck(features, window, step, expansion, name=f"block{index}")
                x = block(x)
                index += 1
            maps[x.shape[1]] = x
        if self.output == "maps":
            return tuple(maps.values())[1:]  # The first has half the image's side.
        last = nn.relu6(Pointwise(NUM_FEATURES, name="head")(x))
        if self.output == "last_map":
            return (last,)
        pooled = last.mean(axis=(1, 2))
        return pooled, nn.Dense(NUM_CLASSES, name="classifier")(pooled)
