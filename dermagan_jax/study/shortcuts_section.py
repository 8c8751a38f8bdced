"""The part of a study's report on what gives a class away and is no lesion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dermagan_jax.lesions import CLASSES
from dermagan_jax.study.report import Cell, Section, Table

_COLOURS = ("red", "green", "blue")


def section(document: Mapping[str, Any]) -> Section:
    """Lays out what the probes and the arms say of shortcuts.

    Args:
      document: what results.json holds.
    """
    found = document["shortcuts"]
    probed = [
        _probe_row(images, each)
        for images, shown in [("real, held out", found), *_generated(document)]
        for each in shown["probes"]
    ]
    sources = found["sources"]
    by_class: list[list[Cell]] = [
        [name or "not said", *(sources["counts"][each][index] for each in CLASSES)]
        for index, name in enumerate(sources["names"])
    ]
    arms = [arm for arm in document["arms"] if "shortcuts" in arm]
    without: list[list[Cell]] = [
        [arm["name"], arm["shortcuts"]["accuracy"], arm["shortcuts"]["accuracy_without_vignette"]]
        for arm in arms
    ]
    by_source: list[list[Cell]] = [
        [arm["name"], row["source"] or "not said", row["images"], row["accuracy"]]
        for arm in arms
        for row in arm["shortcuts"]["by_source"]
    ]
    return Section(
        "Shortcuts",
        "What gives a class away and is no lesion, by a linear classifier, tried on validation "
        "lesions; of generated images one half is what it is fitted on, and the other what it is "
        "tried on. A probe fires where its 95% interval lies 5 points above guessing.\n\n"
        f"Source and class go together with a Cramér's V of {sources['cramers_v']:.2f} (0: not at "
        f"all, 1: wholly). Real images with a vignette: {found['vignettes']:.0%}. "
        "The square inside a vignette is shown as large as the whole image was, so that a fall of "
        "the accuracy may come of the scale too.",
        tables=[
            Table(
                "Balanced accuracy without the lesion",
                ["images", "by", "accuracy", "95% low", "95% high", "guessing", "verdict"],
                probed,
            ),
            Table(
                "Training images by source",
                ["source", *(name.replace("_", " ") for name in CLASSES)],
                by_class,
            ),
            Table(
                "Accuracy of the first seeds, on the square inside a vignette",
                ["arm", "whole image", "inside"],
                without,
            ),
            Table(
                "Accuracy by source, all seeds", ["arm", "source", "images", "accuracy"], by_source
            ),
            _looks_table(document),
        ],
    )


def _generated(document: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Names the generated images of each arm that is looked at closely, with what they show."""
    return [
        (f"{arm['name']}, GAN {seed}", each)
        for arm in document["arms"]
        if "shortcuts" in arm
        for seed, each in zip(document["gan_seeds"], arm["shortcuts"]["generated"], strict=False)
    ]


def _probe_row(images: str, probe: Mapping[str, Any]) -> list[Cell]:
    return [
        images,
        probe["name"],
        *(probe["accuracy"][name] for name in ("value", "low", "high")),
        probe["guessing"],
        "fires" if probe["fires"] else "no sign",
    ]


def _looks_table(document: Mapping[str, Any]) -> Table:
    """Sets the frames of generated images beside those of real ones, class by class."""
    looks = [("real", document["shortcuts"]["looks"])]
    looks += [(images, each["looks"]) for images, each in _generated(document)]
    rows: list[list[Cell]] = [
        [images, name.replace("_", " "), each["vignettes"], each["marks"], *each["border"]]
        for images, found in looks
        for name, each in found.items()
    ]
    columns = ["images", "class", "with a vignette", "marks", *(f"border, {c}" for c in _COLOURS)]
    return Table("Frames, real and generated: marks and colours in grey levels", columns, rows)
