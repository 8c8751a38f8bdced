"""The report of a GAN's evaluation: what the measures say, figures, and the closest pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dermagan_jax import console, figures, images
from dermagan_jax.study.report import Cell, Figure, Section, Table, write_report

REPORT = "evaluation.html"
FIGURES = "figures"
_ALL = "all_classes"
_GALLERY_SCALE = 2

# Name, heading and one sentence of each measure that has a figure.
_MEASURES = (
    ("kid", "KID", "Distance between two sets of images: 0 is none, and lower is better."),
    ("coverage", "coverage", "Share of held-out images with a generated image near: diversity."),
    ("density", "density", "How many held-out images' neighbourhoods an image is in: likeness."),
    ("precision", "precision", "Share of the images that are near some held-out image."),
    ("recall", "recall", "Share of the held-out images that are near some image."),
    (
        "classification_accuracy",
        "classification accuracy score",
        "Accuracy on held-out images of a linear classifier trained on the images: usefulness.",
    ),
)


def write(
    out: Path, document: Mapping[str, Any], gallery: np.ndarray, *, commands: Sequence[str]
) -> Path:
    """Writes evaluation.html, and the figures into `figures`, which must exist.

    Args:
      out: the evaluation's folder.
      document: what evaluation.json holds.
      gallery: [3 K, S, S, 3] uint8: K generated images, then the training images nearest to each,
        then the held-out ones.
      commands: the command lines that made the results.

    Returns:
      The report's path.
    """
    best = _best(document)
    return write_report(
        out / REPORT,
        title="Evaluation of a GAN",
        notice=console.notice(document["kind"]),
        sections=[
            _verdict_section(document),
            _likeness_section(out / FIGURES, document, best),
            _copying_section(out / FIGURES, document, best, gallery),
        ],
        commands=commands,
    )


def verdict(document: Mapping[str, Any]) -> list[str]:
    """Says which checkpoint to take and whether it copies, a paragraph each.

    Args:
      document: what evaluation.json holds.
    """
    best = _best(document)
    kid, floor = best["generative"]["mean_class_kid"], document["floor"]["mean_class_kid"]
    take = f"Take step {best['step']:,}"
    if len(document["checkpoints"]) > 1:
        take += ", whose KID, averaged over the classes, is the lowest of the kept checkpoints"
    if kid is None:
        take += ". There are too few images for its KID"
    else:
        take += f". Its mean KID is {kid:.3f}; that of real images, the floor, is {floor:.3f}"
    paragraphs = [f"{take}.", _copying_verdict(best["signs_of_copying"])]
    if document["split"] == "test":
        paragraphs.append(
            "This read the test split, which is to be read once: choose nothing by these figures."
        )
    return paragraphs


def _best(document: Mapping[str, Any]) -> Mapping[str, Any]:
    steps = [each["step"] for each in document["checkpoints"]]
    return document["checkpoints"][steps.index(document["best_step"])]


def _verdict_section(document: Mapping[str, Any]) -> Section:
    columns = ["step", "mean class KID", "coverage", "classification accuracy", "membership AUC"]
    rows: list[list[Cell]] = [["real images (the floor)", *_summary(document["floor"]), None]]
    for each in document["checkpoints"]:
        auc = each["memorization"]["overall"]["membership_auc"]
        rows.append([f"{each['step']:,}", *_summary(each["generative"]), _printed(auc)])
    return Section(
        "Which checkpoint to take, and whether it copies",
        "\n\n".join(verdict(document)),
        tables=[Table(f"Against the {document['split']} split, all classes", columns, rows)],
    )


def _copying_verdict(signs: Sequence[str]) -> str:
    if not signs:
        return (
            "No sign of copying was found, which does not show that nothing was copied. Look at "
            "the closest pairs below."
        )
    return "Signs that it copies its training images: " + "; ".join(signs) + "."


def _summary(measures: Mapping[str, Any]) -> list[Cell]:
    overall = measures["overall"]
    return [
        measures["mean_class_kid"],
        _printed(overall["coverage"]),
        _printed(overall["classification_accuracy"]),
    ]


def _printed(estimate: Mapping[str, float | None] | None) -> str | None:
    if estimate is None:
        return None
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _by_group(measures: Mapping[str, Any]) -> dict[str, Any]:
    return {**measures["per_class"], _ALL: measures["overall"]}


def _likeness_section(
    folder: Path, document: Mapping[str, Any], best: Mapping[str, Any]
) -> Section:
    sets = {"generated": _by_group(best["generative"]), "floor": _by_group(document["floor"])}
    names = [name for name, *_ in _MEASURES]
    rows = [
        [
            f"{group.replace('_', ' ')}, {kind}",
            values["images"],
            *(_printed(values[name]) for name in names),
            values["fid"],
        ]
        for group in sets["floor"]
        for kind, values in ((kind, groups[group]) for kind, groups in sets.items())
    ]
    drawn = [
        Figure(
            figures.intervals(
                {
                    kind: {group: _point(values[name]) for group, values in groups.items()}
                    for kind, groups in sets.items()
                },
                folder / f"{name}.png",
                ylabel=heading,
                title=f"{heading[0].upper()}{heading[1:]}, step {best['step']:,}",
                phantom=document["kind"] == "phantom",
            ),
            sentence,
            f"{heading} by class of generated images beside the floor",
        )
        for name, heading, sentence in _MEASURES
    ]
    heldout = document["floor"]["overall"]["reference_images"]
    return Section(
        f"How near step {best['step']:,} is to real images",
        f"Each row compares images with the {heldout} held-out ones of the {document['split']} "
        "split. The floor is the same measure of as many real training images: no GAN can be "
        "expected to do better.\n\n"
        f"{document['features']['note']} Brackets hold 95% intervals, from drawing lesions anew; "
        "one of no width, at 0 or 1, says only that all images seen agree. "
        "KID takes all pairs of images, but none of one lesion. Neighbourhoods reach to the "
        f"{document['neighbours']}th neighbour. FID is far too high with so few images, and good "
        "for nothing but a glance at its floor.",
        tables=[
            Table(
                "Generated images and the floor",
                ["images of", "number", *(heading for _, heading, _ in _MEASURES), "FID"],
                rows,
            )
        ],
        figures=drawn,
    )


def _point(estimate: Mapping[str, float] | None) -> tuple[float, Any, Any] | None:
    return None if estimate is None else (estimate["value"], estimate["low"], estimate["high"])


def _copying_section(
    folder: Path, document: Mapping[str, Any], best: Mapping[str, Any], gallery: np.ndarray
) -> Section:
    rows: list[list[Cell]] = []
    for group, found in _by_group(best["memorization"]).items():
        ratio = found["neighbour_ratio"]
        rows.append(
            [
                group.replace("_", " "),
                _printed(found["membership_auc"]),
                ratio["median"],
                _printed(ratio["median_floor"]),
                ratio["p_value"],
                found["c_t"],
                _printed(found["authenticity"]),
                _printed(found["heldout_authenticity"]),
            ]
        )
    columns = ["class", "membership AUC", "nearness", "its floor", "p", "C_T", "authentic"]
    path = folder / "closest_pairs.png"
    phantom = document["kind"] == "phantom"
    enlarged = gallery.repeat(_GALLERY_SCALE, axis=1).repeat(_GALLERY_SCALE, axis=2)
    images.write_png(path, images.grid(enlarged, len(gallery) // 3, phantom=phantom))
    return Section(
        f"Whether step {best['step']:,} copies its training images",
        "Membership AUC: how well training images can be told from held-out ones by their nearest "
        "generated image; 0.5 is guessing.\n\n"
        "Nearness: t / (t + h), the median over generated images, t being the distance to the "
        "nearest training image and h that to the nearest held-out one; its floor deals the "
        "lesions anew, and p is the share of deals with so low a median.\n\n"
        "C_T: below -3 generated images lie nearer to training images than held-out ones do, far "
        "above 0 they lie further off than any real image.\n\n"
        "Authentic: share of images that are not nearer to their nearest training image than "
        "another training image is; held-out images give its floor.\n\n"
        "None of these shows that nothing was copied. With five looks at each, one at the edge can "
        "be chance.",
        tables=[
            Table("Signs of copying", [*columns, "authentic, held-out"], rows),
            _pairs_table(best["closest_pairs"]),
        ],
        figures=[
            Figure(
                path,
                "The generated images that are nearest to a training image, the nearest on the "
                "left: above the generated image, in the middle the training image, below the "
                "nearest held-out image.",
                "Gallery of generated images with the nearest training and held-out images",
            )
        ],
    )


def _pairs_table(pairs: Sequence[Mapping[str, Any]]) -> Table:
    names = ("training_image", "training_distance", "heldout_image", "heldout_distance")
    return Table(
        "The closest pairs, from left to right in the gallery",
        ["pair", "class", *(name.replace("_", " ") for name in names)],
        [
            [str(number), pair["class"].replace("_", " "), *(pair[name] for name in names)]
            for number, pair in enumerate(pairs, 1)
        ],
    )
