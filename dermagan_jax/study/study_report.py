"""The report of a study: the verdict in words, the forest plot, and all that stands behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dermagan_jax import console
from dermagan_jax.study import (
    forest,
    paper,
    probes,
    protocol_section,
    score_sections,
    shortcuts_section,
)
from dermagan_jax.study.arms import (
    DROPOUT,
    EVENED,
    FEWER,
    FILLED,
    FILTERED,
    FIRST,
    GENERATED,
    NEGATIVE_CONTROL,
    NETWORKS,
    PAPERS,
    PAPERS_NETWORKS,
    REFERENCE,
)
from dermagan_jax.study.report import Cell, Figure, Section, Table, write_report

REPORT = "report.html"
FIGURES = "figures"
_MOST_POINTS = 100.0
# Whose verdicts are said in words: the ways to add generated images, not the controls.
_ASKED = (GENERATED, FILTERED, FIRST, FILLED, PAPERS)


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
        notice=notice(document),
        sections=[
            _verdict_section(folder, document),
            *([papers] if papers else []),
            _arms_section(document),
            *score_sections.sections(document, folder),
            shortcuts_section.section(document),
            *pictures,
            protocol_section.section(document),
        ],
        commands=commands,
    )


def notice(document: Mapping[str, Any]) -> str:
    """Says above all else what the data are, and what is wrong with them.

    Args:
      document: what results.json holds.
    """
    said = []
    if document["data"]["leaky"]:
        said.append("This set leaks: its splits share lesions, so that all scores are too high.")
    association = document["shortcuts"]["sources"]["cramers_v"]
    if association >= probes.CONFOUNDED_FROM:
        said.append(
            "It is confounded: its classes come from different sources (Cramér's V "
            f"{association:.2f}), so that the source alone gives a class away."
        )
    return " ".join([*said, console.notice(document["kind"])])


def verdict(document: Mapping[str, Any]) -> list[str]:
    """Says what the study found, a paragraph each; the first answers what it asks.

    Args:
      document: what results.json holds.
    """
    margin = _points(document["margin"])
    by_family: dict[str, Any] = {}
    for arm in document["arms"]:
        if "verdict" in arm:
            by_family.setdefault(arm["family"], arm)
    main = [by_family[name] for name in _ASKED if name in by_family]
    paragraphs = [_answer(main), *(_sentence(arm, margin) for arm in main)]
    control = by_family.get(NEGATIVE_CONTROL)
    if control and control["verdict"] == "helps":
        paragraphs.append(
            "Beware: generated images with shuffled labels help too. What helps is then not what "
            "the images say of their classes."
        )
    paragraphs += warnings(document["shortcuts"])
    if main:
        paragraphs.append(_reach(document, main))
    return paragraphs


def _answer(main: Sequence[Mapping[str, Any]]) -> str:
    """Says in one sentence whether generated images help."""
    if not main:
        return "This study has no arm with generated images."
    names: dict[str, list[str]] = {}
    for arm in main:
        names.setdefault(arm["verdict"], []).append(arm["name"])
    if "helps" in names:
        return f"Generated images help here: {', '.join(names['helps'])}."
    if "harms" in names:
        return f"No sign that generated images help here; harmful: {', '.join(names['harms'])}."
    if set(names) == {"no difference"}:
        return "Generated images make no difference here that would matter."
    return "No evidence that generated images help here, and none that they harm."


def _reach(document: Mapping[str, Any], main: Sequence[Mapping[str, Any]]) -> str:
    """Says how small a difference this study could have found, and what its intervals leave out."""
    tested = document["num_test"]
    num_compared = sum("verdict" in arm for arm in document["arms"])
    smallest = _points(max(arm["smallest_found"] for arm in main))
    # With two seeds that disagree, a multiple of all that there is.
    what = f"only a difference of about {smallest:.1f} points"
    if smallest > _MOST_POINTS:
        what = "no difference"
    text = (
        f"With {tested['images']:,} test images of {tested['lesions']:,} lesions, these seeds and "
        f"p-values adjusted over {num_compared} arms, {what} would be found four times in five."
    )
    if len(document["gan_seeds"]) == 1:
        text += (
            " There is one GAN: the intervals hold no variation over GANs, and another could do "
            "better or worse than they say."
        )
    return text


def warnings(shortcuts: Mapping[str, Any]) -> list[str]:
    """Says which probes fire, a sentence each.

    Args:
      shortcuts: what `probes.describe` gives.
    """
    return [
        f"Beware: from {each['name']} alone the class of held-out lesions is told with a balanced "
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
    if arm["reference"] != REFERENCE:
        what += f", compared with {arm['reference']},"
    # An interval that leaves 0 out may be no evidence, once p is adjusted.
    figures_of_it = (
        f"{_points(found['value']):+.1f} points of balanced accuracy, 95% {ends}, "
        f"adjusted p {_shown_p(arm['adjusted_p'])}"
    )
    words = {
        "helps": "helps",
        "harms": "harms",
        "no difference": f"makes no difference of {margin:g} points or more",
        "no evidence": f"shows neither a difference nor the lack of one, at ±{margin:g} points",
    }
    return f"{what} {words[arm['verdict']]}: {figures_of_it}."


def _shown_p(p_value: float) -> str:
    return f"{p_value:.3f}" if p_value >= 0.001 else "below 0.001"


def _verdict_section(folder: Path, document: Mapping[str, Any]) -> Section:
    rows = _forest_rows(document)
    drawn = []
    if rows:
        picture = forest.draw(
            rows,
            folder / "forest.png",
            margin=_points(document["margin"]),
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
    by_name = {arm["name"]: arm for arm in document["arms"]}
    return [
        forest.Row(
            name=arm["name"],
            value=_points(arm["difference"]["value"]),
            low=_points(arm["difference"]["low"]),
            high=_points(arm["difference"]["high"]),
            seeds=[
                _points(seed["balanced_accuracy"] - _mean(by_name[arm["reference"]]))
                for seed in arm["seeds"]
            ],
            verdict=arm.get("verdict"),
        )
        for arm in document["arms"]
        if "difference" in arm
    ]


def _mean(arm: Mapping[str, Any]) -> float:
    return arm["mean"]["balanced_accuracy"]


def _arms_section(document: Mapping[str, Any]) -> Section:
    columns = [
        *("arm", "trained on", "balanced accuracy", "difference", "95% low", "95% high"),
        *("verdict", "compared with", "p, Holm", "p, McNemar", "runs"),
    ]
    rows = [_arm_row(arm) for arm in document["arms"]]
    num_compared = sum("verdict" in arm for arm in document["arms"])
    text = (
        "All arms of a network have the same steps, batch and learning rate. A difference is of "
        "the means over all runs, on the same test images. "
        f"{_who_is_compared(document)}\n\n"
        "Intervals hold what varies with lesions, GAN seeds and classifier seeds. Holm's method "
        f"adjusts p over the {num_compared} arms that add generated images to what they are "
        "compared with, and these alone have a verdict; what the others show is said without any "
        "adjustment. McNemar's test, a second opinion, asks the first GAN's classifiers together, "
        "and as many of the other arm's; it counts images as if they were independent."
    )
    chosen = document["chosen"]
    if chosen["ratio"] is not None:
        text += f"\n\nValidation chose the ratio {chosen['ratio']:g}"
        text += f" and the filter {chosen['filter']}." if chosen["filter"] else "."
    return Section("Arms", text, tables=[Table("Arms, means over seeds", columns, rows)])


def _who_is_compared(document: Mapping[str, Any]) -> str:
    families = {arm["family"] for arm in document["arms"] if "difference" in arm}
    text = f"Most are compared with {document['reference']}."
    if families & {NETWORKS, PAPERS_NETWORKS}:
        text += " Another network with generated images is compared with itself without."
    if FILLED in families:
        text += f" {FILLED} is compared with {EVENED}, whose classes are as even."
    if DROPOUT in families:
        text += f" Dropout rates are compared with {PAPERS}, which has the paper's."
    if any(arm["family"] == FEWER and arm["ratio"] for arm in document["arms"]):
        text += (
            f" {FEWER} with generated images is compared with as few real ones alone; its GAN saw "
            "all of the real images, so that it shows what a GAN of many can do for few."
        )
    return text


def _arm_row(arm: Mapping[str, Any]) -> list[Cell]:
    difference = arm.get("difference")
    ends = [difference[name] if difference else None for name in ("value", "low", "high")]
    return [
        arm["name"],
        arm["title"],
        _mean(arm),
        *ends,
        _shown_verdict(arm),
        arm["reference"] if difference else None,
        arm.get("adjusted_p"),
        arm.get("mcnemar_p"),
        len(arm["seeds"]),
    ]


def _shown_verdict(arm: Mapping[str, Any]) -> str:
    if "difference" not in arm:
        return "the reference"
    if "unadjusted_verdict" in arm:
        return f"unadjusted: {arm['unadjusted_verdict']}"
    return arm.get("verdict", "not chosen")
