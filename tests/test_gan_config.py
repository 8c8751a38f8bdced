"""What a GAN's configuration may say, and what is refused before a run."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from configs import dcgan, lesion_cnn, resgan
from dermagan_jax import gan_config, losses
from dermagan_jax.errors import DermaganError
from dermagan_jax.nets import resgan as networks


def _changed(config: ConfigDict, changes: dict[str, Any]) -> ConfigDict:
    config.update_from_flattened_dict(changes)
    return config


def test_a_classifiers_recipe_is_no_gans() -> None:
    with pytest.raises(DermaganError, match="no field 'conditioning', so it is no GAN's; give one"):
        gan_config.check(lesion_cnn.get_config())


@pytest.mark.parametrize("variant", ["default", "residual", "demo", "smoke"])
def test_every_variant_may_run(variant: str) -> None:
    gan_config.check(resgan.get_config(variant))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": -1}, "config.seed is -1; give a number from 0"),
        ({"seed": 10**19}, "config.seed is 10000000000000000000; give a number from 0, below"),
        ({"transition_kimg": (25.0,)}, "config.transition_kimg is (25.0,); give two numbers"),
        ({"transition_kimg": (75.0, 25.0)}, "config.transition_kimg is (75.0, 25.0); give two"),
        ({"precision": "float64"}, "config.precision is 'float64'; "),
        ({"keep_checkpoints": 0}, "config.keep_checkpoints is 0; give a number from 1"),
        (
            {"rollback_checkpoints": 3},
            "config.rollback_checkpoints is 3; give a number up to 2, config.keep_checkpoints",
        ),
        (
            {"loss": "relativistic", "label_smoothing": 0.1},
            "config.label_smoothing is 0.1; give 0 with the relativistic loss",
        ),
        (
            {"model.attention_size": 64},
            "config.model.attention_size is 64; give one of 8, 16, 32, the sides",
        ),
        (
            {"model.attention_size": 32, "model.image_size": 32},
            "config.model.attention_size is 32; give one of 8, 16, the sides",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DermaganError) as caught:
        gan_config.check(_changed(resgan.get_config("smoke"), changes))
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "changes",
    [
        {"rollback_checkpoints": 3, "keep_checkpoints": 3},
        {"loss": "relativistic"},
        {"loss": "hinge", "label_smoothing": 0.1},
        {"model.attention_size": 8},
    ],
)
def test_what_is_near_to_it_is_not(changes: dict[str, Any]) -> None:
    gan_config.check(_changed(resgan.get_config("smoke"), changes))


def test_the_relativistic_loss_with_smoothing_has_no_lower_bound() -> None:
    """Logits that all fall alike lower it without end, which is why it is refused."""
    for name, falls in (("non_saturating", False), ("hinge", False), ("relativistic", True)):
        loss = losses.smoothed(losses.ADVERSARIAL[name], 0.1).discriminator
        near, far = (float(loss(jnp.array(x), jnp.array(x))) for x in (-1e3, -1e4))
        assert (far < near) == falls, name


@pytest.mark.parametrize("size", [8, 16, 32])
def test_attention_is_where_it_is_allowed(size: int) -> None:
    """Each size that passes gives both networks a layer of attention."""
    config = _changed(resgan.get_config("smoke"), {"model.attention_size": size})
    gan_config.check(config)
    label = jnp.ones((4, 4))
    for module, shown in (
        (gan_config.make_generator(config), jnp.ones((4, config.model.latent_size))),
        (gan_config.make_discriminator(config), jnp.ones((4, 64, 64, 3))),
    ):
        made = jax.eval_shape(
            lambda *inputs, module=module: module.init(jax.random.key(0), *inputs, train=False),
            shown,
            label,
        )
        assert f"{networks.SelfAttention.__name__}_0" in made["params"]


def test_real_images_are_turned_where_the_configuration_says_so() -> None:
    assert gan_config.turns_reals(resgan.get_config())
    assert not gan_config.turns_reals(dcgan.get_config())
    # A checkpoint from before there was a choice.
    assert not gan_config.turns_reals({"conditioning": "per_class"})
