"""InceptionV3 against Keras's, its weights by a formula and in a file laid out as Keras's are."""

from __future__ import annotations

from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.formula import formula

from dermagan_jax import features
from dermagan_jax.errors import DermaganError
from dermagan_jax.nets import pretrained
from dermagan_jax.nets.inception_v3 import NUM_LAYERS, InceptionV3

GOLDEN = np.load(Path(__file__).parent / "golden" / "inception_v3.npz")


@pytest.fixture(scope="module")
def shapes():
    example = jnp.zeros((1, 75, 75, 3))
    return jax.eval_shape(InceptionV3().init, jax.random.key(0), example)


@pytest.fixture(scope="module")
def weights(shapes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keras's download, in the layout of its names; the last layers come before the tenth."""
    path = tmp_path_factory.mktemp("inception") / "weights.h5"
    with h5py.File(path, "w") as file:
        for n in range(NUM_LAYERS):
            shape = shapes["params"][f"layer{n}"]["conv"]["kernel"].shape
            conv, norm = f"conv2d_{n + 1}", f"batch_normalization_{n + 1}"
            bound = np.sqrt(6 / np.prod(shape[:-1]))
            file[f"{conv}/{conv}/kernel:0"] = formula(shape, seed=n, scale=bound)
            group = file.create_group(f"{norm}/{norm}")
            for name, seed, options in (
                ("beta", n + 100, {"scale": 0.1}),
                ("moving_mean", n + 200, {"scale": 0.1}),
                ("moving_variance", n + 300, {"scale": 0.5, "shift": 1}),
            ):
                group[f"{name}:0"] = formula(shape[-1:], seed=seed, **options)
        file["predictions/predictions/kernel:0"] = np.zeros((2, 2), np.float32)
    return path


def test_equals_keras(shapes, weights):
    variables = pretrained.inception_v3_variables(weights)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, dict(shapes))
    found = jax.jit(InceptionV3().apply)(variables, formula((2, 75, 75, 3), seed=75))
    np.testing.assert_allclose(found, GOLDEN["features"], atol=1e-4, rtol=0)


def test_is_an_extractor_of_large_images(weights):
    extractor = features.find_extractor(f"inception_v3={weights}")
    assert extractor.side == 299
    assert "not equal" in extractor.note


def test_other_files_are_named(weights, tmp_path):
    with pytest.raises(DermaganError, match=r"none\.h5: is no file of InceptionV3's weights"):
        pretrained.inception_v3_variables(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(DermaganError, match=r"text\.h5: is no file of InceptionV3's weights"):
        pretrained.inception_v3_variables(tmp_path / "text.h5")
    with h5py.File(tmp_path / "small.h5", "w") as file:
        file["conv2d_1/conv2d_1/kernel:0"] = np.zeros((3, 3, 3, 32), np.float32)
    with pytest.raises(DermaganError, match=r"it has 1 layers conv2d\); name the \.h5 that Keras"):
        pretrained.inception_v3_variables(tmp_path / "small.h5")
