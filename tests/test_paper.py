"""The paper's tables and figures, beside ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import lesion_cnn
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES
from dermagan_jax.study import paper, study_report, verdict


def _shortcuts(cramers_v: float) -> dict[str, object]:
    return {"probes": [], "sources": {"cramers_v": cramers_v}}


def _arm(name: str, family: str, accuracies: list[float]) -> dict[str, object]:
    seeds = [{"accuracy": each} for each in accuracies]
    mean = {"accuracy": float(np.mean(accuracies)), "loss": 1.0}
    row = {"name": name, "family": family, "title": "", "reference": "A1"}
    return row | {"seeds": seeds, "mean": mean}


def test_the_papers_figures_stand_beside_ours(tmp_path: Path) -> None:
    counts = dict.fromkeys(CLASSES, 3)
    document = {
        "kind": "phantom",
        "reference": "A1",
        "data": {"recipe": "mine", "leaky": True, "counts": counts},
        "split_counts": {"train": counts, "test": counts},
        "others": [],
        "gan_seeds": [0],
        "classifier_seeds": [0, 1],
        "seeds_per_gan": 2,
        "shortcuts": _shortcuts(0.2),
        "arms": [_arm("A1", "A1", [0.4, 0.5])],
    }
    assert paper.section(document, tmp_path) is None
    document["arms"] += [_arm("P2", "P2", [0.6, 0.5]), _arm("PD 0.1", "PD", [0.3, 0.3])]
    document["arms"][1]["num_generated"] = [counts]
    document["arms"][2]["changes"] = {"model.dropout_rate": 0.1}
    difference = dict.fromkeys(("value", "low", "high"), 0.05)
    found = {"difference": difference, "verdict": "helps", "adjusted_p": 0.01}
    document["arms"][1] |= found | {"smallest_found": 0.07}
    said = study_report.verdict(
        document | {"margin": 0.02, "num_test": {"images": 4, "lesions": 2}}
    )
    assert said[0] == "The images of this one GAN help here: P2 ()."
    assert said[1].startswith("There is one GAN: the intervals do not hold how others would differ")
    assert said[2].startswith("P2 () helps: +5.0 points")
    assert "these seeds and one arm compared, only a difference of about 7.0 points" in said[3]
    document |= {"margin": 0.02, "num_test": {"images": 4, "lesions": 2}}
    one_classifier = study_report.verdict(document | {"seeds_per_gan": 1})
    assert one_classifier[1].startswith("There is one GAN and one classifier of each GAN: the")
    two = document | {"gan_seeds": [0, 1]}
    assert study_report.verdict(two)[0] == "Generated images help here: P2 ()."
    assert not [each for each in study_report.verdict(two) if "There is one" in each]
    document["arms"][1]["smallest_found"] = 7.46
    assert "one arm compared, no difference would be found" in study_report.verdict(two)[2]
    section = paper.section(document, tmp_path)
    assert section is not None
    (table,) = section.tables
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert (rows["P2"]["accuracy"], rows["P2"]["paper's"]) == (0.55, 0.72)
    assert (rows["P2"]["lowest"], rows["P2"]["highest"]) == (0.5, 0.6)
    assert rows["PD 0.1"]["paper's"] is None
    assert "leaks on purpose" in section.text
    # A leak says nothing of the sources.
    assert "different sources" not in section.text
    confounded = paper.section(document | {"shortcuts": _shortcuts(0.97)}, tmp_path)
    assert confounded is not None
    assert "come from different sources (Cramér's V 0.97" in confounded.text
    drawn = [Path(figure.image).name for figure in section.figures]
    assert drawn == ["class_counts.png", "split_counts.png", "dropout.png"]
    assert "0.1: 30.0%" in section.figures[-1].alt


_DATA = {"kind": "real", "recipe": "paper_mix", "leaky": True}


def _other(folder: Path, recipe: str, accuracies: list[float], **changes: object) -> str:
    """Writes what a finished study of another set leaves."""
    classifier = json.loads(lesion_cnn.get_config().to_json_best_effort())
    there = {
        "data": {"recipe": recipe, "leaky": False, "kind": changes.pop("kind", "real")},
        "arms": [_arm("A1", "A1", accuracies)],
        "config": {"classifier": classifier | changes},
    }
    (folder / recipe).mkdir()
    (folder / recipe / verdict.RESULTS).write_text(json.dumps(there))
    return str(folder / recipe)


def _read(*folders: str) -> list[dict[str, Any]]:
    return paper.read_others(
        folders, verdict.RESULTS, data=_DATA, classifier=lesion_cnn.get_config()
    )


def test_what_split_and_sources_are_worth_stands_beside_the_gan(tmp_path: Path) -> None:
    folders = [
        _other(tmp_path, "bcn500", [0.30, 0.36]),
        _other(tmp_path, "paper_mix_by_lesion", [0.51]),
        _other(tmp_path, "mine", [0.40]),
    ]
    counts = dict.fromkeys(CLASSES, 3)
    section = paper.section(
        {
            "kind": "real",
            "reference": "A1",
            "data": _DATA | {"counts": counts},
            "split_counts": {"train": counts},
            "others": _read(*folders),
            "shortcuts": _shortcuts(1.0),
            "arms": [
                _arm("A1", "A1", [0.63]),
                _arm("P2", "P2", [0.65]) | {"num_generated": [counts]},
            ],
        },
        tmp_path,
    )
    assert section is not None
    rows = {row[0]: row for row in section.tables[1].rows}
    worth = {name: row[-1] for name, row in rows.items()}
    assert worth == {
        "the GAN's images": pytest.approx(0.02),
        "the leaking split": pytest.approx(0.63 - 0.51),
        "the source confound": pytest.approx(0.51 - 0.33),
        "the other set": pytest.approx(0.63 - 0.40),
    }
    confound = rows["the source confound"]
    assert (confound[1], confound[3]) == ("A1, paper_mix_by_lesion", "A1, bcn500")


def test_a_study_to_stand_beside_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(DermaganError, match=r"config\.beside: .* holds no finished study"):
        _read(str(tmp_path))


@pytest.mark.parametrize(
    ("recipe", "changes", "said"),
    [
        ("bcn500", {"num_steps": 7}, r"has another config\.classifier, so that more than the set"),
        ("bcn500", {"kind": "phantom"}, "is of phantom images, and this study of real ones"),
        ("paper_mix", {}, "is of paper_mix as well; name studies of other sets"),
    ],
)
def test_a_study_that_differs_in_more_than_its_set_is_refused(
    recipe: str, changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    # How often a run reports is no difference.
    first = _other(tmp_path, "mine", [0.4], log_every_steps=1)
    assert [each["recipe"] for each in _read(first)] == ["mine"]
    with pytest.raises(DermaganError, match=rf"config\.beside: .*{said}"):
        _read(first, _other(tmp_path, recipe, [0.5], **changes))
    with pytest.raises(DermaganError, match="is of mine as well"):
        _read(first, first)
