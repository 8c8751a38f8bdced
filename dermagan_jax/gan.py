"""The GAN's pure training step, and sampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from dermagan_jax import ada, diffaugment, images, losses
from dermagan_jax.state import GanState, Metrics, NetState, Params

CALIBRATION_BATCHES = 4
CALIBRATION_BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a step does beside descending; the defaults are the paper's. Static under `jit`.

    Attributes:
      loss: the adversarial loss.
      r1: gamma of the gradient penalty on real images; 0 for none.
      r2: gamma of the gradient penalty on generated images; 0 for none.
      penalty_interval: apply the penalties in every so manyth step, so many times as strong.
      augmentation: of all that the discriminator sees.
      ada_kimg: thousands of images in which the augmentation's probability may go from 0 to 1.
      turn_reals: show each real image in one of its eight symmetries.
      shared_latents: the generator's update reuses the images of the discriminator's.
      latent_degrees: degrees of freedom of Student's t, from which latents are drawn; 0 is normal.
      num_classes: length of a label; 0 for networks that take none.
      transition_kimg: thousands of images after which the class begins to count, and after which it
        counts in full; None when it always does.
      ema_half_life_kimg: see `ema_decay`.
    """

    loss: losses.Adversarial = losses.ADVERSARIAL["non_saturating"]
    r1: float = 0.0
    r2: float = 0.0
    penalty_interval: int = 1
    augmentation: diffaugment.Augmentation = diffaugment.NONE
    ada_kimg: float = 100.0
    turn_reals: bool = False
    shared_latents: bool = False
    latent_degrees: float = 0.0
    num_classes: int = 0
    transition_kimg: tuple[float, float] | None = None
    ema_half_life_kimg: float = 10.0


PAPER = Rules()


class Noise(struct.PyTreeNode):
    """All that one update draws, image by image, so that devices can share it out.

    Attributes:
      z_d: [B, Z] float32 latents of the discriminator's update.
      z_g: [B, Z] float32 latents of the generator's update; not used when latents are shared.
      augment: [3, B, N] float32 in [0, 1): draws of the augmentation for real images, for the
        discriminator's generated ones and for the generator's.
      turn: [B] float32 in [0, 1): the symmetry of a real image.
    """

    z_d: jax.Array
    z_g: jax.Array
    augment: jax.Array
    turn: jax.Array


def draw_latents(key: jax.Array, shape: tuple[int, ...], degrees: float = 0.0) -> jax.Array:
    """Draws standard normal latents, or Student's t of so many degrees of freedom.

    Args:
      key: a JAX key.
      shape: of the result.
      degrees: 0 for normal; few degrees give latents far from the mean more often.

    Returns:
      float32 of that shape.

    Source: Student's t for rare classes, Ahmad et al., 2021 (TED-GAN).
    """
    return jax.random.t(key, degrees, shape) if degrees else jax.random.normal(key, shape)


def draw_noise(key: jax.Array, batch_size: int, latent_size: int, rules: Rules = PAPER) -> Noise:
    """Draws what one update needs."""
    d_key, g_key, augment_key, turn_key = jax.random.split(key, 4)
    shape = (batch_size, latent_size)
    return Noise(
        z_d=draw_latents(d_key, shape, rules.latent_degrees),
        z_g=draw_latents(g_key, shape, rules.latent_degrees),
        augment=jax.random.uniform(augment_key, (3, batch_size, rules.augmentation.num_draws)),
        turn=jax.random.uniform(turn_key, (batch_size,)),
    )


def class_weight(seen: jax.Array, transition_kimg: tuple[float, float] | None) -> jax.Array:
    """Returns how much the class counts after `seen` images, from 0 to 1.

    Source: Shahbazi et al., 2022, equation 3: unconditional at first, then a linear ramp.
    """
    if transition_kimg is None:
        return jnp.ones(())
    start, end = (1000 * kimg for kimg in transition_kimg)
    return jnp.clip((seen - start) / max(end - start, 1), 0, 1)


def _weighted(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Adds up a transitional discriminator's two outputs, [B, 2]; leaves [B] alone."""
    return values if values.ndim == 1 else values[:, 0] + weight * values[:, 1]


def _last(logits: jax.Array) -> jax.Array:
    """Returns the only logits, or the conditional ones of two: [B]."""
    return logits if logits.ndim == 1 else logits[:, 1]


@dataclasses.dataclass(frozen=True)
class _Game:
    """The two networks and the rules between them, for one update."""

    generator: nn.Module
    discriminator: nn.Module
    rules: Rules
    axis_name: str | None

    def mean(self, tree: Any) -> Any:
        return tree if self.axis_name is None else lax.pmean(tree, self.axis_name)

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
            return _weighted(self.score(variables, image, label)[0], weight)

        terms = [
            gamma / 2 * losses.gradient_penalty(score, image)
            for gamma, image in ((self.rules.r1, real), (self.rules.r2, fake))
            if gamma
        ]
        return self.mean(sum(terms[1:], terms[0]))


def _update_discriminator(
    game: _Game,
    state: GanState,
    seen: tuple[jax.Array, jax.Array, jax.Array | None],
    weight: jax.Array,
    tx: optax.GradientTransformation,
) -> tuple[NetState, Metrics, jax.Array]:
    """Takes one discriminator step on augmented real and generated images with their labels."""
    rules = game.rules

    def loss_fn(params: Params) -> tuple[jax.Array, tuple[Any, ...]]:
        variables = {"params": params, "batch_stats": state.d.batch_stats}
        real_logits, fake_logits, stats = game.score_both(variables, *seen)
        loss = rules.loss.discriminator(real_logits, fake_logits)
        loss = game.mean(_weighted(loss, weight).mean())
        aux = (loss, _last(real_logits), _last(fake_logits), stats)
        if not (rules.r1 or rules.r2):
            return loss, (*aux, None)
        penalty = lax.cond(
            (state.step + 1) % rules.penalty_interval == 0,
            lambda: game.penalty(variables, *seen, weight),
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
    sign = game.mean(jnp.sign(real_logits).mean())
    return _descend(state.d, gradients, stats, tx), metrics, sign


def _update_generator(
    game: _Game,
    state: GanState,
    made: tuple[jax.Array, Any, Any],
    see: Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array | None]],
    weight: jax.Array,
    tx: optax.GradientTransformation,
) -> tuple[NetState, Metrics]:
    """Takes one generator step against the discriminator in `state`.

    Args:
      made: from `_Game.generate`.
      see: from generated images to what the discriminator is shown: augmented real and generated
        images, and their labels.
    """
    fake, pull, stats = made
    loss = game.rules.loss

    def loss_fn(fake: jax.Array) -> jax.Array:
        real, fake, label = see(fake)
        if loss.pairs:
            real_logits, fake_logits, _ = game.score_both(state.d.variables, real, fake, label)
        else:
            fake_logits, _ = game.score(state.d.variables, fake, label)
            real_logits = jnp.zeros_like(fake_logits)
        return game.mean(_weighted(loss.generator(real_logits, fake_logits), weight).mean())

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
      discriminator: called as `(image, label, train=...)`, with an attribute `batch_norm`: whether
        real and generated images need a pass each.
      g_tx: the generator's optimizer.
      d_tx: the discriminator's optimizer.
      rules: losses, penalties, augmentation.
      axis_name: mapped axis over which losses, gradients and metrics are averaged.

    Returns:
      The state after, and scalars: `d_loss`, `g_loss`, `d_real` and `d_fake` (mean probability
      of "real" given to real and to generated images), `d_grad_norm`, `g_grad_norm`; with a
      penalty `d_penalty` (0 in the steps between), with ADA `ada_p` and `ada_sign`.

    Source: the notebooks' order: the discriminator first, each network in training mode throughout.
    They also let the discriminator's update move the generator's running statistics; here it does
    not.
    """
    game = _Game(generator, discriminator, rules, axis_name)
    batch_size = real.shape[0] * (1 if axis_name is None else lax.axis_size(axis_name))
    weight = class_weight(state.step * batch_size, rules.transition_kimg)
    p = state.ada.p if state.ada else jnp.ones(())
    augment = rules.augmentation.apply
    if rules.turn_reals:
        real = diffaugment.turn(real, noise.turn)
    real = augment(real, noise.augment[0], p)
    told = None if label is None else weight * label

    made = game.generate(state.g, noise.z_d, told)
    seen = (real, augment(made[0], noise.augment[1], p), label)
    d, d_metrics, sign = _update_discriminator(game, state, seen, weight, d_tx)
    if state.ada:
        d_metrics |= {"ada_p": p, "ada_sign": sign}
        adapted = ada.adapt(state.ada, sign, state.step, batch_size, rules.ada_kimg)
        state = state.replace(ada=adapted)
    state = state.replace(d=d)

    if not rules.shared_latents:
        made = game.generate(state.g, noise.z_g, told)
    g, g_metrics = _update_generator(
        game,
        state,
        made,
        lambda fake: (real, augment(fake, noise.augment[2], p), label),
        weight,
        g_tx,
    )
    decay = ema_decay(state.step, batch_size, rules.ema_half_life_kimg)
    g_ema = optax.incremental_update(g.params, state.g_ema, 1 - decay)
    state = state.replace(step=state.step + 1, g=g, g_ema=g_ema)
    return state, {**d_metrics, **g_metrics}


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
