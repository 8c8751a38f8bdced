"""Trains a GAN, or one a class: data to checkpoints, by a ConfigDict."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dermagan_jax import files, gan, gan_config, images, parallel, pretraining, stepping, workdir
from dermagan_jax.alarms import Alarms, diversity
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.data.pipeline import Batch, LabelledImages, class_batches, train_batches
from dermagan_jax.data.training import open_for_training
from dermagan_jax.errors import TrainingError
from dermagan_jax.lesions import CLASSES, NUM_CLASSES
from dermagan_jax.nets import resgan
from dermagan_jax.nets.precision import find_precision
from dermagan_jax.profiling import Tracer, Window
from dermagan_jax.rules import class_weight, draw_latents
from dermagan_jax.state import GanState, create_gan_state
from dermagan_jax.watching import KID, Watch
from dermagan_jax.writers import METRICS_FILE, MetricWriter, Progress, read_metrics

GRID_COLUMNS = 10
# Purposes folded into the run's key, so that no two draws share one.
_INIT, _TRAIN, _GRID, _CALIBRATE, _WATCH = range(5)

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
      TrainingError: a loss is no longer finite; the last good checkpoint stays.
    """
    gan_config.check(config)
    with find_precision(config.precision).applied():
        return _train(config, run_folder, profile)


def _train(
    config: ml_collections.ConfigDict, run_folder: Path, profile: Window | None
) -> dict[str, Any]:
    opened = open_for_training(config.data_dir, image_size=config.model.image_size)
    data = opened.description()
    source = Path(config.init_from) if config.init_from else None
    seen = pretraining.ancestors(source, opened) if source else []
    plain_config = config.to_dict()
    watch = _make_watch(config, opened.folder)
    workdir.claim(run_folder, config=plain_config, data=data)
    run = _Run(config, opened.train)
    tracer = Tracer(profile, run_folder / "profile")
    document: dict[str, Any] = {"config": plain_config, "data": data, "classes": list(CLASSES)}
    document["pretraining"] = seen
    document["best_metric"] = best_metric = KID if watch else None
    keep = config.keep_checkpoints
    with (
        workdir.held(run_folder),
        Checkpoints(run_folder, keep=keep, best_metric=best_metric) as checkpoints,
    ):
        first = run.create_state()
        if source and checkpoints.latest_step() is None:
            first = pretraining.start_from(source, first)
        state = checkpoints.resume(first)
        state, last = _loop(run, watch, state, checkpoints, run_folder, document, tracer)
    summary = {
        "num_steps": _steps_done(state),
        "kimg": _steps_done(state) * gan_config.images_per_step(config) / 1000,
        "data": data,
        "last": last,
        "alarms": run.alarms.raised,
        "watch": watch and watch.summary(),
    }
    if watch:
        rows = read_metrics(run_folder / METRICS_FILE)
        watch.draw(rows, run_folder / "figures", phantom=data["kind"] == "phantom")
    files.write_json(run_folder / workdir.SUMMARY, summary)
    return summary


def _make_watch(config: ml_collections.ConfigDict, data_dir: Path) -> Watch | None:
    return Watch(data_dir, **config.watch) if config.watch.features else None


def _steps_done(state: GanState) -> int:
    return int(np.ravel(state.step)[0])


class _Run:
    """The compiled functions of one run and its fixed noise.

    One network knows all classes, or each class has its own: then states, variables and metrics
    have a leading class axis, and so have the keys.
    """

    def __init__(self, config: ml_collections.ConfigDict, real: LabelledImages) -> None:
        self.config = config
        self.real = real
        self.per_class = gan_config.is_per_class(config)
        self.num_steps = gan_config.num_steps(config)
        self.key = jax.random.key(config.seed)
        self.rules = gan_config.make_rules(config)
        self.generator = gan_config.make_generator(config)
        self.discriminator = gan_config.make_discriminator(config)
        self.g_tx, self.d_tx = gan_config.make_optimizers(config)
        self.alarms = Alarms(per_class=self.per_class)
        self.real_diversity = [
            diversity(real.image[real.label == label]) for label in range(NUM_CLASSES)
        ]
        step = partial(
            gan.train_step,
            **self._nets(),
            latent_size=config.model.latent_size,
            rules=self.rules,
        )
        self.mesh = parallel.make_mesh(config.batch_size)
        self.train_steps = parallel.compile_steps(
            parallel.map_over_first_axis(step) if self.per_class else step,
            partial(self._keys, _TRAIN),
            self.mesh,
            batch_axis=1 if self.per_class else 0,
        )
        self.calibrate = jax.jit(self._calibrate)
        self.sample_grid = jax.jit(partial(self._sample, purpose=_GRID, count=GRID_COLUMNS))
        count = config.watch.per_class
        self.sample_for_watch = jax.jit(partial(self._sample, purpose=_WATCH, count=count))

    def _nets(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "g_tx": self.g_tx,
            "d_tx": self.d_tx,
        }

    def create_state(self) -> GanState:
        """Initialises the GAN, or one a class from keys of its own."""
        create = partial(
            create_gan_state,
            **self._nets(),
            latent_size=self.config.model.latent_size,
            image_size=self.config.model.image_size,
            num_classes=self.rules.num_classes,
            adaptive=self.config.augment == "ada",
        )
        create = jax.vmap(create) if self.per_class else create
        return parallel.replicate(jax.jit(create)(self._keys(_INIT, self.key, 0)), self.mesh)

    def is_checkpoint(self, step: int) -> bool:
        """Whether the run, left to itself, makes a checkpoint after this step."""
        return step % self.config.checkpoint_every_steps == 0 or step == self.num_steps

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        """Yields super-batches of `size` batches from step `start` on."""
        options = {
            "batch_size": self.config.batch_size,
            "start_step": start,
            "steps_per_call": size,
        }
        if self.per_class:
            return class_batches(self.real, seed=self.config.seed, **options)
        of_runs = train_batches(self.real, seeds=[self.config.seed], balanced=True, **options)
        return ({name: values[:, 0] for name, values in batch.items()} for batch in of_runs)

    def _keys(self, purpose: int, key: jax.Array, step: jax.Array | int) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(key, purpose), step)
        return self._class_keys(key) if self.per_class else key

    def _class_keys(self, key: jax.Array) -> jax.Array:
        return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(NUM_CLASSES))

    def _calibrate(self, state: GanState) -> dict[str, Any]:
        params = state.g_ema
        if self.rules.transition_kimg:
            # Its samples use the class as far as it has learned to by now.
            seen = state.step * gan_config.images_per_step(self.config)
            weight = class_weight(seen, self.rules.transition_kimg)
            params = resgan.with_class_weight(params, weight)
        calibrate = partial(
            gan.calibrate,
            generator=self.generator,
            latent_size=self.config.model.latent_size,
            rules=self.rules,
        )
        operands = (params, state.g.batch_stats, self._keys(_CALIBRATE, self.key, 0))
        if self.per_class:
            return jax.lax.map(lambda each: calibrate(*each), operands)
        return calibrate(*operands)

    def _sample(self, variables: dict[str, Any], *, purpose: int, count: int) -> jax.Array:
        """Generates from the run's fixed latents for a purpose: [4, count, S, S, 3] uint8."""
        key = jax.random.fold_in(jax.random.fold_in(self.key, purpose), 0)
        shape = (count, self.config.model.latent_size)

        def row(label: jax.Array, key: jax.Array) -> jax.Array:
            mine, name = gan_config.of_class(self.config, variables, label, count)
            z = draw_latents(key, shape, self.rules.latent_degrees)
            return gan.sample(mine, z, name, generator=self.generator)

        operands = (jnp.arange(NUM_CLASSES), self._class_keys(key))
        return jax.lax.map(lambda each: row(*each), operands)


class _Recorder:
    """Writes what a run shows of itself: metrics, alarms, sample grids and checkpoints."""

    def __init__(
        self,
        run: _Run,
        watch: Watch | None,
        writer: MetricWriter,
        checkpoints: Checkpoints,
        folder: Path,
        document: Mapping[str, Any],
    ) -> None:
        self.run = run
        self.watch = watch
        self.writer = writer
        self.checkpoints = checkpoints
        self.folder = folder
        self.document = document
        self.last: dict[str, float] = {}

    def recall(self, start: int) -> None:
        """Shows the alarms and the watch the rows that an earlier call wrote."""
        for row in read_metrics(self.folder / METRICS_FILE):
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
            raise TrainingError(
                f"{bad[-1]} is no longer finite at step {step}; the last good checkpoint is step "
                f"{self.checkpoints.latest_step()}; lower config.optimizer.learning_rate"
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
        self.writer.flush()
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
        samples = samples.reshape(-1, *samples.shape[2:])
        phantom = self.document["data"]["kind"] == "phantom"
        grid = images.grid(samples, GRID_COLUMNS, phantom=phantom)
        (self.folder / "samples").mkdir(exist_ok=True)
        images.write_png(self.folder / "samples" / f"grid_{step:06d}.png", grid)
        self.writer.write_images(step, {"samples": grid})
        return self._measure(step, variables)

    def _measure(self, step: int, variables: dict[str, Any]) -> dict[str, float] | None:
        if self.watch is None:
            return None
        samples = np.asarray(self.run.sample_for_watch(variables))
        label = np.arange(NUM_CLASSES).repeat(samples.shape[1])
        measured = self.watch.measure(samples.reshape(-1, *samples.shape[2:]), label)
        self.watch.note(step, measured)
        self._write(step, measured)
        return measured

    def _write(self, step: int, row: Mapping[str, float]) -> None:
        self.writer.write(step, row)
        for message in self.run.alarms.watch(step, row):
            _logger.warning("alarm: %s", message)


def _loop(
    run: _Run,
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
    with (
        MetricWriter(folder, resume_step=start) as writer,
        Progress(
            run.num_steps, initial_step=start, images_per_step=per_step, label="gan"
        ) as progress,
    ):
        recorder = _Recorder(run, watch, writer, checkpoints, folder, document)
        recorder.recall(start)

        def on_metrics(step: int, metrics: Mapping[str, np.ndarray]) -> None:
            if step % config.log_every_steps == 0 or run.is_checkpoint(step):
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
    return state, recorder.last
