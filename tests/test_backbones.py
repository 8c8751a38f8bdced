"""Keras's applications, layer by layer, their weights by a formula and in a file as Keras's are."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import flax.linen as nn
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.formula import formula

from dermagan_jax.errors import DermaganError
from dermagan_jax.nets import mobilenet, pretrained, resnet, vgg

GOLDEN = np.load(Path(__file__).parent / "golden" / "backbones.npz")
SIZE = 64
NETWORKS: dict[str, nn.Module] = {
    "VGG16": vgg.VGG(),
    "VGG19": vgg.VGG(vgg.DEPTHS_19),
    "ResNet50": resnet.ResNet50(),
    "MobileNet": mobilenet.MobileNet(),
    "MobileNetV2": mobilenet.MobileNetV2(),
}
NUM_PARAMS = {
    "VGG16": 14_714_688,
    "VGG19": 20_024_384,
    "ResNet50": 23_587_712,
    "MobileNet": 3_228_864,
    "MobileNetV2": 2_257_984,
}
KERAS_NAMES = {
    "scale": "gamma",
    "mean": "moving_mean",
    "var": "moving_variance",
}


def _shapes(network: nn.Module) -> dict[str, Any]:
    example = jnp.zeros((1, SIZE, SIZE, 3))
    init = jax.eval_shape(lambda: network.init(jax.random.key(0), example, train=False))
    return dict(init)


def _write(path: Path, shapes: dict[str, Any]) -> Path:
    """Writes Keras's download, with the weights of `make_backbones_golden.py`."""
    with h5py.File(path, "w") as file:
        for tree in shapes.values():
            for layer, tensors in tree.items():
                for name, leaf in tensors.items():
                    _write_tensor(file, layer, name, leaf.shape, is_norm="scale" in tensors)
    return path


def _write_tensor(
    file: h5py.File, layer: str, name: str, shape: tuple[int, ...], *, is_norm: bool
) -> None:
    tensor = KERAS_NAMES.get(name, "beta" if name == "bias" and is_norm else name)
    if len(shape) == 3:
        tensor, shape = "depthwise_kernel", (*shape, 1)
    seed = zlib.crc32(f"{layer}/{tensor}".encode()) % 10_000
    options = {"scale": 0.1, "shift": float(tensor in ("gamma", "moving_variance"))}
    if tensor == "kernel":
        options = {"scale": np.sqrt(6 / np.prod(shape[:-1]))}
    elif tensor == "depthwise_kernel":
        options = {"scale": np.sqrt(6 / 9)}
    file[f"{layer}/{layer}/{tensor}:0"] = formula(shape, seed=seed, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_keras_layer_by_layer(name, tmp_path):
    network = NETWORKS[name]
    shapes = _shapes(network)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == NUM_PARAMS[name]
    variables = pretrained.keras_variables(_write(tmp_path / "weights.h5", shapes), shapes)
    features, kept = jax.jit(
        lambda variables, image: network.apply(
            variables, image, train=False, capture_intermediates=True
        )
    )(variables, formula((2, SIZE, SIZE, 3), seed=SIZE))
    outputs = kept["intermediates"]
    layers = list(shapes["params"])
    assert {f"{name}/{each}" for each in [*layers, "features"]} == {
        each for each in GOLDEN if each.startswith(f"{name}/")
    }
    for layer in layers:
        flat = np.ravel(outputs[layer]["__call__"][0])
        taken = flat[:: max(1, flat.size // 16)][:16]
        expected = GOLDEN[f"{name}/{layer}"]
        _require_near(taken, _before_relu(expected, taken, name), layer)
    _require_near(features, GOLDEN[f"{name}/features"], "features")


def _require_near(found: np.ndarray, expected: np.ndarray, layer: str) -> None:
    """Differences count in units of the layer's largest value, and of 1 where all are smaller."""
    atol = 1e-4 * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, atol=atol, rtol=0, err_msg=layer)


def _before_relu(expected: np.ndarray, taken: np.ndarray, name: str) -> np.ndarray:
    """Keras's VGG has ReLU inside its layers: where it gives 0, ours must be at most 0."""
    if not name.startswith("VGG"):
        return expected
    return np.where((expected == 0) & (taken <= 0), taken, expected)


@pytest.mark.parametrize("name", ["ResNet50", "MobileNet", "MobileNetV2"])
def test_norms_learn_only_when_told(name):
    image = formula((2, 32, 32, 3), seed=1)
    for norm_learns in (False, True):
        network = NETWORKS[name].clone(norm_learns=norm_learns)
        shapes = jax.eval_shape(lambda n=network: n.init(jax.random.key(0), image, train=False))
        variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, leaf.dtype), dict(shapes))
        _, changed = jax.jit(
            lambda v, n=network: n.apply(v, image, train=True, mutable=["batch_stats"])
        )(variables)
        same = [
            bool((a == b).all())
            for a, b in zip(
                jax.tree.leaves(changed["batch_stats"]),
                jax.tree.leaves(variables["batch_stats"]),
                strict=True,
            )
        ]
        assert not any(same) if norm_learns else all(same)


def test_other_files_are_named(tmp_path):
    shapes = _shapes(NETWORKS["VGG16"])
    with pytest.raises(DermaganError, match=r"none\.h5: does not hold this network's weights"):
        pretrained.keras_variables(tmp_path / "none.h5", shapes)
    other = _write(tmp_path / "other.h5", _shapes(NETWORKS["MobileNet"]))
    with pytest.raises(DermaganError, match=r"other\.h5: .* \(.*block1_conv1.*\); name the file"):
        pretrained.keras_variables(other, shapes)
    with pytest.raises(DermaganError, match=r"other\.h5: .*\(its layers have other shapes\)"):
        pretrained.keras_variables(
            other, {"params": {"conv1": {"kernel": np.zeros((3, 3, 3, 16))}}}
        )
