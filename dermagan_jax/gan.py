"""The GAN's pure training step, and sampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from dermagan_jax import ada, diffaugment, images, losses
from dermagan_jax.rules import (
    PAPER,
    Noise,
    Rules,
    class_weight,
    draw_latents,
    draw_noise,
    ema_decay,
)
from dermagan_jax.state import GanState, Metrics, NetState, Params

CALIBRATION_BATCHES = 4
CALIBRATION_BATCH_SIZE = 64

Shown = tuple[jax.Array, jax.Array, jax.Array | None]
"""What the discriminator is shown: augmented real and generated images, and the labels of both."""


@dataclasses.dataclass(frozen=True)
class _Game:
    """The two networks and the rules between them, for one update."""

    generator: nn.Module
    discriminator: nn.Module
    rules: Rules
    axis_name: str | None

    def mean(self, tree: Any) -> Any:
        return tree if self.axis_name is None else lax.pmean(tree, self.axis_name)

    def of_image(self, values: jax.Array, weight: jax.Array) -> jax.Array:
        """Averages what the discriminator has several of for an image, [B, ...], to [B].

        A transitional one's outputs, [B, 2, ...], weigh 1, unconditional, and `weight`. Where
        Shahbazi et al. add up, this divides by the sum of the weights, so that losses, penalties
        and logits keep their scale.
        """
        if self.rules.transition_kimg is not None:
            values = (values[:, 0] + weight * values[:, 1]) / (1 + weight)
        return values.reshape(len(values), -1).mean(axis=1)

    def batch_size(self, real: jax.Array) -> int:
        return len(real) * (1 if self.axis_name is None else lax.axis_size(self.axis_name))

    def generate(self, g: NetState, z: jax.Array, label: jax.Array | None) -> tuple[Any, Any, Any]:
        """Returns images, the function that pulls their gradient back, and statistics."""

        def apply(params: Params) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": g.batch_stats}
            fake, stats = self.generator.apply(
                variables, z, label, train=True, mutable=["batch_stats"]
            )
            return fake, stats.get("batch_stats", {})

        return jax.vjp(apply, g.params, has_aux=True)

    def score(self, variables: Any, image: jax.Array, label: jax.Array | None) -> tuple[Any, Any]:
        logits, stats = self.discriminator.apply(
            variables, image, label, train=True, mutable=["batch_stats"]
        )
        return logits, stats.get("batch_stats", {})

    def score_both(
        self, variables: Any, real: jax.Array, fake: jax.Array, label: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, Any]:
        """Scores both in one pass, but for BatchNorm, which must not mix them."""
        if self.discriminator.batch_norm:
            real_logits, stats = self.score(variables, real, label)
            fake_logits, stats = self.score({**variables, "batch_stats": stats}, fake, label)
            return real_logits, fake_logits, stats
        labels = None if label is None else jnp.concatenate([label, label])
        logits, stats = self.score(variables, jnp.concatenate([real, fake]), labels)
        return *jnp.split(logits, 2), stats

    def penalty(
        self,
        variables: Any,
        real: jax.Array,
        fake: jax.Array,
        label: jax.Array | None,
        weight: jax.Array,
    ) -> jax.Array:
        """Computes half of gamma times R1 and R2."""

        def score(image: jax.Array) -> jax.Array:
            return self.of_image(self.score(variables, image, label)[0], weight)

        terms = [
            gamma / 2 * losses.gradient_penalty(score, image)
            for gamma, image in ((self.rules.r1, real), (self.rules.r2, fake))
            if gamma
        ]
        return self.mean(sum(terms[1:], terms[0]))


def _update_discriminator(
    game: _Game,
    state: GanState,
    shown: Shown,
    weight: jax.Array,
    tx: optax.GradientTransformation,
) -> tuple[GanState, Metrics]:
    """Takes one discriminator step, and adapts the augmentation to what it says of real images."""
    rules = game.rules

    def loss_fn(params: Params) -> tuple[jax.Array, tuple[Any, ...]]:
        variables = {"params": params, "batch_stats": state.d.batch_stats}
        real_logits, fake_logits, stats = game.score_both(variables, *shown)
        loss = rules.loss.discriminator(real_logits, fake_logits)
        loss = game.mean(game.of_image(loss, weight).mean())
        aux = (loss, game.of_image(real_logits, weight), game.of_image(fake_logits, weight), stats)
        if not (rules.r1 or rules.r2):
            return loss, (*aux, None)
        penalty = lax.cond(
            (state.step + 1) % rules.penalty_interval == 0,
            lambda: game.penalty(variables, *shown, weight),
            lambda: jnp.zeros(()),
        )
        return loss + rules.penalty_interval * penalty, (*aux, penalty)

    gradients, (loss, real_logits, fake_logits, stats, penalty) = jax.grad(loss_fn, has_aux=True)(
        state.d.params
    )
    gradients = game.mean(gradients)
    metrics = {
        "d_loss": loss,
        "d_real": game.mean(jax.nn.sigmoid(real_logits).mean()),
        "d_fake": game.mean(jax.nn.sigmoid(fake_logits).mean()),
        "d_grad_norm": optax.tree.norm(gradients),
    }
    if penalty is not None:
        metrics["d_penalty"] = penalty
    if state.ada:
        sign = game.mean(jnp.sign(real_logits).mean())
        metrics |= {"ada_p": state.ada.p, "ada_sign": sign}
        batch_size = game.batch_size(shown[0])
        adapted = ada.adapt(state.ada, sign, state.step, batch_size, rules.ada_kimg)
        state = state.replace(ada=adapted)
    return state.replace(d=_descend(state.d, gradients, stats, tx)), metrics


def _update_generator(
    game: _Game,
    state: GanState,
    made: tuple[jax.Array, Any, Any],
    show: Callable[[jax.Array], Shown],
    weight: jax.Array,
    tx: optax.GradientTransformation,
) -> tuple[NetState, Metrics]:
    """Takes one generator step against the discriminator in `state`.

    `made` comes from `_Game.generate`; `show` leads from generated images to what the discriminator
    is shown: augmented real and generated images, and their labels.
    """
    fake, pull, stats = made
    loss = game.rules.loss

    def loss_fn(fake: jax.Array) -> jax.Array:
        real, fake, label = show(fake)
        if loss.pairs:
            real_logits, fake_logits, _ = game.score_both(state.d.variables, real, fake, label)
        else:
            fake_logits, _ = game.score(state.d.variables, fake, label)
            real_logits = jnp.zeros_like(fake_logits)
        return game.mean(game.of_image(loss.generator(real_logits, fake_logits), weight).mean())

    value, cotangent = jax.value_and_grad(loss_fn)(fake)
    (gradients,) = pull(cotangent)
    gradients = game.mean(gradients)
    metrics = {"g_loss": value, "g_grad_norm": optax.tree.norm(gradients)}
    return _descend(state.g, gradients, stats, tx), metrics


def _descend(
    net: NetState, gradients: Params, batch_stats: Any, tx: optax.GradientTransformation
) -> NetState:
    updates, opt_state = tx.update(gradients, net.opt_state, net.params)
    return NetState(optax.apply_updates(net.params, updates), batch_stats, opt_state)


def update(
    state: GanState,
    real: jax.Array,
    label: jax.Array | None,
    noise: Noise,
    *,
    generator: nn.Module,
    discriminator: nn.Module,
    g_tx: optax.GradientTransformation,
    d_tx: optax.GradientTransformation,
    rules: Rules = PAPER,
    axis_name: str | None = None,
) -> tuple[GanState, Metrics]:
    """Updates the discriminator, then the generator against it, with given noise.

    Args:
      state: the state before.
      real: [B, S, S, 3] float32 real images in [-1, 1].
      label: [B, K] float32, one-hot, of real and generated images; None without conditioning.
      noise: what the update draws.
      generator: called as `(z, label, train=...)`.
      discriminator: called as `(image, label, train=...)`; `batch_norm` says if it has BatchNorm.
      g_tx: the generator's optimizer.
      d_tx: the discriminator's optimizer.
      rules: losses, penalties, augmentation.
      axis_name: mapped axis over which losses, gradients and metrics are averaged.

    Returns:
      The state after, and scalars: `d_loss`, `g_loss`, `d_real` and `d_fake` (mean probability
      of "real" given to real and to generated images), `d_grad_norm`, `g_grad_norm`; with a
      penalty `d_penalty` (0 in the steps between), with ADA `ada_p` and `ada_sign`.

    Source: the notebooks' order, and training mode throughout. Theirs moves the generator's
    running statistics in the discriminator's update too.
    """
    game = _Game(generator, discriminator, rules, axis_name)
    batch_size = game.batch_size(real)
    weight = class_weight(state.step * batch_size, rules.transition_kimg)
    told = None if label is None else weight * label
    if rules.turn_reals:
        real = diffaugment.turn(real, noise.turn)
    p = state.ada.p if state.ada else jnp.ones(())
    real = rules.augmentation.apply(real, noise.augment[0], p)

    def see(fake: jax.Array, draw: jax.Array) -> Shown:
        return real, rules.augmentation.apply(fake, draw, p), label

    made = game.generate(state.g, noise.z_d, told)
    shown = see(made[0], noise.augment[1])
    state, metrics = _update_discriminator(game, state, shown, weight, d_tx)
    if not rules.shared_latents:
        made = game.generate(state.g, noise.z_g, told)
    show = partial(see, draw=noise.augment[2])
    g, g_metrics = _update_generator(game, state, made, show, weight, g_tx)
    decay = ema_decay(state.step, batch_size, rules.ema_half_life_kimg)
    g_ema = optax.incremental_update(g.params, state.g_ema, 1 - decay)
    return state.replace(step=state.step + 1, g=g, g_ema=g_ema), metrics | g_metrics


def train_step(
    state: GanState,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    latent_size: int,
    rules: Rules = PAPER,
    axis_name: str | None = None,
    **static: Any,
) -> tuple[GanState, Metrics]:
    """Draws the noise of one update from `key` and applies `update`.

    Args:
      state: the state before.
      batch: `image` [B, S, S, 3] uint8, and `label` [B] int where networks take one.
      key: this step's key; under `axis_name` each device folds in its index.
      latent_size: length of a latent.
      rules: see `update`.
      axis_name: see `update`.
      **static: the networks and optimizers of `update`.

    Returns:
      As `update`.
    """
    if axis_name is not None:
        key = jax.random.fold_in(key, lax.axis_index(axis_name))
    real = images.to_float(batch["image"])
    label = jax.nn.one_hot(batch["label"], rules.num_classes) if rules.num_classes else None
    noise = draw_noise(key, len(real), latent_size, rules)
    return update(state, real, label, noise, rules=rules, axis_name=axis_name, **static)


def calibrate(
    params: Params,
    batch_stats: Any,
    key: jax.Array,
    *,
    generator: nn.Module,
    latent_size: int,
    rules: Rules = PAPER,
) -> dict[str, Any]:
    """Gives averaged generator parameters the BatchNorm statistics that are theirs.

    The running statistics belong to the weights of the last steps, not to their average. Here the
    averaged weights see fresh latents, and the means and variances of the batches are averaged.

    Args:
      params: generator parameters, such as `GanState.g_ema`.
      batch_stats: running statistics, for their structure; returned as they are when empty.
      key: a JAX key.
      generator: called as `(z, label, train=...)`, with each class in turn where it takes one.
      latent_size: length of a latent.
      rules: the run's, for the latents and labels.

    Returns:
      The variables `params` and `batch_stats`, for `sample`.

    Source: "standing statistics", Brock et al., 2019 (BigGAN), section 3.1.
    """
    if not jax.tree.leaves(batch_stats):
        return {"params": params, "batch_stats": batch_stats}

    label = None
    if rules.num_classes:
        turns = jnp.arange(CALIBRATION_BATCH_SIZE) % rules.num_classes
        label = jax.nn.one_hot(turns, rules.num_classes)

    # In k passes that start from zero, a running average of momentum m holds
    # (1 - m) · sum m^(k - 1 - i) batch_i. One pass each from zero, scaled back, gives the batch
    # statistics themselves whatever the momentum.
    zeros = jax.tree.map(jnp.zeros_like, batch_stats)
    ones = jax.tree.map(jnp.ones_like, batch_stats)

    def batch_statistics(key: jax.Array) -> Any:
        z = draw_latents(key, (CALIBRATION_BATCH_SIZE, latent_size), rules.latent_degrees)

        def run(start: Any) -> Any:
            variables = {"params": params, "batch_stats": start}
            return generator.apply(variables, z, label, train=True, mutable=["batch_stats"])[1]

        from_zero, from_one = run(zeros)["batch_stats"], run(ones)["batch_stats"]
        return jax.tree.map(lambda low, high: low / (1 - (high - low)), from_zero, from_one)

    keys = jax.random.split(key, CALIBRATION_BATCHES)
    statistics = lax.map(batch_statistics, keys)
    return {"params": params, "batch_stats": jax.tree.map(lambda s: s.mean(axis=0), statistics)}


def sample(
    variables: dict[str, Any],
    z: jax.Array,
    label: jax.Array | None = None,
    *,
    generator: nn.Module,
) -> jax.Array:
    """Generates images in evaluation mode.

    Args:
      variables: the generator's `params` and `batch_stats`.
      z: [B, Z] float32 latents.
      label: [B, K] float32, one-hot; None for a generator that takes none.
      generator: called as `(z, label, train=...)`.

    Returns:
      [B, S, S, 3] uint8.
    """
    image: Any = generator.apply(variables, z, label, train=False)
    return images.to_uint8(image)
