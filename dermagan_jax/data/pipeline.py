"""Seeded batches by tf.data, the same from any step on.

The order of the images is a pure function of seed and epoch, so the state of an iterator is the
number of batches it has given: a resumed run asks for the batches from that step on. Images are
64x64 bytes, so a whole set is held in memory (12 KB an image).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from dermagan_jax.data.tensorflow_cpu import tf
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES, NUM_CLASSES

Batch = dict[str, np.ndarray]
Part = tuple[slice, slice]

WHOLE: Part = (slice(None), slice(None))
"""Of a batch's runs or classes, and of its images: all. A host of several reads its own part."""


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Images in memory.

    Attributes:
      image: [N, S, S, 3] uint8.
      label: [N] int32 in [0, 4); or -1, `lesions.OTHER`, which one-hot is no class.
    """

    image: np.ndarray
    label: np.ndarray

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 4 or self.image.shape[-1] != 3:
            raise ValueError(f"image is {self.image.dtype} {self.image.shape}, not [N, S, S, 3]")
        if self.label.shape != self.image.shape[:1]:
            raise ValueError(f"{len(self.image)} images have labels of shape {self.label.shape}")

    def __len__(self) -> int:
        return len(self.label)

    def joined(self, other: LabelledImages) -> LabelledImages:
        """Returns these images followed by the others."""
        if self.image.shape[1:] != other.image.shape[1:]:
            raise DermaganError(
                f"real images are {self.image.shape[1]} pixels wide and generated ones "
                f"{other.image.shape[1]}; train the GAN on the same prepared set"
            )
        return LabelledImages(
            np.concatenate([self.image, other.image]), np.concatenate([self.label, other.label])
        )

    def counts(self) -> dict[str, int]:
        """Returns the number of images of each class."""
        numbers = np.bincount(self.label, minlength=NUM_CLASSES)
        return {name: int(number) for name, number in zip(CLASSES, numbers, strict=True)}


def epoch_order(label: np.ndarray, *, seed: int, epoch: int, balanced: bool) -> np.ndarray:
    """Returns the order in which an epoch visits the images.

    Args:
      label: [N] int labels.
      seed: the run's seed.
      epoch: index of the epoch.
      balanced: repeat the images of smaller classes, drawn anew each epoch, until every class
        present has as many as the largest.

    Returns:
      [M] int64 indices; M = N unless balanced.
    """
    rng = np.random.default_rng([seed, epoch])
    if not balanced:
        return rng.permutation(len(label))
    members = [np.flatnonzero(label == each) for each in np.unique(label)]
    largest = max(map(len, members))
    repeated = [
        np.concatenate([rng.permutation(each) for _ in range(-(-largest // len(each)))])[:largest]
        for each in members
    ]
    return rng.permutation(np.concatenate(repeated))


def batch_indices(
    label: np.ndarray, *, batch_size: int, seed: int, start_step: int, balanced: bool = False
) -> Iterator[np.ndarray]:
    """Yields the indices of one batch after another without end.

    Epochs follow each other within a batch, so that each batch is full and no image is skipped.

    Args:
      label: [N] int labels.
      batch_size: indices of a batch.
      seed: the run's seed.
      start_step: how many batches to pass over; costs no more than one epoch's shuffle.
      balanced: see `epoch_order`.

    Yields:
      [batch_size] int64.
    """
    order = partial(epoch_order, label, seed=seed, balanced=balanced)
    epoch_size = len(order(epoch=0))
    epoch, offset = divmod(start_step * batch_size, epoch_size)
    pending = order(epoch=epoch)[offset:]
    while True:
        while len(pending) < batch_size:
            epoch += 1
            pending = np.concatenate([pending, order(epoch=epoch)])
        yield pending[:batch_size]
        pending = pending[batch_size:]


def train_batches(
    images: LabelledImages,
    *,
    batch_size: int,
    seeds: Sequence[int],
    start_step: int = 0,
    steps_per_call: int = 1,
    balanced: bool = False,
    others: LabelledImages | None = None,
    others_steps: int = 0,
    part: Part = WHOLE,
) -> Iterator[Batch]:
    """Yields shuffled super-batches without end, for one run or for several side by side.

    Args:
      images: what to draw from, real and generated alike.
      batch_size: images of a batch.
      seeds: N, one a run; same seed, same batches, whatever the other runs.
      start_step: index of the first batch to yield.
      steps_per_call: K; the stream of batches is the same for any.
      balanced: give every class the same share, by repetition.
      others: further images, which the first `others_steps` batches draw from as well; there each
        image comes as often as any other.
      others_steps: how many batches; 0 for none.
      part: which runs, and which images of their batches, to read.

    Yields:
      `image` [K, N, B, S, S, 3] uint8 and `label` [K, N, B] int32, of which the part.

    Raises:
      DermaganError: when there are no images.
    """
    if not len(images):
        raise DermaganError("the training split is empty; prepare the data set again")

    # TensorFlow never lets go of a generator, so this one must not hold the images.
    labels = images.label
    images = images.joined(others) if others else images
    all_labels, left = images.label, max(others_steps - start_step, 0)

    def stream(seed: int) -> Iterator[np.ndarray]:
        among = partial(batch_indices, batch_size=batch_size, seed=seed)
        yield from itertools.islice(among(all_labels, start_step=start_step), left)
        yield from among(labels, start_step=max(start_step - others_steps, 0), balanced=balanced)

    def indices() -> Iterator[np.ndarray]:
        yield from map(np.stack, zip(*map(stream, seeds), strict=True))

    return _gathered(images, indices, steps_per_call, part)


def class_batches(
    images: LabelledImages,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    steps_per_call: int = 1,
    part: Part = WHOLE,
) -> Iterator[Batch]:
    """Yields super-batches whose batches have a class axis, each class shuffled by itself.

    Args:
      images: the training images.
      batch_size: images of each class in a batch.
      seed: same seed, same batches.
      start_step: index of the first batch to yield.
      steps_per_call: K; the stream of batches is the same for any.
      part: which classes, and which images of their batches, to read.

    Yields:
      `image` [K, 4, B, S, S, 3] uint8, classes in label order, of which the part.

    Raises:
      DermaganError: when a class has no images.
    """
    members = [np.flatnonzero(images.label == label) for label in range(NUM_CLASSES)]
    for name, each in zip(CLASSES, members, strict=True):
        if not len(each):
            raise DermaganError(f"class {name} has no training images; one GAN a class needs some")
    labels = images.label  # As in `train_batches`.

    def indices() -> Iterator[np.ndarray]:
        streams = [
            batch_indices(
                labels[each],
                batch_size=batch_size,
                # A class's order depends on its own label only, as in a run of that class alone.
                seed=_class_seed(seed, label),
                start_step=start_step,
            )
            for label, each in enumerate(members)
        ]
        for parts in zip(*streams, strict=True):
            yield np.stack([each[part] for each, part in zip(members, parts, strict=True)])

    return _gathered(images, indices, steps_per_call, part)


def eval_batches(images: LabelledImages, *, batch_size: int) -> Iterator[tuple[Batch, int]]:
    """Yields every image once in order, the last batch filled up with its first image.

    Args:
      images: what to evaluate on.
      batch_size: images of a batch.

    Yields:
      `image` [B, S, S, 3] uint8 and `label` [B] int32, and how many of them count.
    """
    for start in range(0, len(images), batch_size):
        indices = np.arange(start, min(start + batch_size, len(images)))
        padded = np.pad(indices, (0, batch_size - len(indices)), mode="edge")
        yield {"image": images.image[padded], "label": images.label[padded]}, len(indices)


def _class_seed(seed: int, label: int) -> int:
    return int(np.random.SeedSequence([seed, label]).generate_state(1, np.uint64)[0])


def _gathered(
    images: LabelledImages,
    indices: Callable[[], Iterator[np.ndarray]],
    steps_per_call: int,
    part: Part,
) -> Iterator[Batch]:
    """Turns a stream of indices into super-batches, gathered ahead of time on tf.data's threads."""
    image, label = tf.constant(images.image), tf.constant(images.label)
    dataset = tf.data.Dataset.from_generator(
        lambda: (each[part] for each in indices()),
        output_signature=tf.TensorSpec((None, None), tf.int64),
    )
    dataset = dataset.batch(steps_per_call, drop_remainder=True)
    dataset = dataset.map(
        lambda index: {"image": tf.gather(image, index), "label": tf.gather(label, index)},
        num_parallel_calls=1,
        deterministic=True,
    )
    return dataset.prefetch(2).as_numpy_iterator()
