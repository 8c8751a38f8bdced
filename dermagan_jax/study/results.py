"""What the cells of a study say: scores, paired differences, and a verdict for each arm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from dermagan_jax.data import prepared
from dermagan_jax.lesions import CLASSES
from dermagan_jax.metrics import calibration, classification, comparison, intervals
from dermagan_jax.predicting import predict_images
from dermagan_jax.study import probes
from dermagan_jax.study.arms import FILTERED, GENERATED, PAPERS, REFERENCE, Arm, Chosen
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


def is_primary(arm: Arm, chosen: Chosen) -> bool:
    """Whether an arm gets a verdict: not the ratios and filters that validation passed over."""
    if arm.family == GENERATED:
        return arm.ratio == chosen.ratio
    if arm.family == FILTERED:
        return arm.filter == chosen.filter
    return arm.name != REFERENCE


def is_shown(arm: Arm, chosen: Chosen) -> bool:
    """Whether an arm is looked at closely: the reference, and what adds generated images to it."""
    return arm.name == REFERENCE or (arm.family in (GENERATED, PAPERS) and is_primary(arm, chosen))


def summarise(runner: Runner, arms: Sequence[Arm], chosen: Chosen) -> dict[str, Any]:
    """Scores every arm on the test split and compares it with the reference.

    Args:
      runner: of the finished study.
      arms: from `Runner.run`.
      chosen: likewise.

    Returns:
      What results.json holds beside the probes, as JSON types; the same for the same cells.
    """
    test = prepared.load_split(runner.opened.folder, "test")
    counts = runner.opened.report["counts"]
    validation_label = runner.opened.split("validation").label
    by_name = {arm.name: arm for arm in arms}
    logits = {name: runner.logits(arm, "test") for name, arm in by_name.items()}
    right = {name: each.argmax(axis=-1) == test.label for name, each in logits.items()}
    compared = _compare(by_name, right, test)
    primary = {
        name: difference
        for name, difference in compared.items()
        if is_primary(by_name[name], chosen)
    }
    verdicts = comparison.verdicts(primary, margin=runner.config.margin)
    adjusted = dict(
        zip(primary, comparison.holm([each.p_value for each in primary.values()]), strict=True)
    )
    rows = []
    for name, arm in by_name.items():
        validation = runner.logits(arm, "validation")
        seeds = _seeds(runner, arm, logits[name], validation, test.label, validation_label)
        row = _describe(arm) | {"seeds": seeds, "mean": _mean(seeds)}
        row["num_generated"] = runner.num_generated(arm)
        if is_shown(arm, chosen):
            row["shortcuts"] = _shortcuts(runner, arm, test, right[name])
        if name in compared:
            row["difference"] = dataclasses.asdict(compared[name])
            row["mcnemar_p"] = comparison.mcnemar(
                *(_together(logits[each]) == test.label for each in (name, arm.reference))
            )
        if name in verdicts:
            row |= {"verdict": verdicts[name], "adjusted_p": adjusted[name]}
        rows.append(row)
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
        "intervals": {"level": intervals.LEVEL, "resamples": intervals.NUM_RESAMPLES},
        "arms": rows,
    }


def _compare(
    arms: Mapping[str, Arm], right: Mapping[str, np.ndarray], test: prepared.Split
) -> dict[str, comparison.Difference]:
    """Compares each arm's [G, C, N] right answers with its reference's, by the seeds of both."""
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    found = {}
    for name, each in right.items():
        if name != REFERENCE:
            reference = right[arms[name].reference][:, : each.shape[1]]
            found[name] = comparison.paired_difference(
                each, reference, test.lesion, label=test.label, rng=rng
            )
    return found


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
        "generated_vignettes": [probes.vignettes(each.image) for each in runner.generated(arm)],
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
    # Where another set lies says nothing of it.
    described["changes"].pop("real.extra_dir", None)
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
