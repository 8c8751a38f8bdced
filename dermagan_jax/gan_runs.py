"""What a GAN's run compiles: its steps, its samples and the checkpoints' weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from dermagan_jax import gan, gan_config, parallel
from dermagan_jax.alarms import Alarms, diversity
from dermagan_jax.data.pipeline import Batch, LabelledImages, class_batches, train_batches
from dermagan_jax.lesions import NUM_CLASSES
from dermagan_jax.nets import resgan
from dermagan_jax.rules import class_weight, draw_latents
from dermagan_jax.state import GanState, create_gan_state

GRID_COLUMNS = 10
# Purposes folded into the run's key, so that no two draws share one.
_INIT, _TRAIN, _GRID, _CALIBRATE, _WATCH = range(5)


class Run:
    """The compiled functions of one run and its fixed noise.

    One network knows all classes, or each class has its own: then states, variables and metrics
    have a leading class axis, and so have the keys.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        real: LabelledImages,
        others: LabelledImages | None = None,
    ) -> None:
        """Builds all that the configuration names; nothing is run yet.

        Args:
          config: the run's, checked.
          real: the training images.
          others: lesions that the first steps show too; None where `config.others_kimg` is 0.
        """
        self.config = config
        self.real, self.others = real, others
        self.per_class = gan_config.is_per_class(config)
        self.num_steps = gan_config.num_steps(config)
        self.key = jax.random.key(config.seed)
        self.rules = gan_config.make_rules(config)
        self.generator = gan_config.make_generator(config)
        self.discriminator = gan_config.make_discriminator(config)
        self.g_tx, self.d_tx = gan_config.make_optimizers(config)
        self.alarms = Alarms(per_class=self.per_class, loss=config.loss)
        self.real_diversity = [
            diversity(real.image[real.label == label]) for label in range(NUM_CLASSES)
        ]
        step = partial(
            gan.train_step,
            **self._nets(),
            latent_size=config.model.latent_size,
            rules=self.rules,
        )
        self.num_entries = NUM_CLASSES if self.per_class else 1
        self.mesh = parallel.make_mesh(
            config.batch_size,
            sizes=parallel.read_mesh(config.mesh, "class" if self.per_class else ""),
            num_entries=self.num_entries,
        )
        self.batch_axis = 1 if self.per_class else 0
        self.train_steps = parallel.compile_steps(
            parallel.map_over_first_axis(step, self.mesh) if self.per_class else step,
            partial(self._keys, _TRAIN),
            self.mesh,
            batch_axis=self.batch_axis,
        )
        # What every process reads must be whole in each.
        compiled = partial(jax.jit, out_shardings=parallel.replicated(self.mesh))
        self.calibrate = compiled(self._calibrate)
        self.sample_grid = compiled(partial(self._sample, purpose=_GRID, count=GRID_COLUMNS))
        count = config.watch.per_class
        self.sample_for_watch = compiled(partial(self._sample, purpose=_WATCH, count=count))

    def _nets(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "g_tx": self.g_tx,
            "d_tx": self.d_tx,
        }

    def create_state(self) -> GanState:
        """Initialises the GAN, or one a class from keys of its own."""
        create = partial(
            create_gan_state,
            **self._nets(),
            latent_size=self.config.model.latent_size,
            image_size=self.config.model.image_size,
            num_classes=self.rules.num_classes,
            adaptive=self.config.augment == "ada",
        )
        create = jax.vmap(create) if self.per_class else create
        sharding = parallel.state_sharding(self.mesh, has_entries=self.per_class)
        return jax.jit(create, out_shardings=sharding)(self._keys(_INIT, self.key, 0))

    def is_checkpoint(self, step: int) -> bool:
        """Whether the run, left to itself, makes a checkpoint after this step."""
        return step % self.config.checkpoint_every_steps == 0 or step == self.num_steps

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        """Yields super-batches of `size` batches from step `start` on."""
        shape = (self.num_entries, self.config.batch_size)
        options = {
            "batch_size": self.config.batch_size,
            "start_step": start,
            "steps_per_call": size,
            "part": parallel.own_part(self.mesh, shape),
        }
        if self.per_class:
            parts = class_batches(self.real, seed=self.config.seed, **options)
        else:
            of_runs = train_batches(
                self.real,
                seeds=[self.config.seed],
                balanced=True,
                others=self.others,
                others_steps=gan_config.others_steps(self.config),
                **options,
            )
            parts = ({name: values[:, 0] for name, values in batch.items()} for batch in of_runs)
        return parallel.join_parts(parts, self.mesh, batch_axis=self.batch_axis, shape=shape)

    def _keys(self, purpose: int, key: jax.Array, step: jax.Array | int) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(key, purpose), step)
        return self._class_keys(key) if self.per_class else key

    def _class_keys(self, key: jax.Array) -> jax.Array:
        return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(NUM_CLASSES))

    def _calibrate(self, state: GanState) -> dict[str, Any]:
        params = state.g_ema
        if self.rules.transition_kimg:
            # Its samples use the class as far as it has learned to by now.
            seen = state.step * gan_config.images_per_step(self.config)
            weight = class_weight(seen, self.rules.transition_kimg)
            params = resgan.with_class_weight(params, weight)
        calibrate = partial(
            gan.calibrate,
            generator=self.generator,
            latent_size=self.config.model.latent_size,
            rules=self.rules,
        )
        operands = (params, state.g.batch_stats, self._keys(_CALIBRATE, self.key, 0))
        if self.per_class:
            return jax.lax.map(lambda each: calibrate(*each), operands)
        return calibrate(*operands)

    def _sample(self, variables: dict[str, Any], *, purpose: int, count: int) -> jax.Array:
        """Generates from the run's fixed latents for a purpose: [4, count, S, S, 3] uint8."""
        key = jax.random.fold_in(jax.random.fold_in(self.key, purpose), 0)
        shape = (count, self.config.model.latent_size)

        def row(label: jax.Array, key: jax.Array) -> jax.Array:
            mine, name = gan_config.of_class(self.config, variables, label, count)
            z = draw_latents(key, shape, self.rules.latent_degrees)
            return gan.sample(mine, z, name, generator=self.generator)

        operands = (jnp.arange(NUM_CLASSES), self._class_keys(key))
        return jax.lax.map(lambda each: row(*each), operands)
