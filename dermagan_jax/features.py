"""Networks by name that turn images into features, on which generated and real ones are compared.

Measures on the features of two networks can't be compared with each other, nor with those of a
publication that used a third.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dermagan_jax import images
from dermagan_jax.classifier_config import LESION_CNN
from dermagan_jax.data import prepared
from dermagan_jax.errors import DermaganError
from dermagan_jax.metrics.feature_set import FeatureSet
from dermagan_jax.nets import pretrained
from dermagan_jax.nets.efficientnet_lite import EfficientNetLite0
from dermagan_jax.nets.inception_v3 import InceptionV3
from dermagan_jax.trained_classifier import load_classifier
from dermagan_jax.writers import Progress

DEFAULT = "efficientnet_lite0"
# Small, so that a batch's widest map stays in a CPU's cache: 165 images a second, 145 with 64.
BATCH_SIZE = 16
_LITE0_SIDE, _INCEPTION_SIDE = 160, 299


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A network that gives features.

    Attributes:
      name: as in `EXTRACTORS`.
      note: one sentence on what its features are.
      side: side of the images that it takes; others are resized.
      apply: [B, side, side, 3] uint8 to [B, D] float32, jitted.
      train_split_sha256: what the network was trained on, where that is a prepared set.
    """

    name: str
    note: str
    side: int
    apply: Callable[[np.ndarray], jax.Array]
    train_split_sha256: str | None = None

    def extract(self, pictures: np.ndarray, *, label: str) -> np.ndarray:
        """Computes the features of images.

        Args:
          pictures: [N, S, S, 3] uint8.
          label: what the images are, for the progress line.

        Returns:
          [N, D] float64.
        """
        parts = []
        with Progress(
            -(-len(pictures) // BATCH_SIZE),
            initial_step=0,
            images_per_step=BATCH_SIZE,
            label=f"features of {label}",
        ) as progress:
            for part in self._batches(pictures):
                parts.append(part)
                progress.update(len(parts), {})
        return np.concatenate(parts)

    def extract_few(self, pictures: np.ndarray) -> np.ndarray:
        """Does what `extract` does, without a progress line."""
        return np.concatenate(list(self._batches(pictures)))

    def _batches(self, pictures: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(pictures), BATCH_SIZE):
            batch = pictures[start : start + BATCH_SIZE]
            resized = np.stack([images.resize_crop(image, self.side) for image in batch])
            # Every batch has one shape, so that one program serves all.
            padding = ((0, BATCH_SIZE - len(batch)), (0, 0), (0, 0), (0, 0))
            found = np.asarray(self.apply(np.pad(resized, padding)))
            yield found[: len(batch)].astype(np.float64)

    def features_of(self, split: prepared.Split, *, label: str) -> FeatureSet:
        """Computes the features of a prepared set's images; see `extract`."""
        return FeatureSet(self.extract(split.image, label=label), split.label, split.lesion)


def find_extractor(text: str) -> Extractor:
    """Makes the extractor that a user names.

    Args:
      text: one of `usages()`.

    Raises:
      DermaganError: there is no such extractor, or its weights are missing.
    """
    name, separator, path = text.partition("=")
    if name not in EXTRACTORS or bool(separator) != (name in TAKES_PATH):
        raise DermaganError(f"--features {text}: give one of {', '.join(usages())}")
    return EXTRACTORS[name](Path(path).expanduser())


def usages() -> list[str]:
    """Lists how a user writes each extractor."""
    return [f"{name}={TAKES_PATH[name]}" if name in TAKES_PATH else name for name in EXTRACTORS]


def _lite0(_: Path) -> Extractor:
    return _make_lite0(
        pretrained.efficientnet_lite0_variables(),
        name="efficientnet_lite0",
        note="Pooled features of EfficientNet-Lite0, trained on ImageNet's photographs of objects.",
    )


def _random(_: Path) -> Extractor:
    rng = np.random.default_rng(0)
    example = jnp.zeros((1, _LITE0_SIDE, _LITE0_SIDE, 3))
    shapes = jax.eval_shape(EfficientNetLite0().init, jax.random.key(0), example)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        if name == "kernel":  # He-normal; the fan-in is all but the last axis of every kernel.
            bound = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return rng.normal(scale=bound, size=leaf.shape).astype(np.float32)
        return np.full(leaf.shape, float(name in ("scale", "var")), np.float32)

    # Not the module's own `init`, which takes 17 s to compile.
    return _make_lite0(
        jax.tree_util.tree_map_with_path(draw, shapes),
        name="random",
        note="Pooled features of EfficientNet-Lite0 with random weights: no substitute for a "
        "trained network, only a check that a finding does not hang on one.",
    )


def _make_lite0(variables: Mapping, *, name: str, note: str) -> Extractor:
    def apply(variables: Mapping, image: jax.Array) -> jax.Array:
        # The scaling of TensorFlow's release, from which the weights come.
        scaled = (image.astype(jnp.float32) - 127.0) / 128.0
        features, _ = EfficientNetLite0().apply(variables, scaled)
        return features

    # An argument, not a constant: a program with the weights in it would be compiled anew for each.
    return Extractor(name, note, _LITE0_SIDE, functools.partial(jax.jit(apply), variables))


def _inception(path: Path) -> Extractor:
    def apply(variables: Mapping, image: jax.Array) -> jax.Array:
        features: Any = InceptionV3().apply(variables, images.to_float(image))
        return features

    return Extractor(
        "inception_v3",
        "Pooled features of InceptionV3 with Keras's ImageNet weights: near to published FID and "
        "KID, whose authors used other weights, and not equal.",
        _INCEPTION_SIDE,
        functools.partial(jax.jit(apply), pretrained.inception_v3_variables(path)),
    )


def _in_domain(workdir: Path) -> Extractor:
    """The last hidden layer of a classifier of ours, at its best validation loss."""
    trained = load_classifier(workdir)

    last = "Dense_1" if trained.network == LESION_CNN else "backbone"

    def is_last_hidden(module: nn.Module, _: str) -> bool:
        return module.name == last

    def apply(variables: Mapping, image: jax.Array) -> jax.Array:
        _, kept = trained.model.apply(
            variables,
            images.to_float(image),
            train=False,
            capture_intermediates=is_last_hidden,
            mutable=["intermediates"],
        )
        return nn.relu(kept["intermediates"][last]["__call__"][0])

    return Extractor(
        "in_domain",
        "Last hidden layer of a classifier trained on this set's training split: it knows the "
        "training images, so that its signs of copying say little.",
        trained.image_size,
        functools.partial(jax.jit(apply), trained.variables),
        trained.train_split_sha256,
    )


EXTRACTORS: Mapping[str, Callable[[Path], Extractor]] = MappingProxyType(
    {
        "efficientnet_lite0": _lite0,
        "inception_v3": _inception,
        "in_domain": _in_domain,
        "random": _random,
    }
)
"""What makes each extractor, by the name that a user gives."""

TAKES_PATH: Mapping[str, str] = MappingProxyType(
    {"inception_v3": "KERAS_H5_FILE", "in_domain": "CLASSIFIER_WORKDIR"}
)
"""What follows the name and `=`, for those whose weights are the user's."""
