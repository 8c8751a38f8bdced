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
_ASKED = (GENERATED, FILTERED, NETWORKS, FIRST, FILLED, PAPERS, PAPERS_NETWORKS)


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
    papers, in_words = paper.section(document, folder), _in_words(document)
    return write_report(
        out / REPORT,
        title="Do generated images help?",
        notice=notice(document),
        sections=[
            _verdict_section(folder, document),
            *([Section("In words", "\n\n".join(in_words))] if in_words else []),
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
    return [*_first_words(document), *_in_words(document)]


def _asked(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Lists the arms with a verdict that answer what a study asks."""
    return [arm for arm in document["arms"] if "verdict" in arm and arm["family"] in _ASKED]


def _first_words(document: Mapping[str, Any]) -> list[str]:
    """Says the answer, and what should make a reader doubt it."""
    main = _asked(document)
    singles = _singles(document)
    paragraphs = [_answer(main, one_gan="GAN" in singles)]
    if main and singles:
        paragraphs.append(
            f"There is {' and '.join(f'one {name}' for name in singles)}: the intervals do not "
            "hold how others would differ, which could do better or worse than they say."
        )
    controls = [arm for arm in document["arms"] if arm["family"] == NEGATIVE_CONTROL]
    if any(arm["verdict"] == "helps" for arm in controls):
        paragraphs.append(
            "Beware: generated images with shuffled labels help too. What helps is then not what "
            "the images say of their classes."
        )
    return paragraphs + warnings(document["shortcuts"])


def _in_words(document: Mapping[str, Any]) -> list[str]:
    """Says what each arm shows, and how small a difference could have been found."""
    main = _asked(document)
    margin = _points(document["margin"])
    return [*(_sentence(arm, margin) for arm in main), *([_reach(document, main)] if main else [])]


def _answer(main: Sequence[Mapping[str, Any]], *, one_gan: bool) -> str:
    """Says in one sentence whether generated images help; of one GAN, whether its images do."""
    if not main:
        return "This study has no arm with generated images."
    images = "images of this one GAN" if one_gan else "generated images"
    the_images = f"The {images}" if one_gan else images.capitalize()
    found = {arm["verdict"] for arm in main}
    helpful, harmful = (_named(main, verdict) for verdict in ("helps", "harms"))
    if helpful:
        return f"{the_images} help here: {helpful}{harmful and f'; harmful: {harmful}'}."
    if harmful:
        return f"No sign that {images} help here; harmful: {harmful}."
    if found == {"no difference"}:
        return f"{the_images} make no difference here that would matter."
    return f"No evidence that {images} help here, and none that they harm."


def _named(arms: Sequence[Mapping[str, Any]], verdict: str) -> str:
    """Names the arms of a verdict, with what each is trained on; "" for none."""
    return "; ".join(f"{arm['name']} ({arm['title']})" for arm in arms if arm["verdict"] == verdict)


def _reach(document: Mapping[str, Any], main: Sequence[Mapping[str, Any]]) -> str:
    """Says how small a difference this study could have found, and what its intervals leave out."""
    tested = document["num_test"]
    num_compared = sum("verdict" in arm for arm in document["arms"])
    smallest = _points(max(arm["smallest_found"] for arm in main))
    # With two seeds that disagree, a multiple of all that there is.
    what = f"only a difference of about {smallest:.1f} points"
    if smallest > _MOST_POINTS:
        what = "no difference"
    one = num_compared == 1
    compared = "one arm compared" if one else f"p-values adjusted over {num_compared} arms"
    return (
        f"With {tested['images']:,} test images of {tested['lesions']:,} lesions, these seeds and "
        f"{compared}, {what} would be found four times in five."
    )


def _singles(document: Mapping[str, Any]) -> list[str]:
    """Names what there is one of, whose spread no interval of a generated arm can hold."""
    of_a_gan = min(len(document["classifier_seeds"]), document["seeds_per_gan"])
    counts = {"GAN": len(document["gan_seeds"]), "classifier of each GAN": of_a_gan}
    return [name for name, count in counts.items() if count == 1]


def warnings(shortcuts: Mapping[str, Any]) -> list[str]:
    """Says which probes fire, in one paragraph; none where none does.

    Args:
      shortcuts: what `probes.describe` gives.
    """
    found = [
        f"from {each['name']} alone with a balanced accuracy of {each['accuracy']['value']:.0%}"
        for each in shortcuts["probes"]
        if each["fires"]
    ]
    if not found:
        return []
    guessing = shortcuts["probes"][0]["guessing"]
    return [
        f"Beware: the class of held-out lesions is told {', '.join(found)} (guessing: "
        f"{guessing:.0%}). What a classifier scores may be that, and not the lesion."
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
    return Section("Verdict", "\n\n".join(_first_words(document)), figures=drawn)


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
        *("verdict", "compared with", "generated images", "p, Holm", "p, McNemar", "runs"),
    ]
    rows = [_arm_row(arm) for arm in document["arms"]]
    num_compared = sum("verdict" in arm for arm in document["arms"])
    families = {arm["family"] for arm in document["arms"]}
    but = ""
    if families & {NETWORKS, PAPERS_NETWORKS}:
        but = f", but for another network on real images beside {document['reference']}"
    text = (
        f"Arms that are compared have the same network, steps, batch and learning rate{but}. A "
        "difference is of the means over all runs, on the same test images. "
        f"{_who_is_compared(document)}\n\n"
        f"Intervals hold what varies with {_what_varies(document)}, and no more. Holm's method "
        f"adjusts p over the arms, {num_compared} here, that add generated images to what they are "
        "compared with, and these alone have a verdict; what the others show is said without any "
        "adjustment. McNemar's test, a second opinion, asks the first GAN's classifiers together, "
        "and as many of the other arm's; it counts images as if they were independent."
    )
    chosen = document["chosen"]
    if chosen["ratio"] is not None:
        text += f"\n\nValidation chose the ratio {chosen['ratio']:g}"
        text += f" and the filter {chosen['filter']}." if chosen["filter"] else "."
    text += _emptied(document)
    return Section("Arms", text, tables=[Table("Arms, means over seeds", columns, rows)])


def _what_varies(document: Mapping[str, Any]) -> str:
    """Names what a study has several of, whose spread its intervals can hold."""
    singles = _singles(document)
    names = {"GAN": "GAN seeds", "classifier of each GAN": "classifier seeds"}
    return ", ".join(["lesions", *(names[each] for each in names if each not in singles)])


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
        _num_generated(arm),
        arm.get("adjusted_p"),
        arm.get("mcnemar_p"),
        len(arm["seeds"]),
    ]


def _num_generated(arm: Mapping[str, Any]) -> int:
    """Returns how many generated images an arm has, the mean over GANs."""
    totals = [sum(counts.values()) for counts in arm["num_generated"] if counts]
    return round(sum(totals) / len(totals)) if totals else 0


def _emptied(document: Mapping[str, Any]) -> str:
    """Says which classes a filter leaves without a generated image."""
    found = [
        f"{arm['name']} has no generated {name.replace('_', ' ')} of GAN {seed}"
        for arm in document["arms"]
        if arm["family"] == FILTERED
        for seed, counts in zip(document["gan_seeds"], arm["num_generated"], strict=True)
        for name, count in counts.items()
        if not count and document["data"]["counts"][name]
    ]
    return f" A filter lets no image of a class pass: {'; '.join(found)}." if found else ""


def _shown_verdict(arm: Mapping[str, Any]) -> str:
    if "difference" not in arm:
        return "the reference"
    if "unadjusted_verdict" in arm:
        return f"unadjusted: {arm['unadjusted_verdict']}"
    return arm.get("verdict", "not chosen")
