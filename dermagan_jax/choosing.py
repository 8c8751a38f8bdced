"""Which of a GAN's images to keep: filters for `synthesis.generate` that see training lesions only.

Each has `settings` and `accepts`, as `synthesis.Filter` says.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dermagan_jax import gan_config, images, trained_classifier
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.data import prepared
from dermagan_jax.errors import DermaganError
from dermagan_jax.features import find_extractor
from dermagan_jax.metrics.feature_set import FeatureSet, nearest_turn
from dermagan_jax.nets.resgan import MINIBATCH_GROUP

# Of the distances from a training image to the nearest one of another lesion.
COPY_QUANTILE = 0.01


class Realistic:
    """Keeps the share of each batch that the GAN's own discriminator takes most for real.

    Source: after discriminator rejection sampling, Azadi et al., 2019, which keeps at random, with
    a chance that grows with the score; here the best of each batch stay.
    """

    def __init__(self, workdir: Path, step: int, *, share: float) -> None:
        """Loads the discriminator of a GAN's checkpoint.

        Args:
          workdir: the GAN's workdir.
          step: of the checkpoint.
          share: of the candidates that stay, in (0, 1].

        Raises:
          DermaganError: a share out of range, or a damaged checkpoint.
        """
        if not 0 < share <= 1:
            raise DermaganError(f"the share to keep is {share}; give a number above 0, up to 1")
        self.settings = {"filter": "realistic", "share": share}
        with Checkpoints(workdir, read_only=True) as checkpoints:
            config = checkpoints.restore_config(step)["config"]
            stored = checkpoints.restore_arrays(step, "state")["d"]
        self._variables = {
            "params": stored["params"],
            "batch_stats": stored.get("batch_stats") or {},
        }
        self._config = config
        self._share = share
        discriminator = gan_config.make_discriminator(config)
        self._score = jax.jit(partial(discriminator.apply, train=False))

    def accepts(self, image: np.ndarray, label: int) -> np.ndarray:
        """Keeps the batch's best, see `synthesis.Filter`."""
        # The discriminator compares images in groups; the last is filled up with the first ones.
        index = np.arange(-(-len(image) // MINIBATCH_GROUP) * MINIBATCH_GROUP) % len(image)
        variables, name = gan_config.of_class(self._config, self._variables, label, len(index))
        with gan_config.precision(self._config).applied():
            shown = images.to_float(jnp.asarray(image[index]))
            logits = np.asarray(self._score(variables, shown, name))[: len(image)]
        if self._config["conditioning"] == "transitional":
            logits = logits[:, 1]  # Those that know the class.
        # A projected discriminator scores many places.
        logits = logits.reshape(len(logits), -1).mean(axis=1)
        num_kept = max(round(self._share * len(image)), 1)
        accepted = np.zeros(len(image), bool)
        accepted[np.argsort(-logits, kind="stable")[:num_kept]] = True
        return accepted


class Agreed:
    """Keeps the images that a classifier takes for what they are meant to be."""

    def __init__(self, workdir: Path, *, train_split_sha256: str) -> None:
        """Loads the classifier.

        Args:
          workdir: of a run of train_classifier.py, on the same training split as the GAN.
          train_split_sha256: the GAN's training split.

        Raises:
          DermaganError: `workdir` is no classifier's.
          LeakError: the classifier saw another training split.
        """
        trained = trained_classifier.load_classifier(workdir)
        prepared.require_train_split(
            trained.train_split_sha256,
            train_split_sha256,
            str(workdir),
            "name a classifier of the GAN's own set",
        )
        self.settings = {"filter": "agreed", "classifier_step": trained.step}
        self._variables = trained.variables
        self._classify = jax.jit(partial(trained.model.apply, train=False))

    def accepts(self, image: np.ndarray, label: int) -> np.ndarray:
        """Keeps those of the highest logit of the class, see `synthesis.Filter`."""
        logits = self._classify(self._variables, images.to_float(jnp.asarray(image)))
        return np.asarray(logits).argmax(axis=1) == label


class NoCopies:
    """Keeps the images that are no nearer to a training image than another lesion's picture is.

    Nearer is: below the first percentile of the distances from a training image to its nearest
    neighbour among the other lesions.
    """

    def __init__(
        self, data_dir: Path, *, features: str, train_split_sha256: str, turned: bool = False
    ) -> None:
        """Computes the training images' features and the threshold.

        Args:
          data_dir: the prepared set that the GAN was trained on; of it the training split is read.
          features: an extractor, as `features.find_extractor` reads it.
          train_split_sha256: the GAN's training split.
          turned: look for copies that are turned or mirrored too, which a GAN may make that
            `gan_config.turns_reals`; the threshold is then one of the nearest turns too.

        Raises:
          DermaganError: no prepared set, or no such extractor.
          LeakError: it is another set.
        """
        report = prepared.load_report(data_dir)
        prepared.require_train_split(
            train_split_sha256,
            report["split_hashes"]["train"],
            "the GAN",
            f"name the set that it saw in place of {data_dir}",
        )
        self._extractor = find_extractor(features)
        self._turned = turned
        training = prepared.load_split(data_dir, "train")
        self._training = FeatureSet.compute(
            partial(self._extractor.extract, label="training images"),
            training.image,
            training.label,
            training.lesion,
            turned=turned,
        )
        self._threshold = float(np.quantile(_to_other_lesions(self._training), COPY_QUANTILE))
        self.settings = {
            "filter": "no_copies",
            "features": self._extractor.name,
            "turned": turned,
            "threshold": self._threshold,
        }

    def accepts(self, image: np.ndarray, label: int) -> np.ndarray:
        """Keeps those farther than the threshold from all of them, see `synthesis.Filter`."""
        candidates = FeatureSet.compute(
            self._extractor.extract_few,
            image,
            np.full(len(image), label),
            np.arange(len(image)),
            turned=self._turned,
        )
        return nearest_turn(candidates, self._training).min(axis=1) > self._threshold


def _to_other_lesions(training: FeatureSet) -> np.ndarray:
    """Returns each image's distance to the nearest image of another lesion, [N]."""
    between = nearest_turn(training, training)
    between[training.lesion[:, None] == training.lesion[None]] = np.inf
    nearest = between.min(axis=1)
    return nearest[np.isfinite(nearest)]
