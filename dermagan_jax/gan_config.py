"""What a GAN's configuration means: its networks, its rules and its length.

A checkpoint carries the configuration of its run, so fields that came later have a default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dermagan_jax import ada, diffaugment, losses, ranges
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import NUM_CLASSES
from dermagan_jax.metrics.generative import NEIGHBOURS
from dermagan_jax.nets import dcgan, projected, resgan
from dermagan_jax.nets.precision import Precision, find_precision
from dermagan_jax.rules import Rules

CONDITIONINGS = ("per_class", "conditional", "transitional")
ARCHITECTURES = ("dcgan", "resgan")
DISCRIMINATORS = ("residual", "projected")
SCHEDULES = ("constant", "linear")

Config = Mapping[str, Any]

_FIELDS = ("conditioning", "model", "loss", "optimizer", "watch", "total_kimg")
_RANGES: Mapping[str, ranges.Range] = {
    **ranges.ADAM,
    **dict.fromkeys(
        (
            *("batch_size", "log_every_steps", "checkpoint_every_steps", "keep_checkpoints"),
            *("penalty_interval", "rollback_checkpoints", "watch.per_class"),
            *("model.width", "model.max_width", "model.latent_size", "model.image_size"),
            *("model.d_head_width", "model.d_width", "model.d_max_width", "model.d_side"),
        ),
        ranges.FROM_1,
    ),
    **dict.fromkeys(
        (
            *("num_steps", "total_kimg", "others_kimg", "steps_per_call", "rollbacks"),
            *("model.convs", "model.d_convs", "model.latent_degrees"),
            *("optimizer.d_learning_rate", "r1", "r2", "ema_half_life_kimg", "watch.patience"),
        ),
        ranges.FROM_0,
    ),
    "seed": ranges.SEED,
    "ada_kimg": ranges.ABOVE_0,
    "label_smoothing": ranges.SHARE,
}


def is_per_class(config: Config) -> bool:
    """Whether each class has a GAN of its own, rather than all classes one that knows them."""
    return config["conditioning"] == "per_class"


def architecture(config: Config) -> str:
    """Returns `dcgan` or `resgan`."""
    return config["model"].get("architecture", "dcgan")


def discriminator(config: Config) -> str:
    """Returns `residual` or `projected`, of the architecture `resgan`."""
    return config["model"].get("discriminator", "residual")


def watch_features(config: Config) -> str:
    """Returns the features by which the run chose its best checkpoint; "" where it chose none."""
    return config.get("watch", {}).get("features", "")


def turns_reals(config: Config) -> bool:
    """Whether real images were shown in all eight symmetries, so that a copy may be turned too."""
    return bool(config.get("turn_reals", False))


def precision(config: Config) -> Precision:
    """Returns the precision; checkpoints from before there was a choice are float32."""
    return find_precision(config.get("precision", "float32"))


def check(config: Config) -> None:
    """Refuses a configuration that cannot run.

    Raises:
      DermaganError: naming the field and the values that it may have.
    """
    ranges.require_fields(config, _FIELDS, whose="GAN's", example="configs/resgan.py")
    _one_of("conditioning", config["conditioning"], CONDITIONINGS)
    _one_of("model.architecture", architecture(config), ARCHITECTURES)
    _one_of("model.discriminator", discriminator(config), DISCRIMINATORS)
    _one_of("loss", config["loss"], tuple(losses.ADVERSARIAL))
    _one_of("optimizer.schedule", config["optimizer"]["schedule"], SCHEDULES)
    make_augmentation(config["augment"])
    precision(config)
    _check_numbers(config)
    if config["loss"] == "relativistic" and config["label_smoothing"] > 0:
        raise DermaganError(
            f"config.label_smoothing is {config['label_smoothing']}; give 0 with the relativistic "
            "loss, which it would leave without a lower bound"
        )
    _check_transition(config)
    _check_others(config)
    _check_networks(config)


def _check_numbers(config: Config) -> None:
    ranges.require(config, _RANGES)
    if config["rollback_checkpoints"] > config["keep_checkpoints"]:
        raise DermaganError(
            f"config.rollback_checkpoints is {config['rollback_checkpoints']}; give a number up to "
            f"{config['keep_checkpoints']}, config.keep_checkpoints, or there is none to go back to"
        )
    watch = config["watch"]
    if watch["features"] and watch["per_class"] <= NEIGHBOURS:
        raise DermaganError(
            f"config.watch.per_class is {watch['per_class']}; give a number above {NEIGHBOURS}, "
            "the neighbours that coverage looks at"
        )
    if (config["num_steps"] > 0) == (config["total_kimg"] > 0):
        raise DermaganError(
            f"config.num_steps is {config['num_steps']} and config.total_kimg "
            f"{config['total_kimg']}; give one of them a number above 0 and the other 0"
        )


def _check_transition(config: Config) -> None:
    ends = config.get("transition_kimg", (0.0, 0.0))
    if (
        len(ends) != 2
        or not all(isinstance(end, int | float) for end in ends)
        or not (0 <= ends[0] <= ends[1] < math.inf)
    ):
        raise DermaganError(
            f"config.transition_kimg is {tuple(ends)}; give two numbers from 0, the second the "
            "greater, such as (25.0, 75.0)"
        )


def _check_others(config: Config) -> None:
    kimg = config.get("others_kimg", 0.0)
    if kimg and config["conditioning"] != "transitional":
        raise DermaganError(
            f"config.others_kimg is {kimg}, and other lesions have no class; set "
            "config.conditioning to 'transitional', which begins without one"
        )
    if kimg and kimg > config["transition_kimg"][0]:
        raise DermaganError(
            f"config.others_kimg is {kimg}; give a number up to {config['transition_kimg'][0]}, "
            "where config.transition_kimg lets the class begin to count"
        )


def _check_networks(config: Config) -> None:
    if architecture(config) == "dcgan" and not is_per_class(config):
        raise DermaganError(
            "config.model.architecture is 'dcgan', which takes no class; "
            "set config.conditioning to 'per_class' or use configs/resgan.py"
        )
    if architecture(config) == "resgan":
        _check_attention(config)
    if discriminator(config) == "projected":
        _check_projected(config)
    group = resgan.MINIBATCH_GROUP
    if architecture(config) == "resgan" and config["batch_size"] % group:
        raise DermaganError(
            f"config.batch_size is {config['batch_size']}; give a multiple of {group}, "
            "the images that the discriminator compares"
        )


def warnings(config: Config) -> list[str]:
    """Says what of a configuration can run and is hardly meant, a line each."""
    if config["conditioning"] != "transitional":
        return []
    end = config["transition_kimg"][1]
    run_end = num_steps(config) * images_per_step(config) / 1000
    if end <= run_end:
        return []
    return [
        f"config.transition_kimg ends at {end:g} and the run at {run_end:g}: until then classes "
        "count in part; train longer, or set an earlier end"
    ]


def _check_attention(config: Config) -> None:
    size = config["model"]["attention_size"]
    # Of the maps between blocks, the same in both networks: from 8 up to half the image's side.
    sizes = [1 << power for power in range(3, (config["model"]["image_size"] - 1).bit_length())]
    if size and size not in sizes:
        raise DermaganError(
            f"config.model.attention_size is {size}; give one of {', '.join(map(str, sizes))}, the "
            "sides of the networks' maps, or 0 for none"
        )


def _check_projected(config: Config) -> None:
    side = config["model"]["d_side"]
    if side < 32 or side % 32:
        raise DermaganError(f"config.model.d_side is {side}; give a multiple of 32")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise DermaganError(f"config.{name} is {value!r}; known: {', '.join(map(repr, known))}")


def of_class(
    config: Config, variables: Any, label: jax.Array | int, count: int
) -> tuple[Any, jax.Array | None]:
    """Returns what a network takes to work on one class.

    Args:
      config: the run's configuration.
      variables: the network's; with a leading class axis where each class has its own.
      label: [] int in [0, 4).
      count: images in the batch.

    Returns:
      The variables of the class's network, and its label [count, 4] one-hot, or None where the
      network takes none.
    """
    if is_per_class(config):
        return jax.tree.map(lambda leaf: leaf[label], variables), None
    return variables, jax.nn.one_hot(jnp.full(count, label), NUM_CLASSES)


def num_steps(config: Config) -> int:
    """Returns the number of updates: as given, or as many as `total_kimg` takes."""
    if config["num_steps"]:
        return config["num_steps"]
    return math.ceil(1000 * config["total_kimg"] / images_per_step(config))


def others_steps(config: Config) -> int:
    """Returns how many of the first updates see other lesions as well."""
    return math.ceil(1000 * config.get("others_kimg", 0.0) / images_per_step(config))


def images_per_step(config: Config) -> int:
    """Returns the real images, of all classes, that an update sees."""
    return config["batch_size"] * (NUM_CLASSES if is_per_class(config) else 1)


def make_generator(config: Config) -> nn.Module:
    """Builds the generator that a configuration's `model` part describes."""
    model, dtype = config["model"], precision(config).dtype
    if architecture(config) == "dcgan":
        return dcgan.Generator(width=model["width"], image_size=model["image_size"], dtype=dtype)
    return resgan.Generator(
        width=model["width"],
        max_width=model["max_width"],
        image_size=model["image_size"],
        convs=model["convs"],
        attention_size=model["attention_size"],
        dtype=dtype,
    )


def make_discriminator(config: Config) -> nn.Module:
    """Builds the discriminator that a configuration's `model` part describes."""
    model, dtype = config["model"], precision(config).dtype
    if architecture(config) == "dcgan":
        return dcgan.Discriminator(width=model["width"], dtype=dtype)
    if discriminator(config) == "projected":
        return projected.Discriminator(
            width=model["d_width"],
            head_width=model["d_head_width"],
            side=model["d_side"],
            transitional=config["conditioning"] == "transitional",
            dtype=dtype,
        )
    return resgan.Discriminator(
        width=model["d_width"],
        max_width=model["d_max_width"],
        convs=model["d_convs"],
        attention_size=model["attention_size"],
        batch_norm=model["d_batch_norm"],
        spectral_norm=model["d_spectral_norm"],
        transitional=config["conditioning"] == "transitional",
        dtype=dtype,
    )


def make_augmentation(name: str) -> diffaugment.Augmentation:
    """Builds the discriminator's augmentation: `none`, `ada`, or policies of DiffAugment."""
    fixed = {"none": diffaugment.NONE, "ada": ada.AUGMENTATION}
    return fixed[name] if name in fixed else diffaugment.make_diffaugment(name)


def latent_degrees(config: Config) -> float:
    """Returns the degrees of freedom of Student's t for the latents; 0 is normal."""
    return config["model"].get("latent_degrees", 0.0)


def make_rules(config: Config) -> Rules:
    """Builds the rules of a run's step."""
    transitional = config["conditioning"] == "transitional"
    return Rules(
        loss=losses.smoothed(losses.ADVERSARIAL[config["loss"]], config["label_smoothing"]),
        r1=config["r1"],
        r2=config["r2"],
        penalty_interval=config["penalty_interval"],
        augmentation=make_augmentation(config["augment"]),
        ada_kimg=config["ada_kimg"],
        turn_reals=turns_reals(config),
        shared_latents=config["shared_latents"],
        latent_degrees=latent_degrees(config),
        num_classes=0 if is_per_class(config) else NUM_CLASSES,
        transition_kimg=tuple(config["transition_kimg"]) if transitional else None,
        ema_half_life_kimg=config["ema_half_life_kimg"],
    )


def make_optimizers(
    config: Config,
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Builds the generator's and the discriminator's Adam."""
    optimizer, last = config["optimizer"], num_steps(config)

    def adam(rate: float) -> optax.GradientTransformation:
        schedule: Any = rate
        if optimizer["schedule"] == "linear":
            schedule = optax.linear_schedule(rate, 0.0, last - last // 2, last // 2)
        return optax.adam(schedule, b1=optimizer["b1"], b2=optimizer["b2"])

    rate = optimizer["learning_rate"]
    return adam(rate), adam(optimizer["d_learning_rate"] or rate)
