"""Runs of the classifier, side by side: what each has for itself, and the loop that they share."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from dermagan_jax import classifier, classifier_config, hosts, parallel, preemption, stepping
from dermagan_jax.augmentation import find_policy
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.data.pipeline import Batch, LabelledImages, eval_batches, train_batches
from dermagan_jax.errors import DermaganError, TrainingError
from dermagan_jax.metrics import classification
from dermagan_jax.mixing import find_mixer
from dermagan_jax.profiling import Tracer
from dermagan_jax.state import ClassifierState, NetState
from dermagan_jax.training_set import TrainingSet
from dermagan_jax.writers import MetricWriter, Progress

# Purposes folded into a run's key, so that no two draws share one.
_INIT, _TRAIN = range(2)


class Program:
    """The compiled functions of a configuration, the same for every seed.

    Attributes:
      config: the configuration.
      steps_on: gives a mesh's training steps, for runs on a leading axis of keys and state.
      unstack: takes such a state apart.
    """

    def __init__(self, config: ml_collections.ConfigDict) -> None:
        """Takes a configuration, see `configs/lesion_cnn.py`; nothing is compiled yet.

        Raises:
          DermaganError: weights to start from are not there.
        """
        self.config = config
        self.steps_on = functools.cache(self._compile)
        self.unstack = jax.jit(parallel.unstack)
        model = classifier_config.make_model(config)
        tx = classifier_config.make_optimizer(config)
        self._weights = classifier_config.initial_weights(config)
        self._create = jax.jit(partial(classifier_config.create_state, config=config))
        self._step = partial(
            classifier.train_step,
            model=model,
            tx=tx,
            policy=find_policy(config.augmentation),
            mixer=find_mixer(config.mixing),
        )
        self._eval_step = jax.jit(partial(classifier.eval_step, model=model))

    def create_state(self, key: jax.Array, mesh: Mesh) -> ClassifierState:
        """Initialises a classifier from a run's key."""
        created = self._create(jax.random.fold_in(key, _INIT), self._weights)
        return parallel.replicate(created, mesh)

    def _compile(self, mesh: Mesh) -> parallel.Steps:
        step = parallel.map_over_first_axis(self._step)
        loops_once = self.config.model.network == classifier_config.LESION_CNN
        return parallel.compile_steps(step, _step_keys, mesh, batch_axis=1, loops_once=loops_once)

    def evaluate(self, nets: Sequence[NetState], images: LabelledImages) -> list[dict[str, Any]]:
        """Scores networks; the logits and labels of each come from one pass."""
        return [
            classification.evaluate(logits, images.label) for logits in self.predict(nets, images)
        ]

    def predict(self, nets: Sequence[NetState], images: LabelledImages) -> list[np.ndarray]:
        """Computes the [N, K] float32 logits of each network."""
        logits: list[list[np.ndarray]] = [[] for _ in nets]
        for batch, count in eval_batches(images, batch_size=self.config.batch_size):
            # All are asked before the first answer is read, so that their devices work at once.
            asked = [self._eval_step(net, batch["image"]) for net in nets]
            for rows, answer in zip(logits, asked, strict=True):
                rows.append(np.asarray(answer)[:count])
        return [np.concatenate(rows) for rows in logits]


def _step_keys(keys: jax.Array, step: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, _TRAIN), step))(keys)


class Run:
    """What a seed has for itself: its key, its state, its checkpoints and its rows."""

    def __init__(
        self,
        program: Program,
        mesh: Mesh,
        *,
        seed: int,
        folder: Path,
        document: Mapping[str, Any],
    ) -> None:
        """Goes on from the last checkpoint in the folder, or starts anew.

        Args:
          program: what is trained.
          mesh: where.
          seed: of the weights, the batches and all noise.
          folder: the workdir.
          document: how the checkpoints came to be, as JSON types.
        """
        self.seed = seed
        self.folder = folder
        self.mesh = mesh
        self.document = document
        self.key = jax.random.key(seed)
        # Two, so that damage to the last leaves one to go on from.
        self.checkpoints = Checkpoints(folder, keep=2, best_metric="loss")
        self.state = self.checkpoints.resume(program.create_state(self.key, mesh))
        self.step = int(self.state.step)
        self.error: TrainingError | None = None
        self._pending: list[Mapping[str, np.ndarray]] = []
        self._closing = contextlib.ExitStack()
        self._closing.enter_context(self.checkpoints)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @functools.cached_property
    def _writer(self) -> MetricWriter:
        """The primary process's; opened by the first row, so that a finished run stays as it is."""
        return self._closing.enter_context(MetricWriter(self.folder, resume_step=self.step))

    def log(self, step: int, metrics: Mapping[str, np.ndarray], *, is_due: bool) -> None:
        """Collects a step's metrics, and writes the means since the last row when one is due.

        A loss or gradient that is not finite ends the run: `error` is set, and nothing is written
        any more.
        """
        if self.error:
            return
        self._pending.append(metrics)
        if not is_due:
            return
        row = {
            f"train/{name}": float(np.mean([each[name] for each in self._pending]))
            for name in metrics
        }
        self._pending.clear()
        hosts.on_primary(lambda: self._writer.write(step, row))
        self._require_finite(step, row)

    def _require_finite(self, step: int, row: Mapping[str, float]) -> None:
        bad = sorted(name for name, value in row.items() if not math.isfinite(value))
        if bad:
            self.error = TrainingError(
                f"{bad[-1]} is no longer finite by step {step}; "
                f"{self.checkpoints.last_good()}; lower config.optimizer.learning_rate"
            )

    def save(self, step: int, state: ClassifierState, scores: Mapping[str, Any] | None) -> None:
        """Writes a row of validation scores, where there are any, then the checkpoint.

        A score that is not finite ends the run, as in `log`: its state is no good one.
        """
        if self.error:
            return
        best = None
        if scores:
            row = {f"validation/{name}": scores[name] for name in ("loss", "accuracy")}
            hosts.on_primary(lambda: self._writer.write(step, row))
            self._require_finite(step, row)
            if self.error:
                return
            best = {"loss": scores["loss"]}
        hosts.on_primary(lambda: self._writer.flush())
        self.checkpoints.save(step, state=state, config=self.document, metrics=best)
        self.step, self.state = step, state

    def best_net(self) -> NetState:
        """Restores the network with the lowest validation loss."""
        best = self.checkpoints.best_step()
        if best is None:
            raise DermaganError(f"{self.folder}: no checkpoint has a validation loss; train anew")
        return self.checkpoints.restore_state(self.state, best).net


def train_side_by_side(
    program: Program,
    runs: Sequence[Run],
    chosen: TrainingSet,
    validation: LabelledImages,
    tracer: Tracer,
) -> None:
    """Trains all runs to the last step of the configuration.

    A kill may have left them at different steps; then those behind catch up first. A run whose
    loss is no longer finite stops, with its `error` set, and the others go on.

    Args:
      program: of all runs.
      runs: what to train.
      chosen: the training images.
      validation: what each checkpoint is scored on.
      tracer: traces some of the steps.
    """
    last = program.config.num_steps
    while behind := [run for run in runs if run.step < last and not run.error]:
        start = min(run.step for run in behind)
        until = min((run.step for run in behind if run.step > start), default=last)
        level = [run for run in behind if run.step == start]
        # Raised where all of these have stopped; each run has its own.
        with contextlib.suppress(TrainingError):
            _drive(program, level, chosen, validation, tracer, until)
        if until < last:
            preemption.heed()


def _lanes(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups the runs that one call trains.

    An accelerator trains all of its runs in one call. On a CPU each is a call of its own, since
    there the copies into and out of a common state take longer than the calls.
    """
    if jax.default_backend() == "cpu":
        return [[run] for run in runs]
    meshes = dict.fromkeys(run.mesh for run in runs)
    return [[run for run in runs if run.mesh == mesh] for mesh in meshes]


def _steps(program: Program, lanes: Sequence[Sequence[Run]]) -> parallel.ManySteps:
    joined = []
    for lane, end in zip(lanes, itertools.accumulate(map(len, lanes)), strict=True):
        mesh = lane[0].mesh
        keys = parallel.stack([run.key for run in lane], mesh)
        joined.append((partial(program.steps_on(mesh), keys), slice(end - len(lane), end)))
    return parallel.side_by_side(joined)


def _superbatches(
    config: ml_collections.ConfigDict,
    runs: Sequence[Run],
    chosen: TrainingSet,
    start: int,
    size: int,
) -> Iterator[Batch]:
    """Yields the batches of all runs from step `start` on, of which each host reads its part."""
    # On several hosts there is one run, on the devices of all.
    mesh, shape = runs[0].mesh, (len(runs), config.batch_size)
    parts = train_batches(
        chosen.images,
        batch_size=config.batch_size,
        seeds=[run.seed for run in runs],
        start_step=start,
        steps_per_call=size,
        balanced=config.class_balanced,
        others=chosen.at_first,
        others_steps=chosen.first_steps,
        part=parallel.own_part(mesh, shape),
    )
    return parallel.join_parts(parts, mesh, batch_axis=1, shape=shape)


def _raise_where_all_stopped(runs: Sequence[Run]) -> None:
    if runs[0].error and all(run.error for run in runs):
        raise runs[0].error


def _drive(
    program: Program,
    runs: Sequence[Run],
    chosen: TrainingSet,
    validation: LabelledImages,
    tracer: Tracer,
    last: int,
) -> None:
    """Trains runs that are at the same step until step `last`."""
    config, start = program.config, runs[0].step
    lanes = _lanes(runs)
    in_order = list(itertools.chain(*lanes))
    size = stepping.steps_per_call(config.steps_per_call)
    superbatches = _superbatches(config, in_order, chosen, start, size)
    label = "classifier" if len(runs) == 1 else f"{len(runs)} classifiers"
    images_per_step = config.batch_size * len(runs)
    with Progress(
        config.num_steps,
        initial_step=start,
        images_per_step=images_per_step,
        label=label,
        shown=hosts.is_primary(),
    ) as progress:

        def on_metrics(step: int, metrics: Sequence[Mapping[str, np.ndarray]]) -> None:
            rows = [row for lane in metrics for row in parallel.unstack(lane)]
            is_due = step == last or not (
                step % config.log_every_steps and step % config.eval_every_steps
            )
            for run, row in zip(in_order, rows, strict=True):
                run.log(step, row, is_due=is_due)
            _raise_where_all_stopped(runs)
            shown = {name: np.mean([row[name] for row in rows]) for name in ("loss", "accuracy")}
            progress.update(step, shown)

        def on_state(step: int, states: Sequence[ClassifierState]) -> None:
            each = [state for lane in states for state in program.unstack(lane)]
            scores: Sequence[Any] = [None] * len(each)
            # A run that a signal ends goes on as if it had not been.
            if step % config.eval_every_steps == 0 or step == config.num_steps:
                scores = program.evaluate([state.net for state in each], validation)
            for run, state, found in zip(in_order, each, scores, strict=True):
                run.save(step, state, found)
            _raise_where_all_stopped(runs)

        stepping.drive(
            _steps(program, lanes),
            [parallel.stack([run.state for run in lane], lane[0].mesh) for lane in lanes],
            superbatches,
            start=start,
            last=last,
            size=size,
            every=config.eval_every_steps,
            may_end_every=config.log_every_steps,
            on_metrics=on_metrics,
            on_state=on_state,
            tracer=tracer,
        )
