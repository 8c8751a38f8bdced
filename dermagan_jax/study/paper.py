"""The paper's printed figures, to stand beside ours and never to be tuned to."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dermagan_jax.study.report import Cell, Section, Table

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


def section(document: Mapping[str, Any]) -> Section | None:
    """Lays ours beside the paper's; None for a study without any of its arms but the reference.

    Args:
      document: what results.json holds.
    """
    papers = [arm for arm in document["arms"] if arm["family"].startswith("P")]
    if not papers:
        return None
    reference = next(arm for arm in document["arms"] if arm["name"] == document["reference"])
    rows: list[list[Cell]] = []
    for arm in (reference, *papers):
        accuracy, loss = PRINTED.get(arm["name"], (None, None))
        values = [seed["accuracy"] for seed in arm["seeds"]]
        rows.append(
            [
                arm["name"],
                arm["title"],
                len(values),
                arm["mean"]["accuracy"],
                min(values),
                max(values),
                accuracy,
                arm["mean"]["loss"],
                loss,
            ]
        )
    columns = [
        *("arm", "trained on", "runs", "accuracy", "lowest", "highest", "the paper's accuracy"),
        *("loss", "the paper's loss"),
    ]
    text = (
        "The paper's figures are of one seed and 400 test images, an interval of about ±4.5 points "
        "each. It drew the test images at random, so that their lesions, and often a near copy, "
        "were among the training images, and trained its GAN on the test images too."
    )
    if document["data"]["leaky"]:
        text += (
            "\n\nThis set leaks on purpose, as the paper's does, and its classes come from "
            "different hospitals: these accuracies say little of lesions."
        )
    trained = any("from scratch" in arm["title"] for arm in papers)
    if trained:
        text += "\n\nThe networks were trained from scratch here; the paper's had ImageNet weights."
    return Section(
        "The paper's tables", text, tables=[Table("Ours and the paper's", columns, rows)]
    )
