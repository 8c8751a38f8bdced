"""A trained classifier, read from its checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn

from dermagan_jax import classifier_config, files, workdir
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.errors import DermaganError


@dataclasses.dataclass(frozen=True)
class TrainedClassifier:
    """A classifier at its best validation loss.

    Attributes:
      model: the module, called as `(image, train=...)`.
      network: its name in `classifier_config.NETWORKS`.
      image_size: side in pixels of the images that it takes.
      variables: its `params` and `batch_stats`.
      step: the checkpoint's step.
      temperature: by which its logits are divided for calibrated probabilities; None for a run
        that did not end.
      train_split_sha256: content hash of the training split that it was trained on.
    """

    model: nn.Module
    network: str
    image_size: int
    variables: Mapping[str, Any]
    step: int
    temperature: float | None
    train_split_sha256: str


def load_classifier(folder: Path) -> TrainedClassifier:
    """Loads the checkpoint of a classifier run with the lowest validation loss.

    Raises:
      DermaganError: `folder` is no classifier's.
    """
    with Checkpoints(folder, read_only=True) as checkpoints:
        latest = checkpoints.latest_step()
        made = {} if latest is None else checkpoints.restore_config(latest)
    if latest is None or "synthetic" not in made.get("config", {}):
        of_seeds = sorted(path.parent for path in folder.glob(f"seed_*/{workdir.CONFIG}"))
        what = f"those of several seeds, such as {of_seeds[0]}" if of_seeds else "no classifier's"
        raise DermaganError(
            f"{folder}: holds {what}; name the workdir of one that train_classifier.py made"
        )
    with Checkpoints(folder, best_metric="loss", read_only=True) as checkpoints:
        step = checkpoints.best_step() or latest
        config = checkpoints.restore_config(step)
        stored = checkpoints.restore_arrays(step, "state")["net"]
    run = config["config"]
    return TrainedClassifier(
        model=classifier_config.make_model(run),
        network=classifier_config.network(run),
        image_size=classifier_config.image_size(run),
        variables={"params": stored["params"], "batch_stats": stored.get("batch_stats") or {}},
        step=step,
        temperature=_temperature(folder, step),
        train_split_sha256=config["data"]["train_split_sha256"],
    )


def _temperature(folder: Path, step: int) -> float | None:
    """Reads the temperature that was fitted to a step; None if the run has not ended at it."""
    path = folder / workdir.SUMMARY
    if not path.is_file():
        return None
    remedy = "run train_classifier.py on the workdir again"
    fields: files.Fields = {"temperature": (float, int), "best_step": int}
    summary = files.read_json(path, fields, remedy=remedy)
    # A run that is made longer may have a better step by now, and no new summary yet.
    return summary["temperature"] if summary["best_step"] == step else None
