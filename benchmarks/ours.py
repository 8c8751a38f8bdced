"""This project's side of each job: the functions that its trainers call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dermagan_jax import augmentation, classifier, gan, memory, parallel, state
from dermagan_jax.data import pipeline, prepared
from dermagan_jax.nets import dcgan
from dermagan_jax.nets.lesion_cnn import LesionCNN

memory.keep_freed_memory()  # As the training scripts do.

Work = Callable[[int], Any]

VERSIONS = {"jax": jax.__version__}
LATENT_SIZE = 512
IMAGE_SIZE = 64


def _random_batch(batch_size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (batch_size, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8),
        "label": rng.integers(0, 4, batch_size, dtype=np.int32),
    }


class _Stepper:
    """Holds a state that each call replaces, as a training loop does."""

    def __init__(self, first: Any, steps: parallel.Steps, superbatches: Iterator[Any]) -> None:
        self.state = first
        self.steps = steps
        self.superbatches = superbatches
        self.done = 0

    def __call__(self, count: int) -> None:
        metrics: Any = None
        for _ in range(count):
            batches = next(self.superbatches)
            self.state, metrics = self.steps(self.state, batches, self.done, 0, 1)
            self.done += 1
        jax.block_until_ready(metrics)


def _forever(batch: Any) -> Iterator[Any]:
    superbatch = {name: value[None] for name, value in batch.items()}
    while True:
        yield superbatch


def _key_of(step: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.key(1), step)


def gan_step(*, batch_size: int) -> Work:
    """One update of the paper's discriminator and generator."""
    nets = {"generator": dcgan.Generator(), "discriminator": dcgan.Discriminator()}
    tx = optax.adam(2e-4, b1=0.5, b2=0.999)
    fixed = {**nets, "g_tx": tx, "d_tx": tx, "latent_size": LATENT_SIZE}
    create = partial(state.create_gan_state, **fixed, image_size=IMAGE_SIZE)
    first = jax.jit(create)(jax.random.key(0))
    mesh = parallel.make_mesh(batch_size)
    steps = parallel.compile_steps(partial(gan.train_step, **fixed), _key_of, mesh)
    batch = {"image": _random_batch(batch_size)["image"]}
    return _Stepper(parallel.replicate(first, mesh), steps, _forever(batch))


def _cnn(batch_size: int, policy: str, batches: Iterator[Any]) -> _Stepper:
    model = LesionCNN()
    tx = optax.adam(1e-3)
    create = partial(state.create_classifier_state, model=model, tx=tx, image_size=IMAGE_SIZE)
    mesh = parallel.make_mesh(batch_size)
    first = parallel.replicate(jax.jit(create)(jax.random.key(0)), mesh)
    step = partial(
        classifier.train_step, model=model, tx=tx, policy=augmentation.find_policy(policy)
    )
    return _Stepper(first, parallel.compile_steps(step, _key_of, mesh), batches)


def cnn_step(*, batch_size: int, policy: str) -> Work:
    """One update of the paper's CNN on a batch of 8-bit images."""
    return _cnn(batch_size, policy, _forever(_random_batch(batch_size)))


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


def epoch(*, data_dir: str, batch_size: int, **_: Any) -> Work:
    """Reads the training split from disk and takes an epoch of CNN steps on it."""
    stepper = _cnn(batch_size, "none", iter(()))

    def work(count: int) -> None:
        for epoch in range(count):
            split = prepared.load_split(Path(data_dir), "train")
            images = pipeline.LabelledImages(split.image, split.label)
            stepper.superbatches = pipeline.train_batches(images, batch_size=batch_size, seed=epoch)
            stepper(len(images) // batch_size)

    return work
