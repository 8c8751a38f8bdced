"""What a classifier's configuration means: its network, where its weights start, its optimizer.

A checkpoint carries the configuration of its run, so fields that came later have a default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dermagan_jax import ranges
from dermagan_jax.augmentation import find_policy
from dermagan_jax.errors import DermaganError
from dermagan_jax.mixing import find_mixer
from dermagan_jax.nets import lesion_cnn, pretrained
from dermagan_jax.nets.backbones import BACKBONES, SIDE_UNIT, BackboneClassifier
from dermagan_jax.nets.precision import find_precision
from dermagan_jax.state import ClassifierState, NetState, create_classifier_state

LESION_CNN, LITE0 = "lesion_cnn", "efficientnet_lite0"
NETWORKS = (LESION_CNN, *BACKBONES)
IMAGENET, NO_WEIGHTS = "imagenet", "none"
CONSTANT, COSINE = "constant", "cosine"

Config = Mapping[str, Any]

_FIELDS = ("seed", "model", "real", "synthetic", "mixing", "optimizer")
_RANGES: Mapping[str, ranges.Range] = {
    **ranges.ADAM,
    **dict.fromkeys(
        (
            *("batch_size", "num_steps", "log_every_steps", "eval_every_steps"),
            "model.image_size",
        ),
        ranges.FROM_1,
    ),
    "seed": ranges.SEED,
    "steps_per_call": ranges.FROM_0,
    "model.dropout_rate": ranges.SHARE,
}


def network(config: Config) -> str:
    """Returns the name of the network, one of `NETWORKS`."""
    return config["model"].get("network", LESION_CNN)


def image_size(config: Config) -> int:
    """Returns the side of the prepared images that the classifier takes."""
    return config["model"].get("image_size", lesion_cnn.IMAGE_SIZE)


def check(config: Config) -> None:
    """Refuses a configuration that cannot run.

    Raises:
      DermaganError: naming the field and the values that it may have.
    """
    ranges.require_fields(config, _FIELDS, whose="classifier's", example="configs/lesion_cnn.py")
    model = config["model"]
    ranges.require(config, _RANGES)
    find_precision(config["precision"])
    find_policy(config["augmentation"])
    find_mixer(config["mixing"])
    _check_schedule(config)
    if model["network"] not in NETWORKS:
        known = ", ".join(map(repr, NETWORKS))
        raise DermaganError(f"config.model.network is {model['network']!r}; known: {known}")
    if model["network"] == LESION_CNN:
        if model["image_size"] != lesion_cnn.IMAGE_SIZE:
            raise DermaganError(
                f"config.model.image_size is {model['image_size']}; the paper's CNN takes "
                f"{lesion_cnn.IMAGE_SIZE}"
            )
        return
    missing = [name for name in ("side", "frozen", "weights") if name not in model]
    if missing:
        raise DermaganError(
            f"config.model.network is {model['network']!r}, and config.model.{missing[0]} is not "
            f"there; start from configs/backbone.py:{model['network']}, which has it"
        )
    if model["side"] < SIDE_UNIT or model["side"] % SIDE_UNIT:
        raise DermaganError(f"config.model.side is {model['side']}; give a multiple of {SIDE_UNIT}")
    if model["network"] == LITE0 and model["weights"] != IMAGENET:
        raise DermaganError(
            f"config.model.weights is {model['weights']!r}, and {LITE0} always starts from the "
            f"weights in its package; give {IMAGENET!r}, or another network"
        )
    if model["weights"] == NO_WEIGHTS and model["frozen"]:
        raise DermaganError(
            "config.model.weights is 'none', with which nothing may be frozen; give 'imagenet' or "
            "Keras's file"
        )


def _check_schedule(config: Config) -> None:
    optimizer, steps = config["optimizer"], config["num_steps"]
    schedule, warmup = optimizer.get("schedule", CONSTANT), optimizer.get("warmup_steps", 0)
    if schedule not in (CONSTANT, COSINE):
        raise DermaganError(
            f"config.optimizer.schedule is {schedule!r}; known: {CONSTANT!r}, {COSINE!r}"
        )
    if not 0 <= warmup < steps:
        raise DermaganError(
            f"config.optimizer.warmup_steps is {warmup}; give a number from 0, below the "
            f"{steps} of config.num_steps"
        )


def make_model(config: Config) -> nn.Module:
    """Builds the classifier that a configuration's `model` part describes."""
    model = config["model"]
    if network(config) == LESION_CNN:
        precision = find_precision(config.get("precision", "float32"))
        return lesion_cnn.LesionCNN(dropout_rate=model["dropout_rate"], dtype=precision.dtype)
    return BackboneClassifier(
        network=model["network"],
        side=model["side"],
        frozen=model["frozen"],
        norm_learns=model["weights"] == NO_WEIGHTS,
        dropout_rate=model["dropout_rate"],
    )


def _learning_rate(config: Config) -> optax.ScalarOrSchedule:
    optimizer = config["optimizer"]
    rate = optimizer["learning_rate"]
    if optimizer.get("schedule", CONSTANT) == CONSTANT:
        return rate
    steps = config["num_steps"]
    return optax.warmup_cosine_decay_schedule(0.0, rate, optimizer["warmup_steps"], steps)


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Builds Adam, which leaves a frozen network alone."""
    optimizer = config["optimizer"]
    adam = optax.adam(
        _learning_rate(config),
        b1=optimizer["b1"],
        b2=optimizer["b2"],
        eps=optimizer["epsilon"],
    )
    if network(config) == LESION_CNN or not config["model"]["frozen"]:
        return adam

    def kinds(params: Mapping[str, Any]) -> dict[str, str]:
        return {name: "frozen" if name == "backbone" else "learns" for name in params}

    return optax.multi_transform({"learns": adam, "frozen": optax.set_to_zero()}, kinds)


def initial_weights(config: Config) -> dict[str, Any] | None:
    """Reads the weights that a network starts from.

    Returns:
      The `params` and `batch_stats` of the layer `backbone`, float32; None for random weights.

    Raises:
      DermaganError: they are not there, or of another network.
    """
    if network(config) == LITE0:
        loaded = pretrained.efficientnet_lite0_variables()
        return {collection: {"network": tree} for collection, tree in loaded.items()}
    path = weights_file(config)
    if path is None:
        return None
    state = jax.eval_shape(partial(_create, config=config), jax.random.key(0))
    shapes = {
        name: tree["backbone"]
        for name, tree in (("params", state.net.params), ("batch_stats", state.net.batch_stats))
        if "backbone" in tree
    }
    return pretrained.keras_variables(path, shapes)


def weights_file(config: Config) -> Path | None:
    """Returns the file of the weights that a network starts from.

    Returns:
      None where they are random, or in a package.

    Raises:
      DermaganError: it is not there.
    """
    if network(config) in (LESION_CNN, LITE0) or config["model"]["weights"] == NO_WEIGHTS:
        return None
    model = config["model"]
    name = BACKBONES[model["network"]].weights_file
    path = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models" / name
    if model["weights"] != IMAGENET:
        path = Path(model["weights"]).expanduser()
    if not path.is_file():
        raise DermaganError(
            f"{path}: is missing, the weights of {model['network']}; let Keras download the "
            "ImageNet weights there, or give their path as config.model.weights, or 'none' to "
            "train from scratch"
        )
    return path


def _create(key: jax.Array, *, config: Config) -> ClassifierState:
    return create_classifier_state(
        key,
        model=make_model(config),
        tx=make_optimizer(config),
        image_size=image_size(config),
    )


def create_state(
    key: jax.Array, weights: Mapping[str, Any] | None, *, config: Config
) -> ClassifierState:
    """Initialises a classifier at step 0.

    Args:
      key: of the random weights.
      weights: from `initial_weights`.
      config: the run's.
    """
    if weights is None:
        return _create(key, config=config)
    # The random weights that these replace would take long to compile.
    shapes = jax.eval_shape(partial(_create, config=config), key)
    shape = shapes.net.params["logits"]["kernel"].shape
    logits = {"kernel": nn.initializers.glorot_uniform()(key, shape), "bias": jnp.zeros(shape[1])}
    params = {"backbone": weights["params"], "logits": logits}
    stats = {"backbone": weights["batch_stats"]} if "batch_stats" in weights else {}
    net = NetState(params, stats, make_optimizer(config).init(params))
    return ClassifierState(jnp.zeros((), jnp.int32), net)
