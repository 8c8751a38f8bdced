"""The classifier's pure training and evaluation steps."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from dermagan_jax import images, losses
from dermagan_jax.augmentation import AugmentationPolicy, augment
from dermagan_jax.lesions import NUM_CLASSES
from dermagan_jax.mixing import Mixer
from dermagan_jax.state import ClassifierState, Metrics, NetState, Params

_MIX = 2  # Folded into a step's key; its two halves are the augmentation's and the dropout's.


def train_step(
    state: ClassifierState,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    policy: AugmentationPolicy,
    mixer: Mixer | None = None,
    axis_name: str | None = None,
) -> tuple[ClassifierState, Metrics]:
    """Augments a batch and takes one step on its cross-entropy.

    Args:
      state: the state before.
      batch: `image` [B, S, S, 3] uint8 and `label` [B] int32 in [0, K).
      key: this step's key; under `axis_name` each device folds in its index.
      model: called as `(image, train=...)`, with the rng stream "dropout".
      tx: the optimizer.
      policy: classic augmentation of the images.
      mixer: mixes each image with another, see `mixing`.
      axis_name: mapped axis over which loss, gradients and metrics are averaged.

    Returns:
      The state after, and scalars: `loss`, `accuracy` and `grad_norm` on this augmented batch; of
      mixtures, an answer is right that names the image that the mixture began with.
    """
    if axis_name is not None:
        key = jax.random.fold_in(key, lax.axis_index(axis_name))
    augment_key, dropout_key = jax.random.split(key)
    image = augment(images.to_float(batch["image"]), augment_key, policy=policy)
    label = batch["label"]
    target = jax.nn.one_hot(label, NUM_CLASSES)
    if mixer is not None:
        image, target = mixer(image, target, jax.random.fold_in(key, _MIX))

    def mean(tree: Any) -> Any:
        return tree if axis_name is None else lax.pmean(tree, axis_name)

    def loss_fn(params: Params) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        logits, stats = model.apply(
            {"params": params, "batch_stats": state.net.batch_stats},
            image,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        return mean(losses.cross_entropy(logits, target)), (logits, stats)

    (loss, (logits, stats)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.net.params)
    gradients = mean(gradients)
    updates, opt_state = tx.update(gradients, state.net.opt_state, state.net.params)
    params = optax.apply_updates(state.net.params, updates)
    net = NetState(params, stats.get("batch_stats", {}), opt_state)
    correct = (logits.argmax(axis=-1) == label).astype(jnp.float32)
    metrics = {"loss": loss, "accuracy": mean(correct.mean())}
    metrics["grad_norm"] = optax.tree.norm(gradients)
    return state.replace(step=state.step + 1, net=net), metrics


def eval_step(net: NetState, image: jax.Array, *, model: nn.Module) -> jax.Array:
    """Classifies images in evaluation mode, without augmentation.

    Args:
      net: the network's state.
      image: [B, S, S, 3] uint8.
      model: called as `(image, train=...)`.

    Returns:
      [B, K] float32 logits.
    """
    logits: Any = model.apply(net.variables, images.to_float(image), train=False)
    return logits
