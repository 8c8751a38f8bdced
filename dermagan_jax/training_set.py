"""What a classifier is trained on: real images, fewer or more of them, and generated ones."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dermagan_jax import generated_images, ranges, synthesis
from dermagan_jax.data import prepared
from dermagan_jax.data.pipeline import LabelledImages
from dermagan_jax.data.splits import UNUSED
from dermagan_jax.data.training import TrainingData
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import NUM_CLASSES

Config = Mapping[str, Any]

_RANGES: Mapping[str, ranges.Range] = dict.fromkeys(
    ("real.repeated", "real.seed", "synthetic.per_class", "synthetic.ratio", "synthetic.seed"),
    ranges.FROM_0,
)


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """Images to train a classifier on.

    Attributes:
      images: what every step draws from.
      num_real: how many are real, repeated ones counted as often as they are there.
      num_generated: how many are generated, those at first included.
      description: what a run records of them, as JSON types.
      at_first: generated images that the first steps draw from as well; None for no such images.
      first_steps: how many steps those are.
    """

    images: LabelledImages
    num_real: int
    num_generated: int
    description: Mapping[str, Any]
    at_first: LabelledImages | None = None
    first_steps: int = 0


def check(config: Config) -> None:
    """Refuses a configuration whose `real` and `synthetic` parts make no sense.

    Raises:
      DermaganError: naming the fields.
    """
    real, synthetic = config["real"], config["synthetic"]
    ranges.require(config, _RANGES)
    shares = {"real.share": real["share"], "synthetic.until": synthetic["until"]}
    for name, share in shares.items():
        if not 0 < share <= 1:
            raise DermaganError(f"config.{name} is {share}; give a number above 0, up to 1")
    if synthetic["gan_workdir"] and synthetic["dir"]:
        raise DermaganError("config.synthetic: give gan_workdir or dir, not both")
    if synthetic["per_class"] and synthetic["ratio"]:
        raise DermaganError("config.synthetic: give per_class or ratio, not both")
    counted = bool(synthetic["per_class"] or synthetic["ratio"])
    if synthetic["gan_workdir"] and not counted:
        raise DermaganError("config.synthetic: give per_class or ratio with gan_workdir")
    named = bool(synthetic["gan_workdir"] or synthetic["dir"])
    changed = synthetic["only"] or synthetic["shuffle_labels"] or synthetic["until"] < 1
    if not named and (counted or changed):
        raise DermaganError("config.synthetic: give gan_workdir or dir to take the images from")
    if synthetic["only"] and synthetic["until"] < 1:
        raise DermaganError(
            "config.synthetic: only leaves out the real images, which the steps after until see "
            "alone; give one of the two"
        )


def assemble(config: Config, opened: TrainingData) -> TrainingSet:
    """Collects what a configuration asks to train on.

    Args:
      config: a classifier's, see `configs/lesion_cnn.py`.
      opened: the prepared set.

    Raises:
      DermaganError: images that are asked for are not there.
      LeakError: the GAN was trained on other lesions than this set's training split.
    """
    real, changes = _real_images(config["real"], opened)
    generated = _generated_images(config["synthetic"], opened)
    description: dict[str, Any] = {"real": changes, "generated": None}
    if generated is None:
        return TrainingSet(real, len(real), 0, description)
    added = LabelledImages(generated.image, generated.label)
    synthetic = config["synthetic"]
    description["generated"] = {
        "counts": added.counts(),
        "sha256": _sha256(added),
        "seed": generated.provenance["seed"],
        "checkpoint_step": generated.provenance["checkpoint_step"],
        "shuffled_labels": synthetic["shuffle_labels"],
    }
    if synthetic["shuffle_labels"]:
        rng = np.random.default_rng(synthetic["seed"])
        added = LabelledImages(added.image, rng.permutation(added.label))
    if synthetic["only"]:
        return TrainingSet(added, 0, len(added), description)
    if synthetic["until"] == 1:
        return TrainingSet(real.joined(added), len(real), len(added), description)
    first_steps = max(round(synthetic["until"] * config["num_steps"]), 1)
    return TrainingSet(real, len(real), len(added), description, added, first_steps)


def _sha256(images: LabelledImages) -> str:
    return hashlib.sha256(images.image.tobytes()).hexdigest()


def _real_images(real: Config, opened: TrainingData) -> tuple[LabelledImages, dict[str, Any]]:
    """Returns the real images, and what was changed about them."""
    images, changes = opened.train, dict(real)
    if real["share"] < 1:
        chosen = _lesions_share(opened, real["share"], np.random.default_rng(real["seed"]))
        images = LabelledImages(images.image[chosen], images.label[chosen])
    if real["repeated"]:
        images = images.joined(_repeat(images, real["repeated"], real["seed"]))
    if real["extra_dir"]:
        extra = extra_images(Path(real["extra_dir"]), opened)
        images = images.joined(extra)
        changes["extra"] = extra.counts()
        changes["extra_sha256"] = _sha256(extra)
    changes["counts"] = images.counts()
    # Where the images lie says nothing of what they are.
    return images, {name: value for name, value in changes.items() if name != "extra_dir"}


def _lesions_share(opened: TrainingData, share: float, rng: np.random.Generator) -> np.ndarray:
    """Draws lesions, class by class, until they have that share of its images."""
    split = prepared.load_split(opened.folder, "train")
    chosen = []
    for label in range(NUM_CLASSES):
        members = np.flatnonzero(split.label == label)
        wanted = round(share * len(members))
        names = rng.permutation(np.unique(split.lesion[members]))
        place = {name: index for index, name in enumerate(names.tolist())}
        # In the drawn order of lesions, so that a larger share begins with a smaller one.
        order = np.argsort([place[name] for name in split.lesion[members].tolist()], kind="stable")
        chosen.append(members[order[:wanted]])
    return np.sort(np.concatenate(chosen))


def _repeat(images: LabelledImages, times: float, seed: int) -> LabelledImages:
    """Draws images of each class a second time, without repeating one before all are drawn."""
    rng = np.random.default_rng([seed, 1])
    chosen = []
    for label in range(NUM_CLASSES):
        members = np.flatnonzero(images.label == label)
        wanted = round(times * len(members))
        passes = [rng.permutation(members) for _ in range(-(-wanted // max(len(members), 1)))]
        chosen.append(np.concatenate([members[:0], *passes])[:wanted])
    index = np.concatenate(chosen)
    return LabelledImages(images.image[index], images.label[index])


def extra_images(extra_dir: Path, opened: TrainingData) -> LabelledImages:
    """Reads another set's training images that have nothing to do with this set's images.

    Args:
      extra_dir: the other prepared set.
      opened: this set.

    Raises:
      DermaganError: it is no prepared set, its images have another size, or all are known here.
    """
    data_dir, size = opened.folder, prepared.load_report(extra_dir)["image_size"]
    if size != opened.report["image_size"]:
        raise DermaganError(
            f"{extra_dir}: holds images of {size} pixels, and {data_dir} of "
            f"{opened.report['image_size']}; prepare it with --image-size "
            f"{opened.report['image_size']}"
        )
    # What this set's caps left unused is what a larger set of the same archives can add.
    ours = [row for row in prepared.read_manifest(data_dir) if row["split"] != UNUSED]
    theirs = prepared.read_manifest(extra_dir)
    known = {name: {row[name] for row in ours} for name in ("image_id", "pixels_sha256")}
    # The other set's groups know which of its images look like one of ours.
    related = {row["group"] for row in theirs if row["image_id"] in known["image_id"]}
    held_out = {row["lesion_id"] for row in ours if row["split"] != "train"} - {""}
    fresh = {
        row["image_id"]
        for row in theirs
        if row["split"] == "train"
        and row["lesion_id"] not in held_out
        and row["group"] not in related
        and all(row[name] not in known[name] for name in known)
    }
    split = prepared.load_split(extra_dir, "train")
    chosen = np.isin(split.image_id, sorted(fresh))
    if not chosen.any():
        raise DermaganError(
            f"{extra_dir}: has no training lesions beyond those of {data_dir}; prepare a larger "
            "set of the same archives, or leave config.real.extra_dir empty"
        )
    return LabelledImages(split.image[chosen], split.label[chosen])


def _generated_images(synthetic: Config, opened: TrainingData) -> generated_images.Generated | None:
    """Generates or reads the images to add; None where the configuration names none."""
    if not (synthetic["gan_workdir"] or synthetic["dir"]):
        return None
    counts = {
        name: synthetic["per_class"] or round(synthetic["ratio"] * real)
        for name, real in opened.train.counts().items()
    }
    if synthetic["gan_workdir"]:
        trained = synthesis.load_gan(
            Path(synthetic["gan_workdir"]), step=synthetic["checkpoint_step"]
        )
        generated = synthesis.generate(trained, per_class=counts, seed=synthetic["seed"])
    else:
        generated = generated_images.load_folder(Path(synthetic["dir"]))
        if synthetic["ratio"] and not any(counts.values()):
            raise DermaganError(
                f"config.synthetic.ratio is {synthetic['ratio']}, which gives no image of any "
                "class; give a larger one"
            )
        if any(counts.values()):
            generated = generated.first(counts)
    generated.require_train_split(opened.report["split_hashes"]["train"])
    return generated
