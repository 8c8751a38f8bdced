"""From a GAN's checkpoint to labelled generated images: the bridge to the classifier.

Image `index` of a class depends on the checkpoint, the seed, the label and the index alone, not on
how many are asked for, so the images that a classifier makes in memory are those of a folder.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dermagan_jax import gan, gan_config, rules
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.errors import DermaganError
from dermagan_jax.generated_images import Generated
from dermagan_jax.lesions import CLASSES
from dermagan_jax.writers import Progress

# Batches are always of this size, cut at the end: an image's bytes may depend on its batch's size.
BATCH_SIZE = 64
# Candidates for an image asked for, after which filters are taken to let nothing pass.
MOST_CANDIDATES = 100


class Filter(Protocol):
    """Says which candidates to keep.

    It looks at batches of fixed size, so that what it says of an image does not depend on how many
    are asked for.
    """

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its name and choices, for the images' provenance; JSON types."""

    def accepts(self, image: np.ndarray, label: int) -> np.ndarray:
        """Looks at a batch of candidates of a class: [B, S, S, 3] uint8 to [B] bool."""
        ...


@dataclasses.dataclass(frozen=True)
class TrainedGan:
    """A generator that knows all classes, or one a class, ready to sample.

    Attributes:
      generator: the module, called as `(z, label, train=...)`.
      variables: its `params` and `batch_stats`; one a class has a leading class axis.
      step: the checkpoint's step.
      provenance: the checkpoint's `config` item: `config` and `data` of the run.
    """

    generator: nn.Module
    variables: Mapping[str, Any]
    step: int
    provenance: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """The run's configuration."""
        return self.provenance["config"]

    @property
    def train_split_sha256(self) -> str:
        """Content hash of the training split that the GAN was trained on."""
        return self.provenance["data"]["train_split_sha256"]


def load_gan(workdir: Path, *, step: int | None = None) -> TrainedGan:
    """Loads the generators of a GAN run; the checkpoint is all that it needs.

    Args:
      workdir: the run's folder.
      step: the checkpoint to load, or None for the best where the run was watched, else the latest.

    Raises:
      DermaganError: when there is no such checkpoint, or it is damaged.
    """
    with Checkpoints(workdir, read_only=True) as checkpoints:
        steps = checkpoints.steps()
        if not steps:
            raise DermaganError(f"{workdir}: holds no whole checkpoint; train the GAN first")
        step = _best_step(workdir, checkpoints) if step is None else step
        if step not in steps:
            have = ", ".join(map(str, steps))
            raise DermaganError(f"{workdir}: has no checkpoint of step {step}; it has {have}")
        provenance = checkpoints.restore_config(step)
        if "conditioning" not in provenance.get("config", {}):
            raise DermaganError(
                f"{workdir}: is not a GAN's workdir; name one that train_gan.py made"
            )
        variables = checkpoints.restore_generator(step)
    config = provenance["config"]
    return TrainedGan(gan_config.make_generator(config), variables, step, provenance)


def _best_step(workdir: Path, checkpoints: Checkpoints) -> int:
    """Returns the best step by the metric that the run recorded, or the last one without any."""
    latest = checkpoints.steps()[-1]
    best_metric = checkpoints.restore_config(latest).get("best_metric")
    if best_metric is None:
        return latest
    with Checkpoints(workdir, best_metric=best_metric, read_only=True) as ranked:
        best = ranked.best_step()
    return latest if best is None else best


def draw_latents(
    seed: int,
    label: int,
    start: int,
    count: int,
    config: Mapping[str, Any],
    *,
    truncation: float = 0.0,
) -> jax.Array:
    """Draws the latents of images `start` to `start + count` of a class.

    Returns:
      [count, Z] float32, of the run's distribution.
    """
    class_key = jax.random.fold_in(jax.random.key(seed), label)
    keys = jax.vmap(partial(jax.random.fold_in, class_key))(jnp.arange(start, start + count))
    draw = partial(
        rules.draw_latents,
        shape=(config["model"]["latent_size"],),
        degrees=gan_config.latent_degrees(config),
        truncation=truncation,
    )
    return jax.vmap(draw)(keys)


def _candidates(
    trained: TrainedGan, label: int, seed: int, truncation: float
) -> Iterator[np.ndarray]:
    """Yields batches of a class's images without end."""
    variables, name = gan_config.of_class(trained.config, trained.variables, label, BATCH_SIZE)
    sample = jax.jit(partial(gan.sample, generator=trained.generator))
    for start in itertools.count(0, BATCH_SIZE):
        z = draw_latents(seed, label, start, BATCH_SIZE, trained.config, truncation=truncation)
        yield np.asarray(sample(variables, z, name))


@dataclasses.dataclass
class _Passed:
    """How many candidates of a class there were, and how many each filter let pass."""

    candidates: int
    after: list[int]


def _choose(
    batches: Iterator[np.ndarray],
    label: int,
    count: int,
    filters: Sequence[Filter],
    passed: _Passed,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the first `count` candidates that all filters accept, in parts, and which they are."""
    have = 0
    while have < count:
        batch = next(batches)
        accepted = np.ones(len(batch), bool)
        for order, each in enumerate(filters):
            accepted &= each.accepts(batch, label)
            passed.after[order] += int(accepted.sum())
        chosen = np.flatnonzero(accepted)[: count - have]
        yield batch[chosen], passed.candidates + chosen
        passed.candidates += len(batch)
        have += len(chosen)
        if have < count and passed.candidates >= MOST_CANDIDATES * max(count, BATCH_SIZE):
            raise DermaganError(
                f"{have} of {passed.candidates:,} candidates of {CLASSES[label]} passed the "
                f"filters, and {count} are asked for; ask for fewer, or loosen a filter"
            )


def generate(
    trained: TrainedGan,
    *,
    per_class: Mapping[str, int] | int,
    seed: int,
    truncation: float = 0.0,
    filters: Sequence[Filter] = (),
) -> Generated:
    """Generates labelled images.

    Args:
      trained: from `load_gan`.
      per_class: images of each class, the same for all or by class name.
      seed: of the latents; the same seed gives the same images.
      truncation: bound of the latents' elements, see `rules.draw_latents`; 0 for none.
      filters: what a candidate must pass to be kept.

    Raises:
      DermaganError: when a number is negative or all are 0, when latents of Student's t are to be
        truncated, or when the filters let next to nothing pass.
    """
    counts = dict.fromkeys(CLASSES, per_class) if isinstance(per_class, int) else per_class
    if min(counts.values()) < 0 or not any(counts.values()):
        raise DermaganError(f"images per class is {per_class}; give a number above 0")
    if not 0 <= truncation < math.inf or (truncation and gan_config.latent_degrees(trained.config)):
        raise DermaganError(
            f"truncation is {truncation}; give a number above 0 and a GAN of normal latents, or 0"
        )
    wanted = {label: counts[name] for label, name in enumerate(CLASSES) if counts[name]}
    passed = {label: _Passed(0, [0] * len(filters)) for label in wanted}
    parts, places, done = [], [], 0
    with (
        gan_config.precision(trained.config).applied(),
        Progress(sum(wanted.values()), initial_step=0, images_per_step=1, label="generate") as bar,
    ):
        for label, count in wanted.items():
            batches = _candidates(trained, label, seed, truncation)
            for part, place in _choose(batches, label, count, filters, passed[label]):
                parts.append(part)
                places.append(place)
                done += len(part)
                bar.update(done, {})
    provenance = {
        "kind": trained.provenance["data"]["kind"],
        "per_class": {name: counts[name] for name in CLASSES},
        "seed": seed,
        "checkpoint_step": trained.step,
        "train_split_sha256": trained.train_split_sha256,
        "truncation": truncation,
        "filters": [dict(each.settings) for each in filters],
        "passed": {CLASSES[label]: dataclasses.asdict(each) for label, each in passed.items()},
        "gan": dict(trained.provenance),
    }
    labels = np.repeat(np.asarray(list(wanted), np.int32), list(wanted.values()))
    return Generated(np.concatenate(parts), labels, np.concatenate(places), provenance)
