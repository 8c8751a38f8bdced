"""The GAN's pure training step, and sampling."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from dermagan_jax import images, losses
from dermagan_jax.state import GanState, Metrics, NetState, Params

CALIBRATION_BATCHES = 4
CALIBRATION_BATCH_SIZE = 64


def _mean_over(axis_name: str | None, tree: Any) -> Any:
    return tree if axis_name is None else lax.pmean(tree, axis_name)


def _descend(
    net: NetState, gradients: Params, batch_stats: Any, tx: optax.GradientTransformation
) -> NetState:
    updates, opt_state = tx.update(gradients, net.opt_state, net.params)
    return NetState(optax.apply_updates(net.params, updates), batch_stats, opt_state)


def _update_discriminator(
    state: GanState,
    real: jax.Array,
    z: jax.Array,
    *,
    generator: nn.Module,
    discriminator: nn.Module,
    tx: optax.GradientTransformation,
    label_smoothing: float,
    axis_name: str | None,
) -> tuple[NetState, Metrics]:
    """Takes one discriminator step on real images and on images generated from `z`."""
    # The generator's running statistics are left to its own update.
    fake, _ = generator.apply(state.g.variables, z, train=True, mutable=["batch_stats"])

    def loss_fn(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
        # Two passes, as in the notebooks: BatchNorm must not mix real and generated images.
        variables = {"params": params, "batch_stats": state.d.batch_stats}
        real_logits, stats = discriminator.apply(
            variables, real, train=True, mutable=["batch_stats"]
        )
        fake_logits, stats = discriminator.apply(
            {"params": params, **stats}, fake, train=True, mutable=["batch_stats"]
        )
        loss = losses.discriminator_bce(real_logits, fake_logits, label_smoothing=label_smoothing)
        return _mean_over(axis_name, loss), (real_logits, fake_logits, stats)

    (loss, (real_logits, fake_logits, stats)), gradients = jax.value_and_grad(
        loss_fn, has_aux=True
    )(state.d.params)
    gradients = _mean_over(axis_name, gradients)
    metrics = {
        "d_loss": loss,
        "d_real": _mean_over(axis_name, jax.nn.sigmoid(real_logits).mean()),
        "d_fake": _mean_over(axis_name, jax.nn.sigmoid(fake_logits).mean()),
        "d_grad_norm": optax.tree.norm(gradients),
    }
    return _descend(state.d, gradients, stats.get("batch_stats", {}), tx), metrics


def _update_generator(
    state: GanState,
    z: jax.Array,
    *,
    generator: nn.Module,
    discriminator: nn.Module,
    tx: optax.GradientTransformation,
    axis_name: str | None,
) -> tuple[NetState, Metrics]:
    """Takes one generator step against the discriminator in `state`."""

    def loss_fn(params: Params) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.g.batch_stats}
        fake, stats = generator.apply(variables, z, train=True, mutable=["batch_stats"])
        logits, _ = discriminator.apply(
            state.d.variables, fake, train=True, mutable=["batch_stats"]
        )
        return _mean_over(axis_name, losses.generator_bce(logits)), stats

    (loss, stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.g.params)
    gradients = _mean_over(axis_name, gradients)
    metrics = {"g_loss": loss, "g_grad_norm": optax.tree.norm(gradients)}
    return _descend(state.g, gradients, stats.get("batch_stats", {}), tx), metrics


def ema_decay(step: jax.Array, batch_size: int, half_life_kimg: float) -> jax.Array:
    """Returns the decay of the generator's moving average after `step` updates.

    The half-life grows with the images seen, at a twentieth of them, up to `half_life_kimg`, so
    that an early average is not held back by the initial weights.

    Args:
      step: [] int32, updates done before this one.
      batch_size: real images an update sees.
      half_life_kimg: half-life in thousands of real images; 0 keeps no memory.

    Returns:
      [] float32 in [0, 1).

    Source: Karras et al., 2020 (StyleGAN2-ADA), the moving average and its ramp.
    """
    seen = (step + 1) * batch_size
    half_life = jnp.minimum(half_life_kimg * 1000.0, seen / 20)
    return jnp.exp2(-batch_size / jnp.maximum(half_life, 1e-8)).astype(jnp.float32)


def update(
    state: GanState,
    real: jax.Array,
    z_d: jax.Array,
    z_g: jax.Array,
    *,
    generator: nn.Module,
    discriminator: nn.Module,
    g_tx: optax.GradientTransformation,
    d_tx: optax.GradientTransformation,
    label_smoothing: float = 0.0,
    ema_half_life_kimg: float = 10.0,
    axis_name: str | None = None,
) -> tuple[GanState, Metrics]:
    """Updates the discriminator, then the generator against it, with given latents.

    Args:
      state: the state before.
      real: [B, S, S, 3] float32 real images in [-1, 1].
      z_d: [B, Z] float32 latents of the discriminator's update.
      z_g: [B, Z] float32 latents of the generator's update.
      generator: called as `(z, train=...)`.
      discriminator: called as `(image, train=...)`.
      g_tx: the generator's optimizer.
      d_tx: the discriminator's optimizer.
      label_smoothing: see `losses.discriminator_bce`.
      ema_half_life_kimg: see `ema_decay`.
      axis_name: mapped axis over which losses, gradients and metrics are averaged.

    Returns:
      The state after, and scalars: `d_loss`, `g_loss`, `d_real` and `d_fake` (mean probability
      of "real" given to real and to generated images), `d_grad_norm`, `g_grad_norm`.

    Source: the notebooks' order: fresh latents for each of the two updates, each network in
    training mode throughout. They also let the discriminator's update move the generator's
    running statistics; here it does not.
    """
    nets: dict[str, Any] = {
        "generator": generator,
        "discriminator": discriminator,
        "axis_name": axis_name,
    }
    d, d_metrics = _update_discriminator(
        state, real, z_d, tx=d_tx, label_smoothing=label_smoothing, **nets
    )
    state = state.replace(d=d)
    g, g_metrics = _update_generator(state, z_g, tx=g_tx, **nets)
    batch_size = real.shape[0] * (1 if axis_name is None else lax.axis_size(axis_name))
    decay = ema_decay(state.step, batch_size, ema_half_life_kimg)
    g_ema = optax.incremental_update(g.params, state.g_ema, 1 - decay)
    state = state.replace(step=state.step + 1, g=g, g_ema=g_ema)
    return state, {**d_metrics, **g_metrics}


def train_step(
    state: GanState,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    latent_size: int,
    axis_name: str | None = None,
    **static: Any,
) -> tuple[GanState, Metrics]:
    """Draws the latents of one update from `key` and applies `update`.

    Args:
      state: the state before.
      batch: `image` [B, S, S, 3] uint8.
      key: this step's key; under `axis_name` each device folds in its index.
      latent_size: length of a latent.
      axis_name: see `update`.
      **static: the networks, optimizers and constants of `update`.

    Returns:
      As `update`.
    """
    if axis_name is not None:
        key = jax.random.fold_in(key, lax.axis_index(axis_name))
    d_key, g_key = jax.random.split(key)
    shape = (batch["image"].shape[0], latent_size)
    z_d, z_g = jax.random.normal(d_key, shape), jax.random.normal(g_key, shape)
    real = images.to_float(batch["image"])
    return update(state, real, z_d, z_g, axis_name=axis_name, **static)


def calibrate(
    params: Params, batch_stats: Any, key: jax.Array, *, generator: nn.Module, latent_size: int
) -> dict[str, Any]:
    """Gives averaged generator parameters the BatchNorm statistics that are theirs.

    The running statistics belong to the weights of the last steps, not to their average. Here the
    averaged weights see fresh latents, and the means and variances of the batches are averaged.

    Args:
      params: generator parameters, such as `GanState.g_ema`.
      batch_stats: running statistics, for their structure; returned as they are when empty.
      key: a JAX key.
      generator: called as `(z, train=...)`.
      latent_size: length of a latent.

    Returns:
      The variables `params` and `batch_stats`, for `sample`.

    Source: "standing statistics", Brock et al., 2019 (BigGAN), section 3.1.
    """
    if not jax.tree.leaves(batch_stats):
        return {"params": params, "batch_stats": batch_stats}

    # In k passes that start from zero, a running average of momentum m holds
    # (1 - m) · sum m^(k - 1 - i) batch_i. One pass each from zero, scaled back, gives the batch
    # statistics themselves whatever the momentum.
    zeros = jax.tree.map(jnp.zeros_like, batch_stats)
    ones = jax.tree.map(jnp.ones_like, batch_stats)

    def batch_statistics(key: jax.Array) -> Any:
        z = jax.random.normal(key, (CALIBRATION_BATCH_SIZE, latent_size))

        def run(start: Any) -> Any:
            variables = {"params": params, "batch_stats": start}
            return generator.apply(variables, z, train=True, mutable=["batch_stats"])[1]

        from_zero, from_one = run(zeros)["batch_stats"], run(ones)["batch_stats"]
        return jax.tree.map(lambda low, high: low / (1 - (high - low)), from_zero, from_one)

    keys = jax.random.split(key, CALIBRATION_BATCHES)
    statistics = lax.map(batch_statistics, keys)
    return {"params": params, "batch_stats": jax.tree.map(lambda s: s.mean(axis=0), statistics)}


def sample(variables: dict[str, Any], z: jax.Array, *, generator: nn.Module) -> jax.Array:
    """Generates images in evaluation mode.

    Args:
      variables: the generator's `params` and `batch_stats`.
      z: [B, Z] float32 latents.
      generator: called as `(z, train=...)`.

    Returns:
      [B, S, S, 3] uint8.
    """
    image: Any = generator.apply(variables, z, train=False)
    return images.to_uint8(image)
