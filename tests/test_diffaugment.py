"""Augmentation of the discriminator's images by given draws, by hand."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dermagan_jax import diffaugment
from dermagan_jax.errors import DermaganError

SIZE = 16


def _images(count: int = 2) -> jax.Array:
    return jax.random.uniform(jax.random.key(0), (count, SIZE, SIZE, 3), minval=-1, maxval=1)


def test_shifts_bring_in_gray() -> None:
    """An eighth of 16 pixels is 2; of the five offsets 0.99 is the last and 0.4 the middle."""
    image = _images()
    moved = np.asarray(diffaugment.shift(image, jnp.array([[0.99, 0.0], [0.4, 0.4]])))
    np.testing.assert_array_equal(moved[0, 2:, :-2], image[0, :-2, 2:])
    assert not moved[0, :2].any()
    assert not moved[0, :, -2:].any()
    np.testing.assert_array_equal(moved[1], image[1])


def test_a_cut_is_a_square_of_half_the_side() -> None:
    image = jnp.ones((2, SIZE, SIZE, 3))
    left = np.asarray(diffaugment.cut(image, jnp.array([[0.5, 0.5], [0.0, 0.999]])))
    expected = np.ones((2, SIZE, SIZE, 3))
    expected[0, 4:12, 4:12] = 0
    expected[1, :4, 12:] = 0
    np.testing.assert_array_equal(left, expected)


def test_colours_by_hand() -> None:
    image = _images(4)
    half = [0.5, 0.5, 0.5]
    draw = jnp.array([half, [0.75, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    ours = np.asarray(diffaugment.recolour(image, draw))
    image = np.asarray(image)
    np.testing.assert_allclose(ours[0], image[0], atol=1e-6)
    np.testing.assert_allclose(ours[1], image[1] + 0.25, atol=1e-6)
    gray = image[2].mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(ours[2], np.broadcast_to(gray, image[2].shape), atol=1e-6)
    np.testing.assert_allclose(ours[3], (image[3] + image[3].mean()) / 2, atol=1e-6)


def test_policies_are_composed_in_order_and_draw_their_own_numbers() -> None:
    both = diffaugment.make_diffaugment("cutout,translation")
    assert both.num_draws == 4
    draw = jnp.array([[0.5, 0.5, 0.9, 0.0], [0.0, 0.3, 0.1, 0.7]])
    expected = diffaugment.shift(diffaugment.cut(_images(), draw[:, :2]), draw[:, 2:])
    chex.assert_trees_all_equal(both.apply(_images(), draw, jnp.ones(())), expected)
    with pytest.raises(DermaganError, match="'colour'; give 'none', 'ada' or some of color"):
        diffaugment.make_diffaugment("colour")


def test_gradients_reach_every_pixel_that_is_shown() -> None:
    whole = diffaugment.make_diffaugment("color,translation,cutout")
    draw = jnp.array([[0.6, 0.7, 0.8, 0.9, 0.1, 0.5, 0.5]])
    image = _images(1)

    def score(image: jax.Array) -> jax.Array:
        return (whole.apply(image, draw, jnp.ones(())) ** 2).sum()

    gradient = np.asarray(jax.grad(score)(image))
    assert np.abs(gradient).min() > 0
    step = 0.5  # The score is a quadratic form, so no step is too long.
    up, down = (float(score(image.at[0, 8, 1, 2].add(sign * step))) for sign in (1, -1))
    assert (up - down) / (2 * step) == pytest.approx(float(gradient[0, 8, 1, 2]), rel=0.02)


def test_the_eight_symmetries_are_eight_and_exact() -> None:
    image = jnp.broadcast_to(_images(1), (8, SIZE, SIZE, 3))
    turned = np.asarray(diffaugment.turn(image, (jnp.arange(8) + 0.5) / 8))
    assert len({each.tobytes() for each in turned}) == 8
    one = np.asarray(image[0])
    expected = {
        np.ascontiguousarray(np.rot90(side, quarter)).tobytes()
        for side in (one, one[::-1])
        for quarter in range(4)
    }
    assert {each.tobytes() for each in turned} == expected


def test_all_turns_are_those_that_a_draw_may_give() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    turned = diffaugment.turns(image)
    assert turned.shape == (8, 2, SIZE, SIZE, 3)
    assert turned.dtype == np.uint8
    np.testing.assert_array_equal(turned[0], image)
    for index, one in enumerate(image):
        expected = {
            np.ascontiguousarray(np.rot90(side, quarter)).tobytes()
            for side in (one, one[::-1])
            for quarter in range(4)
        }
        assert {each.tobytes() for each in turned[:, index]} == expected


def test_every_other_image_is_a_quarter_of_itself_at_twice_the_size() -> None:
    """A ramp stays one: pixel i of the large one lies at start + (i + 0.5) / 2 - 0.5."""
    place = jnp.arange(SIZE, dtype=jnp.float32)
    ramp = jnp.tile((100 * place[:, None] + place[None])[None, ..., None], (3, 1, 1, 3))
    draw = jnp.array([[0.49, 0.0, 0.999], [0.49, 0.5, 0.5], [0.5, 0.5, 0.5]])
    seen = np.asarray(diffaugment.magnify(ramp, draw))
    inside = np.arange(1, SIZE - 1)
    for index, (top, left) in enumerate([(0, 8), (4, 4)]):
        row, column = top + (inside + 0.5) / 2 - 0.5, left + (inside + 0.5) / 2 - 0.5
        expected = (100 * row[:, None] + column)[..., None].repeat(3, axis=-1)
        np.testing.assert_allclose(seen[index, 1:-1, 1:-1], expected, rtol=1e-5)
    np.testing.assert_array_equal(seen[2], ramp[2])
