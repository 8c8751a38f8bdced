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
    """Writes evaluation.html, and the figures into `figures`.

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
    (out / FIGURES).mkdir(exist_ok=True)
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
    paragraphs = [_advice(document), _copying_verdict(best)]
    paragraphs += [f"{each}." for each in document["warnings"]]
    if document["split"] == "test":
        paragraphs.append(
            "This read the test split, which is to be read once: choose nothing by these figures."
        )
    return paragraphs


def _advice(document: Mapping[str, Any]) -> str:
    best, several = _best(document), len(document["checkpoints"]) > 1
    kid, floor = (
        each["mean_class_kid_interval"] for each in (best["generative"], document["floor"])
    )
    lowest = "KID, averaged over the classes, is the lowest of the kept checkpoints"
    if not best["signs_of_copying"]:
        said = f"Take step {best['step']:,}" + (f", whose {lowest}" if several else "") + "."
    elif several:
        said = f"Step {best['step']:,}, whose {lowest}, shows signs of copying. "
        said += _advice_instead(document)
    else:
        said = f"Step {best['step']:,} shows signs of copying: look at them before you take it."
    if kid is None:
        return f"{said} There are too few images for its KID."
    said += f" {'The lowest' if several else 'Its'} mean KID is {_printed(kid)}; that of real "
    said += f"images, the floor, is {_printed(floor) or 'unknown'}."
    return said + (_overlap(document) if several else "")


def _advice_instead(document: Mapping[str, Any]) -> str:
    """Names the best checkpoint without signs of copying."""
    kids = {
        each["step"]: each["generative"]["mean_class_kid"]
        for each in document["checkpoints"]
        if not each["signs_of_copying"]
    }
    known = {step: kid for step, kid in kids.items() if kid is not None}
    if not known:
        return "None of the others is without: look at the signs before you take one."
    step = min(known, key=known.__getitem__)
    return f"Take step {step:,}, the best of those without, whose mean KID is {known[step]:.3f}."


def _overlap(document: Mapping[str, Any]) -> str:
    """Says from which other checkpoints the lowest KID cannot be told."""
    intervals = {
        each["step"]: each["generative"]["mean_class_kid_interval"]
        for each in document["checkpoints"]
    }
    ours = intervals.pop(document["best_step"])
    known = {step: each for step, each in intervals.items() if each and each["low"] is not None}
    if ours["low"] is None or not known:
        return ""
    alike = [
        f"{step:,}"
        for step, each in known.items()
        if each["low"] <= ours["high"] and ours["low"] <= each["high"]
    ]
    if not alike:
        return " No other checkpoint's interval overlaps its own."
    steps = "step" if len(alike) == 1 else "steps"
    return (
        f" Its interval overlaps that of {steps} {', '.join(alike)}: that it is the lowest may be "
        "chance."
    )


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
        tables=[
            Table(f"Against the {document['split']} split, all classes", columns, rows),
            _signs_table(document["checkpoints"]),
        ],
    )


def _copying_verdict(result: Mapping[str, Any]) -> str:
    signs = result["signs_of_copying"]
    if not signs:
        return (
            f"No sign of copying was found among the {result['exact_copies']['images']:,} "
            f"images of step {result['step']:,}, which does not show that nothing was copied. Look "
            "at the closest pairs below."
        )
    said = "; ".join(signs)
    return f"Signs that step {result['step']:,} copies its training images: {said}."


def _signs_table(results: Sequence[Mapping[str, Any]]) -> Table:
    columns = ["step", "images checked", "equal a training image", "equal a held-out image"]
    return Table(
        "Signs of copying, checkpoint by checkpoint",
        [*columns, "signs"],
        [
            [
                f"{each['step']:,}",
                *(each["exact_copies"][name] for name in ("images", "training", "heldout")),
                "; ".join(each["signs_of_copying"]) or "none",
            ]
            for each in results
        ],
    )


def _summary(measures: Mapping[str, Any]) -> list[Cell]:
    overall = measures["overall"]
    return [
        _printed(measures["mean_class_kid_interval"]),
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
        "split. The floor is the same measure of as many real training images. Of recall it is no "
        "bound: training images have siblings of one lesion nearby, so that their neighbourhoods "
        "are smaller than those of generated images, which have none.\n\n"
        f"{document['features']['note']} Brackets hold 95% intervals; one of no width, at 0 or 1, "
        "says only that all images seen agree. KID's draws the lesions of both sets anew. "
        "Precision's and density's leave out each generated image and each held-out lesion in "
        "turn, and are rather too wide. Those of recall, coverage and accuracy draw anew which "
        "held-out lesions are counted, and hold fixed the generated images, the neighbourhoods and "
        "the classifier.\n\n"
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
                found["c_t_limit"],
                _printed(found["authenticity"]),
                _printed(found["heldout_authenticity"]),
            ]
        )
    columns = ["class", "membership AUC", "nearness", "its floor", "p", "C_T", "its limit"]
    path = folder / "closest_pairs.png"
    phantom = document["kind"] == "phantom"
    enlarged = gallery.repeat(_GALLERY_SCALE, axis=1).repeat(_GALLERY_SCALE, axis=2)
    images.write_png(path, images.grid(enlarged, len(gallery) // 3, phantom=phantom))
    return Section(
        f"Whether step {best['step']:,} copies its training images",
        f"{_symmetries(document)}"
        "Membership AUC: how well training images can be told from held-out ones by their nearest "
        "generated image; 0.5 is guessing.\n\n"
        "Nearness: t / (t + h), the median over generated images, t being the distance to the "
        "nearest training image and h that to the nearest held-out one; its floor deals the "
        "lesions anew, and p is the share of deals with so low a median.\n\n"
        "C_T: below its limit generated images lie nearer to training images than held-out ones "
        "do, far above 0 they lie further off than any real image. The limit is -3 times the root "
        "of the held-out images per lesion, as if a lesion's images were all alike.\n\n"
        "Authentic: share of images that are not nearer to their nearest training image than "
        "another training image is; held-out images give its floor.\n\n"
        "None of these shows that nothing was copied. With five looks at each, one at the edge can "
        "be chance.",
        tables=[
            Table("Signs of copying", [*columns, "authentic", "authentic, held-out"], rows),
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


def _symmetries(document: Mapping[str, Any]) -> str:
    if document["symmetries"] == 1:
        return ""
    return (
        "The GAN was shown real images in all eight symmetries of the square, so that a copy may "
        "be turned or mirrored. All eight were looked at: every distance here is that of the "
        "nearest, also of the held-out and training images that generated ones are compared with; "
        "the gallery shows images as they are.\n\n"
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
