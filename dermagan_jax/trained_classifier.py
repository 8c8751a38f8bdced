"""A trained classifier, read from its checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import optax

from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.errors import DermaganError
from dermagan_jax.nets.lesion_cnn import IMAGE_SIZE, LesionCNN
from dermagan_jax.state import create_classifier_state


@dataclasses.dataclass(frozen=True)
class TrainedClassifier:
    """A classifier at its best validation loss.

    Attributes:
      model: the module, called as `(image, train=...)`.
      variables: its `params` and `batch_stats`.
      step: the checkpoint's step.
      train_split_sha256: content hash of the training split that it was trained on.
    """

    model: LesionCNN
    variables: Mapping[str, Any]
    step: int
    train_split_sha256: str


def load_classifier(workdir: Path) -> TrainedClassifier:
    """Loads the checkpoint of a classifier run with the lowest validation loss.

    Raises:
      DermaganError: `workdir` is no classifier's.
    """
    with Checkpoints(workdir, best_metric="loss", read_only=True) as checkpoints:
        step = checkpoints.best_step()
        config = {} if step is None else checkpoints.restore_config(step)
        if step is None or "synthetic" not in config.get("config", {}):
            raise DermaganError(
                f"{workdir}: is not a classifier's workdir; name one that train_classifier.py made"
            )
        model = LesionCNN()
        fresh = create_classifier_state(
            jax.random.key(0), model=model, tx=optax.adam(1e-3), image_size=IMAGE_SIZE
        )
        variables = checkpoints.restore_state(fresh, step).net.variables
    return TrainedClassifier(model, variables, step, config["data"]["train_split_sha256"])
