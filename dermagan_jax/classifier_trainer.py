"""Trains a classifier on real and generated images, and scores it once on the test split."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from dermagan_jax import classifier, figures, files, parallel, stepping, synthesis, workdir
from dermagan_jax.augmentation import find_policy
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.data.pipeline import LabelledImages, eval_batches, train_batches
from dermagan_jax.data.training import TrainingData, open_for_training
from dermagan_jax.errors import DermaganError, TrainingError
from dermagan_jax.lesions import CLASSES
from dermagan_jax.metrics import classification
from dermagan_jax.nets.lesion_cnn import LesionCNN
from dermagan_jax.nets.precision import find_precision
from dermagan_jax.profiling import Tracer, Window
from dermagan_jax.state import ClassifierState, NetState, create_classifier_state
from dermagan_jax.writers import METRICS_FILE, MetricWriter, Progress, read_metrics

IMAGE_SIZE = 64  # What the paper's CNN takes.
# Purposes folded into the run's key, so that no two draws share one.
_INIT, _TRAIN = range(2)


def train(
    config: ml_collections.ConfigDict, run_folder: Path, *, profile: Window | None = None
) -> dict[str, Any]:
    """Trains until `config.num_steps`, going on from the last checkpoint in the workdir.

    The checkpoint with the lowest validation loss is scored on the validation and test splits.
    The test split is read once, after training.

    Args:
      config: see `configs/lesion_cnn.py`.
      run_folder: the workdir: checkpoints, metrics.jsonl, tensorboard, figures, config.json and
        summary.json are written here and nowhere else.
      profile: steps to trace, into the workdir's `profile`.

    Returns:
      The summary, as written to summary.json.

    Raises:
      DermaganError: bad input, before anything is written.
      LeakError: the GAN was trained on other lesions than this set's training split.
      TrainingError: the loss is no longer finite; the last good checkpoint stays.
    """
    _check(config)
    with find_precision(config.precision).applied():
        return _train(config, run_folder, profile)


def _train(
    config: ml_collections.ConfigDict, run_folder: Path, profile: Window | None
) -> dict[str, Any]:
    opened = open_for_training(config.data_dir, image_size=IMAGE_SIZE)
    generated = _generated_images(config, opened)
    data = opened.description() | {"generated": generated and _describe(generated)}
    workdir.claim(run_folder, config=config.to_dict(), data=data)
    images = opened.train if generated is None else opened.train.joined(_plain(generated))
    run = _Run(config)
    tracer = Tracer(profile, run_folder / "profile")
    document = {"config": config.to_dict(), "data": data, "classes": list(CLASSES)}
    with Checkpoints(run_folder, keep=1, best_metric="loss") as checkpoints:
        state = checkpoints.resume(run.create_state())
        recorder = _Recorder(run, opened.split("validation"), checkpoints, document)
        state = _loop(run, state, images, recorder, run_folder, tracer)
        best = checkpoints.best_step()
        if best is None:
            raise DermaganError(f"{run_folder}: no checkpoint has a validation loss; train anew")
        best_state = checkpoints.restore_state(state, best)
    summary = {
        "test": run.evaluate(best_state.net, opened.split("test")),
        "validation": run.evaluate(best_state.net, opened.split("validation")),
        "num_train_real": len(opened.train),
        "num_train_generated": 0 if generated is None else len(generated.label),
        "num_steps": int(state.step),
        "best_step": best,
        "num_params": sum(leaf.size for leaf in jax.tree.leaves(state.net.params)),
        "data": data,
    }
    _draw(summary, run_folder)
    files.write_json(run_folder / workdir.SUMMARY, summary)
    return summary


def _check(config: ml_collections.ConfigDict) -> None:
    for name in ("batch_size", "num_steps", "log_every_steps", "eval_every_steps"):
        if config[name] < 1:
            raise DermaganError(f"config.{name} is {config[name]}; give a number from 1")
    if not 0 <= config.model.dropout_rate < 1:
        raise DermaganError(
            f"config.model.dropout_rate is {config.model.dropout_rate}; give a value in [0, 1)"
        )
    synthetic = config.synthetic
    if synthetic.gan_workdir and synthetic.dir:
        raise DermaganError("config.synthetic: give gan_workdir or dir, not both")
    if synthetic.per_class and synthetic.ratio:
        raise DermaganError("config.synthetic: give per_class or ratio, not both")
    asked = bool(synthetic.per_class or synthetic.ratio)
    if asked and not (synthetic.gan_workdir or synthetic.dir):
        raise DermaganError("config.synthetic: give gan_workdir or dir to take the images from")
    if synthetic.gan_workdir and not asked:
        raise DermaganError("config.synthetic: give per_class or ratio with gan_workdir")


def _generated_images(
    config: ml_collections.ConfigDict, opened: TrainingData
) -> synthesis.Generated | None:
    """Generates or reads the images to add; None where the configuration names none."""
    synthetic = config.synthetic
    if not (synthetic.gan_workdir or synthetic.dir):
        return None
    counts = {
        name: synthetic.per_class or round(synthetic.ratio * real)
        for name, real in opened.train.counts().items()
    }
    if synthetic.gan_workdir:
        trained = synthesis.load_gan(Path(synthetic.gan_workdir), step=synthetic.checkpoint_step)
        generated = synthesis.generate(trained, per_class=counts, seed=synthetic.seed)
    else:
        generated = synthesis.load_folder(Path(synthetic.dir))
        if any(counts.values()):
            generated = generated.first(counts)
    generated.require_train_split(opened.report["split_hashes"]["train"])
    return generated


def _plain(generated: synthesis.Generated) -> LabelledImages:
    return LabelledImages(generated.image, generated.label)


def _describe(generated: synthesis.Generated) -> dict[str, Any]:
    return {
        "counts": _plain(generated).counts(),
        "sha256": hashlib.sha256(generated.image.tobytes()).hexdigest(),
        "seed": generated.provenance["seed"],
        "checkpoint_step": generated.provenance["checkpoint_step"],
    }


class _Run:
    """The compiled functions of one run."""

    def __init__(self, config: ml_collections.ConfigDict) -> None:
        self.config = config
        self.key = jax.random.key(config.seed)
        self.model = LesionCNN(
            dropout_rate=config.model.dropout_rate, dtype=find_precision(config.precision).dtype
        )
        self.tx = optax.adam(
            config.optimizer.learning_rate,
            b1=config.optimizer.b1,
            b2=config.optimizer.b2,
            eps=config.optimizer.epsilon,
        )
        step = partial(
            classifier.train_step,
            model=self.model,
            tx=self.tx,
            policy=find_policy(config.augmentation),
        )
        self.mesh = parallel.make_mesh(config.batch_size)
        self.train_steps = parallel.compile_steps(step, self._step_key, self.mesh)
        self.eval_step = jax.jit(partial(classifier.eval_step, model=self.model))

    def _step_key(self, step: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(self.key, _TRAIN), step)

    def create_state(self) -> ClassifierState:
        """Initialises the classifier."""
        create = partial(
            create_classifier_state, model=self.model, tx=self.tx, image_size=IMAGE_SIZE
        )
        state = jax.jit(create)(jax.random.fold_in(self.key, _INIT))
        return parallel.replicate(state, self.mesh)

    def evaluate(self, net: NetState, images: LabelledImages) -> dict[str, Any]:
        """Scores a network; logits and labels come from one pass."""
        logits = [
            np.asarray(self.eval_step(net, batch["image"]))[:count]
            for batch, count in eval_batches(images, batch_size=self.config.batch_size)
        ]
        return classification.evaluate(np.concatenate(logits), images.label)


class _Recorder:
    """Writes what a run shows of itself: metrics, validation scores and checkpoints."""

    def __init__(
        self,
        run: _Run,
        validation: LabelledImages,
        checkpoints: Checkpoints,
        document: Mapping[str, Any],
    ) -> None:
        self.run = run
        self.validation = validation
        self.checkpoints = checkpoints
        self.document = document
        self.pending: list[Mapping[str, np.ndarray]] = []

    def log(self, step: int, metrics: Mapping[str, np.ndarray], writer: MetricWriter) -> None:
        """Collects a step's metrics and writes the means since the last row when one is due.

        Raises:
          TrainingError: when the loss is not finite.
        """
        config = self.run.config
        self.pending.append(metrics)
        is_eval = step % config.eval_every_steps == 0 or step == config.num_steps
        if step % config.log_every_steps and not is_eval:
            return
        row = {
            f"train/{name}": float(np.mean([each[name] for each in self.pending]))
            for name in metrics
        }
        self.pending.clear()
        writer.write(step, row)
        if not math.isfinite(row["train/loss"]):
            raise TrainingError(
                f"the training loss is no longer finite by step {step}; the last good checkpoint "
                f"is step {self.checkpoints.latest_step()}; lower config.optimizer.learning_rate"
            )

    def save(self, step: int, state: ClassifierState, writer: MetricWriter) -> None:
        """Scores the validation split, then writes the checkpoint."""
        scores = self.run.evaluate(state.net, self.validation)
        writer.write(step, {f"validation/{name}": scores[name] for name in ("loss", "accuracy")})
        writer.flush()
        best = {"loss": scores["loss"]}
        self.checkpoints.save(step, state=state, config=self.document, metrics=best)


def _loop(
    run: _Run,
    state: ClassifierState,
    images: LabelledImages,
    recorder: _Recorder,
    folder: Path,
    tracer: Tracer,
) -> ClassifierState:
    """Runs the steps; returns the last state."""
    config = run.config
    start = int(state.step)
    if start >= config.num_steps:
        return state
    size = stepping.steps_per_call(config.steps_per_call)
    superbatches = train_batches(
        images,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=start,
        steps_per_call=size,
        balanced=config.class_balanced,
    )
    with (
        MetricWriter(folder, resume_step=start) as writer,
        Progress(
            config.num_steps,
            initial_step=start,
            images_per_step=config.batch_size,
            label="classifier",
        ) as progress,
    ):

        def on_metrics(step: int, metrics: Mapping[str, np.ndarray]) -> None:
            recorder.log(step, metrics, writer)
            progress.update(step, metrics)

        return stepping.drive(
            run.train_steps,
            state,
            superbatches,
            start=start,
            last=config.num_steps,
            size=size,
            every=config.eval_every_steps,
            on_metrics=on_metrics,
            on_state=partial(recorder.save, writer=writer),
            tracer=tracer,
        )


def _draw(summary: Mapping[str, Any], folder: Path) -> None:
    phantom = summary["data"]["kind"] == "phantom"
    target = folder / "figures"
    target.mkdir(exist_ok=True)
    for split in ("validation", "test"):
        scores = summary[split]
        figures.confusion_matrix(
            scores["confusion_matrix"],
            CLASSES,
            target / f"confusion_matrix_{split}.png",
            title=f"Confusion matrix, {split}: accuracy {scores['accuracy']:.1%} of {scores['n']}",
            phantom=phantom,
        )
    rows = read_metrics(folder / METRICS_FILE)
    for name in ("loss", "accuracy"):
        series = {}
        for split, label in (("train", "training (augmented)"), ("validation", "validation")):
            points = [(r["step"], r[f"{split}/{name}"]) for r in rows if f"{split}/{name}" in r]
            series[label] = ([step for step, _ in points], [value for _, value in points])
        figures.curves(
            series, target / f"{name}.png", ylabel=name, title=name.capitalize(), phantom=phantom
        )
