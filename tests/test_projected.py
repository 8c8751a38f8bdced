"""The discriminator that looks through a frozen classifier."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.formula import formula

from dermagan_jax.nets import efficientnet_lite, pretrained, projected

LABEL = jax.nn.one_hot(jnp.array([0, 3]), 4)


@pytest.fixture(scope="module")
def image():
    return jnp.tanh(formula((2, 32, 32, 3), seed=1))


@pytest.fixture(scope="module")
def discriminator():
    return projected.Discriminator(width=4, head_width=8, side=64)


@pytest.fixture(scope="module")
def variables(discriminator, image):
    drawn = jax.jit(discriminator.init, static_argnames="train")(
        jax.random.key(0), image, LABEL, train=False
    )
    # What classes are multiplied by is 0 at first.
    params = jax.tree.map(lambda leaf: leaf + 0.1 * formula(leaf.shape, seed=4), drawn["params"])
    return {**drawn, "params": params}


def test_the_maps_are_those_that_the_classifier_goes_on_with():
    frozen = pretrained.efficientnet_lite0_variables()
    image = formula((1, 64, 64, 3), seed=2)
    maps = efficientnet_lite.EfficientNetLite0(output="maps").apply(frozen, image)
    assert [each.shape[1:] for each in maps] == [
        (16, 16, 24),
        (8, 8, 40),
        (4, 4, 112),
        (2, 2, 320),
    ]
    head = {name: each["head"] for name, each in frozen.items()}
    last = efficientnet_lite.Pointwise(efficientnet_lite.NUM_FEATURES).apply(head, maps[-1])
    features, _ = efficientnet_lite.EfficientNetLite0().apply(frozen, image)
    np.testing.assert_allclose(jnp.clip(last, 0, 6).mean(axis=(1, 2)), features, atol=1e-5)


def test_a_map_is_mixed_with_the_smaller_ones_alone():
    maps = [formula((1, side, side, 3), seed=side) for side in (8, 4, 2)]
    kernels = projected.random_kernels(jax.random.key(0), [3, 3, 3], 4)
    mixed = projected.mix(maps, kernels)
    assert [each.shape for each in mixed] == [(1, 8, 8, 4), (1, 4, 4, 8), (1, 2, 2, 16)]
    for changed in range(3):
        others = [each + (index == changed) for index, each in enumerate(maps)]
        moved = [
            bool((a != b).all()) for a, b in zip(mixed, projected.mix(others, kernels), strict=True)
        ]
        assert moved == [index <= changed for index in range(3)]


def test_every_place_of_every_map_is_scored_by_class(discriminator, variables, image):
    apply = jax.jit(lambda label: discriminator.apply(variables, image, label, train=False))
    logits = apply(LABEL)
    assert logits.shape == (2, 16 + 16 + 16 + 4)
    others = apply(LABEL[::-1])
    assert bool((logits != others).all())


def test_a_transitional_one_says_both(discriminator, variables, image):
    both = discriminator.clone(transitional=True)
    logits = jax.jit(lambda label: both.apply(variables, image, label, train=False))(LABEL)
    assert logits.shape == (2, 2, 16 + 16 + 16 + 4)
    one = jax.jit(lambda label: discriminator.apply(variables, image, label, train=False))
    np.testing.assert_array_equal(logits[:, 1], one(LABEL))
    np.testing.assert_array_equal(logits[:, 0], one(None))


def test_images_are_compared_within_a_group(discriminator, variables, image):
    # The same image twice is a group without deviation; a second one changes what is said of it.
    score = jax.jit(lambda image: discriminator.apply(variables, image, LABEL, train=False))
    alone = score(jnp.stack([image[0], image[0]]))[0]
    beside = score(image)[0]
    assert bool((alone != beside).all())


def test_only_the_heads_learn_and_the_image_feels_it(discriminator, variables, image):
    assert set(variables["params"]) == {f"Head_{index}" for index in range(4)}
    frozen = variables["batch_stats"]["frozen"]
    jax.tree.map(np.testing.assert_array_equal, frozen, pretrained.efficientnet_lite0_variables())

    def score(image):
        logits, changed = discriminator.apply(
            variables, image, LABEL, train=True, mutable=["batch_stats"]
        )
        return logits.mean(), changed["batch_stats"]

    gradient, stats = jax.jit(jax.grad(score, has_aux=True))(image)
    assert bool((jnp.abs(gradient).sum(axis=3) > 0).mean() > 0.99)
    for name in ("frozen", "mixing"):
        jax.tree.map(np.testing.assert_array_equal, stats[name], variables["batch_stats"][name])
    assert any(
        bool((a != b).any())
        for a, b in zip(
            jax.tree.leaves(stats), jax.tree.leaves(variables["batch_stats"]), strict=True
        )
    ), "spectral norm's estimates must move"
