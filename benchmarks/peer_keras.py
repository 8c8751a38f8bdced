"""Keras's side of each job that it has: `fit` on TensorFlow, as its guides show."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import tensorflow as tf
from keras import layers

Work = Callable[[int], Any]

VERSIONS = {"keras": keras.__version__, "tensorflow": tf.__version__}
IMAGE_SIZE = 64


def _cnn(augments: bool, jit_compile: bool) -> keras.Model:
    # Bounds as shares: of a full turn, of the side, of the zoom.
    moves = [
        layers.RandomFlip("horizontal"),
        layers.RandomRotation(40 / 360, fill_mode="nearest"),
        layers.RandomTranslation(0.2, 0.2, fill_mode="nearest"),
        layers.RandomZoom((-0.4, 0.4), (-0.4, 0.4), fill_mode="nearest"),
        layers.RandomBrightness(0.2, value_range=(-1, 1)),
    ]
    model = keras.Sequential(
        [
            keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3)),
            layers.Rescaling(1 / 127.5, offset=-1),
            *(moves if augments else ()),
            *(layers.Conv2D(60, 1, activation="relu"), layers.MaxPooling2D(2)),
            *(layers.Conv2D(50, 3, activation="relu"), layers.MaxPooling2D(5)),
            *(layers.Flatten(), layers.Dense(256, activation="relu"), layers.Dropout(0.2)),
            *(layers.Dense(128, activation="relu"), layers.Dropout(0.2), layers.Dense(4)),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    return model


def cnn_step(*, batch_size: int, policy: str, jit_compile: bool = False) -> Work:
    """Updates of the paper's CNN on batches of 8-bit images, in one `fit`."""
    model = _cnn(policy != "none", jit_compile)
    rng = np.random.default_rng(0)
    shape = (batch_size, IMAGE_SIZE, IMAGE_SIZE, 3)
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    label = rng.integers(0, 4, batch_size)
    batches = tf.data.Dataset.from_tensors((image, label)).repeat().prefetch(2)
    return lambda count: model.fit(batches, steps_per_epoch=count, epochs=1, verbose=0)
