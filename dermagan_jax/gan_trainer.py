"""Trains a GAN, or one a class: data to checkpoints, by a ConfigDict."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from dermagan_jax import (
    files,
    gan_config,
    hosts,
    images,
    preemption,
    pretraining,
    stepping,
    workdir,
)
from dermagan_jax.alarms import diversity
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.data.splits import OTHERS
from dermagan_jax.data.training import open_for_training
from dermagan_jax.errors import TrainingError
from dermagan_jax.gan_runs import GRID_COLUMNS, Run
from dermagan_jax.lesions import CLASSES, NUM_CLASSES
from dermagan_jax.nets.precision import find_precision
from dermagan_jax.profiling import Tracer, Window
from dermagan_jax.rollbacks import Rollbacks
from dermagan_jax.state import GanState
from dermagan_jax.watching import KID, Watch
from dermagan_jax.writers import METRICS_FILE, MetricWriter, Progress, read_metrics

_logger = logging.getLogger("dermagan")


def train(
    config: ml_collections.ConfigDict, run_folder: Path, *, profile: Window | None = None
) -> dict[str, Any]:
    """Trains to the end of its budget, going on from the last checkpoint in the workdir.

    Args:
      config: see `configs/dcgan.py` and `configs/resgan.py`.
      run_folder: the workdir: checkpoints, metrics.jsonl, tensorboard, samples, config.json and
        summary.json are written here and nowhere else.
      profile: steps to trace, into the workdir's `profile`.

    Returns:
      The summary, as written to summary.json.

    Raises:
      DermaganError: bad input, before anything is written.
      TrainingError: a loss or gradient is no longer finite, and `config.rollbacks` are used up; the
        last good checkpoint stays.
    """
    gan_config.check(config)
    for warning in gan_config.warnings(config):
        _logger.warning("warning: %s", warning)
    with find_precision(config.precision).applied():
        return _train(config, run_folder, profile)


def _train(
    config: ml_collections.ConfigDict, run_folder: Path, profile: Window | None
) -> dict[str, Any]:
    opened = open_for_training(config.data_dir, image_size=config.model.image_size)
    data = opened.description()
    others = opened.others() if gan_config.others_steps(config) else None
    if others:
        data["others_sha256"] = opened.report["split_hashes"][OTHERS]
    source = Path(config.init_from) if config.init_from else None
    seen = pretraining.ancestors(source, opened) if source else []
    plain_config = config.to_dict()
    watch = _make_watch(config, opened.folder)
    # Whatever cannot be built is refused before anything is written.
    Run(config, opened.train, others)
    tracer = Tracer(profile, run_folder / "profile")
    document: dict[str, Any] = {"config": plain_config, "data": data, "classes": list(CLASSES)}
    document["pretraining"] = seen
    document["best_metric"] = best_metric = KID if watch else None
    keep = config.keep_checkpoints
    with contextlib.ExitStack() as stack:
        claim = workdir.claimed(run_folder, config=plain_config, data=data)
        hosts.on_primary(lambda: stack.enter_context(claim))
        checkpoints = stack.enter_context(
            Checkpoints(run_folder, keep=keep, best_metric=best_metric)
        )
        rollbacks = Rollbacks(config, run_folder)
        while True:
            run = Run(rollbacks.config(), opened.train, others)
            first = run.create_state()
            if source and checkpoints.latest_step() is None:
                first = pretraining.start_from(source, first)
            state = checkpoints.resume(first)
            try:
                state, last = _loop(run, watch, state, checkpoints, run_folder, document, tracer)
                break
            except TrainingError as error:
                # A signal that came with the trouble still asks for an end.
                preemption.heed(rollbacks.go_back(error, checkpoints))
    summary = {
        "num_steps": _steps_done(state),
        "kimg": _steps_done(state) * gan_config.images_per_step(config) / 1000,
        "data": data,
        "last": last,
        "alarms": run.alarms.raised,
        "rollbacks": rollbacks.done,
        "watch": watch and watch.summary(),
    }
    hosts.on_primary(lambda: _conclude(run_folder, watch, summary))
    return summary


def _conclude(run_folder: Path, watch: Watch | None, summary: Mapping[str, Any]) -> None:
    if watch:
        rows = read_metrics(run_folder / METRICS_FILE)
        phantom = summary["data"]["kind"] == "phantom"
        watch.draw(rows, run_folder / "figures", phantom=phantom)
    files.write_json(run_folder / workdir.SUMMARY, summary)


def _make_watch(config: ml_collections.ConfigDict, data_dir: Path) -> Watch | None:
    return Watch(data_dir, **config.watch) if config.watch.features else None


def _steps_done(state: GanState) -> int:
    # Where hosts share the classes out, each sees its own; all are at the same step.
    return int(np.ravel(state.step.addressable_data(0))[0])


class _Recorder:
    """Writes what a run shows of itself: metrics, alarms, sample grids and checkpoints.

    Only the primary process has a writer; the others take part in sampling and in checkpoints, and
    in the errors that it meets.
    """

    def __init__(
        self,
        run: Run,
        watch: Watch | None,
        checkpoints: Checkpoints,
        folder: Path,
        document: Mapping[str, Any],
    ) -> None:
        self.run = run
        self.watch = watch
        self.writer: MetricWriter
        self.checkpoints = checkpoints
        self.folder = folder
        self.document = document
        self.last: dict[str, float] = {}

    def open(self, start: int, stack: contextlib.ExitStack) -> None:
        """Opens the records, as long as `stack` is, to go on from step `start`."""

        def open_writer() -> None:
            self.writer = stack.enter_context(MetricWriter(self.folder, resume_step=start))

        hosts.on_primary(open_writer)
        self._recall(start)

    def flush(self) -> None:
        """Brings the records to disk, so that closing them meets no error that is not shared."""
        hosts.on_primary(lambda: self.writer.flush())

    def _recall(self, start: int) -> None:
        """Shows the alarms and the watch the rows that were written before."""
        if self.watch:
            self.watch.forget()
        for row in read_metrics(self.folder / METRICS_FILE):
            # A network's file system may still show what the first process has cut off.
            if row["step"] > start:
                break
            self.run.alarms.watch(row["step"], row)
            if self.watch:
                self.watch.note(row["step"], row)
            if row["step"] == start and "train/d_loss" in row:
                self.last = {name: row[name] for name in row if name != "step"}

    def log(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Writes one row of training metrics: the mean and each class.

        Raises:
          TrainingError: when one is not finite.
        """
        row: dict[str, float] = {}
        for name, values in metrics.items():
            row[f"train/{name}"] = float(np.mean(values))
            if self.run.per_class:
                row |= {
                    f"train/{name}/{each}": float(value)
                    for each, value in zip(CLASSES, values, strict=True)
                }
        self.last = row
        self._write(step, row)
        bad = sorted(name for name, value in row.items() if not math.isfinite(value))
        if bad:
            self.flush()
            raise TrainingError(
                f"{bad[-1]} is no longer finite at step {step}; "
                f"{self.checkpoints.last_good()}; lower config.optimizer.learning_rate"
            )

    def save(self, step: int, state: GanState) -> bool:
        """Writes the sample grid and what is measured of it, then the checkpoint.

        Where a signal ends the run, at any step, only the checkpoint, so that the run can go on as
        if it had not been.

        Returns:
          Whether the watch's patience has run out.
        """
        variables = self.run.calibrate(state)
        measured = self._show(step, variables) if self.run.is_checkpoint(step) else None
        self.flush()
        self.checkpoints.save(
            step, state=state, generator=variables, config=self.document, metrics=measured
        )
        if self.watch is None or not self.watch.is_over:
            return False
        _logger.info("stopping at step %d: KID was lowest at %d", step, self.watch.best_step)
        return True

    def _show(self, step: int, variables: dict[str, Any]) -> dict[str, float] | None:
        """Writes the sample grid, and returns what the watch measures of other samples."""
        samples = np.asarray(self.run.sample_grid(variables))
        shares = {
            f"samples/diversity/{name}": diversity(sample) / real if real else math.nan
            for name, sample, real in zip(CLASSES, samples, self.run.real_diversity, strict=True)
        }
        self._write(step, shares)
        hosts.on_primary(lambda: self._write_grid(step, samples))
        return self._measure(step, variables)

    def _write_grid(self, step: int, samples: np.ndarray) -> None:
        samples = samples.reshape(-1, *samples.shape[2:])
        phantom = self.document["data"]["kind"] == "phantom"
        grid = images.grid(samples, GRID_COLUMNS, phantom=phantom)
        (self.folder / "samples").mkdir(exist_ok=True)
        images.write_png(self.folder / "samples" / f"grid_{step:06d}.png", grid)
        self.writer.write_images(step, {"samples": grid})

    def _measure(self, step: int, variables: dict[str, Any]) -> dict[str, float] | None:
        if self.watch is None:
            return None
        samples = np.asarray(self.run.sample_for_watch(variables))
        label = np.arange(NUM_CLASSES).repeat(samples.shape[1])
        samples = samples.reshape(-1, *samples.shape[2:])
        # Rounding may differ from host to host, and with it who stops when.
        measured = hosts.on_primary(partial(self.watch.measure, samples, label))
        self.watch.note(step, measured)
        self._write(step, measured)
        return measured

    def _write(self, step: int, row: Mapping[str, float]) -> None:
        hosts.on_primary(lambda: self.writer.write(step, row))
        for message in self.run.alarms.watch(step, row):
            _logger.warning("alarm: %s", message)


def _loop(
    run: Run,
    watch: Watch | None,
    state: GanState,
    checkpoints: Checkpoints,
    folder: Path,
    document: Mapping[str, Any],
    tracer: Tracer,
) -> tuple[GanState, dict[str, float]]:
    """Runs the steps; returns the last state and the last row of training metrics."""
    config = run.config
    start = _steps_done(state)
    size = stepping.steps_per_call(config.steps_per_call)
    per_step = gan_config.images_per_step(config)
    with contextlib.ExitStack() as stack:
        recorder = _Recorder(run, watch, checkpoints, folder, document)
        recorder.open(start, stack)
        progress = stack.enter_context(
            Progress(
                run.num_steps,
                initial_step=start,
                images_per_step=per_step,
                label="gan",
                shown=hosts.is_primary(),
            )
        )

        def on_metrics(step: int, metrics: Mapping[str, np.ndarray]) -> None:
            # No state that is not finite may become a checkpoint, at whatever step a signal comes.
            is_due = step % config.log_every_steps == 0 or run.is_checkpoint(step)
            if is_due or not all(np.isfinite(each).all() for each in metrics.values()):
                recorder.log(step, metrics)
            progress.update(step, {name: metrics[name].mean() for name in ("d_loss", "g_loss")})

        state = stepping.drive(
            partial(run.train_steps, run.key),
            state,
            run.batches(start, size),
            start=start,
            last=start if watch and watch.is_over else run.num_steps,
            size=size,
            every=config.checkpoint_every_steps,
            on_metrics=on_metrics,
            on_state=recorder.save,
            tracer=tracer,
        )
        recorder.flush()
    return state, recorder.last
