"""From a GAN's checkpoint to labelled generated images: the bridge to the classifier.

Image `index` of a class depends on the checkpoint, the seed, the label and the index alone, not on
how many are asked for, so the images that a classifier makes in memory are those of a folder.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dermagan_jax import files, gan, gan_config, images, rules
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.errors import DermaganError, LeakError
from dermagan_jax.lesions import CLASSES, NUM_CLASSES
from dermagan_jax.writers import Progress

# Batches are always of this size, cut at the end: an image's bytes may depend on its batch's size.
BATCH_SIZE = 64
# Candidates for an image asked for, after which filters are taken to let nothing pass.
MOST_CANDIDATES = 100
MANIFEST = "manifest.csv"
PROVENANCE = "generation.json"
GRID_COLUMNS = 10
_MANIFEST_COLUMNS = ("file", "class", "seed", "index", "checkpoint_step", "train_split_sha256")


class Filter(Protocol):
    """Says which candidates to keep.

    It looks at batches of fixed size, so that what it says of an image does not depend on how many
    are asked for.

    Attributes:
      settings: its name and choices, for the images' provenance; JSON types.
    """

    settings: Mapping[str, Any]

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


@dataclasses.dataclass(frozen=True)
class Generated:
    """Generated images and where they come from.

    Attributes:
      image: [N, S, S, 3] uint8, class by class.
      label: [N] int32 in [0, 4).
      index: [N] int64, which of the class's candidates each is.
      provenance: what the folder's `generation.json` holds.
    """

    image: np.ndarray
    label: np.ndarray
    index: np.ndarray
    provenance: Mapping[str, Any]

    def take(self, chosen: np.ndarray) -> Generated:
        """Returns the images of these indices."""
        arrays = {name: getattr(self, name)[chosen] for name in ("image", "label", "index")}
        return dataclasses.replace(self, **arrays)

    def first(self, counts: Mapping[str, int]) -> Generated:
        """Returns the first images of each class.

        Args:
          counts: how many, by class name.

        Raises:
          DermaganError: when there are fewer.
        """
        chosen = []
        for label, name in enumerate(CLASSES):
            members = np.flatnonzero(self.label == label)
            if len(members) < counts[name]:
                raise DermaganError(
                    f"{counts[name]} generated images of {name} are asked for and there are "
                    f"{len(members)}; generate more or lower config.synthetic.per_class or ratio"
                )
            chosen.append(members[: counts[name]])
        return self.take(np.concatenate(chosen))

    def require_train_split(self, sha256: str) -> None:
        """Refuses images of a GAN that saw other lesions than the classifier may.

        Args:
          sha256: content hash of the classifier's training split.

        Raises:
          LeakError: when it is not the hash of the GAN's training split.
        """
        theirs = self.provenance["train_split_sha256"]
        if theirs != sha256:
            raise LeakError(
                f"the GAN was trained on another training split ({theirs[:12]}…, here "
                f"{sha256[:12]}…), so its images may hold test lesions; train the GAN on this "
                "prepared set"
            )


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
    variables, name = trained.variables, None
    if gan_config.is_per_class(trained.config):
        variables = jax.tree.map(lambda leaf: leaf[label], variables)
    else:
        name = jax.nn.one_hot(jnp.full(BATCH_SIZE, label), NUM_CLASSES)
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
    if truncation < 0 or (truncation and gan_config.latent_degrees(trained.config)):
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
    label = np.repeat(np.asarray(list(wanted), np.int32), list(wanted.values()))
    return Generated(np.concatenate(parts), label, np.concatenate(places), provenance)


def write_folder(generated: Generated, out: Path) -> None:
    """Writes images as PNG in class folders, with manifest, provenance and a grid.

    The provenance is written last and marks the folder complete; the same images give the same
    bytes, so a second run over an interrupted one ends in the same folder.

    Args:
      generated: from `generate`.
      out: new, empty, or a folder that this function made of the same images.

    Raises:
      DermaganError: when `out` holds something else, or cannot be written.
    """
    _claim(out, generated.provenance)
    rows, number_in_class = [], dict.fromkeys(CLASSES, 0)
    for image, label, index in zip(
        generated.image, generated.label, generated.index.tolist(), strict=True
    ):
        name = CLASSES[label]
        file = f"{name}/{name}_{number_in_class[name]:06d}.png"
        number_in_class[name] += 1
        (out / name).mkdir(exist_ok=True)
        images.write_png(out / file, image)
        provenance = generated.provenance
        origin = (provenance["checkpoint_step"], provenance["train_split_sha256"])
        rows.append((file, name, provenance["seed"], index, *origin))
    with (out / MANIFEST).open("w", newline="") as manifest:
        writer = csv.writer(manifest, lineterminator="\n")
        writer.writerow(_MANIFEST_COLUMNS)
        writer.writerows(rows)
    images.write_png(out / "grid.png", class_grid(generated))
    files.write_json(out / PROVENANCE, generated.provenance)
    (out / _CLAIM).unlink()


def class_grid(generated: Generated) -> np.ndarray:
    """Returns a grid of the first images of each class, a row a class."""
    rows = []
    for label in range(NUM_CLASSES):
        row = generated.image[generated.label == label][:GRID_COLUMNS]
        blank = np.full((GRID_COLUMNS - len(row), *generated.image.shape[1:]), 255, np.uint8)
        rows.append(np.concatenate([row, blank]))
    phantom = generated.provenance["kind"] == "phantom"
    return images.grid(np.concatenate(rows), GRID_COLUMNS, phantom=phantom)


def load_folder(folder: Path) -> Generated:
    """Reads a folder that `write_folder` made.

    Raises:
      DermaganError: when it is not one, or an image is missing or damaged.
    """
    try:
        provenance = json.loads((folder / PROVENANCE).read_text())
        with (folder / MANIFEST).open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise DermaganError(
            f"{folder}: is no complete folder of generated images ({error}); "
            "make one with `dermagan generate`"
        ) from error
    pixels = [images.read(_inside(folder, row["file"])) for row in rows]
    label = np.asarray([CLASSES.index(row["class"]) for row in rows], np.int32)
    index = np.asarray([int(row["index"]) for row in rows])
    return Generated(np.stack(pixels), label, index, provenance)


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DermaganError(f"{folder / MANIFEST}: names {name}, outside its folder")
    return path


_CLAIM = ".generating.json"


def _claim(out: Path, provenance: Mapping[str, Any]) -> None:
    """Marks `out` as ours before the first image: only our own leftovers are written over."""
    if (out / PROVENANCE).is_file() or (out / _CLAIM).is_file():
        found = out / (PROVENANCE if (out / PROVENANCE).is_file() else _CLAIM)
        if json.loads(found.read_text()) != json.loads(json.dumps(dict(provenance))):
            raise DermaganError(
                f"{out}: holds images of another checkpoint, seed or number; name another folder"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DermaganError(f"{out}: exists and was not made by `dermagan generate`; name another")
    try:
        out.mkdir(parents=True, exist_ok=True)
        files.write_json(out / _CLAIM, provenance)
    except OSError as error:
        raise DermaganError(f"{out}: cannot be written ({error.strerror}); name another") from error
