"""This project's side of each job: the functions that its trainers call."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from dermagan_jax import augmentation, classifier, gan, memory, parallel, state
from dermagan_jax.data import pipeline, prepared
from dermagan_jax.nets import dcgan
from dermagan_jax.nets.lesion_cnn import LesionCNN

memory.keep_freed_memory()  # As the training scripts do.

Work = Callable[[int], Any]

VERSIONS = {"jax": jax.__version__}
LATENT_SIZE = 512
IMAGE_SIZE = 64


def _random_batch(batch_size: int, image_size: int = IMAGE_SIZE) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (batch_size, image_size, image_size, 3), dtype=np.uint8),
        "label": rng.integers(0, 4, batch_size, dtype=np.int32),
    }


class _Stepper:
    """Holds a state that each call replaces, and asks one step ahead, as a training loop does."""

    def __init__(self, first: Any, steps: parallel.Steps, superbatches: Iterator[Any]) -> None:
        self.state = first
        self.steps = steps
        self.superbatches = superbatches
        self.done = 0

    def __call__(self, count: int) -> None:
        before: Any = None
        for _ in range(count):
            batches = next(self.superbatches)
            self.state, metrics = self.steps(self.state, batches, self.done, 0, 1)
            self.done += 1
            jax.block_until_ready(before)  # Steps asked for all at once would all take memory.
            before = metrics
        jax.block_until_ready(before)


def _forever(batch: Any) -> Iterator[Any]:
    superbatch = {name: value[None] for name, value in batch.items()}
    while True:
        yield superbatch


def gan_step(*, batch_size: int, width: int = 64, image_size: int = IMAGE_SIZE) -> Work:
    """One update of the paper's discriminator and generator."""
    nets = {
        "generator": dcgan.Generator(width=width, image_size=image_size),
        "discriminator": dcgan.Discriminator(width=width),
    }
    tx = optax.adam(2e-4, b1=0.5, b2=0.999)
    fixed = {**nets, "g_tx": tx, "d_tx": tx, "latent_size": LATENT_SIZE}
    create = partial(state.create_gan_state, **fixed, image_size=image_size)
    first = jax.jit(create)(jax.random.key(0))
    mesh = parallel.make_mesh(batch_size)
    steps = parallel.compile_steps(partial(gan.train_step, **fixed), jax.random.fold_in, mesh)
    steps = partial(steps, jax.random.key(1))
    batch = {"image": _random_batch(batch_size, image_size)["image"]}
    return _Stepper(parallel.replicate(first, mesh), steps, _forever(batch))


@functools.cache
def _cnn_steps(policy: str, mesh: Mesh) -> parallel.Steps:
    step = partial(
        classifier.train_step,
        model=LesionCNN(),
        tx=optax.adam(1e-3),
        policy=augmentation.find_policy(policy),
    )
    keys_of = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    step = parallel.map_over_first_axis(step)
    return parallel.compile_steps(step, keys_of, mesh, batch_axis=1)


def _cnn(
    batch_size: int,
    policy: str,
    batches: Iterator[Any],
    *,
    num_seeds: int = 1,
    image_size: int = IMAGE_SIZE,
) -> _Stepper:
    """Trains the seeds side by side, as the classifier's trainer does on a CPU."""
    create = partial(state.create_classifier_state, model=LesionCNN(), tx=optax.adam(1e-3))
    create = jax.jit(partial(create, image_size=image_size))
    lanes, first = [], []
    for seed, mesh in enumerate(parallel.share_devices(num_seeds, batch_size)):
        key = jax.random.key(seed)
        steps = partial(_cnn_steps(policy, mesh), parallel.stack([key], mesh))
        lanes.append((steps, slice(seed, seed + 1)))
        first.append(parallel.stack([create(key)], mesh))
    return _Stepper(first, parallel.side_by_side(lanes), batches)


def _seed_batches(batch_size: int, num_seeds: int, image_size: int = IMAGE_SIZE) -> Iterator[Any]:
    batch = _random_batch(batch_size, image_size)
    return _forever({name: np.stack([value] * num_seeds) for name, value in batch.items()})


def cnn_step(*, batch_size: int, policy: str, image_size: int = IMAGE_SIZE) -> Work:
    """One update of the paper's CNN on a batch of 8-bit images."""
    batches = _seed_batches(batch_size, 1, image_size)
    return _cnn(batch_size, policy, batches, image_size=image_size)


def cnn_seeds(*, num_seeds: int, batch_size: int, policy: str, in_turn: bool = False) -> Work:
    """One update of each of several seeds: at once, or one seed's updates after another's."""
    if not in_turn:
        parallel.one_device_a_core(num_seeds)
        batches = _seed_batches(batch_size, num_seeds)
        return _cnn(batch_size, policy, batches, num_seeds=num_seeds)
    each = [cnn_step(batch_size=batch_size, policy=policy) for _ in range(num_seeds)]

    def work(count: int) -> None:
        for run in each:
            run(count)

    return work


def generate(*, batch_size: int) -> Work:
    """Latents to 8-bit images on the host."""
    generator = dcgan.Generator()
    variables = jax.jit(partial(generator.init, train=False))(
        jax.random.key(0), jnp.zeros((1, LATENT_SIZE))
    )
    sample = jax.jit(partial(gan.sample, generator=generator))
    draw = jax.jit(partial(jax.random.normal, shape=(batch_size, LATENT_SIZE)))

    def work(count: int) -> None:
        for index in range(count):
            np.asarray(sample(variables, draw(jax.random.key(index))))

    return work


def epoch(*, data_dir: str, batch_size: int) -> Work:
    """Reads the training split from disk and takes an epoch of CNN steps on it."""
    stepper = _cnn(batch_size, "none", iter(()))

    def work(count: int) -> None:
        for epoch in range(count):
            images = _training_split(data_dir)
            stepper.superbatches = pipeline.train_batches(
                images, batch_size=batch_size, seeds=[epoch]
            )
            stepper(len(images) // batch_size)

    return work


def later_epoch(*, data_dir: str, batch_size: int, is_fed: bool) -> Work:
    """Takes an epoch of CNN steps of a run under way, or as many on one batch over and over."""
    images = _training_split(data_dir)
    batches = pipeline.train_batches(images, batch_size=batch_size, seeds=[0])
    stepper = _cnn(batch_size, "none", batches if is_fed else itertools.repeat(next(batches)))
    return lambda count: stepper(count * (len(images) // batch_size))


def _training_split(data_dir: str) -> pipeline.LabelledImages:
    split = prepared.load_split(Path(data_dir), "train")
    return pipeline.LabelledImages(split.image, split.label)
