"""Properties of the GAN's step, and that every way of running it gives the same."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dermagan_jax import ada, diffaugment, gan, losses, parallel
from dermagan_jax.errors import DermaganError
from dermagan_jax.nets import resgan
from dermagan_jax.nets.dcgan import Discriminator, Generator
from dermagan_jax.rules import (
    PAPER,
    Noise,
    Rules,
    draw_noise,
    ema_decay,
)
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


def _noise(rules: Rules = PAPER, seed: int = 0) -> Noise:
    return draw_noise(jax.random.key(seed), BATCH_SIZE, LATENT_SIZE, rules)


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
        state, jnp.ones((BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3)), None, _noise()
    )
    chex.assert_trees_all_equal(after.g.params, state.g.params)
    assert (after.d.params["ConvDown_0"]["kernel"] != state.d.params["ConvDown_0"]["kernel"]).any()


def test_generator_update_leaves_the_discriminator_alone(state: GanState) -> None:
    """Other latents for the generator change nothing in the discriminator."""
    update = jax.jit(partial(gan.update, **_nets()))
    real = jnp.ones((BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3))
    one, other = (
        update(state, real, None, _noise().replace(z_g=_latents(seed)))[0] for seed in (2, 3)
    )
    chex.assert_trees_all_equal(one.d, other.d)
    assert (one.g.params["kernel"] != other.g.params["kernel"]).any()


def _residual(axis_name: str | None = None, **options: Any) -> dict[str, Any]:
    return {
        "generator": resgan.Generator(4, 8, image_size=IMAGE_SIZE, axis_name=axis_name),
        "discriminator": resgan.Discriminator(4, 8, axis_name=axis_name, **options),
        "g_tx": TX,
        "d_tx": TX,
    }


DIFFAUGMENT = diffaugment.make_diffaugment("color,translation,cutout")
CONDITIONAL = Rules(
    r1=0.5, r2=0.25, augmentation=DIFFAUGMENT, turn_reals=True, shared_latents=True, num_classes=4
)
TRANSITIONAL = dataclasses.replace(
    CONDITIONAL,
    loss=losses.ADVERSARIAL["relativistic"],
    augmentation=ada.AUGMENTATION,
    shared_latents=False,
    # Two thirds of the way after 0 images.
    transition_kimg=(-2.0, 1.0),
)
# Four devices get groups of two images each.
GAMES = {
    "paper": (_nets, PAPER),
    "conditional": (_residual, CONDITIONAL),
    "transitional": (partial(_residual, transitional=True), TRANSITIONAL),
    # Generated images of new networks are nearly alike, so that R2 through BatchNorm is huge.
    "batch_norm": (partial(_residual, batch_norm=True), dataclasses.replace(CONDITIONAL, r2=0.0)),
}


def _start(name: str) -> GanState:
    make, rules = GAMES[name]
    start = _create_gan(make, rules)
    return start.replace(ada=ada.AdaState(jnp.array(0.5), jnp.array(0.0))) if start.ada else start


def _create_gan(make: Any, rules: Rules) -> GanState:
    create = partial(
        create_gan_state,
        **make(),
        latent_size=LATENT_SIZE,
        image_size=IMAGE_SIZE,
        num_classes=rules.num_classes,
        adaptive=rules.augmentation is ada.AUGMENTATION,
    )
    return jax.jit(create)(jax.random.key(0))


@pytest.mark.parametrize("name", GAMES)
def test_jit_sharded_jit_shard_map_and_pmap_agree(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With given noise, on one device and on four."""
    monkeypatch.setattr(resgan, "MINIBATCH_GROUP", 2)
    make, rules = GAMES[name]
    state = _start(name)
    real = jnp.asarray(_real(), jnp.float32) / 127.5 - 1
    label = jax.nn.one_hot(jnp.arange(BATCH_SIZE) % 4, 4) if rules.num_classes else None
    noise = _noise(rules)
    # The draws of the augmentation are images in their second axis.
    batch = (real, label, noise.replace(augment=noise.augment.swapaxes(0, 1)))

    def step(
        state: GanState, batch: tuple[Any, ...], _: jax.Array, axis_name: str | None = None
    ) -> tuple[GanState, dict[str, jax.Array]]:
        real, label, noise = batch
        noise = noise.replace(augment=noise.augment.swapaxes(0, 1))
        return gan.update(
            state, real, label, noise, rules=rules, axis_name=axis_name, **make(axis_name)
        )

    key = jax.random.key(0)
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
        chex.assert_trees_all_close(
            jax.device_get(other), jax.device_get(expected), rtol=1e-5, atol=4e-6
        )


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
        parallel.make_mesh(6, sizes=parallel.read_mesh("data:4", ""))


def test_moving_average_follows_the_generator(state: GanState) -> None:
    step = jax.jit(partial(gan.train_step, latent_size=LATENT_SIZE, **_nets()))
    after, _ = step(state, {"image": _real()}, jax.random.key(1))
    decay = float(ema_decay(state.step, BATCH_SIZE, 10.0))
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


def _step_of(name: str, **changes: Any) -> Any:
    make, rules = GAMES[name]
    rules = dataclasses.replace(rules, **changes)
    return jax.jit(partial(gan.train_step, latent_size=LATENT_SIZE, rules=rules, **make()))


def _labelled(seed: int = 0) -> dict[str, np.ndarray]:
    return {"image": _real(seed), "label": np.arange(BATCH_SIZE) % 4}


@pytest.mark.parametrize("name", ["conditional", "transitional", "batch_norm"])
def test_residual_networks_move_every_weight(name: str) -> None:
    state = _start(name)
    after, metrics = _step_of(name)(state, _labelled(), jax.random.key(1))
    for net, before in ((after.g, state.g), (after.d, state.d)):
        still = [
            jax.tree_util.keystr(path)
            for path, same in jax.tree_util.tree_leaves_with_path(
                jax.tree.map(lambda a, b: bool((a == b).all()), net.params, before.params)
            )
            if same
        ]
        # BatchNorm takes off the mean again that such a bias would add.
        if name != "batch_norm":
            assert still == []
    chex.assert_tree_all_finite((after, metrics))
    assert float(metrics["d_penalty"]) > 0


def test_a_lazy_penalty_comes_in_its_steps_and_as_many_times_as_strong() -> None:
    state = _start("conditional")
    once, every = _step_of("conditional", penalty_interval=4), _step_of("conditional")
    none = _step_of("conditional", r1=0.0, r2=0.0)
    key = jax.random.key(1)

    def d_params(step: Any, done: int) -> np.ndarray:
        after, _ = step(state.replace(step=jnp.int32(done)), _labelled(), key)
        return np.asarray(after.d.params["ConvDown_0"]["kernel"])

    for done in (0, 1, 2):
        np.testing.assert_array_equal(d_params(once, done), d_params(none, done))
    pull, lazy = (d_params(step, 3) - d_params(none, 3) for step in (every, once))
    assert np.abs(pull).max() > 1e-6
    np.testing.assert_allclose(lazy, 4 * pull, atol=1e-6)


def test_one_pass_over_both_kinds_equals_two() -> None:
    """Groups of the minibatch deviation hold either real or generated images."""
    nets, rules = _residual(), CONDITIONAL
    state, noise = _start("conditional"), _noise(rules)
    real = jax.random.normal(jax.random.key(3), (BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3))
    label = jax.nn.one_hot(jnp.arange(BATCH_SIZE) % 4, 4)
    one = gan.update(state, real, label, noise, rules=rules, **nets)

    d = nets["discriminator"]
    fake, _ = nets["generator"].apply(
        state.g.variables, noise.z_d, label, train=True, mutable=["batch_stats"]
    )
    real = DIFFAUGMENT.apply(diffaugment.turn(real, noise.turn), noise.augment[0], None)
    fake = DIFFAUGMENT.apply(fake, noise.augment[1], None)
    by_two = [d.apply(state.d.variables, image, label, train=True) for image in (real, fake)]
    expected = rules.loss.discriminator(*by_two).mean()
    chex.assert_trees_all_close(one[1]["d_loss"], expected, rtol=1e-5)


def test_labels_reach_both_networks() -> None:
    state = _start("conditional")
    step = _step_of("conditional")
    batch = _labelled()
    one, _ = step(state, batch, jax.random.key(1))
    other, _ = step(state, {**batch, "label": batch["label"][::-1]}, jax.random.key(1))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), one.d.params, other.d.params)
    assert any(jax.tree.leaves(moved))
    z = _latents(0)
    pictures = [
        gan.sample(
            one.g.variables,
            z,
            jax.nn.one_hot(jnp.full(BATCH_SIZE, label), 4),
            generator=_residual()["generator"],
        )
        for label in (0, 1)
    ]
    assert not np.array_equal(*pictures)


def test_before_the_transition_labels_change_nothing() -> None:
    state = _start("transitional")
    step = _step_of("transitional", transition_kimg=(1.0, 2.0))
    batch = _labelled()
    one, _ = step(state, batch, jax.random.key(1))
    other, _ = step(state, {**batch, "label": batch["label"][::-1]}, jax.random.key(1))
    chex.assert_trees_all_equal(one, other)
    late = state.replace(step=jnp.int32(1000))
    one, _ = step(late, batch, jax.random.key(1))
    other, _ = step(late, {**batch, "label": batch["label"][::-1]}, jax.random.key(1))
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), one.g, other.g)))


def test_adaptive_augmentation_is_state() -> None:
    state = _start("transitional").replace(step=jnp.int32(3))
    state = state.replace(ada=ada.AdaState(jnp.array(0.5), jnp.array(3.0)))
    step = _step_of("transitional", ada_kimg=0.32)
    after, metrics = step(state, _labelled(), jax.random.key(1))
    # Four steps of eight images are a tenth of 320.
    mean = (3.0 + float(metrics["ada_sign"])) / 4
    expected = 0.5 + (0.1 if mean > ada.TARGET else -0.1)
    assert float(after.ada.p) == pytest.approx(expected, abs=1e-6)
    assert float(after.ada.signs) == 0.0
    assert float(metrics["ada_p"]) == 0.5


def test_shared_latents_are_those_of_the_discriminator() -> None:
    """Then other latents for the generator's update change nothing."""
    state = _start("conditional")
    real = jnp.ones((BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3))
    label = jax.nn.one_hot(jnp.arange(BATCH_SIZE) % 4, 4)
    update = partial(gan.update, state, real, label, **_residual())
    noise = _noise(CONDITIONAL)
    other = noise.replace(z_g=_latents(9))
    shared = [update(each, rules=CONDITIONAL)[0] for each in (noise, other)]
    chex.assert_trees_all_equal(*shared)
    fresh = dataclasses.replace(CONDITIONAL, shared_latents=False)
    same = update(noise.replace(z_g=noise.z_d), rules=fresh)[0]
    chex.assert_trees_all_close(same, shared[0], atol=1e-6)
