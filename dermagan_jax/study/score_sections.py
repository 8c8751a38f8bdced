"""The parts of a study's report with all scores: by class, calibration, fewer real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dermagan_jax import figures
from dermagan_jax.lesions import CLASSES
from dermagan_jax.metrics import calibration
from dermagan_jax.study.arms import FEWER, GENERATED
from dermagan_jax.study.report import Cell, Figure, Section, Table


def sections(document: Mapping[str, Any], folder: Path) -> list[Section]:
    """Lays out the scores.

    Args:
      document: what results.json holds.
      folder: for the figures; must exist.
    """
    fewer = _fewer_section(folder, document)
    return [
        _classes_section(folder, document),
        _calibration_section(folder, document),
        *([fewer] if fewer else []),
    ]


def _classes_section(folder: Path, document: Mapping[str, Any]) -> Section:
    shown = [arm for arm in document["arms"] if "shortcuts" in arm]
    return Section(
        "Classes",
        "Means over seeds. A specificity is reached at a threshold on these same images.",
        tables=[
            _class_table("Sensitivity by class", "sensitivity", document["arms"]),
            _class_table("Specificity by class", "specificity", document["arms"]),
            _class_table("AUC by class, one against the rest", "auc", document["arms"]),
            _threshold_table(document["arms"]),
        ],
        figures=[_matrix(folder, arm, document["kind"] == "phantom") for arm in shown],
    )


def _class_table(caption: str, measure: str, arms: Sequence[Mapping[str, Any]]) -> Table:
    rows: list[list[Cell]] = [
        [
            arm["name"],
            *(
                _mean([seed["per_class"][name][measure] for seed in arm["seeds"]])
                for name in CLASSES
            ),
        ]
        for arm in arms
    ]
    return Table(caption, ["arm", *(name.replace("_", " ") for name in CLASSES)], rows)


def _threshold_table(arms: Sequence[Mapping[str, Any]]) -> Table:
    names = ("macro_auc", "melanoma_sensitivity_at_90", "melanoma_sensitivity_at_95")
    rows: list[list[Cell]] = [[arm["name"], *(arm["mean"][name] for name in names)] for arm in arms]
    columns = ["arm", "macro AUC", "melanoma sensitivity at 90% specificity", "at 95%"]
    return Table("All thresholds", columns, rows)


def _matrix(folder: Path, arm: Mapping[str, Any], phantom: bool) -> Figure:
    first = arm["seeds"][0]
    title = f"{arm['name']}: accuracy {first['accuracy']:.1%} of {first['n']:,}"
    name = arm["name"].replace(" ", "_")
    path = figures.confusion_matrix(
        first["confusion_matrix"],
        CLASSES,
        folder / f"confusion_matrix_{name}.png",
        title=title,
        phantom=phantom,
    )
    return Figure(path, "The first pair of seeds.", f"Confusion matrix of {title}")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _calibration_section(folder: Path, document: Mapping[str, Any]) -> Section:
    rows: list[list[Cell]] = []
    for arm in document["arms"]:
        seeds = arm["seeds"]
        rows.append(
            [
                arm["name"],
                arm["mean"]["loss"],
                arm["mean"]["temperature"],
                *(
                    _mean([part[name] for part in parts])
                    for name in ("expected_calibration_error", "brier")
                    for parts in (seeds, [seed["calibrated"] for seed in seeds])
                ),
            ]
        )
    columns = [
        *("arm", "loss", "temperature", "calibration error", "calibration error, calibrated"),
        *("Brier score", "Brier score, calibrated"),
    ]
    shown = [arm for arm in document["arms"] if "shortcuts" in arm]
    return Section(
        "Calibration",
        "How far probabilities can be taken at their word: a calibration error of 0.1 says that "
        "they are off by 10 points on average. The temperature is fitted on the validation split.",
        tables=[Table("Calibration, means over seeds", columns, rows)],
        figures=[_reliability(folder, arm, document["kind"] == "phantom") for arm in shown],
    )


def _reliability(folder: Path, arm: Mapping[str, Any], phantom: bool) -> Figure:
    """Draws how often an arm's classifiers are right by how sure they are, over all seeds."""
    parts = {
        "as trained": calibration.pooled([seed["reliability"] for seed in arm["seeds"]]),
        "calibrated": calibration.pooled(
            [seed["calibrated"]["reliability"] for seed in arm["seeds"]]
        ),
    }
    path = figures.reliability(
        {
            name: ([row["confidence"] for row in rows], [row["accuracy"] for row in rows])
            for name, rows in parts.items()
        },
        folder / f"reliability_{arm['name'].replace(' ', '_')}.png",
        title=f"{arm['name']}: how far to take it at its word",
        phantom=phantom,
    )
    caption = f"{arm['name']}: accuracy by confidence, before and after the temperature, all seeds."
    said = "; ".join(
        f"{name}: "
        + ", ".join(f"{row['accuracy']:.0%} right at {row['confidence']:.0%}" for row in rows)
        for name, rows in parts.items()
    )
    return Figure(path, caption, f"{caption} {said}.")


def _fewer_section(folder: Path, document: Mapping[str, Any]) -> Section | None:
    """Draws balanced accuracy by real images, with and without generated ones."""
    arms = document["arms"]
    if not any(arm["family"] == FEWER for arm in arms):
        return None
    chosen = [arm for arm in arms if arm["family"] == GENERATED and "verdict" in arm]
    everything = [arm for arm in arms if arm["name"] == document["reference"]] + chosen
    series = {}
    for name, with_gan in (("real images alone", False), ("and generated ones", True)):
        points = sorted(
            (arm["changes"].get("real.share", 1.0), arm["mean"]["balanced_accuracy"])
            for arm in [*everything, *(arm for arm in arms if arm["family"] == FEWER)]
            if bool(arm["ratio"]) == with_gan
        )
        if points:
            series[name] = points
    total = sum(document["data"]["counts"].values())
    path = figures.curves(
        {
            name: ([share * total for share, _ in points], [value for _, value in points])
            for name, points in series.items()
        },
        folder / "learning_curve.png",
        xlabel="real training images",
        ylabel="balanced accuracy",
        title="Balanced accuracy by real training images",
        phantom=document["kind"] == "phantom",
    )
    said = "; ".join(
        f"{name}: " + ", ".join(f"{share:.0%} {value:.1%}" for share, value in points)
        for name, points in series.items()
    )
    caption = "Balanced accuracy, means over seeds, by the number of real training images."
    return Section(
        "Fewer real images",
        "How much real images are worth here, and generated ones where real ones are few. The GAN "
        "saw all of the real images, also those that the classifier beside it did not.",
        figures=[Figure(path, caption, f"{caption} {said}.")],
    )
