"""Makes lesion_cnn.npz with Keras: `python make_keras_golden.py` (TensorFlow 2.21, Keras 3.15).

Everything is computed in float64 from the float32 numbers of `formula.py` and stored as float32.
README.md in this folder describes each array.
"""

from __future__ import annotations

import os
import pathlib

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf
from formula import formula

FOLDER = pathlib.Path(__file__).parent
LEARNING_RATE, EPSILON = 1e-3, 1e-7
LAYERS = ("conv0", "conv1", "dense0", "dense1", "dense2")
LABELS = np.array([0, 3, 1])


def build() -> keras.Model:
    """The paper's CNN, with logits out and a pooling stride equal to the pool."""
    return keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            keras.layers.Conv2D(60, 1, activation="relu", name="conv0"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(50, 3, activation="relu", name="conv1"),
            keras.layers.MaxPooling2D(5),
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu", name="dense0"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(128, activation="relu", name="dense1"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(4, name="dense2"),
        ]
    )


def glorot_bound(shape: tuple[int, ...]) -> float:
    """The half-width of Keras's Glorot-uniform for a kernel [..., in, out]."""
    receptive = int(np.prod(shape[:-2]))
    return float(np.sqrt(6 / (receptive * (shape[-2] + shape[-1]))))


def fill(model: keras.Model) -> dict[str, np.ndarray]:
    """Gives layer n the formula seeds 300 + 10 n (kernel) and + 1 (bias); returns the bounds."""
    bounds = {}
    for n, name in enumerate(LAYERS):
        layer = model.get_layer(name)
        kernel, bias = (tuple(weight.shape) for weight in layer.weights)
        bound = glorot_bound(kernel)
        largest = float(np.abs(layer.get_weights()[0]).max())
        assert 0.95 * bound < largest <= bound, (name, largest, bound)
        assert not layer.get_weights()[1].any()
        layer.set_weights(
            [
                formula(kernel, seed=300 + 10 * n, scale=bound),
                formula(bias, seed=301 + 10 * n, scale=0.05),
            ]
        )
        bounds[f"glorot_bound/{name}"] = np.array(bound)
    return bounds


def kept(kernel: np.ndarray) -> np.ndarray:
    """The part of a kernel that is stored: the first 8 inputs and the first 8 outputs."""
    return kernel[..., :8, :8]


def main() -> None:
    keras.config.set_floatx("float64")
    keras.utils.set_random_seed(0)
    model = build()
    arrays = {"num_params": np.array(model.count_params()), "labels": LABELS, **fill(model)}
    assert model.count_params() == 521_758
    image = formula((3, 64, 64, 3), seed=30).astype(np.float64)
    before = {name: [w.numpy() for w in model.get_layer(name).weights] for name in LAYERS}

    with tf.GradientTape() as tape:
        logits = model(image, training=False)
        loss = keras.ops.mean(
            keras.losses.sparse_categorical_crossentropy(LABELS, logits, from_logits=True)
        )
    variables = [w.value for name in LAYERS for w in model.get_layer(name).weights]
    grads = tape.gradient(loss, variables)
    keras.optimizers.Adam(LEARNING_RATE).apply(
        grads, [w for name in LAYERS for w in model.get_layer(name).weights]
    )
    arrays |= {"logits": logits.numpy(), "loss": loss.numpy()}
    arrays["logits_after"] = model(image, training=False).numpy()
    for n, name in enumerate(LAYERS):
        for m, part in enumerate(("kernel", "bias")):
            grad = grads[2 * n + m].numpy()
            after = model.get_layer(name).weights[m].numpy()
            # Textbook Adam's first step; Keras adds epsilon before the bias correction of v.
            textbook = before[name][m] - LEARNING_RATE * grad / (np.abs(grad) + EPSILON)
            shorten = kept if part == "kernel" else np.asarray
            arrays[f"grad_norm/{name}/{part}"] = np.linalg.norm(grad)
            arrays[f"grad/{name}/{part}"] = shorten(grad)
            arrays[f"adam_keras/{name}/{part}"] = shorten(after)
            arrays[f"adam_textbook/{name}/{part}"] = shorten(textbook)
    small = {
        name: np.asarray(value, np.int64 if np.asarray(value).dtype.kind in "iu" else np.float32)
        for name, value in arrays.items()
    }
    path = FOLDER / "lesion_cnn.npz"
    np.savez_compressed(path, **small)
    print(path.name, len(small), "arrays", path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
