"""Pictures of the way from one latent to another and from class to class."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import resgan
from dermagan_jax import gan, gan_trainer, images, latent_walks, synthesis


def test_a_walk_keeps_the_length_of_latents() -> None:
    start, end = jax.random.normal(jax.random.key(0), (2, 256))
    end = end * jnp.linalg.norm(start) / jnp.linalg.norm(end)
    walk = np.asarray(latent_walks.interpolate(start, end, jnp.linspace(0, 1, 7)))
    np.testing.assert_allclose(walk[0], start, atol=1e-5)
    np.testing.assert_allclose(walk[-1], end, atol=1e-5)
    np.testing.assert_allclose(
        np.linalg.norm(walk, axis=1), np.linalg.norm(np.asarray(start)), rtol=1e-4
    )
    steps = np.linalg.norm(np.diff(walk, axis=0), axis=1)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)


def test_a_walk_to_the_same_place_stays_there() -> None:
    here = jnp.ones(8)
    walk = latent_walks.interpolate(here, here, jnp.linspace(0, 1, 3))
    np.testing.assert_allclose(walk, jnp.ones((3, 8)), rtol=1e-6)


def _cell(grid: np.ndarray, row: int, column: int) -> np.ndarray:
    return grid[row * 66 : row * 66 + 64, column * 66 : column * 66 + 64]


@pytest.fixture(scope="module")
def conditional(
    phantom_set: Path, tmp_path_factory: pytest.TempPathFactory
) -> synthesis.TrainedGan:
    config = resgan.get_config("smoke")
    config.data_dir = str(phantom_set)
    config.model.width = config.model.max_width = 4
    config.model.d_width = config.model.d_max_width = 4
    config.num_steps, config.checkpoint_every_steps = 2, 2
    folder = tmp_path_factory.mktemp("conditional") / "run"
    gan_trainer.train(config, folder)
    return synthesis.load_gan(folder)


def test_strips_begin_and_end_where_they_say(conditional: synthesis.TrainedGan) -> None:
    ways = latent_walks.interpolation_grid(conditional, seed=5)
    morphs = latent_walks.morph_grid(conditional, seed=5)
    size = (4 * 64 + 3 * 2 + images.NOTE_HEIGHT, 10 * 64 + 9 * 2, 3)
    assert ways.shape == morphs.shape == size
    made = synthesis.generate(conditional, per_class=2, seed=5).image
    for label in range(4):
        first, second = made[2 * label : 2 * label + 2]
        # A batch of another size may round differently.
        for cell, image in (
            (_cell(ways, label, 0), first),
            (_cell(ways, label, 9), second),
            (_cell(morphs, label, 0), first),
        ):
            assert np.abs(cell.astype(int) - image).max() <= 1


def test_a_morph_ends_in_the_next_class(conditional: synthesis.TrainedGan) -> None:
    morphs = latent_walks.morph_grid(conditional, seed=5)
    for label in range(4):
        z = synthesis.draw_latents(5, label, 0, 1, conditional.config)
        made = [
            np.asarray(
                gan.sample(
                    conditional.variables,
                    z,
                    jax.nn.one_hot(jnp.array([name]), 4),
                    generator=conditional.generator,
                )
            )[0].astype(int)
            for name in range(4)
        ]
        end = _cell(morphs, label, 9)
        off = [np.abs(end - each).max() for each in made]
        # The other classes' images of the same latent are further off than rounding goes.
        assert np.argmin(off) == (label + 1) % 4
        assert min(off) <= 1 < np.sort(off)[1]


def test_networks_of_one_class_have_ways_and_no_morphs(tiny_gan: Path) -> None:
    trained = synthesis.load_gan(tiny_gan)
    assert latent_walks.morph_grid(trained, seed=5) is None
    ways = latent_walks.interpolation_grid(trained, seed=5)
    made = synthesis.generate(trained, per_class=1, seed=5).image
    for label in range(4):
        assert np.abs(_cell(ways, label, 0).astype(int) - made[label]).max() <= 1
