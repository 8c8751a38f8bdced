"""Properties of the GAN's step, and that every way of running it gives the same."""

from __future__ import annotations

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dermagan_jax import gan, parallel
from dermagan_jax.errors import DermaganError
from dermagan_jax.nets.dcgan import Discriminator, Generator
from dermagan_jax.state import GanState, create_gan_state

LATENT_SIZE, IMAGE_SIZE, BATCH_SIZE = 6, 16, 8
# SGD: Adam would hide a factor in the gradients, and amplify rounding.
TX = optax.sgd(0.05)


def _nets(axis_name: str | None = None) -> dict[str, Any]:
    return {
        "generator": Generator(width=3, image_size=IMAGE_SIZE, axis_name=axis_name),
        "discriminator": Discriminator(width=3, axis_name=axis_name),
        "g_tx": TX,
        "d_tx": TX,
    }


def _create(key: jax.Array) -> GanState:
    return create_gan_state(key, latent_size=LATENT_SIZE, image_size=IMAGE_SIZE, **_nets())


@pytest.fixture(scope="module")
def state() -> GanState:
    return jax.jit(_create)(jax.random.key(0))


def _real(seed: int = 0, *leading: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (*leading, BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3)
    return rng.integers(0, 256, shape, np.uint8)


def _latents(seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (BATCH_SIZE, LATENT_SIZE))


def test_each_step_moves_every_weight_and_counts(state: GanState) -> None:
    step = jax.jit(partial(gan.train_step, latent_size=LATENT_SIZE, **_nets()))
    after, metrics = step(state, {"image": _real()}, jax.random.key(1))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), (state.g, state.d), (after.g, after.d))
    assert all(jax.tree.leaves(moved))
    assert int(after.step) == 1
    assert set(metrics) == {"d_loss", "g_loss", "d_real", "d_fake", "d_grad_norm", "g_grad_norm"}
    chex.assert_tree_all_finite((after, metrics))


def test_discriminator_update_leaves_the_generator_alone(state: GanState) -> None:
    nets = _nets() | {"g_tx": optax.set_to_zero()}
    after, _ = jax.jit(partial(gan.update, **nets))(
        state, jnp.ones((BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3)), _latents(1), _latents(2)
    )
    chex.assert_trees_all_equal(after.g.params, state.g.params)
    assert (after.d.params["ConvDown_0"]["kernel"] != state.d.params["ConvDown_0"]["kernel"]).any()


def test_generator_update_leaves_the_discriminator_alone(state: GanState) -> None:
    """Other latents for the generator change nothing in the discriminator."""
    update = jax.jit(partial(gan.update, **_nets()))
    real = jnp.ones((BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3))
    one, other = (update(state, real, _latents(1), _latents(seed))[0] for seed in (2, 3))
    chex.assert_trees_all_equal(one.d, other.d)
    assert (one.g.params["kernel"] != other.g.params["kernel"]).any()


def test_jit_sharded_jit_shard_map_and_pmap_agree(state: GanState) -> None:
    """With given latents, on one device and on four."""
    real = jnp.asarray(_real(), jnp.float32) / 127.5 - 1
    z_d, z_g = _latents(1), _latents(2)

    def step(
        state: GanState, batch: tuple[jax.Array, ...], _: jax.Array, axis_name: str | None = None
    ) -> tuple[GanState, dict[str, jax.Array]]:
        return gan.update(state, *batch, axis_name=axis_name, **_nets(axis_name))

    batch, key = (real, z_d, z_g), jax.random.key(0)
    expected = jax.jit(step)(state, batch, key)
    mesh = parallel.make_mesh(BATCH_SIZE)
    assert mesh.size == 4
    copy = jax.tree.map(jnp.copy, state)
    steps = parallel.compile_steps(step, lambda key, _: key, mesh)
    one = jax.tree.map(lambda leaf: leaf[None], batch)
    after, rows = steps(key, parallel.replicate(copy, mesh), one, 0, 0, 1)
    sharded = after, {name: row[0] for name, row in rows.items()}

    per_device = partial(step, axis_name="data")
    everywhere, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")
    mapped = jax.jit(
        jax.shard_map(
            per_device,
            mesh=mesh,
            in_specs=(everywhere, split, everywhere),
            out_specs=(everywhere, everywhere),
        )
    )(state, batch, key)
    stacked = jax.tree.map(lambda leaf: leaf.reshape(4, -1, *leaf.shape[1:]), batch)
    pmapped = parallel.pmap_step(per_device)(state, stacked, key)
    for other in (sharded, mapped, pmapped):
        chex.assert_trees_all_close(jax.device_get(other), jax.device_get(expected), atol=2e-6)


def test_devices_draw_different_noise_under_pmap(state: GanState) -> None:
    """Four devices that see the same images must not repeat one another's latents."""
    step = partial(gan.train_step, latent_size=LATENT_SIZE, axis_name="data", **_nets("data"))
    same = np.broadcast_to(_real()[None, :2], (4, 2, IMAGE_SIZE, IMAGE_SIZE, 3))
    after, _ = parallel.pmap_step(step)(state, {"image": same}, jax.random.key(0))
    one_device = jax.jit(partial(gan.train_step, latent_size=LATENT_SIZE, **_nets()))
    alone, _ = one_device(state, {"image": same[0]}, jax.random.key(0))
    assert not np.allclose(after.g.params["kernel"], alone.g.params["kernel"], atol=1e-7)


def test_one_program_for_all_classes_equals_separate_runs() -> None:
    step = partial(gan.train_step, latent_size=LATENT_SIZE, **_nets())
    keys = jax.random.split(jax.random.key(0), 4)
    states = jax.jit(jax.vmap(_create))(keys)
    real = _real(1, 4)
    together, metrics = jax.jit(parallel.map_over_first_axis(step))(states, {"image": real}, keys)
    vmapped, _ = jax.jit(jax.vmap(step))(states, {"image": real}, keys)
    chex.assert_trees_all_close(together, vmapped, atol=2e-6)
    alone_step = jax.jit(step)
    for label in range(4):
        mine = jax.tree.map(lambda leaf, label=label: leaf[label], states)
        alone, alone_metrics = alone_step(mine, {"image": real[label]}, keys[label])
        ours = jax.tree.map(lambda leaf, label=label: leaf[label], (together, metrics))
        chex.assert_trees_all_close(ours, (alone, alone_metrics), atol=2e-6)


def test_batches_that_devices_cannot_share_are_refused() -> None:
    with pytest.raises(DermaganError, match="set it to 4 or 8"):
        parallel.make_mesh(6)


def test_moving_average_by_hand() -> None:
    # 100 images a step, a half-life of 1,000: a tenth of a half-life each.
    late = gan.ema_decay(jnp.asarray(10_000), 100, 1.0)
    assert float(late) == pytest.approx(0.5**0.1, rel=1e-6)
    # After 10 steps 1,000 images are seen and the half-life is 50 of them: two half-lives.
    assert float(gan.ema_decay(jnp.asarray(9), 100, 1.0)) == pytest.approx(0.25, rel=1e-6)
    assert float(gan.ema_decay(jnp.asarray(9), 100, 0.0)) == 0.0


def test_moving_average_follows_the_generator(state: GanState) -> None:
    step = jax.jit(partial(gan.train_step, latent_size=LATENT_SIZE, **_nets()))
    after, _ = step(state, {"image": _real()}, jax.random.key(1))
    decay = float(gan.ema_decay(state.step, BATCH_SIZE, 10.0))
    expected = jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new, state.g_ema, after.g.params
    )
    chex.assert_trees_all_close(after.g_ema, expected, atol=1e-6)


def test_calibration_gives_the_statistics_of_training_batches(state: GanState) -> None:
    """In evaluation mode, calibrated, a large batch comes out as it does in training mode."""
    generator = _nets()["generator"]
    key = jax.random.key(5)
    variables = jax.jit(partial(gan.calibrate, generator=generator, latent_size=LATENT_SIZE))(
        state.g.params, state.g.batch_stats, key
    )
    z = jax.random.normal(jax.random.key(6), (512, LATENT_SIZE))
    as_trained, _ = generator.apply(state.g.variables, z, train=True, mutable=["batch_stats"])
    calibrated = generator.apply(variables, z, train=False)
    before = generator.apply(state.g.variables, z, train=False)
    error = float(jnp.abs(calibrated - as_trained).mean())
    assert error < 0.1 * float(jnp.abs(before - as_trained).mean())


def test_samples_are_images(state: GanState) -> None:
    sample = gan.sample(state.g.variables, _latents(0), generator=_nets()["generator"])
    chex.assert_shape(sample, (BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3))
    assert sample.dtype == jnp.uint8
