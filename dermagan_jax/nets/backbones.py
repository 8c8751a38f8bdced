"""Classifiers on networks that others designed, and perhaps trained, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dermagan_jax.lesions import NUM_CLASSES
from dermagan_jax.nets import efficientnet_lite
from dermagan_jax.nets.mobilenet import MobileNet, MobileNetV2
from dermagan_jax.nets.resnet import ResNet50
from dermagan_jax.nets.vgg import DEPTHS_16, DEPTHS_19, VGG

SIDE_UNIT = 32  # The networks halve an image five times.

# Means of ImageNet's blue, green and red, which Keras takes off for VGG and ResNet.
_BGR_MEANS = (103.939, 116.779, 123.68)


def _to_caffe(image: jax.Array) -> jax.Array:
    """Turns [-1, 1] RGB into 0 to 255 BGR without the means."""
    return (image[..., ::-1] + 1) * 127.5 - jnp.array(_BGR_MEANS)[None, None, None]


class _Lite0(nn.Module):
    """EfficientNet-Lite0 to its features; its statistics stay as they were loaded."""

    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        return self.maps(image, train=train).mean(axis=(1, 2))

    @nn.compact
    def maps(self, image: jax.Array, *, train: bool) -> jax.Array:
        del train
        (last,) = efficientnet_lite.EfficientNetLite0(output="last_map", name="network")(image)
        return last


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network that turns images into features.

    Attributes:
      make: builds the module, called as `(image, train=...)`, from whether its normalisation
        learns and its name.
      prepare: turns [B, S, S, 3] float32 images in [-1, 1] into what the weights were trained on.
      weights_file: what Keras calls the file of ImageNet weights; "" where a package holds them.
    """

    make: Callable[[bool, str], nn.Module]
    prepare: Callable[[jax.Array], jax.Array]
    weights_file: str


def _same(image: jax.Array) -> jax.Array:
    return image


BACKBONES: Mapping[str, Backbone] = MappingProxyType(
    {
        "vgg16": Backbone(
            lambda _, name: VGG(DEPTHS_16, name=name),
            _to_caffe,
            "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        ),
        "vgg19": Backbone(
            lambda _, name: VGG(DEPTHS_19, name=name),
            _to_caffe,
            "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
        ),
        "resnet50": Backbone(
            lambda learns, name: ResNet50(learns, name=name),
            _to_caffe,
            "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        ),
        "mobilenet": Backbone(
            lambda learns, name: MobileNet(learns, name=name),
            _same,
            "mobilenet_1_0_224_tf_no_top.h5",
        ),
        "mobilenet_v2": Backbone(
            lambda learns, name: MobileNetV2(learns, name=name),
            _same,
            "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
        ),
        "efficientnet_lite0": Backbone(
            lambda _, name: _Lite0(name=name), efficientnet_lite.scaled, ""
        ),
    }
)
"""The networks by the names that a configuration gives."""


class BackboneClassifier(nn.Module):
    """A network's features, dropout and one dense layer.

    The network's variables are those of the layer `backbone`.

    Attributes:
      network: a name in `BACKBONES`.
      side: side in pixels to which images are resized first, a multiple of 32.
      frozen: let no gradient reach the network.
      norm_learns: while training, normalise by the batch; for a network trained from scratch.
      dropout_rate: fraction of the features dropped while training.
      num_classes: number of logits.

    Source: the paper's comparison, "pretrained models", with each network's own preprocessing,
    where its notebooks scale all by 1/255.
    """

    network: str
    side: int = 64
    frozen: bool = False
    norm_learns: bool = False
    dropout_rate: float = 0.2
    num_classes: int = NUM_CLASSES

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        """Classifies images.

        Args:
          image: [B, S, S, 3] float32 in [-1, 1].
          train: apply dropout, which draws from the rng stream "dropout".

        Returns:
          [B, num_classes] float32 logits.
        """
        chosen = BACKBONES[self.network]
        if image.shape[1] != self.side:
            shape = (len(image), self.side, self.side, 3)
            image = jax.image.resize(image, shape, "bilinear")
        network = chosen.make(self.norm_learns, "backbone")
        features = network(chosen.prepare(image), train=train)
        if self.frozen:
            features = lax.stop_gradient(features)
        features = nn.Dropout(self.dropout_rate, deterministic=not train)(features)
        init = nn.initializers.glorot_uniform()
        return nn.Dense(self.num_classes, kernel_init=init, name="logits")(features)
