"""What a reader should know of a study's models and data, as two Markdown files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dermagan_jax import console, files
from dermagan_jax.study import study_report

MODEL_CARD, DATA_CARD = "model_card.md", "data_card.md"


def write(out: Path, document: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    """Writes model_card.md and data_card.md.

    Args:
      out: the study's folder.
      document: what results.json holds.
      report: the prepared set's data_report.json.
    """
    for name, text in (
        (MODEL_CARD, _model_card(document)),
        (DATA_CARD, _data_card(document, report)),
    ):
        with files.replacing(out / name) as partial:
            partial.write_text(text, encoding="utf-8")


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _model_card(document: Mapping[str, Any]) -> str:
    rows = [
        [
            arm["name"],
            arm["title"],
            str(len(arm["seeds"])),
            console.percent(arm["mean"]["balanced_accuracy"]),
            console.percent(arm["mean"]["accuracy"]),
            console.percent(arm["mean"]["melanoma_sensitivity_at_90"]),
        ]
        for arm in document["arms"]
    ]
    header = [
        *("arm", "trained on", "classifiers", "balanced accuracy", "accuracy"),
        "melanoma sensitivity at 90% specificity",
    ]
    findings = "\n\n".join(study_report.verdict(document))
    return f"""# Model card

{study_report.notice(document)}

## What these models are

Classifiers of four kinds of skin lesion in cropped dermoscopy images, and GANs that generate such
images. They were trained to find out whether generated images help, and for nothing else.

## Intended use

Research on training with few images. Not for diagnosis, triage or advice, and not for any decision
about a person.

## Licences

{_licences(document)}

A model trained on these data, and the images that a GAN generates from them, carry their terms.

## What was found

{findings}

{_table(header, rows)}

Means over seeds, on {document["num_test"]["images"]:,} test images of
{document["num_test"]["lesions"]:,} lesions. Validation chose the checkpoints, the ratio and the
filter.

## Limits

* They know four classes, and give one of them to any picture, also to one without a lesion.
* They were tried on images of the same archives as they were trained on. What they do on images of
  another hospital, camera or population was not measured.
* The archives hold few images of dark skin, and do not say whose skin it is.
* Generated images can repeat training images. No test shows that none does, and none here says that
  generated images protect anyone's data.
"""


def _licences(document: Mapping[str, Any]) -> str:
    return "\n".join(f"* {line}" for line in document["data"]["licences"]) or "* none recorded"


def _data_card(document: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    splits = ("train", "validation", "test")
    rows = [
        [name.replace("_", " "), *(f"{report['counts'][split][name]:,}" for split in splits)]
        for name in document["data"]["counts"]
    ]
    sources = document["shortcuts"]["sources"]
    by_source = [
        [name or "not said", *(f"{counts[index]:,}" for counts in sources["counts"].values())]
        for index, name in enumerate(sources["names"])
    ]
    header = ["source", *(name.replace("_", " ") for name in sources["counts"])]
    fired = study_report.warnings(document["shortcuts"])
    found = "\n\n".join(fired) or "No probe fired, which does not show that there is no shortcut."
    split = "by image on purpose, so that lesions are in several splits and scores are too high"
    if not document["data"]["leaky"]:
        split = "by lesion: no lesion is in two splits, and an audit has checked it"
    return f"""# Data card

{study_report.notice(document)}

## Intended use

Research on training with few images, and on images that a GAN generates. Not for diagnosis, triage
or advice, not for any decision about a person, and not for finding out whose skin it is.

## Images

{_table(["class", *splits], rows)}

Split {split}. Recipe: {document["data"]["recipe"] or "none"}. Content hash of the training split:
`{document["data"]["train_split_sha256"]}`.

## Licences

{_licences(document)}

Images that a GAN generates from these data carry the same terms.

## Where the training images come from

{_table(header, by_source)}

Source and class go together with a Cramér's V of {sources["cramers_v"]:.2f} (0: not at all, 1:
wholly).

{found}

## Limits

* Labels are the archives' own, not all of them confirmed by histopathology.
* One crop and one size for all images; detail below that size is gone.
"""
