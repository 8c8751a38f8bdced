"""Numbers of configurations that no run could use are refused before one begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import jax
import ml_collections
import pytest

from configs import backbone, dcgan, lesion_cnn, resgan
from dermagan_jax import classifier_config, gan_config, ranges, training_set
from dermagan_jax.errors import DermaganError
from dermagan_jax.state import create_gan_state


def _check_classifier(config: ml_collections.ConfigDict) -> None:
    classifier_config.check(config)
    training_set.check(config)
    jax.eval_shape(partial(classifier_config.create_state, config=config), _KEY, None)


def _check_gan(config: ml_collections.ConfigDict) -> None:
    gan_config.check(config)
    generator, discriminator = (
        gan_config.make_generator(config),
        gan_config.make_discriminator(config),
    )
    g_tx, d_tx = gan_config.make_optimizers(config)
    create = partial(
        create_gan_state,
        generator=generator,
        discriminator=discriminator,
        g_tx=g_tx,
        d_tx=d_tx,
        latent_size=config.model.latent_size,
        image_size=config.model.image_size,
        num_classes=gan_config.make_rules(config).num_classes,
        adaptive=config.augment == "ada",
    )
    jax.eval_shape(create, _KEY)


_KEY = jax.random.key(0)
_RECIPES = {
    "lesion_cnn": (partial(lesion_cnn.get_config, "smoke"), _check_classifier),
    "backbone": (partial(backbone.get_config, "mobilenet"), _check_classifier),
    "dcgan": (partial(dcgan.get_config, "smoke"), _check_gan),
    "resgan": (partial(resgan.get_config, "smoke"), _check_gan),
}


def _numbers(config: ml_collections.ConfigDict, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + name, value


def _outcome(
    recipe: Callable[[], ml_collections.ConfigDict],
    check: Callable[[ml_collections.ConfigDict], None],
    name: str,
    value: float,
) -> str:
    config = recipe()
    config.update_from_flattened_dict({name: value})
    try:
        check(config)
    except DermaganError as error:
        return "refused" if name.split(".")[-1] in str(error) else f"refused without it: {error}"
    return "taken"


@pytest.mark.parametrize("recipe", _RECIPES)
def test_every_number_of_a_recipe_below_zero_is_refused(recipe: str) -> None:
    make, check = _RECIPES[recipe]
    outcomes = {
        name: _outcome(make, check, name, type(value)(-1)) for name, value in _numbers(make())
    }
    assert {name: said for name, said in outcomes.items() if said != "refused"} == {}


@pytest.mark.parametrize("recipe", _RECIPES)
def test_every_number_of_a_recipe_may_be_zero_or_is_refused(recipe: str) -> None:
    """Networks are built as far as their shapes go: nothing else of an error must come of it."""
    make, check = _RECIPES[recipe]
    outcomes = {_outcome(make, check, name, type(value)(0)) for name, value in _numbers(make())}
    assert outcomes == {"taken", "refused"}


@pytest.mark.parametrize("recipe", _RECIPES)
def test_no_number_of_a_recipe_may_be_nan(recipe: str) -> None:
    make, check = _RECIPES[recipe]
    names = [name for name, value in _numbers(make()) if isinstance(value, float)]
    assert {name for name in names if _outcome(make, check, name, math.nan) == "taken"} == set()


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "text"),
    [
        (ranges.FROM_1, [1, 10**9], [0, -1, math.nan], "a number from 1"),
        (ranges.ABOVE_0, [1e-9], [0, -1.0, math.nan, math.inf], "a number above 0"),
        (ranges.SHARE, [0, 0.999], [1, -0.1, math.nan], "a number from 0, below 1"),
    ],
)
def test_a_range(
    allowed: ranges.Range, inside: list[float], outside: list[float], text: str
) -> None:
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in outside)
    assert str(allowed) == text


def test_a_field_that_a_configuration_lacks_is_passed_over() -> None:
    ranges.require({"model": {"width": 3}}, {"model.height": ranges.FROM_1, "r1": ranges.FROM_0})
    with pytest.raises(DermaganError, match=r"config\.model\.width is 0; give a number from 1"):
        ranges.require({"model": {"width": 0}}, {"model.width": ranges.FROM_1})
