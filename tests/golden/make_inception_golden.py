"""Makes inception_v3.npz: `python make_inception_golden.py` (TensorFlow 2.21, Keras 3.15).

README.md in this folder describes the array. `python make_inception_golden.py FILE` also writes the
weights in the format of Keras's own downloads.
"""

from __future__ import annotations

import os
import pathlib
import re
import sys

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import h5py
import keras
import numpy as np
from formula import formula
from keras.src.legacy.saving import legacy_h5_format

FOLDER = pathlib.Path(__file__).parent


def number(layer: keras.layers.Layer) -> int:
    found = re.search(r"_(\d+)$", layer.name)
    return int(found[1]) if found else 0


def main() -> None:
    model = keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(75, 75, 3), pooling="avg"
    )
    for kind in (keras.layers.Conv2D, keras.layers.BatchNormalization):
        layers = sorted((each for each in model.layers if isinstance(each, kind)), key=number)
        for n, layer in enumerate(layers):
            shapes = [weight.shape for weight in layer.weights]
            if kind is keras.layers.Conv2D:
                bound = np.sqrt(6 / np.prod(shapes[0][:-1]))
                layer.set_weights([formula(shapes[0], seed=n, scale=bound)])
            else:
                beta, mean = (formula(shapes[0], seed=n + s, scale=0.1) for s in (100, 200))
                layer.set_weights(
                    [beta, mean, formula(shapes[0], seed=n + 300, scale=0.5, shift=1)]
                )
    features = model(formula((2, 75, 75, 3), seed=75), training=False).numpy()
    np.savez_compressed(FOLDER / "inception_v3.npz", features=features)
    print(features.shape, features.mean(), features.std(), model.count_params())
    if len(sys.argv) > 1:
        with h5py.File(sys.argv[1], "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)


if __name__ == "__main__":
    main()
