"""Runs the cells of a study: GANs, their images, and the classifiers of each arm."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from dermagan_jax import (
    choosing,
    classifier_config,
    classifier_trainer,
    files,
    gan_config,
    gan_trainer,
    generated_images,
    preemption,
    synthesis,
    workdir,
)
from dermagan_jax import features as extractors
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.data import prepared
from dermagan_jax.data.training import open_for_training
from dermagan_jax.errors import DermaganError, TrainingError
from dermagan_jax.generated_images import Generated
from dermagan_jax.lesions import CLASSES
from dermagan_jax.metrics import classification
from dermagan_jax.study import cells, checks, filters
from dermagan_jax.study.arms import (
    ALL,
    DISCARDED,
    FILTERED,
    GENERATED,
    Arm,
    Chosen,
    fitting,
    judge,
    known_arms,
)
from dermagan_jax.trained_classifier import TrainedClassifier, load_classifier
from dermagan_jax.writers import METRICS_FILE, read_metrics

IMAGES_SEED = 0

_logger = logging.getLogger("dermagan")


@dataclasses.dataclass(frozen=True)
class Cell:
    """The classifiers of one arm and one GAN, a classifier seed each.

    Attributes:
      arm: what they are trained on.
      gan_seed: of the GAN; None for an arm without one.
    """

    arm: Arm
    gan_seed: int | None

    def __str__(self) -> str:
        return self.arm.name if self.gan_seed is None else f"{self.arm.name}, GAN {self.gan_seed}"


class Runner:
    """Makes what is missing in a study's folder, alone or beside other processes.

    Attributes:
      config: the study's.
      out: its folder.
      opened: the prepared set.
    """

    def __init__(self, config: ml_collections.ConfigDict, out: Path) -> None:
        """Opens the prepared set.

        Args:
          config: the study's, checked.
          out: its folder; nothing is written to it yet.

        Raises:
          DermaganError: the set does not fit the configuration.
        """
        self.config = config
        self.out = out
        self.opened = open_for_training(
            config.data_dir, image_size=config.classifier.model.image_size
        )
        self._hashes = self.opened.report["split_hashes"]
        checks.check_data(config, self.opened)

    def run(self) -> tuple[list[Arm], Chosen]:
        """Makes all cells; returns the arms, and what validation chose on the way."""
        chosen, real = Chosen(), self.opened.train.counts()
        known = known_arms(self.config, chosen)
        fit = {arm.name for arm in fitting(known, real)}
        for arm in known:
            if arm.name not in fit:
                _logger.info("study: %s is left out: all classes have as many images", arm.name)
        while True:
            arms = fitting(known_arms(self.config, chosen), real)
            self._finish(list(self._cells(arms)))
            following = self._choose(arms, chosen)
            if following == chosen:
                return arms, chosen
            chosen = following

    def logits(self, arm: Arm, split: str) -> np.ndarray:
        """Reads what the classifiers of a finished arm say: [G, C, N, K] float32.

        Args:
          arm: the arm.
          split: `validation` or `test`; images are in the order of their ids.
        """
        found = []
        for cell in self._cells([arm]):
            folder = self._made_folder(cell)
            rows = []
            for seed in self.classifier_seeds(arm):
                path = workdir.seed_folder(folder, seed) / classifier_trainer.PREDICTIONS
                rows.append(_read_logits(path, split))
            found.append(np.stack(rows))
        return np.stack(found)

    def generated(self, arm: Arm) -> list[Generated]:
        """Reads the images that a finished arm takes from each GAN."""
        folders = [self._images(cell) for cell in self._cells([arm])]
        return [generated_images.load_folder(folder) for folder in folders if folder is not None]

    def first_classifier(self, arm: Arm) -> TrainedClassifier:
        """Loads the classifier of a finished arm's first seeds."""
        return load_classifier(self._first_folder(arm))

    def first_curves(self, arm: Arm) -> list[dict[str, Any]]:
        """Reads what the classifier of a finished arm's first seeds told while it trained."""
        return read_metrics(self._first_folder(arm) / METRICS_FILE)

    def num_generated(self, arm: Arm) -> list[dict[str, int] | None]:
        """Returns a finished arm's generated images, by class, for each GAN."""
        seed = self.config.classifier_seeds[0]
        found: list[dict[str, int] | None] = []
        for cell in self._cells([arm]):
            path = workdir.seed_folder(self._made_folder(cell), seed) / workdir.SUMMARY
            summary = files.read_json(
                path, {"data": dict}, remedy=f"delete {path.parent} and run the study again"
            )
            generated = summary["data"]["generated"]
            found.append(generated and generated["counts"])
        return found

    def classifier_seeds(self, arm: Arm) -> list[int]:
        """Returns the seeds of an arm's classifiers, of each GAN if it has any."""
        seeds = list(self.config.classifier_seeds)
        return seeds[: self.config.seeds_per_gan] if arm.needs_gan else seeds

    def _cells(self, arms: Sequence[Arm]) -> Iterator[Cell]:
        for arm in arms:
            seeds = self.config.gan_seeds if arm.needs_gan else [None]
            yield from (Cell(arm, seed) for seed in seeds)

    def _first_folder(self, arm: Arm) -> Path:
        folder = self._made_folder(next(self._cells([arm])))
        return workdir.seed_folder(folder, self.config.classifier_seeds[0])

    def _made_folder(self, cell: Cell) -> Path:
        folder = self._cell_folder(cell)
        if folder is None:
            raise DermaganError(f"{self.out}: the cell {cell} is gone; run the study again")
        return folder

    def _finish(self, pending: list[Cell]) -> None:
        """Makes cells until all are there; those that another process makes are waited for."""
        total, done = len(pending), 0
        while pending:
            left: list[Cell] = []
            for cell in pending:
                if self._make_cell(cell):
                    done += 1
                    _logger.info("study: %d of %d, %s", done, total, cell)
                else:
                    left.append(cell)
            if left and len(left) == len(pending):
                _logger.info("study: waiting for another process: %s", left[0])
                time.sleep(cells.WAIT_SECONDS)
            pending = left

    def _once(self, name: str, is_made: Callable[[], bool], make: Callable[[], object]) -> bool:
        """Makes a part unless it is there; returns False while another process makes it."""
        if is_made():
            return True
        with cells.claimed(self.out, name) as ours:
            if ours and not is_made():
                make()
        # A signal that came as a run ended must not be lost on the next.
        preemption.heed()
        return is_made()

    def _make_cell(self, cell: Cell) -> bool:
        images = self._images(cell)
        if cell.arm.needs_gan and images is None:
            return False
        config = self._cell_config(cell, images)
        folder = self._cell_path(config, images)
        seeds = self.classifier_seeds(cell.arm)

        def is_made() -> bool:
            ends = [workdir.seed_folder(folder, seed) / workdir.SUMMARY for seed in seeds]
            return all(path.is_file() for path in (*ends, folder / workdir.SEEDS))

        def make() -> None:
            try:
                classifier_trainer.train_seeds(config, seeds, folder)
            except TrainingError as error:
                raise TrainingError(
                    f"{cell}: {error}; leave the seed out of config.classifier_seeds, or lower "
                    "config.classifier.optimizer.learning_rate, and run the study again"
                ) from error

        return self._once(f"cell-{folder.name}", is_made, make)

    def _cell_folder(self, cell: Cell) -> Path | None:
        """Returns where a cell is; None while its images are not there."""
        images = self._images(cell)
        if cell.arm.needs_gan and images is None:
            return None
        return self._cell_path(self._cell_config(cell, images), images)

    def _cell_path(self, config: ml_collections.ConfigDict, images: Path | None) -> Path:
        extra = config.real.extra_dir
        name = cells.key(
            config,
            splits=self._hashes,
            images=images and images.name,
            weights=self._weights(config),
            extra=extra and prepared.load_report(Path(extra))["split_hashes"],
        )
        return self.out / "cells" / name

    def _weights(self, config: ml_collections.ConfigDict) -> str | None:
        """Returns what tells a network's weights from others: their contents, or their name."""
        path = classifier_config.weights_file(config)
        return files.sha256(path) if path else config.model.get("weights")

    def _cell_config(self, cell: Cell, images: Path | None) -> ml_collections.ConfigDict:
        config = cell.arm.configure(self.config.classifier)
        config.data_dir = self.config.data_dir
        if images is not None:
            config.synthetic.dir = str(images)  # All of the folder are the arm's.
        return config

    def _gan(self, seed: int) -> Path | None:
        """Returns the workdir of a finished GAN; None while another process trains it."""
        config = self.config.gan.copy_and_resolve_references()
        config.seed, config.data_dir = seed, self.config.data_dir
        start = _start(Path(config.init_from)) if config.init_from else None
        name = cells.key(config, splits=self._hashes, seed=seed, start=start)
        folder = self.out / "gans" / name

        def is_made() -> bool:
            return (folder / workdir.SUMMARY).is_file()

        def make() -> None:
            try:
                gan_trainer.train(config, folder)
            except TrainingError as error:
                raise TrainingError(
                    f"GAN {seed}: {error}; leave the seed out of config.gan_seeds, or set "
                    "config.gan.rollbacks=3, and run the study again"
                ) from error

        return folder if self._once(f"gan-{name}", is_made, make) else None

    def _images(self, cell: Cell) -> Path | None:
        """Returns the folder of a cell's generated images; None without any, or not yet."""
        arm = cell.arm
        if not arm.needs_gan or cell.gan_seed is None:
            return None
        gan = self._gan(cell.gan_seed)
        if gan is None:
            return None
        # The first images of a class are the same however many there are, so that arms of one GAN
        # share images, and none depends on what the others ask for.
        counts = arm.num_images(self.opened.train.counts())
        inputs: dict[str, Any] = {"gan": gan.name, "seed": IMAGES_SEED, "counts": counts}
        candidates = self._folder(
            lambda: synthesis.generate(synthesis.load_gan(gan), per_class=counts, seed=IMAGES_SEED),
            **inputs,
        )
        if candidates is None or arm.images == ALL:
            return candidates
        inputs |= {"filter": arm.filter, "judge": self.judge_of(arm.filter)}
        passed = self._folder(lambda: self._passed(candidates, gan, cell), **inputs)
        if passed is None or arm.images != DISCARDED:
            return passed
        return self._folder(lambda: _as_many(candidates, passed), **inputs, discarded=True)

    def _folder(self, make: Callable[[], Generated], **inputs: Any) -> Path | None:
        name = cells.key(ml_collections.ConfigDict(), splits=self._hashes, **inputs)
        folder = self.out / "images" / name

        def is_made() -> bool:
            return (folder / generated_images.PROVENANCE).is_file()

        folder.parent.mkdir(parents=True, exist_ok=True)
        made = self._once(
            f"images-{name}", is_made, lambda: generated_images.write_folder(make(), folder)
        )
        return folder if made else None

    def _passed(self, candidates: Path, gan: Path, cell: Cell) -> Generated:
        """Returns the images of A4 that a filter accepts."""
        images = generated_images.load_folder(candidates)
        text = cell.arm.filter
        try:
            return filters.passed(images, self._filter(text, gan), text=text)
        except DermaganError as error:
            raise DermaganError(f"{cell}: {error}") from error

    def _filter(self, text: str, gan: Path) -> synthesis.Filter:
        wanted = filters.read(text)
        if wanted.name == filters.REALISTIC:
            return choosing.Realistic(gan, synthesis.load_gan(gan).step, share=wanted.share)
        sha256 = self._hashes["train"]
        if wanted.name == filters.NO_COPIES:
            return choosing.NoCopies(
                self.opened.folder,
                features=extractors.DEFAULT,
                train_split_sha256=sha256,
                turned=gan_config.turns_reals(self.config.gan),
            )
        first = self._first_folder(judge(wanted.network, self.config))
        return choosing.Agreed(first, train_split_sha256=sha256)

    def judge_of(self, text: str) -> str | None:
        """Returns the cell and seed of the classifier that a filter asks; None if it asks none."""
        wanted = filters.read(text)
        if wanted.name != filters.AGREED:
            return None
        first = self._first_folder(judge(wanted.network, self.config))
        return f"{first.parent.name}/{first.name}"

    def _choose(self, arms: Sequence[Arm], chosen: Chosen) -> Chosen:
        """Chooses A4's ratio, then A5's filter, by validation's balanced accuracy."""
        if chosen.ratio is None and (best := self._best(arms, GENERATED)):
            return dataclasses.replace(chosen, ratio=best.ratio)
        if chosen.filter is None and (best := self._best(arms, FILTERED)):
            return dataclasses.replace(chosen, filter=best.filter)
        return chosen

    def _best(self, arms: Sequence[Arm], family: str) -> Arm | None:
        """Returns the best arm of a family on the validation split, the first of equals."""
        label = self.opened.split("validation").label

        def score(arm: Arm) -> float:
            logits = self.logits(arm, "validation")
            return float(
                np.mean(
                    [
                        classification.evaluate(each, label)["balanced_accuracy"]
                        for each in itertools.chain(*logits)
                    ]
                )
            )

        return max((arm for arm in arms if arm.family == family), key=score, default=None)


def _read_logits(path: Path, split: str) -> np.ndarray:
    """Reads what a finished classifier says of a split's images: [N, K] float32."""
    remedy = f"delete {path.parent} and run the study again"
    with files.opened_arrays(path, remedy=remedy) as arrays:
        return arrays[split]


def _start(source: Path) -> dict[str, Any]:
    """Describes the checkpoint that a GAN starts from by what it came of, wherever it lies."""
    with Checkpoints(source, read_only=True) as checkpoints:
        step = checkpoints.steps()[-1]
        provenance = checkpoints.restore_config(step)
    before = [each["train_split_sha256"] for each in provenance.get("pretraining", [])]
    config = ml_collections.ConfigDict(provenance["config"])
    seen = [*before, provenance["data"]["train_split_sha256"]]
    return {"gan": cells.key(config, seed=config.seed, seen=seen), "step": step}


def _as_many(candidates: Path, passed: Path) -> Generated:
    """Returns the first of a GAN's images, as many of each class as passed a filter."""
    label = generated_images.load_folder(passed).label
    numbers = np.bincount(label, minlength=len(CLASSES)).tolist()
    images = generated_images.load_folder(candidates)
    return images.first(dict(zip(CLASSES, numbers, strict=True)))
