"""What the cells of a study say: scores, differences, and a verdict for each arm."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from scipy import special

from dermagan_jax.data import prepared
from dermagan_jax.lesions import CLASSES
from dermagan_jax.metrics import calibration, classification, comparison, intervals
from dermagan_jax.predicting import predict_images
from dermagan_jax.study import probes
from dermagan_jax.study.arms import (
    DROPOUT,
    FILTERED,
    GENERATED,
    PAPERS,
    REFERENCE,
    Arm,
    Chosen,
)
from dermagan_jax.study.runner import Runner

MELANOMA = CLASSES.index("melanoma")
SPECIFICITIES = (90, 95)  # Percent.
_BOOTSTRAP_SEED = 0

SCORES = (
    *("balanced_accuracy", "accuracy", "loss", "macro_auc"),
    *(f"melanoma_sensitivity_at_{percent}" for percent in SPECIFICITIES),
    *("expected_calibration_error", "brier", "temperature"),
)
"""The numbers of a classifier that are averaged over seeds."""

CLASS_SCORES = ("sensitivity", "specificity", "auc")
"""Those of each class that are shown."""


def is_passed_over(arm: Arm, chosen: Chosen) -> bool:
    """Whether validation took another ratio or filter than this arm's."""
    if arm.family == GENERATED:
        return arm.ratio != chosen.ratio
    return arm.family == FILTERED and arm.filter != chosen.filter


def in_family(arm: Arm, chosen: Chosen) -> bool:
    """Whether an arm gets a verdict, for whose number Holm's method adjusts.

    Those do that add generated images to what they are compared with, since that is what a study
    asks; dropout rates are compared with the paper's own, on the same images.
    """
    return arm.needs_gan and arm.family != DROPOUT and not is_passed_over(arm, chosen)


def is_shown(arm: Arm, chosen: Chosen) -> bool:
    """Whether an arm is looked at closely: the reference, and what adds generated images to it."""
    return arm.name == REFERENCE or (arm.family in (GENERATED, PAPERS) and in_family(arm, chosen))


def summarise(runner: Runner, arms: Sequence[Arm], chosen: Chosen) -> dict[str, Any]:
    """Scores every arm on the test split and compares it with its reference.

    Args:
      runner: of the finished study.
      arms: from `Runner.run`.
      chosen: likewise.

    Returns:
      What results.json holds beside the probes, as JSON types; the same for the same cells.
    """
    test = prepared.load_split(runner.opened.folder, "test")
    counts = runner.opened.report["counts"]
    logits = {arm.name: runner.logits(arm, "test") for arm in arms}
    rows = _score_all(runner, arms, chosen, logits, test)
    _compare_all(rows, arms, chosen, logits, test, margin=runner.config.margin)
    return {
        "kind": runner.opened.report["kind"],
        "data": runner.opened.description(),
        "split_counts": {split: counts[split] for split in prepared.SPLITS},
        "num_test": {"images": len(test.label), "lesions": len(np.unique(test.lesion))},
        "reference": REFERENCE,
        "margin": runner.config.margin,
        "chosen": dataclasses.asdict(chosen),
        "gan_seeds": list(runner.config.gan_seeds),
        "classifier_seeds": list(runner.config.classifier_seeds),
        "seeds_per_gan": runner.config.seeds_per_gan,
        "intervals": {"level": intervals.LEVEL, "resamples": comparison.NUM_RESAMPLES},
        "config": configuration(runner.config),
        "arms": list(rows.values()),
    }


def configuration(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns all of a study's fields as JSON types, but for where things lie.

    Args:
      config: the study's.
    """
    document = json.loads(config.to_json_best_effort())
    for part in (document, document["gan"], document["classifier"]):
        part.pop("data_dir")
    for name in ("beside", "more_real_dir"):
        document.pop(name)
    document["gan"]["init_from"] = bool(document["gan"]["init_from"])
    document["network_weights"] = Path(document["network_weights"]).name
    return document


def _score_all(
    runner: Runner,
    arms: Sequence[Arm],
    chosen: Chosen,
    logits: Mapping[str, np.ndarray],
    test: prepared.Split,
) -> dict[str, dict[str, Any]]:
    """Scores the classifiers of each arm by themselves."""
    validation_label = runner.opened.split("validation").label
    rows = {}
    for arm in arms:
        validation = runner.logits(arm, "validation")
        seeds = _seeds(runner, arm, logits[arm.name], validation, test.label, validation_label)
        row = _describe(arm) | {"seeds": seeds, "mean": _mean(seeds)}
        row["num_generated"] = runner.num_generated(arm)
        if is_shown(arm, chosen):
            right = logits[arm.name].argmax(axis=-1) == test.label
            row["shortcuts"] = _shortcuts(runner, arm, test, right)
        rows[arm.name] = row
    return rows


def _compare_all(
    rows: Mapping[str, dict[str, Any]],
    arms: Sequence[Arm],
    chosen: Chosen,
    logits: Mapping[str, np.ndarray],
    test: prepared.Split,
    *,
    margin: float,
) -> None:
    """Writes into the rows how each arm differs from its reference, and what that shows."""
    compared = {
        arm.name: _compare(logits[arm.name], logits[arm.reference], test)
        for arm in arms
        if arm.name != REFERENCE
    }
    family = [arm.name for arm in arms if in_family(arm, chosen)]
    p_values = comparison.holm([compared[name].p_value for name in family])
    adjusted = dict(zip(family, p_values, strict=True))
    for arm in arms:
        if arm.name == REFERENCE:
            continue
        row, found = rows[arm.name], compared[arm.name]
        row["difference"] = dataclasses.asdict(found)
        # As many classifiers of each: more of them, asked together, do better by that alone.
        count = logits[arm.name].shape[1]
        both = logits[arm.name][:1], logits[arm.reference][:1, :count]
        row["mcnemar_p"] = comparison.mcnemar(*(_together(each) == test.label for each in both))
        if arm.name in adjusted:
            p_value = adjusted[arm.name]
            row |= {
                "adjusted_p": p_value,
                "verdict": comparison.verdict(found, p_value, margin=margin),
                "smallest_found": comparison.smallest_found(found, len(family)),
            }
        elif not is_passed_over(arm, chosen):
            row["unadjusted_verdict"] = comparison.verdict(found, found.p_value, margin=margin)


def _compare(
    logits: np.ndarray, reference: np.ndarray, test: prepared.Split
) -> comparison.Difference:
    """Compares [G, C, N, K] logits with their reference's, [1 or G, R, N, K]."""
    right, reference_right = (each.argmax(axis=-1) == test.label for each in (logits, reference))
    # The same draws for every arm, so that another arm does not change this one's interval.
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    return comparison.paired_difference(
        right, reference_right, test.lesion, label=test.label, rng=rng
    )


def _shortcuts(runner: Runner, arm: Arm, test: prepared.Split, right: np.ndarray) -> dict[str, Any]:
    """Says how an arm does without the vignette and by source, and what its images show of one."""
    trained = runner.first_classifier(arm)
    label = predict_images(trained, probes.without_vignette(test.image)).argmax(axis=1)
    return {
        "accuracy": float(right[0, 0].mean()),
        "accuracy_without_vignette": float((label == test.label).mean()),
        "by_source": [
            {"source": source, "images": count, "accuracy": accuracy}
            for source, count, accuracy in probes.accuracy_by_source(test, right)
        ],
        "generated": [
            {
                "looks": probes.looks_by_class(each),
                "probes": probes.as_json(probes.probe_generated(each)),
            }
            for each in runner.generated(arm)
        ],
    }


def score(logits: np.ndarray, label: np.ndarray, temperature: float) -> dict[str, Any]:
    """Scores one classifier.

    Args:
      logits: [N, K] float.
      label: [N] int.
      temperature: fitted on the validation split; only the measures of calibration use it.

    Returns:
      As `classification.evaluate`, and `macro_auc`, the mean AUC of the classes; melanoma's
      sensitivity where its specificity is 90% and 95%; `temperature`; what `calibration.measure`
      gives, and the same after division by the temperature as `calibrated`.
    """
    found = classification.evaluate(logits, label)
    aucs = [each["auc"] for each in found["per_class"].values() if each["auc"] is not None]
    found["macro_auc"] = float(np.mean(aucs)) if aucs else None
    for percent in SPECIFICITIES:
        found[f"melanoma_sensitivity_at_{percent}"] = classification.sensitivity_at(
            logits, label, MELANOMA, specificity=percent / 100
        )
    found["temperature"] = temperature
    found |= calibration.measure(special.softmax(logits, axis=1), label)
    found["calibrated"] = calibration.measure(special.softmax(logits / temperature, axis=1), label)
    return found


def _describe(arm: Arm) -> dict[str, Any]:
    described = dataclasses.asdict(arm) | {"changes": dict(arm.changes)}
    # Where another set or a file lies says nothing of it.
    described["changes"].pop("real.extra_dir", None)
    weights = described["changes"].get("model.weights")
    if weights is not None:
        described["changes"]["model.weights"] = Path(weights).name
    return described


def _seeds(
    runner: Runner,
    arm: Arm,
    logits: np.ndarray,
    validation: np.ndarray,
    label: np.ndarray,
    validation_label: np.ndarray,
) -> list[dict[str, Any]]:
    gan_seeds = runner.config.gan_seeds if arm.needs_gan else [None]
    rows = []
    for gan_seed, of_gan, held_out in zip(gan_seeds, logits, validation, strict=True):
        for seed, each, for_fit in zip(runner.classifier_seeds(arm), of_gan, held_out, strict=True):
            temperature = calibration.fit_temperature(for_fit, validation_label)
            on_validation = classification.evaluate(for_fit, validation_label)
            rows.append(
                {
                    "gan_seed": gan_seed,
                    "classifier_seed": seed,
                    "validation_balanced_accuracy": on_validation["balanced_accuracy"],
                    **score(each, label, temperature),
                }
            )
    return rows


def _mean(seeds: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in SCORES:
        values = [row[name] for row in seeds if row[name] is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def _together(logits: np.ndarray) -> np.ndarray:
    """Returns what all classifiers of an arm predict by their mean probability: [N] int."""
    probabilities = special.softmax(logits.astype(np.float64), axis=-1)
    return probabilities.mean(axis=(0, 1)).argmax(axis=-1)
