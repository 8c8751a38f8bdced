"""Going back to an earlier checkpoint, with a smaller learning rate, after numerical trouble."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from dermagan_jax import files, hosts
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.errors import TrainingError
from dermagan_jax.workdir import ROLLBACKS

RATE_FACTOR = 0.5
"""What each return multiplies the learning rates by."""

_FIELDS: files.Fields = {"step": int, "learning_rate": (float, int), "reason": str}

_logger = logging.getLogger("dermagan")


class Rollbacks:
    """The returns of one run so far, kept in its workdir, so that a resumed run has the same rate.

    Attributes:
      done: each with the `step` gone back to, the `learning_rate` from there on and the `reason`.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir: Path) -> None:
        self._config = config
        self._path = workdir / ROLLBACKS
        self.done: list[Mapping[str, Any]] = []
        if self._path.exists():
            remedy = "restore it, or delete it to go on with the first learning rate"
            self.done = files.read_json(self._path, {"rollbacks": list}, remedy=remedy)["rollbacks"]
            for each in self.done:
                files.require_fields(each, _FIELDS, self._path, remedy=remedy)

    def config(self) -> ml_collections.ConfigDict:
        """Returns the configuration with the learning rates that the returns have left."""
        config = self._config.copy_and_resolve_references()
        factor = RATE_FACTOR ** len(self.done)
        config.optimizer.learning_rate *= factor
        config.optimizer.d_learning_rate *= factor
        return config

    def go_back(self, error: TrainingError, checkpoints: Checkpoints) -> int:
        """Goes back as far as the configuration asks, if it still may; returns to which step.

        The checkpoints go before the note of it: a run killed in between meets the same trouble
        again, and goes back from there.

        Raises:
          TrainingError: the given one, when the configuration's number of returns is used up.
        """
        if len(self.done) >= self._config.rollbacks:
            raise error
        step = checkpoints.drop_latest(self._config.rollback_checkpoints - 1)
        rate = self.config().optimizer.learning_rate * RATE_FACTOR
        self.done.append({"step": step, "learning_rate": rate, "reason": str(error)})
        hosts.on_primary(lambda: files.write_json(self._path, {"rollbacks": self.done}))
        _logger.warning("warning: %s; going back to step %d, learning rate %g", error, step, rate)
        return step
