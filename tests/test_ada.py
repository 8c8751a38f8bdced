"""The rule that moves ADA's probability, and what its operations do."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dermagan_jax import ada, diffaugment

SIZE = 16
# Which numbers of the draw say whether an operation happens.
GATES = (0, 2, 5, 6, 7, 11, 12, 13, 14, 15)


def _images(count: int) -> jax.Array:
    return jax.random.uniform(jax.random.key(0), (count, SIZE, SIZE, 3), minval=-1, maxval=1)


def test_p_moves_every_fourth_step_by_the_images_seen() -> None:
    state = ada.AdaState(jnp.array(0.5), jnp.zeros(()))
    seen = []
    # Mean signs of 0.65 and then of 0.55, about a target of 0.6; 10 images of 1,000 a step.
    for step, sign in enumerate([0.5, 0.8, 0.6, 0.7, 0.5, 0.5, 0.6, 0.6]):
        state = ada.adapt(state, jnp.array(sign), jnp.array(step), 10, 1.0)
        seen.append(round(float(state.p), 4))
    assert seen == [0.5, 0.5, 0.5, 0.54, 0.54, 0.54, 0.54, 0.5]
    assert float(state.signs) == 0.0


def test_p_stays_a_probability() -> None:
    for start, sign, end in ((0.0, -1.0, 0.0), (1.0, 1.0, 1.0)):
        state = ada.AdaState(jnp.array(start), jnp.array(3 * sign))
        assert float(ada.adapt(state, jnp.array(sign), jnp.array(3), 100, 1.0).p) == end


def test_without_probability_images_stay_as_they_are() -> None:
    image = _images(8)
    draw = jax.random.uniform(jax.random.key(1), (8, ada.AUGMENTATION.num_draws))
    kept = ada.AUGMENTATION.apply(image, draw, jnp.array(0.0))
    chex.assert_trees_all_close(kept, image, atol=1e-5)
    changed = np.abs(ada.AUGMENTATION.apply(image, draw, jnp.array(1.0)) - image)
    assert changed.mean(axis=(1, 2, 3)).min() > 0.05


def test_each_operation_happens_where_its_gate_is_open() -> None:
    """A draw that lets one operation alone happen changes the image; the others leave it."""
    image = _images(1)
    # A gate of 0 opens at any p, one of 0.9 stays shut.
    shut = jnp.full((1, ada.AUGMENTATION.num_draws), 0.3).at[0, jnp.array(GATES)].set(0.9)
    for gate in GATES:
        draw = shut.at[0, gate].set(0.0)
        changed = np.abs(ada.AUGMENTATION.apply(image, draw, jnp.array(0.5)) - image).mean()
        assert changed > 0.01, gate
    kept = ada.AUGMENTATION.apply(image, shut, jnp.array(0.5))
    chex.assert_trees_all_close(kept, image, atol=1e-5)


@pytest.mark.parametrize("p", [0.25, 0.7])
def test_each_operation_happens_as_often_as_p_says(p: float) -> None:
    """Of twenty equal parts of [0, 1) as many open a gate as p has; the other gates stay shut."""
    count = 20
    image = jnp.tile(_images(1), (count, 1, 1, 1))
    shut = jnp.full((count, ada.AUGMENTATION.num_draws), 0.3).at[:, jnp.array(GATES)].set(0.99)
    for gate in GATES:
        draw = shut.at[:, gate].set((jnp.arange(count) + 0.5) / count)
        seen = ada.AUGMENTATION.apply(image, draw, jnp.array(p))
        happened = np.abs(seen - image).mean(axis=(1, 2, 3)) > 0.01
        assert happened.sum() == round(p * count), gate


def test_colour_operations_by_hand() -> None:
    shut, p = jnp.full(10, 0.9).at[5:].set(0.3), jnp.array(0.5)
    gray = np.full(3, 0.4)

    def changed(index: int, strength: float, colour: np.ndarray) -> np.ndarray:
        draw = shut.at[index].set(0.0).at[5 + index].set(strength)
        linear, offset = ada.colour_map(draw, p)
        return np.asarray(linear @ colour + offset)

    # The normal quantile of 0.8413 is 1.
    np.testing.assert_allclose(changed(0, 0.8413447, gray), gray + 0.2, atol=1e-4)
    np.testing.assert_allclose(changed(1, 0.8413447, gray), gray * 2**0.5, atol=1e-4)
    np.testing.assert_allclose(changed(2, 0.3, gray), -gray, atol=1e-5)
    np.testing.assert_allclose(changed(3, 0.1, gray), gray, atol=1e-5)
    red = np.array([0.9, 0.0, 0.0])
    # A third of a turn: 2s - 1 = 2/3.
    np.testing.assert_allclose(changed(3, 5 / 6, red), red[[2, 0, 1]], atol=1e-5)
    np.testing.assert_allclose(changed(4, 0.8413447, red), [1.5, -0.3, -0.3], atol=1e-3)


def test_gradients_pass_through() -> None:
    draw = jax.random.uniform(jax.random.key(2), (4, ada.AUGMENTATION.num_draws))

    def total(image: jax.Array) -> jax.Array:
        return (ada.AUGMENTATION.apply(image, draw, jnp.array(0.8)) ** 2).sum()

    gradient = np.abs(jax.grad(total)(_images(4)))
    assert gradient.mean(axis=(1, 2, 3)).min() > 0.1
    assert np.isfinite(gradient).all()


def test_a_whole_number_of_operations_is_drawn_from_the_same_numbers() -> None:
    """The operations that other augmentation shares are those, given its own part of the draw."""
    image = _images(1)
    draw = jnp.full((1, ada.AUGMENTATION.num_draws), 0.9).at[0, 2:5].set(jnp.array([0.0, 0.2, 0.7]))
    ours = ada.AUGMENTATION.apply(image, draw, jnp.array(0.5))
    assert float(jnp.abs(ours - diffaugment.shift(image, draw[:, 3:5])).max()) == pytest.approx(
        0, abs=1e-5
    )
