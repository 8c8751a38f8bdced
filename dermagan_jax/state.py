"""What training carries from step to step."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from dermagan_jax.ada import AdaState

Params = Any
Metrics = dict[str, jax.Array]


class NetState(struct.PyTreeNode):
    """One network in training.

    Attributes:
      params: the trainable variables.
      batch_stats: the running statistics of BatchNorm; empty where a network has none.
      opt_state: the optimizer's state for `params`.
    """

    params: Params
    batch_stats: Any
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, Any]:
        """The collections that the module's `apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class GanState(struct.PyTreeNode):
    """A GAN in training.

    Attributes:
      step: [] int32, updates done.
      g: the generator.
      d: the discriminator.
      g_ema: exponential moving average of `g.params`, which sampling uses.
      ada: an `ada.AdaState`; empty where the augmentation does not adapt.
    """

    step: jax.Array
    g: NetState
    d: NetState
    g_ema: Params
    ada: Any = struct.field(default_factory=dict)


class ClassifierState(struct.PyTreeNode):
    """A classifier in training.

    Attributes:
      step: [] int32, updates done.
      net: the network.
    """

    step: jax.Array
    net: NetState


def _create_net(
    key: jax.Array, module: nn.Module, tx: optax.GradientTransformation, *example: Any
) -> NetState:
    variables = module.init(key, *example, train=False)
    params = variables["params"]
    return NetState(params, variables.get("batch_stats", {}), tx.init(params))


def create_gan_state(
    key: jax.Array,
    *,
    generator: nn.Module,
    discriminator: nn.Module,
    g_tx: optax.GradientTransformation,
    d_tx: optax.GradientTransformation,
    latent_size: int,
    image_size: int,
    num_classes: int = 0,
    adaptive: bool = False,
) -> GanState:
    """Initialises both networks; map it over keys for one GAN a class.

    Args:
      key: a JAX key.
      generator: called as `(z, label, train=...)`.
      discriminator: called as `(image, label, train=...)`.
      g_tx: the generator's optimizer.
      d_tx: the discriminator's optimizer.
      latent_size: length of a latent.
      image_size: side of an image in pixels.
      num_classes: length of a label; 0 for networks that take none.
      adaptive: whether the discriminator's augmentation adapts.

    Returns:
      The state at step 0, its moving average a copy of the generator's parameters.
    """
    g_key, d_key = jax.random.split(key)
    label = jnp.zeros((1, num_classes)) if num_classes else None
    image = jnp.zeros((1, image_size, image_size, 3))
    g = _create_net(g_key, generator, g_tx, jnp.zeros((1, latent_size)), label)
    d = _create_net(d_key, discriminator, d_tx, image, label)
    # A copy: donating one buffer under two names is an error.
    g_ema = jax.tree.map(jnp.copy, g.params)
    return GanState(jnp.zeros((), jnp.int32), g, d, g_ema, AdaState.start() if adaptive else {})


def create_classifier_state(
    key: jax.Array, *, model: nn.Module, tx: optax.GradientTransformation, image_size: int
) -> ClassifierState:
    """Initialises a classifier, called as `(image, train=...)`, at step 0."""
    example = jnp.zeros((1, image_size, image_size, 3))
    return ClassifierState(jnp.zeros((), jnp.int32), _create_net(key, model, tx, example))
