from __future__ import annotations

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dermagan_jax import augmentation
from dermagan_jax.augmentation import NONE, NOTEBOOK, PAPER, AugmentationPolicy, augment
from dermagan_jax.errors import DermaganError

# Operation by operation these tests would take three times as long.
jitted = jax.jit(augment, static_argnames="policy")
affine_map, warp = jax.jit(augmentation.affine_map), jax.jit(augmentation.warp)

ZERO, ONE = np.zeros(2, np.float32), np.ones(2, np.float32)


def make_images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (*shape, 3)).astype(np.float32)


def move(image, *, rotation=0.0, shear=0.0, shift=ZERO, zoom=ONE) -> np.ndarray:
    """Warps one image by a given transform."""
    rotation, shear = jnp.float32(math.radians(rotation)), jnp.float32(math.radians(shear))
    linear, offset = affine_map(
        rotation=rotation,
        shear=shear,
        shift=jnp.asarray(shift, jnp.float32),
        zoom=jnp.asarray(zoom, jnp.float32),
    )
    return np.asarray(warp(jnp.asarray(image), linear, offset))


def keras_matrix(theta, shear, tx, ty, zx, zy, height, width) -> np.ndarray:
    """Keras's 3x3 matrix in (x, y), centred, then swapped to (row, column), in float64."""
    theta, shear = np.deg2rad(theta), np.deg2rad(shear)
    cos, sin = np.cos(theta), np.sin(theta)
    rotate = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    move_by = np.array([[1, 0, tx], [0, 1, ty], [0, 0, 1]])
    slant = np.array([[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]])
    scale = np.diag([zx, zy, 1])
    to_centre, back = np.eye(3), np.eye(3)
    to_centre[:2, 2] = width / 2 - 0.5, height / 2 - 0.5
    back[:2, 2] = -to_centre[:2, 2]
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    return swap @ to_centre @ rotate @ move_by @ slant @ scale @ back @ swap


@settings(deadline=None, max_examples=25)
@given(
    st.floats(-180, 180),
    st.floats(-60, 60),
    st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
    st.tuples(st.floats(0.5, 1.6), st.floats(0.5, 1.6)),
    st.integers(0, 9),
)
def test_map_and_samples_are_keras_matrix_sampled_by_scipy(theta, shear, shift, zoom, seed):
    height, width = 14, 17
    image = make_images(height, width, seed=seed)
    (ty, tx), (zy, zx) = shift, zoom
    matrix = keras_matrix(theta, shear, tx, ty, zx, zy, height, width)
    linear, offset = affine_map(
        rotation=jnp.float32(np.deg2rad(theta)),
        shear=jnp.float32(np.deg2rad(shear)),
        shift=jnp.array(shift, jnp.float32),
        zoom=jnp.array(zoom, jnp.float32),
    )
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    np.testing.assert_allclose(linear, matrix[:2, :2], atol=1e-5)
    np.testing.assert_allclose(offset + centre - linear @ centre, matrix[:2, 2], atol=1e-4)
    expected = np.stack(
        [
            ndimage.affine_transform(
                channel, matrix[:2, :2], matrix[:2, 2], order=1, mode="nearest"
            )
            for channel in np.moveaxis(image.astype(np.float64), -1, 0)
        ],
        axis=-1,
    )
    actual = warp(jnp.asarray(image), linear, offset)
    # Neighbours differ by up to 2, and a place of 20 pixels is known to about 4e-6.
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (64, 64)])
def test_quarter_turns_are_exact(size):
    image = make_images(*size)
    np.testing.assert_allclose(move(image, rotation=90), np.rot90(image), atol=1e-5)
    np.testing.assert_allclose(move(image, rotation=180), np.rot90(image, 2), atol=2e-5)
    np.testing.assert_allclose(move(image, rotation=-90), np.rot90(image, -1), atol=1e-5)


def test_zoom_shear_and_shift_by_hand():
    rows, columns = np.meshgrid(np.arange(5.0), np.arange(5.0), indexing="ij")
    image = np.stack([rows, columns, rows * 0], axis=-1).astype(np.float32) / 4
    # The centre is (2, 2). Zoom 2 along rows reads row 2 + 2 (r - 2), clipped to the edge.
    out = move(image, zoom=[2, 1])
    np.testing.assert_allclose(out[:, 3, 0] * 4, [0, 0, 2, 4, 4], atol=1e-6)
    np.testing.assert_allclose(out[1, :, 1] * 4, [0, 1, 2, 3, 4], atol=1e-6)
    # Zoom 1/2 along columns reads column 2 + (c - 2) / 2, between pixels.
    out = move(image, zoom=[1, 0.5])
    np.testing.assert_allclose(out[1, :, 1] * 4, [1, 1.5, 2, 2.5, 3], atol=1e-6)
    # Shear by 30 degrees: x moves by -sin 30 (r - 2) = -(r - 2) / 2, and y shrinks by cos 30.
    out = move(image, shear=30)
    np.testing.assert_allclose(out[:, 2, 1] * 4, [3, 2.5, 2, 1.5, 1], atol=1e-6)
    np.testing.assert_allclose(out[3, 2, 0] * 4, 2 + math.cos(math.pi / 6), atol=1e-6)
    # A shift of (1, -2) reads one row down and two columns left, and edges repeat.
    out = move(image, shift=[1, -2])
    np.testing.assert_allclose(out[:, 0, 0] * 4, [1, 2, 3, 4, 4], atol=1e-6)
    np.testing.assert_allclose(out[0, :, 1] * 4, [0, 0, 0, 1, 2], atol=1e-6)


@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
def test_flips_are_exact_and_happen_half_the_time(axis):
    policy = AugmentationPolicy(**{f"{axis}_flip": True})
    images = make_images(400, 3, 4)
    mirrored = images[:, :, ::-1] if axis == "horizontal" else images[:, ::-1]
    out = np.asarray(jitted(jnp.asarray(images), jax.random.key(1), policy=policy))
    same = (out == images).all(axis=(1, 2, 3))
    flipped = (out == mirrored).all(axis=(1, 2, 3))
    assert (same ^ flipped).all()
    assert 150 < flipped.sum() < 250  # five standard deviations about 200


def test_colours_by_hand_on_the_scale_of_8_bits():
    levels = np.array([0, 100, 200, 250], np.float32).reshape(2, 2, 1) * np.ones(3, np.float32)
    image = jnp.asarray(levels / 127.5 - 1)

    def changed(brightness=1.0, contrast=1.0, colour=(1.0, 1.0, 1.0)):
        colour = jnp.array(colour, jnp.float32)
        out = augmentation.adjust_colours(
            image, brightness=jnp.float32(brightness), contrast=contrast, colour=colour
        )
        return (np.asarray(out) + 1) * 127.5

    near = {"atol": 1e-3}
    np.testing.assert_allclose(changed(), levels, **near)
    # Keras multiplies 8-bit values and clips: black stays black, 250 * 1.2 is white.
    np.testing.assert_allclose(changed(1.2)[..., 0].ravel(), [0, 120, 240, 255], **near)
    np.testing.assert_allclose(changed(0.8)[..., 2].ravel(), [0, 80, 160, 200], **near)
    # The mean is 137.5: half the contrast halves the distance to it.
    np.testing.assert_allclose(
        changed(contrast=0.5)[..., 1].ravel(), [68.75, 118.75, 168.75, 193.75], **near
    )
    red = changed(colour=(0.5, 1, 1))
    np.testing.assert_allclose(red[..., 0], levels[..., 0] / 2, **near)
    np.testing.assert_allclose(red[..., 1:], levels[..., 1:], **near)


def test_no_policy_returns_the_images_themselves():
    images = jnp.asarray(make_images(2, 8, 8))
    assert augment(images, jax.random.key(0), policy=NONE) is images
    widest = AugmentationPolicy(brightness=(1, 1), zoom=0.0)
    assert widest == NONE


@pytest.mark.parametrize("policy", [NOTEBOOK, PAPER], ids=["notebook", "paper"])
@pytest.mark.parametrize("shape", [(6, 16, 16), (2, 20, 33), (1, 1, 5)])
def test_shape_type_range_and_determinism(policy, shape):
    # Saturated images: the interpolation must not carry them out of the range.
    images = jnp.sign(jnp.asarray(make_images(*shape)))
    out = jitted(images, jax.random.key(3), policy=policy)
    chex.assert_shape(out, (*shape, 3))
    chex.assert_type(out, jnp.float32)
    assert float(jnp.abs(out).max()) <= 1.0
    chex.assert_trees_all_equal(out, jitted(images, jax.random.key(3), policy=policy))
    assert not np.array_equal(out, jitted(images, jax.random.key(4), policy=policy))


def test_an_images_draw_does_not_depend_on_the_others():
    images = jnp.asarray(make_images(6, 16, 16))
    key = jax.random.key(5)
    together = jitted(images, key, policy=NOTEBOOK)
    # Not jitted: it has to give the same.
    fewer = augment(images[:2], key, policy=NOTEBOOK)
    others = jitted(images.at[1:].set(0.0), key, policy=NOTEBOOK)
    chex.assert_trees_all_close(together[:2], fewer, atol=1e-5)
    chex.assert_trees_all_close(together[0], others[0], atol=1e-5)
    # Equal images in different places get different draws.
    twins = jitted(jnp.stack([images[0]] * 6), key, policy=NOTEBOOK)
    assert float(jnp.abs(twins[0] - twins[1]).max()) > 0.1


def test_vmap_over_classes_equals_separate_calls():
    images = jnp.asarray(make_images(2, 3, 12, 12))
    keys = jax.random.split(jax.random.key(6), 2)
    mapped = jax.vmap(lambda image, key: jitted(image, key, policy=PAPER))(images, keys)
    separate = jnp.stack([jitted(i, k, policy=PAPER) for i, k in zip(images, keys, strict=True)])
    chex.assert_trees_all_close(mapped, separate, atol=1e-5)


def test_switching_a_transform_off_leaves_the_other_draws_alone():
    images = jnp.asarray(make_images(4, 9, 9))
    key = jax.random.key(7)
    flips_only = AugmentationPolicy(horizontal_flip=True)
    with_colour = dataclasses.replace(flips_only, brightness=(0.5, 0.9))
    plain = jitted(images, key, policy=flips_only)
    coloured = jitted(images, key, policy=with_colour)
    # One factor explains each image, so the same images were flipped.
    factor = (coloured + 1) / (plain + 1)
    np.testing.assert_allclose(factor.std(axis=(1, 2, 3)), 0, atol=1e-3)


def drawn_places(
    policy: AugmentationPolicy, num_draws: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the affine maps of many draws for 64x64 images."""
    draws = jax.random.uniform(jax.random.key(8), (num_draws, 8))
    place_map = jax.vmap(lambda draw: augmentation._place_map(draw, policy, (64, 64)))
    linear, offset = jax.jit(place_map)(draws)
    return np.asarray(linear), np.asarray(offset)


def test_draws_fill_their_ranges():
    linear, _ = drawn_places(AugmentationPolicy(rotation_degrees=40))
    angles = np.degrees(np.arctan2(linear[:, 0, 1], linear[:, 0, 0]))
    assert -40 <= angles.min() < -39
    assert 39 < angles.max() <= 40.001
    assert abs(angles.mean()) < 2.6  # five standard errors of a uniform draw
    linear, _ = drawn_places(AugmentationPolicy(zoom=0.4))
    zooms = linear[:, [0, 1], [0, 1]]
    assert 0.6 <= zooms.min() < 0.61
    assert 1.39 < zooms.max() <= 1.4001
    assert abs(np.corrcoef(zooms.T)[0, 1]) < 0.12
    linear, _ = drawn_places(AugmentationPolicy(zoom=0.4, keep_aspect=True))
    np.testing.assert_array_equal(linear[:, 0, 0], linear[:, 1, 1])
    _, offset = drawn_places(AugmentationPolicy(shift=0.2))
    assert -12.8 <= offset.min() < -12.6
    assert 12.6 < offset.max() <= 12.8001


def test_colour_draws_fill_their_ranges_and_do_not_follow_the_flips():
    policy = AugmentationPolicy(vertical_flip=True, brightness=(0.5, 1.5))
    images = jnp.zeros((800, 2, 1, 3)).at[:, 1].set(-0.5)  # intensities 1/2 above 1/4
    top, bottom = np.moveaxis(np.asarray(jitted(images, jax.random.key(9), policy=policy)), 1, 0)
    factors = (top + bottom + 2)[:, 0, 0] / 2 / 0.75
    assert 0.5 <= factors.min() < 0.51
    assert 1.49 < factors.max() <= 1.501
    flipped = (top < bottom)[:, 0, 0]
    # Five standard errors of the difference of two means of 400 uniform draws.
    assert abs(factors[flipped].mean() - factors[~flipped].mean()) < 0.1


def test_presets_are_what_was_published():
    # Keras's shear_range is in degrees: at most 0.2 of a degree, 0.11 pixels at the edge.
    assert NOTEBOOK.shear_degrees == 0.2
    linear, _ = drawn_places(AugmentationPolicy(shear_degrees=NOTEBOOK.shear_degrees))
    assert np.abs(linear[:, 1, 0]).max() * 31.5 == pytest.approx(0.11, abs=0.005)
    assert (NOTEBOOK.zoom, NOTEBOOK.keep_aspect, NOTEBOOK.rotation_degrees) == (0.4, False, 40)
    assert (NOTEBOOK.horizontal_flip, NOTEBOOK.vertical_flip) == (True, False)
    assert (NOTEBOOK.shift, NOTEBOOK.brightness) == (0.2, (0.8, 1.2))
    assert augmentation.find_policy("paper") is PAPER
    with pytest.raises(DermaganError, match="'papper'; choose one of none, notebook, paper"):
        augmentation.find_policy("papper")


def test_a_policy_is_hashable_and_checked():
    listed = AugmentationPolicy(brightness=[0.8, 1.2])
    assert hash(listed) == hash(AugmentationPolicy(brightness=(0.8, 1.2)))
    for field, value in [
        ("zoom", 1.0),
        ("shift", -0.1),
        ("rotation_degrees", float("nan")),
        ("shear_degrees", 90),
        ("brightness", (1.2, 0.8)),
        ("contrast", (-0.1, 1)),
        ("colour", (1, float("inf"))),
    ]:
        with pytest.raises(DermaganError, match=rf"augmentation\.{field}: "):
            AugmentationPolicy(**{field: value})


@pytest.mark.parametrize("bad", [np.zeros((2, 8, 8, 1), np.float32), np.zeros((2, 8, 8, 3), "u1")])
def test_other_shapes_and_types_are_refused(bad):
    with pytest.raises(AssertionError):
        augment(jnp.asarray(bad), jax.random.key(0), policy=PAPER)
