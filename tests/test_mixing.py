"""Mixtures of two training images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dermagan_jax import mixing
from dermagan_jax.errors import DermaganError

# Each image is all one value, by which it is known again; its label is a class of its own.
IMAGE = jnp.broadcast_to(jnp.arange(8.0)[:, None, None, None], (8, 10, 10, 3))
LABEL = jnp.eye(8)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_labels_are_the_shares_of_the_pixels(name: str, seed: int) -> None:
    image, label = mixing.MIXERS[name](IMAGE, LABEL, jax.random.key(seed))
    np.testing.assert_allclose(label.sum(axis=1), 1, atol=1e-6)
    # The mean over an image of such values is the mean of the values by its label.
    np.testing.assert_allclose(image.mean(axis=(1, 2, 3)), label @ jnp.arange(8.0), rtol=1e-5)


def test_a_paste_is_a_rectangle_of_whole_pixels() -> None:
    for seed in range(20):
        image, label = mixing.cutmix(IMAGE, LABEL, jax.random.key(seed))
        pasted = np.asarray(image[..., 0] != jnp.arange(8.0)[:, None, None])
        changed = pasted[np.asarray(label.diagonal()) < 1]
        if not len(changed):
            continue
        rows, columns = changed[0].any(axis=1), changed[0].any(axis=0)
        np.testing.assert_array_equal(changed[0], rows[:, None] & columns[None])
        assert (changed == changed[0]).all()


def test_both_show_much_and_little_of_the_other_image() -> None:
    for mixer in (mixing.mixup, mixing.cutmix):
        own = [
            float(mixer(IMAGE, LABEL, jax.random.key(seed))[1].diagonal().min())
            for seed in range(60)
        ]
        assert min(own) < 0.3
        assert max(own) > 0.9


def test_an_unknown_way_is_named() -> None:
    with pytest.raises(DermaganError, match="mixing is 'blend'; known: 'none', 'mixup', 'cutmix'"):
        mixing.find_mixer("blend")
