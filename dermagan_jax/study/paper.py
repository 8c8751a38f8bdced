"""The paper's printed figures, to stand beside ours and never to be tuned to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_collections

from dermagan_jax import figures
from dermagan_jax.errors import DermaganError
from dermagan_jax.study import cells, probes
from dermagan_jax.study.arms import DROPOUT, PAPERS, REFERENCE
from dermagan_jax.study.report import Cell, Figure, Section, Table

PRINTED: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "A1": (0.6549, 0.816),
        "P2": (0.7200, 0.714),
        "P3 mobilenet": (0.6850, 0.816),
        "P3 mobilenet_v2": (0.6825, 0.838),
        "P3 resnet50": (0.4799, 1.114),
        "P3 vgg16": (0.6675, 0.844),
        "P3 vgg19": (0.6549, 0.811),
    }
)
"""Accuracy and loss that the paper prints, by the name of the arm that repeats it.

Source: the paper's tables 2 and 3. They are of one seed, of 400 test images whose lesions the GAN
and the classifiers had seen too, and of pretrained networks without their own preprocessing.
"""


def read_others(
    folders: Sequence[str],
    results: str,
    *,
    data: Mapping[str, Any],
    classifier: ml_collections.ConfigDict,
) -> list[dict[str, Any]]:
    """Reads what the reference reached in finished studies of other sets.

    Args:
      folders: the studies' folders.
      results: name of the file with a study's results.
      data: what this study says of its own set.
      classifier: this study's configuration of the classifier.

    Returns:
      Of each its `recipe`, whether it is `leaky`, and the reference's mean `accuracy`.

    Raises:
      DermaganError: a folder holds no finished study, or one that differs in more than its set.
    """
    found: list[dict[str, Any]] = []
    for folder in folders:
        try:
            document = json.loads((Path(folder) / results).read_text(encoding="utf-8"))
            theirs, trained = document["data"], document["config"]["classifier"]
            accuracy = _find(document, REFERENCE)["mean"]["accuracy"]
        except (OSError, ValueError, KeyError, StopIteration) as error:
            raise DermaganError(
                f"config.beside: {folder} holds no finished study ({error}); name its --out folder"
            ) from error
        if theirs["kind"] != data["kind"]:
            raise DermaganError(
                f"config.beside: {folder} is of {theirs['kind']} images, and this study of "
                f"{data['kind']} ones; name studies of the same kind"
            )
        if cells.key(ml_collections.ConfigDict(trained)) != cells.key(classifier):
            raise DermaganError(
                f"config.beside: {folder} has another config.classifier, so that more than the set "
                "differs; run that study with this one's"
            )
        if theirs["recipe"] in (data["recipe"], *(each["recipe"] for each in found)):
            raise DermaganError(
                f"config.beside: {folder} is of {theirs['recipe']} as well; name studies of other "
                "sets"
            )
        found.append({"recipe": theirs["recipe"], "leaky": theirs["leaky"], "accuracy": accuracy})
    return found


def section(document: Mapping[str, Any], folder: Path) -> Section | None:
    """Lays ours beside the paper's; None for a study without any of its arms but the reference.

    Args:
      document: what results.json holds.
      folder: for the figures; must exist.
    """
    papers = [arm for arm in document["arms"] if arm["family"].startswith("P")]
    if not papers:
        return None
    text = (
        "The paper's figures are of one seed and 400 test images, an interval of about ±4.5 points "
        "each. It drew the test images at random, so that their lesions, and often a near copy, "
        "were among the training images, and trained its GAN on the test images too."
    )
    if document["data"]["leaky"]:
        text += "\n\nThis set leaks on purpose, as the paper's does."
    association = document["shortcuts"]["sources"]["cramers_v"]
    if association >= probes.CONFOUNDED_FROM:
        text += (
            f"\n\nIts classes come from different sources (Cramér's V {association:.2f}; 1 is "
            "wholly): these accuracies say little of lesions."
        )
    if any("from scratch" in arm["title"] for arm in papers):
        text += "\n\nThe networks were trained from scratch here; the paper's had ImageNet weights."
    tables = [_ours_beside_the_papers([_find(document, REFERENCE), *papers])]
    if document["others"]:
        text += (
            "\n\nWhat split and sources are worth is the difference between the references of two "
            "sets, each on its own test images, and without an interval."
        )
        tables.append(_worth(document))
    return Section("The paper's tables", text, tables=tables, figures=_figures(document, folder))


def _find(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next(arm for arm in document["arms"] if arm["name"] == name)


def _ours_beside_the_papers(arms: Sequence[Mapping[str, Any]]) -> Table:
    rows: list[list[Cell]] = []
    for arm in arms:
        accuracy, loss = PRINTED.get(arm["name"], (None, None))
        values = [seed["accuracy"] for seed in arm["seeds"]]
        rows.append(
            [
                arm["name"],
                arm["title"],
                len(values),
                arm["mean"]["accuracy"],
                accuracy,
                min(values),
                max(values),
                arm["mean"]["loss"],
                loss,
            ]
        )
    columns = [
        *("arm", "trained on", "runs", "accuracy", "paper's", "lowest", "highest"),
        *("loss", "paper's loss"),
    ]
    return Table("Ours and the paper's", columns, rows)


# What the difference between the references of two sets is worth: all else is the same in both.
_WORTHS = (
    ("the leaking split", "paper_mix", "paper_mix_by_lesion"),
    ("the source confound", "paper_mix_by_lesion", "bcn500"),
)


def _worth(document: Mapping[str, Any]) -> Table:
    """Sets what the GAN is worth beside what split and sources are."""
    own = document["data"]["recipe"]
    reference = _find(document, REFERENCE)["mean"]["accuracy"]
    accuracies = {other["recipe"]: other["accuracy"] for other in document["others"]}
    accuracies[own] = reference
    rows = [
        _difference_row("the GAN's images", (arm["name"], own), arm["mean"]["accuracy"], reference)
        for arm in document["arms"]
        if arm["family"] == PAPERS
    ]
    compared = [pair for pair in _WORTHS if pair[1] in accuracies and pair[2] in accuracies]
    named = {recipe for _, *pair in compared for recipe in pair}
    # A set of another kind is told apart from this one as a whole.
    compared += [("the other set", own, name) for name in accuracies if name not in {own, *named}]
    for what, recipe, other in compared:
        pair = (accuracies[recipe], accuracies[other])
        rows.append(_difference_row(what, (REFERENCE, recipe), *pair, other=other))
    columns = ["worth of", "arm and set", "accuracy", "less", "accuracy of that", "difference"]
    return Table("What the GAN is worth, beside what split and sources are", columns, rows)


def _difference_row(
    what: str, arm: tuple[str, str], accuracy: float, less: float, *, other: str | None = None
) -> list[Cell]:
    name, recipe = arm
    subtracted = f"{REFERENCE}, {other or recipe}"
    return [what, f"{name}, {recipe}", accuracy, subtracted, less, accuracy - less]


def _figures(document: Mapping[str, Any], folder: Path) -> list[Figure]:
    """Draws the paper's figures from this study's data and runs."""
    phantom = document["kind"] == "phantom"
    counts = document["data"]["counts"]
    doughnut = figures.class_counts(
        counts, folder / "class_counts.png", title="Real training images", phantom=phantom
    )
    said = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())
    drawn = [Figure(doughnut, "Real training images of each class.", said)]
    for arm in document["arms"]:
        if arm["family"] != PAPERS:
            continue
        made = arm["num_generated"][0]
        bars = figures.split_counts(
            document["split_counts"],
            folder / "split_counts.png",
            generated=made,
            title="Real and generated images",
            phantom=phantom,
        )
        caption = f"Images of each split, and {PAPERS}'s generated ones."
        said = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in made.items())
        drawn.append(Figure(bars, caption, f"{caption} Generated: {said}."))
    rates = [arm for arm in document["arms"] if arm["family"] == DROPOUT]
    if rates:
        drawn.append(_dropout_figure(rates, folder, phantom=phantom))
    return drawn


def _dropout_figure(arms: Sequence[Mapping[str, Any]], folder: Path, *, phantom: bool) -> Figure:
    points = {}
    for arm in arms:
        values = [seed["accuracy"] for seed in arm["seeds"]]
        rate = arm["changes"]["model.dropout_rate"]
        points[f"{rate:g}"] = (arm["mean"]["accuracy"], min(values), max(values))
    path = figures.intervals(
        {"accuracy": points},
        folder / "dropout.png",
        ylabel="accuracy",
        title="Accuracy by dropout rate",
        phantom=phantom,
    )
    said = ", ".join(f"{rate}: {value:.1%}" for rate, (value, *_) in points.items())
    return Figure(path, "Accuracy by dropout rate: the mean of the seeds, and their range.", said)
