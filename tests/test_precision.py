"""bfloat16 computes in fewer bits, keeps float32 parameters, and learns alike."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dermagan_jax import augmentation, classifier, gan, state
from dermagan_jax.errors import DermaganError
from dermagan_jax.nets.dcgan import Discriminator, Generator
from dermagan_jax.nets.lesion_cnn import LesionCNN
from dermagan_jax.nets.precision import PRECISIONS, find_precision

SIZE = 16


def test_names_and_what_they_set() -> None:
    assert find_precision("bfloat16").dtype == jnp.bfloat16
    with find_precision("tf32").applied():
        assert jax.config.jax_default_matmul_precision == "tensorfloat32"
    with pytest.raises(DermaganError, match="'half'; choose one of float32, tf32, bfloat16"):
        find_precision("half")


def _gan_losses(dtype: object, steps: int) -> np.ndarray:
    nets = {
        "generator": Generator(width=4, image_size=SIZE, dtype=dtype),
        "discriminator": Discriminator(width=4, dtype=dtype),
    }
    tx = optax.adam(2e-4, b1=0.5)
    fixed = {**nets, "g_tx": tx, "d_tx": tx, "latent_size": 8}
    key = jax.random.key(0)
    create = partial(state.create_gan_state, **fixed, image_size=SIZE)
    step = jax.jit(partial(gan.train_step, **fixed))
    current = jax.jit(create)(key)
    image = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    rows = []
    for number in range(steps):
        current, metrics = step(current, {"image": image}, jax.random.fold_in(key, number))
        rows.append([metrics["d_loss"], metrics["g_loss"]])
    assert {leaf.dtype for leaf in jax.tree.leaves((current.g, current.d))} <= {
        jnp.dtype(jnp.float32),
        jnp.dtype(jnp.int32),
    }
    return np.asarray(rows)


def test_the_gans_losses_follow_those_of_float32() -> None:
    wide, narrow = (_gan_losses(dtype, 12) for dtype in (jnp.float32, jnp.bfloat16))
    np.testing.assert_allclose(narrow, wide, rtol=0.05)
    assert np.abs(narrow - wide).max() > 0, "bfloat16 was not used"


def _cnn_losses(dtype: object, steps: int) -> np.ndarray:
    model, tx = LesionCNN(dropout_rate=0.0, dtype=dtype), optax.adam(1e-3)
    key = jax.random.key(0)
    create = partial(state.create_classifier_state, model=model, tx=tx, image_size=64)
    step = jax.jit(
        partial(classifier.train_step, model=model, tx=tx, policy=augmentation.find_policy("none"))
    )
    current = jax.jit(create)(key)
    rng = np.random.default_rng(0)
    label = np.arange(8, dtype=np.int32) % 4
    image = rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8) // 2 + 30 * label[
        :, None, None, None
    ].astype(np.uint8)
    rows = []
    for _ in range(steps):
        current, metrics = step(current, {"image": image, "label": label}, key)
        rows.append(metrics["loss"])
    assert {leaf.dtype for leaf in jax.tree.leaves(current.net.params)} == {jnp.dtype(jnp.float32)}
    return np.asarray(rows)


def test_the_cnns_losses_follow_those_of_float32() -> None:
    wide, narrow = (_cnn_losses(dtype, 10) for dtype in (jnp.float32, jnp.bfloat16))
    assert wide[-1] < wide[0] - 0.05
    # CPUs with bfloat16 of their own round at other places than those that emulate it.
    np.testing.assert_allclose(narrow, wide, atol=0.1)
    assert np.abs(narrow - wide).mean() < 0.02
    assert np.abs(narrow - wide).max() > 0, "bfloat16 was not used"


def test_outputs_are_float32_in_every_precision() -> None:
    z, image = jnp.zeros((2, 8)), jnp.zeros((2, 64, 64, 3))
    for precision in PRECISIONS.values():
        modules = (
            (Generator(width=2, dtype=precision.dtype), z),
            (Discriminator(width=2, dtype=precision.dtype), image),
            (LesionCNN(dtype=precision.dtype), image),
        )
        for module, example in modules:
            variables = jax.eval_shape(
                partial(module.init, train=False), jax.random.key(0), example
            )
            out = jax.eval_shape(partial(module.apply, train=False), variables, example)
            assert out.dtype == jnp.float32
