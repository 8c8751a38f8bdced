"""Trains classifiers on real and generated images, and scores each once on the test split."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from dermagan_jax import (
    classifier_config,
    figures,
    files,
    hosts,
    parallel,
    training_set,
    workdir,
)
from dermagan_jax.classifier_runs import Program, Run, train_side_by_side
from dermagan_jax.data.training import TrainingData, open_for_training
from dermagan_jax.errors import TrainingError
from dermagan_jax.lesions import CLASSES
from dermagan_jax.metrics import calibration, classification
from dermagan_jax.nets.precision import find_precision
from dermagan_jax.profiling import Tracer, Window
from dermagan_jax.seeds import SPLITS, summarise
from dermagan_jax.training_set import TrainingSet
from dermagan_jax.writers import METRICS_FILE, read_metrics

PREDICTIONS = "predictions.npz"
"""In a workdir: the [N, K] float32 logits of the splits `validation` and `test`, sorted by id."""


def train(
    config: ml_collections.ConfigDict, run_folder: Path, *, profile: Window | None = None
) -> dict[str, Any]:
    """Trains until `config.num_steps`, going on from the last checkpoint in the workdir.

    The checkpoint with the lowest validation loss is scored on the validation and test splits.
    The test split is read once, after training.

    Args:
      config: see `configs/lesion_cnn.py`.
      run_folder: the workdir: checkpoints, metrics.jsonl, tensorboard, figures, predictions.npz,
        config.json and summary.json are written here and nowhere else.
      profile: steps to trace, into the workdir's `profile`.

    Returns:
      The summary, as written to summary.json.

    Raises:
      DermaganError: bad input, before anything is written.
      LeakError: the GAN was trained on other lesions than this set's training split.
      TrainingError: the loss is no longer finite; the last good checkpoint stays.
    """
    _check(config)
    tracer = Tracer(profile, run_folder / "profile")
    return _train(config, {config.seed: run_folder}, tracer)[config.seed]


def train_seeds(
    config: ml_collections.ConfigDict,
    seeds: Sequence[int],
    folder: Path,
    *,
    profile: Window | None = None,
) -> dict[str, Any]:
    """Trains one classifier a seed, all at once, each into a workdir of its own in `folder`.

    Each ends as `train` with that seed alone would have left it on one device: to the bit on CPUs,
    to rounding on accelerators. To use all cores of a CPU, call `parallel.one_device_a_core` first.

    Args:
      config: as for `train`; its seed is not used.
      seeds: each at least 0, none twice.
      folder: holds the workdirs `seed_000` and so on, and seeds.json.
      profile: steps to trace, into the folder's `profile`.

    Returns:
      Mean, standard deviation and range of the scores over the seeds, as written to seeds.json; see
      `seeds.summarise`.

    Raises:
      DermaganError, LeakError: as `train`.
      TrainingError: the loss of some seeds is no longer finite; the others were trained to the end.
    """
    _check(config)
    workdir.claim_seeds(folder)
    folders = {seed: workdir.seed_folder(folder, seed) for seed in seeds}
    summaries = _train(config, folders, Tracer(profile, folder / "profile"))
    found = summarise(summaries)
    files.write_json(folder / workdir.SEEDS, found)
    return found


def _check(config: ml_collections.ConfigDict) -> None:
    classifier_config.check(config)
    training_set.check(config)


def _train(
    config: ml_collections.ConfigDict, folders: Mapping[int, Path], tracer: Tracer
) -> dict[int, dict[str, Any]]:
    """Trains the seeds side by side, each into its folder; returns their summaries."""
    with find_precision(config.precision).applied(), contextlib.ExitStack() as opened_runs:
        opened = open_for_training(config.data_dir, image_size=config.model.image_size)
        chosen = training_set.assemble(config, opened)
        data = opened.description() | dict(chosen.description)
        weights = classifier_config.weights_file(config)
        if weights is not None:
            data["weights_sha256"] = files.sha256(weights)
        configs = {seed: config.to_dict() | {"seed": seed} for seed in folders}
        sizes = parallel.read_mesh(config.mesh, "seed")
        meshes = parallel.share_devices(len(folders), config.batch_size, sizes=sizes)

        # Whatever cannot be read is refused before anything is written.
        program = Program(config)

        def claim() -> None:
            for seed, folder in folders.items():
                mine = workdir.claimed(folder, config=configs[seed], data=data)
                opened_runs.enter_context(mine)

        hosts.on_primary(claim)
        runs = []
        for mesh, (seed, folder) in zip(meshes, folders.items(), strict=True):
            document = {"config": configs[seed], "data": data, "classes": list(CLASSES)}
            run = Run(program, mesh, seed=seed, folder=folder, document=document)
            runs.append(opened_runs.enter_context(run))
        train_side_by_side(program, runs, chosen, opened.split("validation"), tracer)
        finished = [run for run in runs if not run.error]
        summaries = _summarise(program, finished, opened, chosen) if finished else {}
    errors = [f"seed {run.seed}: {run.error}" for run in runs if run.error]
    if errors:
        raise TrainingError("; ".join(errors))
    return summaries


def _summarise(
    program: Program, runs: Sequence[Run], opened: TrainingData, chosen: TrainingSet
) -> dict[int, dict[str, Any]]:
    """Scores the best checkpoint of each run; writes and returns the summaries, by seed."""
    nets = [run.best_net() for run in runs]
    logits, scores, labels = {}, {}, {}
    for name in SPLITS:
        images = opened.split(name)
        labels[name], logits[name] = images.label, program.predict(nets, images)
        scores[name] = [classification.evaluate(each, images.label) for each in logits[name]]
    summaries = {}
    for index, run in enumerate(runs):
        summary = summaries[run.seed] = {
            **{name: scores[name][index] for name in SPLITS},
            "temperature": calibration.fit_temperature(
                logits["validation"][index], labels["validation"]
            ),
            "num_train_real": chosen.num_real,
            "num_train_generated": chosen.num_generated,
            "num_steps": run.step,
            "best_step": run.checkpoints.best_step(),
            "num_params": sum(leaf.size for leaf in jax.tree.leaves(nets[index].params)),
            "data": run.document["data"],
        }
        own = {name: logits[name][index] for name in SPLITS}
        hosts.on_primary(partial(_conclude, run.folder, summary, own))
    return summaries


def _conclude(folder: Path, summary: Mapping[str, Any], logits: Mapping[str, np.ndarray]) -> None:
    _draw(summary, folder)
    with files.replacing(folder / PREDICTIONS) as path, path.open("wb") as file:
        np.savez(file, validation=logits["validation"], test=logits["test"])
        # The summary, which marks the run finished, must not reach the disk before it.
        file.flush()
        os.fsync(file.fileno())
    files.write_json(folder / workdir.SUMMARY, summary)


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
