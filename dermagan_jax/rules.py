"""What a GAN's step goes by: losses and penalties, what is drawn, what grows with time."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from dermagan_jax import diffaugment, losses


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


def draw_latents(
    key: jax.Array, shape: tuple[int, ...], degrees: float = 0.0, *, truncation: float = 0.0
) -> jax.Array:
    """Draws standard normal latents, or Student's t of so many degrees of freedom.

    Args:
      key: a JAX key.
      shape: of the result.
      degrees: 0 for normal; few degrees give latents far from the mean more often.
      truncation: largest absolute value of a normal latent's elements; 0 for no bound.

    Returns:
      float32 of that shape.

    Raises:
      ValueError: truncation of Student's t.

    Source: Student's t for rare classes, Ahmad et al., 2021 (TED-GAN); truncation, Brock et al.,
    2019 (BigGAN), section 3.1.
    """
    if truncation and degrees:
        raise ValueError("latents of Student's t are not truncated: their tails are the point")
    if truncation:
        return jax.random.truncated_normal(key, -truncation, truncation, shape)
    return jax.random.t(key, degrees, shape) if degrees else jax.random.normal(key, shape)


def draw_noise(key: jax.Array, batch_size: int, latent_size: int, rules: Rules = PAPER) -> Noise:
    """Draws what one update needs."""
    d_key, g_key, augment_key, turn_key = jax.random.split(key, 4)
    shape = (batch_size, latent_size)
    # An array without elements cannot be shared out.
    num_draws = max(rules.augmentation.num_draws, 1)
    return Noise(
        z_d=draw_latents(d_key, shape, rules.latent_degrees),
        z_g=draw_latents(g_key, shape, rules.latent_degrees),
        augment=jax.random.uniform(augment_key, (3, batch_size, num_draws)),
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
