"""Makes backbones.npz: `python make_backbones_golden.py` (TensorFlow 2.21, Keras 3.15).

README.md in this folder describes the arrays. `python make_backbones_golden.py FOLDER` also writes
each network's weights there, in the format of Keras's own downloads.
"""

from __future__ import annotations

import os
import pathlib
import sys
import zlib

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import h5py
import keras
import numpy as np
from formula import formula
from keras.src.legacy.saving import legacy_h5_format

FOLDER = pathlib.Path(__file__).parent
NETWORKS = ("VGG16", "VGG19", "ResNet50", "MobileNet", "MobileNetV2")
SIZE = 64


def number(layer: keras.layers.Layer, weight: keras.Variable) -> np.ndarray:
    """Returns the array of a layer's tensor."""
    name, tensor, shape = layer.name, weight.path.rpartition("/")[2], weight.shape
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        tensor = "depthwise_kernel"  # As in the downloads; Keras 3 itself calls it "kernel".
    seed = zlib.crc32(f"{name}/{tensor}".encode()) % 10_000
    if tensor == "kernel":
        return formula(shape, seed=seed, scale=np.sqrt(6 / np.prod(shape[:-1])))
    if tensor == "depthwise_kernel":
        return formula(shape, seed=seed, scale=np.sqrt(6 / 9))
    shift = 1 if tensor in ("gamma", "moving_variance") else 0
    return formula(shape, seed=seed, scale=0.1, shift=shift)


def main() -> None:
    found = {}
    for name in NETWORKS:
        make = getattr(keras.applications, name)
        model = make(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3), pooling="avg")
        for layer in model.layers:
            layer.set_weights([number(layer, weight) for weight in layer.weights])
        image = formula((2, SIZE, SIZE, 3), seed=SIZE)
        found[f"{name}/features"] = model(image, training=False).numpy()
        layers = [layer for layer in model.layers if layer.weights]
        taps = keras.Model(model.input, [layer.output for layer in layers])
        for layer, output in zip(layers, taps(image, training=False), strict=True):
            # A few numbers from all over the map.
            flat = output.numpy().ravel()
            found[f"{name}/{layer.name}"] = flat[:: max(1, flat.size // 16)][:16]
        features = found[f"{name}/features"]
        print(name, features.mean(), features.std(), model.count_params())
        if len(sys.argv) > 1:
            with h5py.File(pathlib.Path(sys.argv[1]) / f"{name}.h5", "w") as file:
                legacy_h5_format.save_weights_to_hdf5_group(file, model)
    np.savez_compressed(FOLDER / "backbones.npz", **found)


if __name__ == "__main__":
    main()
