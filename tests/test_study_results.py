"""What a study makes of what its classifiers say, with answers that are made up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import study as study_config
from dermagan_jax.data import prepared
from dermagan_jax.metrics import classification, comparison
from dermagan_jax.study import results, study_report, verdict
from dermagan_jax.study.arms import ALL, Arm, Chosen, known_arms
from dermagan_jax.study.runner import Runner

CHOSEN = Chosen(1.0, "agreed")


class _MadeUp(Runner):
    """A finished study of which only the answers are there: right with the given chances."""

    chances: Mapping[str, list[list[float]]]

    def logits(self, arm: Arm, split: str) -> np.ndarray:
        label = prepared.load_split(self.opened.folder, split).label
        rng = np.random.default_rng(list(arm.name.encode()))
        shape = (
            len(self.config.gan_seeds) if arm.needs_gan else 1,
            len(self.classifier_seeds(arm)),
            len(label),
        )
        chance = self.chances.get(arm.name, np.full(shape[:2], 0.5))
        right = rng.random(shape) < np.asarray(chance)[..., None]
        said = np.where(right, label, (label + 1) % 4)
        return np.eye(4, dtype=np.float32)[said] * 3

    def num_generated(self, arm: Arm) -> list[dict[str, int] | None]:
        return [None]


@pytest.fixture
def runner(phantom_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _MadeUp:
    monkeypatch.setattr(results, "_shortcuts", lambda *_: {})
    config = study_config.get_config("smoke")
    config.data_dir, config.margin = str(phantom_set), 0.05
    config.classifier_seeds, config.seeds_per_gan = (0, 1, 2), 2
    runner = _MadeUp(config, tmp_path)
    # The reference's third classifier is another than those of a GAN.
    runner.chances = {"A1": [[0.5, 0.6, 1.0]], "A8": [[0.1, 0.3], [0.2, 0.2]]}
    return runner


def _summarise(runner: _MadeUp, *families: str) -> tuple[dict[str, Any], dict[str, Any]]:
    found = [arm for arm in known_arms(runner.config, CHOSEN) if arm.family in families]
    document = results.summarise(runner, found, CHOSEN)
    return document, {arm["name"]: arm for arm in document["arms"]}


def test_a_difference_is_to_all_of_the_references_classifiers(runner: _MadeUp) -> None:
    _, by_name = _summarise(runner, "A1", "A8", "A0")
    scores = [seed["balanced_accuracy"] for seed in by_name["A1"]["seeds"]]
    assert scores[2] == 1
    for name, count in (("A8", 4), ("A0", 3)):
        arm = by_name[name]
        assert len(arm["seeds"]) == count
        expected = arm["mean"]["balanced_accuracy"] - np.mean(scores)
        assert expected < -0.1
        assert arm["difference"]["value"] == pytest.approx(expected)


def test_who_adds_generated_images_is_the_family(runner: _MadeUp) -> None:
    _, by_name = _summarise(runner, *runner.config.arms)
    family = [name for name, arm in by_name.items() if "verdict" in arm]
    assert family == ["A4 x1", "A5 agreed", "A6", "A7", "A8", "A10 50% + generated", "A12", "A14"]
    p_values = [by_name[name]["difference"]["p_value"] for name in family]
    assert [by_name[name]["adjusted_p"] for name in family] == comparison.holm(p_values)
    beside = [name for name, arm in by_name.items() if "unadjusted_verdict" in arm]
    assert beside == ["A0", "A2", "A3 mixup", "A3 cutmix", "A10 50%", "A13"]
    assert not {"verdict", "unadjusted_verdict", "adjusted_p"} & set(by_name["A4 x0.5"])
    found = by_name["A8"]
    difference = comparison.Difference(**found["difference"])
    assert found["smallest_found"] == comparison.smallest_found(difference, 8)


def test_words_say_with_what_an_arm_is_compared(runner: _MadeUp) -> None:
    document, by_name = _summarise(runner, "A1", "A12", "A13", "A14")
    said = study_report.verdict(document | {"shortcuts": {"probes": []}})
    first, filled = (by_name[name] for name in ("A12", "A14"))
    assert said[1].startswith(f"A12 ({first['title']}) ")
    assert said[2].startswith(f"A14 ({filled['title']}), compared with A13, ")
    assert said[1].endswith(f", adjusted p {first['adjusted_p']:.3f}.")
    first["adjusted_p"] = 0.0004
    said = study_report.verdict(document | {"shortcuts": {"probes": []}})
    assert said[1].endswith(", adjusted p below 0.001.")


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (("no evidence", "helps"), "Generated images help here: A14 (t14)."),
        (("helps", "helps"), "Generated images help here: A12 (t12); A14 (t14)."),
        (("helps", "harms"), "Generated images help here: A12 (t12); harmful: A14 (t14)."),
        (
            ("harms", "no evidence"),
            "No sign that generated images help here; harmful: A12 (t12).",
        ),
        (
            ("no difference", "no difference"),
            "Generated images make no difference here that would matter.",
        ),
        (
            ("no difference", "no evidence"),
            "No evidence that generated images help here, and none that they harm.",
        ),
    ],
)
def test_the_first_sentence_is_the_answer(
    runner: _MadeUp, verdicts: tuple[str, str], said: str
) -> None:
    document, by_name = _summarise(runner, "A1", "A12", "A13", "A14")
    for name, found in zip(("A12", "A14"), verdicts, strict=True):
        by_name[name] |= {"verdict": found, "title": name.replace("A", "t")}
    assert study_report.verdict(document | {"shortcuts": {"probes": []}})[0] == said
    without = document | {"arms": [by_name["A1"]], "shortcuts": {"probes": []}}
    assert study_report.verdict(without) == ["This study has no arm with generated images."]


def test_another_arm_leaves_the_others_intervals(runner: _MadeUp) -> None:
    _, few = _summarise(runner, "A1", "A8")
    _, many = _summarise(runner, "A0", "A1", "A3", "A7", "A8")
    assert few["A8"]["difference"] == many["A8"]["difference"]
    assert few["A8"]["adjusted_p"] <= many["A8"]["adjusted_p"]


def test_as_many_classifiers_of_each_are_asked_together(runner: _MadeUp) -> None:
    # Whoever asked the reference's third, or the second GAN, would find it right everywhere.
    runner.chances = {"A1": [[0.0, 0.0, 1.0]], "A8": [[0.0, 0.0], [1.0, 1.0]]}
    _, by_name = _summarise(runner, "A1", "A8")
    assert by_name["A8"]["mcnemar_p"] == 1
    runner.chances = {"A1": [[0.0, 0.0, 1.0]], "A8": [[1.0, 1.0], [0.0, 0.0]]}
    _, by_name = _summarise(runner, "A1", "A8")
    # All of the twenty test images gained.
    assert by_name["A8"]["mcnemar_p"] == pytest.approx(2 * 0.5**20)


def test_rates_of_dropout_are_compared_with_the_papers(runner: _MadeUp) -> None:
    with runner.config.unlocked():
        runner.config.arms, runner.config.dropout_rates = ("A1", "P2", "PD"), (0.1,)
    runner.chances = {"A1": [[0.0] * 3], "P2": [[0.4] * 2, [0.6] * 2], "PD 0.1": [[0.9] * 2] * 2}
    _, by_name = _summarise(runner, "A1", "P2", "PD")
    rate, paper = by_name["PD 0.1"], by_name["P2"]
    means = [arm["mean"]["balanced_accuracy"] for arm in (rate, paper)]
    assert rate["difference"]["value"] == pytest.approx(means[0] - means[1])
    assert "verdict" not in rate


def test_where_things_lie_is_no_part_of_a_result(runner: _MadeUp) -> None:
    with runner.config.unlocked():
        runner.config.beside = ("/somewhere/else",)
        runner.config.arms, runner.config.networks = ("A1", "A11"), ("vgg16",)
        runner.config.network_weights = "/somewhere/else/mine.h5"
    document, by_name = _summarise(runner, "A1", "A11")
    assert by_name["A11 vgg16"]["changes"]["model.weights"] == "mine.h5"
    config = document["config"]
    assert config["classifier"]["num_steps"] == 40
    assert "data_dir" not in {**config, **config["gan"], **config["classifier"]}
    assert "somewhere" not in str(document)
    assert str(runner.opened.folder) not in str(document)


def _stop(_: Runner) -> None:
    raise KeyboardInterrupt


def test_who_replaces_results_of_another_study_is_told(
    runner: _MadeUp,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "study"
    out.mkdir()
    before = {"config": results.configuration(runner.config)}
    (out / verdict.RESULTS).write_text(json.dumps(before))
    monkeypatch.setattr(Runner, "run", _stop)
    with pytest.raises(KeyboardInterrupt):
        verdict.run(runner.config, out)
    assert "its results are of a study" not in caplog.text
    runner.config.ratios = (0.5,)
    with pytest.raises(KeyboardInterrupt):
        verdict.run(runner.config, out)
    assert "study: its results are of a study that differs in config.ratios; they" in caplog.text
    assert json.loads((out / verdict.RESULTS).read_text()) == before


def test_images_are_those_that_an_arm_takes() -> None:
    arm = Arm("A4", "A4", "", ratio=0.5)
    assert arm.images == ALL
    assert arm.num_images({"melanoma": 9, "benign_keratosis": 0}) == {
        "melanoma": 4,
        "benign_keratosis": 0,
    }


def test_scores_of_one_classifier_by_hand() -> None:
    logits = np.log(np.array([[0.7, 0.1, 0.1, 0.1], [0.4, 0.1, 0.1, 0.4], [0.1, 0.1, 0.1, 0.7]]))
    label = np.array([0, 3, 3])
    found = results.score(logits, label, temperature=2.0)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["melanoma_sensitivity_at_90"] == 1.0
    assert found["macro_auc"] == 1.0
    assert found["brier"] != found["calibrated"]["brier"]
    assert found["loss"] == pytest.approx(-np.log([0.7, 0.4, 0.7]).mean())


@pytest.mark.parametrize(("specificity", "expected"), [(0.5, 1.0), (0.75, 1.0), (1.0, 0.5)])
def test_sensitivity_at_a_specificity_by_hand(specificity: float, expected: float) -> None:
    # Four others and two of the class, from the least likely to the most: o o o + o +.
    odds = np.array([-2.0, -1.5, -1.0, -0.5, 0.0, 1.0])
    label = np.array([0, 0, 0, 1, 0, 1])
    logits = np.stack([np.zeros(6), odds], axis=1)
    found = classification.sensitivity_at(logits, label, 1, specificity=specificity)
    assert found == expected
