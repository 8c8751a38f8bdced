"""The residual networks: shapes, classes, groups, and the layers that they are made of."""

from __future__ import annotations

from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dermagan_jax.nets import resgan


def _init(module: nn.Module, *inputs: Any) -> Any:
    return jax.jit(partial(module.init, train=False))(jax.random.key(0), *inputs)


def _labels(count: int) -> jax.Array:
    return jax.nn.one_hot(jnp.arange(count) % 4, 4)


def _moved(variables: dict[str, Any]) -> dict[str, Any]:
    """Moves all weights: some are 0 at first."""
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    moved = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_sizes_follow_one_rule(size: int) -> None:
    """Each further doubling starts from twice the channels, up to the most."""
    z, label = jnp.ones((2, 5)), _labels(2)
    generator = resgan.Generator(width=2, max_width=8, image_size=size)
    variables = _init(generator, z, label)
    image = generator.apply(variables, z, label, train=False)
    chex.assert_shape(image, (2, size, size, 3))
    blocks = [
        kernel["kernel"].shape[-1]
        for name, kernel in variables["params"].items()
        if name.startswith("UpsampleConv")
    ]
    assert blocks == {32: [4, 2, 3], 64: [8, 4, 2, 3], 128: [8, 8, 4, 2, 3]}[size]
    discriminator = resgan.Discriminator(width=2, max_width=8)
    variables = _init(discriminator, image, label)
    chex.assert_shape(discriminator.apply(variables, image, label, train=False), (2,))


def test_unconditional_networks_take_no_label() -> None:
    z = jnp.ones((2, 5))
    generator = resgan.Generator(width=2, image_size=16)
    image = generator.apply(_init(generator, z), z, train=False)
    discriminator = resgan.Discriminator(width=2)
    chex.assert_shape(discriminator.apply(_init(discriminator, image), image, train=False), (2,))


def test_classes_matter_to_both() -> None:
    z, label = jnp.ones((4, 5)), _labels(4)
    generator = resgan.Generator(width=4, image_size=16)
    image = np.asarray(generator.apply(_init(generator, z, label), z, label, train=False))
    assert len({each.tobytes() for each in image}) == 4
    same = jnp.broadcast_to(jax.random.normal(jax.random.key(1), (1, 16, 16, 3)), (4, 16, 16, 3))
    discriminator = resgan.Discriminator(width=4)
    variables = _moved(_init(discriminator, same, label))
    logits = np.asarray(discriminator.apply(variables, same, label, train=False))
    assert len(np.unique(logits.round(5))) == 4


def test_a_transitional_discriminator_says_both() -> None:
    image, label = jax.random.normal(jax.random.key(1), (4, 16, 16, 3)), _labels(4)
    both = resgan.Discriminator(width=4, transitional=True)
    variables = _moved(_init(both, image, label))
    logits = both.apply(variables, image, label, train=False)
    one = resgan.Discriminator(width=4)
    chex.assert_trees_all_equal(logits[:, 1], one.apply(variables, image, label, train=False))
    chex.assert_trees_all_equal(logits[:, 0], one.apply(variables, image, train=False))
    assert not np.allclose(logits[:, 0], logits[:, 1])


def test_a_class_counts_by_its_weight() -> None:
    z, label = jnp.ones((4, 5)), _labels(4)
    generator = resgan.Generator(width=4, image_size=16)
    variables = _init(generator, z, label)

    def weighted(weight: float, label: jax.Array) -> jax.Array:
        params = resgan.with_class_weight(variables["params"], jnp.float32(weight))
        return generator.apply({**variables, "params": params}, z, label, train=False)

    half = generator.apply(variables, z, 0.5 * label, train=False)
    np.testing.assert_allclose(weighted(0.5, label), half, atol=1e-6)
    np.testing.assert_array_equal(weighted(0.0, label), weighted(0.0, label[::-1]))


def test_doubling_goes_from_pixel_to_pixel_without_steps() -> None:
    x = jnp.array([[0.0, 4.0], [8.0, 12.0]])[None, :, :, None]
    expected = np.array([0, 1, 3, 4]) + np.array([0, 2, 6, 8])[:, None]
    np.testing.assert_allclose(resgan.upsample(x)[0, :, :, 0], expected, atol=1e-5)


def test_minibatch_deviation_by_hand() -> None:
    x = jnp.array([0.0, 2.0, 5.0, 5.0]).reshape(4, 1, 1, 1)
    ours = np.asarray(resgan.minibatch_deviation(x, 2))
    np.testing.assert_allclose(ours[:, 0, 0, 0], [0, 2, 5, 5])
    np.testing.assert_allclose(ours[:, 0, 0, 1], [1, 1, 0, 0], atol=2e-4)
    with pytest.raises(ValueError, match="a batch of 4 does not divide into groups of 3"):
        resgan.minibatch_deviation(x, 3)


def test_attention_starts_as_nothing_and_then_mixes_places() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    layer = resgan.SelfAttention()
    params = layer.init(jax.random.key(1), x)["params"]
    chex.assert_trees_all_equal(layer.apply({"params": params}, x), x)
    params = {**params, "gain": jnp.array(1.0)}
    near = layer.apply({"params": params}, x)
    far = layer.apply({"params": params}, x.at[0, 3, 3].add(1.0))
    assert float(jnp.abs(far - near)[0, 0, 0].max()) > 1e-5
    chex.assert_trees_all_equal(far[1], near[1])


def test_spectral_norm_bounds_a_layer() -> None:
    """After many passes each kernel, as a matrix, stretches nothing more than once."""
    image, label = jax.random.normal(jax.random.key(1), (4, 16, 16, 3)), _labels(4)
    module = resgan.Discriminator(width=4, max_width=4, spectral_norm=True)
    variables = _init(module, image, label)

    @jax.jit
    def one(variables: Any) -> Any:
        return module.apply(variables, image, label, train=True, mutable=["batch_stats"])[1]

    for _ in range(50):
        variables = {**variables, **one(variables)}
    kernel = np.asarray(variables["params"]["ConvDown_0"]["kernel"]).reshape(-1, 4)
    stats = jax.tree_util.tree_leaves_with_path(variables["batch_stats"])
    sigmas = {jax.tree_util.keystr(path): float(leaf) for path, leaf in stats if leaf.ndim == 0}
    (ours,) = [value for name, value in sigmas.items() if "ConvDown_0/kernel/sigma" in name]
    assert ours == pytest.approx(np.linalg.svd(kernel, compute_uv=False)[0], rel=1e-3)


def test_a_label_of_less_weight_is_a_blend_of_none_and_all() -> None:
    """A label of weight 0 is no label, which is where a transition starts; then the logit moves."""
    image, label = jax.random.normal(jax.random.key(1), (4, 16, 16, 3)), _labels(4)
    discriminator = resgan.Discriminator(width=4)
    variables = _moved(_init(discriminator, image, label))

    def score(label: jax.Array | None) -> np.ndarray:
        return np.asarray(discriminator.apply(variables, image, label, train=False))

    without, whole = score(None), score(label)
    assert np.abs(whole - without).min() > 1e-3
    for weight in (0.0, 0.25, 1.0):
        blend = (1 - weight) * without + weight * whole
        np.testing.assert_allclose(score(weight * label), blend, atol=1e-5)
