"""The report of a study: the verdict in words, the forest plot, and all that stands behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dermagan_jax import console, figures
from dermagan_jax.lesions import CLASSES
from dermagan_jax.study import forest, paper
from dermagan_jax.study.arms import FILTERED, GENERATED, NEGATIVE_CONTROL, PAPERS
from dermagan_jax.study.report import Cell, Figure, Section, Table, write_report

REPORT = "report.html"
FIGURES = "figures"


def write(
    out: Path,
    document: Mapping[str, Any],
    *,
    pictures: Sequence[Section],
    commands: Sequence[str],
) -> Path:
    """Writes report.html, and the figures into `figures`, which must exist.

    Args:
      out: the study's folder.
      document: what results.json holds.
      pictures: from `pictures.sections`.
      commands: the command lines that made the results.

    Returns:
      The report's path.
    """
    folder = out / FIGURES
    papers = paper.section(document, folder)
    return write_report(
        out / REPORT,
        title="Do generated images help?",
        notice=console.notice(document["kind"]),
        sections=[
            _verdict_section(folder, document),
            *([papers] if papers else []),
            _arms_section(document),
            _classes_section(folder, document),
            _calibration_section(document),
            _shortcuts_section(document),
            *pictures,
            _protocol_section(document),
        ],
        commands=commands,
    )


def verdict(document: Mapping[str, Any]) -> list[str]:
    """Says what the study found, a paragraph each.

    Args:
      document: what results.json holds.
    """
    margin = _points(document["margin"])
    by_family: dict[str, Any] = {}
    for arm in document["arms"]:
        if "verdict" in arm:
            by_family.setdefault(arm["family"], arm)
    paragraphs = []
    main = [by_family[name] for name in (GENERATED, FILTERED, PAPERS) if name in by_family]
    if not main:
        paragraphs.append("This study has no arm with generated images.")
    paragraphs += [_sentence(arm, margin) for arm in main]
    control = by_family.get(NEGATIVE_CONTROL)
    if control and control["verdict"] == "helps":
        paragraphs.append(
            "Beware: generated images with shuffled labels help too. What helps is then not what "
            "the images say of their classes."
        )
    paragraphs += warnings(document["shortcuts"])
    smallest = [arm["difference"]["smallest"] for arm in main]
    if smallest:
        tested = document["num_test"]
        paragraphs.append(
            f"With {tested['images']:,} test images of {tested['lesions']:,} lesions and these "
            f"seeds, only a difference of about {_points(max(smallest)):.1f} points would be found "
            "four times in five."
        )
    return paragraphs


def warnings(shortcuts: Mapping[str, Any]) -> list[str]:
    """Says which probes fire, a sentence each.

    Args:
      shortcuts: what `probes.describe` gives.
    """
    return [
        f"Beware: {each['name']} alone predicts the class of held-out lesions with a balanced "
        f"accuracy of {each['accuracy']['value']:.0%} (guessing: {each['guessing']:.0%}). What a "
        "classifier scores may be that, and not the lesion."
        for each in shortcuts["probes"]
        if each["fires"]
    ]


def _points(share: float) -> float:
    return 100 * share


def _sentence(arm: Mapping[str, Any], margin: float) -> str:
    found = arm["difference"]
    ends = f"[{_points(found['low']):+.1f}, {_points(found['high']):+.1f}]"
    what = f"{arm['name']} ({arm['title']})"
    figures_of_it = f"{_points(found['value']):+.1f} points of balanced accuracy, 95% {ends}"
    words = {
        "helps": "helps",
        "harms": "harms",
        "no difference": f"makes no difference of {margin:g} points or more",
        "no evidence": f"shows neither a difference nor the lack of one, at ±{margin:g} points",
    }
    return f"{what} {words[arm['verdict']]}: {figures_of_it}."


def _verdict_section(folder: Path, document: Mapping[str, Any]) -> Section:
    rows = _forest_rows(document)
    drawn = []
    if rows:
        picture = forest.draw(
            rows,
            folder / "forest.png",
            margin=_points(document["margin"]),
            reference=document["reference"],
            phantom=document["kind"] == "phantom",
        )
        drawn.append(
            Figure(
                picture,
                "Each arm's balanced accuracy less its reference's, on the test split.",
                "; ".join(f"{row.name}: {row.value:+.1f} points" for row in rows),
            )
        )
    return Section("Verdict", "\n\n".join(verdict(document)), figures=drawn)


def _forest_rows(document: Mapping[str, Any]) -> list[forest.Row]:
    scores = {
        arm["name"]: {seed["classifier_seed"]: seed["balanced_accuracy"] for seed in arm["seeds"]}
        for arm in document["arms"]
    }
    return [
        forest.Row(
            name=arm["name"],
            value=_points(arm["difference"]["value"]),
            low=_points(arm["difference"]["low"]),
            high=_points(arm["difference"]["high"]),
            seeds=[
                _points(
                    seed["balanced_accuracy"] - scores[arm["reference"]][seed["classifier_seed"]]
                )
                for seed in arm["seeds"]
            ],
            verdict=arm.get("verdict"),
        )
        for arm in document["arms"]
        if "difference" in arm
    ]


def _arms_section(document: Mapping[str, Any]) -> Section:
    columns = [
        *("arm", "trained on", "runs", "balanced accuracy", "difference", "95% low", "95% high"),
        *("p, Holm", "p, McNemar", "verdict"),
    ]
    rows = [_arm_row(arm) for arm in document["arms"]]
    chosen = document["chosen"]
    text = (
        "All arms of a network have the same steps, batch and learning rate. Differences are "
        "paired: the same test images, and the same classifier seeds. Intervals draw lesions, "
        "GAN seeds and classifier seeds anew. Holm's method adjusts p over the arms with a "
        "verdict. McNemar's test, a second opinion, counts images as if they were independent."
    )
    if any(arm["reference"] != document["reference"] for arm in document["arms"]):
        text += " Another network with generated images is compared with itself without."
    if chosen["ratio"] is not None:
        text += f"\n\nValidation chose the ratio {chosen['ratio']:g}"
        text += f" and the filter {chosen['filter']}." if chosen["filter"] else "."
    return Section("Arms", text, tables=[Table("Arms, means over seeds", columns, rows)])


def _arm_row(arm: Mapping[str, Any]) -> list[Cell]:
    difference = arm.get("difference")
    ends = [difference[name] if difference else None for name in ("value", "low", "high")]
    return [
        arm["name"],
        arm["title"],
        len(arm["seeds"]),
        arm["mean"]["balanced_accuracy"],
        *ends,
        arm.get("adjusted_p"),
        arm.get("mcnemar_p"),
        arm.get("verdict", "the reference" if difference is None else "not chosen"),
    ]


def _classes_section(folder: Path, document: Mapping[str, Any]) -> Section:
    rows: list[list[Cell]] = []
    for arm in document["arms"]:
        sensitivity = [
            _mean([seed["per_class"][name]["sensitivity"] for seed in arm["seeds"]])
            for name in CLASSES
        ]
        mean = arm["mean"]
        rows.append(
            [
                arm["name"],
                *sensitivity,
                mean["macro_auc"],
                mean["melanoma_sensitivity_at_90"],
                mean["melanoma_sensitivity_at_95"],
            ]
        )
    columns = [
        "arm",
        *(f"sensitivity, {name.replace('_', ' ')}" for name in CLASSES),
        "macro AUC",
        "melanoma sensitivity at 90% specificity",
        "at 95%",
    ]
    shown = [arm for arm in document["arms"] if "shortcuts" in arm]
    matrices = [_matrix(folder, arm, document["kind"] == "phantom") for arm in shown]
    return Section(
        "Classes",
        "Means over seeds. A specificity is reached at a threshold on these same images.",
        tables=[Table("Classes", columns, rows)],
        figures=matrices,
    )


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


def _calibration_section(document: Mapping[str, Any]) -> Section:
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
    return Section(
        "Calibration",
        "How far probabilities can be taken at their word: a calibration error of 0.1 says that "
        "they are off by 10 points on average. The temperature is fitted on the validation split.",
        tables=[Table("Calibration, means over seeds", columns, rows)],
    )


def _shortcuts_section(document: Mapping[str, Any]) -> Section:
    found = document["shortcuts"]
    probed: list[list[Cell]] = [
        [
            each["name"],
            *(each["accuracy"][name] for name in ("value", "low", "high")),
            each["guessing"],
            "fires" if each["fires"] else "no sign",
        ]
        for each in found["probes"]
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
    shares = [share for arm in arms for share in arm["shortcuts"]["generated_vignettes"]]
    drawn = ", ".join(f"{share:.0%}" for share in shares) or "none were made"
    return Section(
        "Shortcuts",
        "What gives a class away and is no lesion, by a linear classifier, tried on validation "
        "lesions. A probe fires where its 95% interval lies 5 points above guessing.\n\n"
        f"Source and class go together with a Cramér's V of {sources['cramers_v']:.2f} (0: not at "
        f"all, 1: wholly). Images with a vignette: {found['vignettes']:.0%} of the real training "
        f"images; of the generated ones of each GAN: {drawn}.",
        tables=[
            Table(
                "Balanced accuracy without the lesion",
                ["by", "accuracy", "95% low", "95% high", "guessing", ""],
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
        ],
    )


def _protocol_section(document: Mapping[str, Any]) -> Section:
    data = document["data"]
    counts = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in data["counts"].items())
    leaks = " Its splits share lesions on purpose, so all scores are too high." * data["leaky"]
    gans = ", ".join(map(str, document["gan_seeds"]))
    classifiers = ", ".join(map(str, document["classifier_seeds"]))
    of_gan = ", ".join(map(str, document["classifier_seeds"][: document["seeds_per_gan"]]))
    return Section(
        "Protocol",
        f"Real training images: {counts}. GAN, filters and classifiers see the training split "
        f"alone; checkpoints, ratio and filter are chosen on the validation split; the test split "
        f"of {document['num_test']['images']:,} images is read for the scores.{leaks}\n\n"
        f"GAN seeds: {gans}. Classifier seeds: {classifiers}; of each GAN: {of_gan}. Each "
        "classifier is taken at its lowest validation loss.",
        tables=[
            Table(
                "Seeds, on the test split",
                ["arm", "GAN seed", "classifier seed", "balanced accuracy", "accuracy", "loss"],
                [
                    [
                        arm["name"],
                        seed["gan_seed"],
                        seed["classifier_seed"],
                        *(seed[name] for name in ("balanced_accuracy", "accuracy", "loss")),
                    ]
                    for arm in document["arms"]
                    for seed in arm["seeds"]
                ],
            )
        ],
    )
