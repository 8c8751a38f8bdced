"""A study: whose its cells are, and what it says of them."""

from __future__ import annotations

import base64
import csv
import html
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, sync_playwright

from dermagan_jax import commands, workdir
from dermagan_jax.errors import DermaganError
from dermagan_jax.metrics import classification
from dermagan_jax.study import cards, cells, results, study_report, verdict

_HOLDER = """
import sys, time
from pathlib import Path
from dermagan_jax.study import cells
with cells.claimed(Path(sys.argv[1]), "part") as ours:
    print(ours, flush=True)
    time.sleep(60)
"""


def test_a_part_is_one_processs_until_it_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with cells.claimed(tmp_path, "part") as ours:
            assert not ours
        with cells.claimed(tmp_path, "another part") as ours:
            assert ours
        other.kill()
    with cells.claimed(tmp_path, "part") as ours:
        assert ours


_FIELDS = (
    *("--config.arms=('A1', 'A4', 'A5', 'A6', 'A8', 'A11')", "--config.gan_seeds=(0,)"),
    "--config.filters=('realistic=0.5', 'agreed', 'agreed=efficientnet_lite0')",
    *("--config.ratios=(0.5, 1.0)", "--config.seeds_per_gan=1", "--config.network_side=32"),
    "--config.networks=('efficientnet_lite0',)",
    *("--config.gan.num_steps=2", "--config.gan.batch_size=8"),
    *("--config.classifier.num_steps=4", "--config.classifier.batch_size=4"),
    *("--config.classifier.eval_every_steps=2", "--config.gan.checkpoint_every_steps=2"),
)


def _run(data: Path, out: Path) -> None:
    config = commands.study_config("configs/study.py:smoke", _FIELDS)
    config.data_dir = str(data)
    verdict.run(config, out, commands=["dermagan study …"])


@pytest.fixture(scope="module")
def finished(phantom_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "study"
    _run(phantom_set, out)
    return out


def test_fields_of_the_recipe_are_set_from_the_command_line() -> None:
    config = commands.study_config("configs/study.py:smoke", _FIELDS)
    assert config.arms == ("A1", "A4", "A5", "A6", "A8", "A11")
    assert (config.gan.num_steps, config.classifier.num_steps) == (2, 4)
    assert config.classifier_seeds == (0, 1)


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        ("configs/nothing.py", [], "configs/nothing.py: is no file; give a recipe"),
        ("configs/study.py:large", [], "unknown variant 'large'; known: default, paper, smoke"),
        ("configs/study.py", ["--config.arm=1"], "arm"),
        ("configs/study.py", ["--config.margin=wide"], "wide"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_named(text: str, fields: list[str], message: str) -> None:
    with pytest.raises(DermaganError, match=message):
        commands.study_config(text, fields)


def test_a_study_ends_in_a_verdict(finished: Path) -> None:
    document = json.loads((finished / verdict.RESULTS).read_text())
    by_name = {arm["name"]: arm for arm in document["arms"]}
    others = ["A11 efficientnet_lite0 frozen", "A11 efficientnet_lite0"]
    assert set(by_name) == {
        *("A1", "A4 x0.5", "A4 x1", "A5 realistic=0.5", "A5 agreed", "A6", "A8"),
        *("A5 agreed=efficientnet_lite0", *others, *(f"{name} + generated" for name in others)),
    }
    assert "difference" not in by_name["A1"]
    ratio, filter_name = document["chosen"]["ratio"], document["chosen"]["filter"]
    with_verdict = {name for name, arm in by_name.items() if "verdict" in arm}
    networks = {name for name in by_name if name.startswith("A11")}
    assert with_verdict == {f"A4 x{ratio:g}", f"A5 {filter_name}", "A6", "A8", *networks}
    for arm in by_name.values():
        assert len(arm["seeds"]) == (1 if arm["num_generated"][0] else 2)
        values = [seed["balanced_accuracy"] for seed in arm["seeds"]]
        assert arm["mean"]["balanced_accuracy"] == pytest.approx(np.mean(values))
    difference = by_name["A8"]["difference"]
    mean = {name: arm["mean"]["balanced_accuracy"] for name, arm in by_name.items()}
    assert difference["value"] == pytest.approx(mean["A8"] - mean["A1"])
    with (finished / verdict.TABLE).open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(arm["seeds"]) for arm in by_name.values())
    assert rows[0]["balanced_accuracy"] == str(by_name["A1"]["seeds"][0]["balanced_accuracy"])


def test_scores_are_those_of_the_runs_own_summaries(finished: Path) -> None:
    document = json.loads((finished / verdict.RESULTS).read_text())
    ours = {seed["loss"] for arm in document["arms"] for seed in arm["seeds"]}
    theirs = {
        json.loads(path.read_text())["test"]["loss"]
        for path in finished.glob(f"cells/*/seed_*/{workdir.SUMMARY}")
    }
    assert ours == theirs


def test_a_random_choice_has_the_filters_numbers(finished: Path) -> None:
    document = json.loads((finished / verdict.RESULTS).read_text())
    numbers = {arm["name"]: arm["num_generated"] for arm in document["arms"]}
    ratio, filter_name = document["chosen"]["ratio"], document["chosen"]["filter"]
    assert numbers["A6"] == numbers[f"A5 {filter_name}"]
    assert sum(numbers["A6"][0].values()) > 0
    assert numbers["A8"] == numbers[f"A4 x{ratio:g}"]
    assert numbers["A1"] == [None]
    real = document["data"]["counts"]
    assert numbers["A4 x0.5"] == [{name: round(0.5 * count) for name, count in real.items()}]


def test_a_finished_study_is_read_and_not_run(
    finished: Path, phantom_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished / verdict.RESULTS).read_bytes()
    (finished / verdict.RESULTS).unlink()
    for module in ("classifier_trainer.train_seeds", "gan_trainer.train"):
        monkeypatch.setattr(f"dermagan_jax.{module}", None)
    _run(phantom_set, finished)
    assert (finished / verdict.RESULTS).read_bytes() == before


def test_the_report_says_it_in_words(finished: Path) -> None:
    document = json.loads((finished / verdict.RESULTS).read_text())
    page = (finished / study_report.REPORT).read_text()
    for paragraph in study_report.verdict(document):
        assert html.escape(paragraph) in page or paragraph in page
    assert "Phantom data: says nothing about skin." in page
    assert page.count("<table") >= 5
    drawn = {path.name for path in (finished / "figures").iterdir()}
    assert {"forest.png", "images_real.png", "curve_loss.png"} <= drawn
    # Four images of a phantom set are all right or all wrong for some classifier.
    assert {"attention_right.png", "attention_wrong.png"} & drawn
    for each in drawn:
        assert base64.b64encode((finished / "figures" / each).read_bytes()).decode() in page


def test_the_report_works_in_a_browser_on_a_phone_and_a_desk(finished: Path) -> None:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no chromium")
    with sync_playwright() as playwright:
        # A container's root has no sandbox.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for width in (360, 1280):
            page = browser.new_page(viewport={"width": width, "height": 800})
            told: list[str] = []
            page.on("console", lambda message, told=told: told.append(message.text))
            page.on("pageerror", lambda error, told=told: told.append(str(error)))
            page.goto((finished / study_report.REPORT).as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            _sort_and_enlarge(page)
            assert told == []
        browser.close()


def _sort_and_enlarge(page: Page) -> None:
    arms_table = page.locator("table", has_text="Arms, means over seeds")
    heading = arms_table.get_by_role("button", name="balanced accuracy")
    heading.click()
    cells = arms_table.locator("tbody tr td:nth-of-type(3)")
    values = [float(text) for text in cells.all_inner_texts()]
    assert values == sorted(values)
    assert len(set(values)) > 1
    heading.click()
    assert [float(text) for text in cells.all_inner_texts()] == sorted(values, reverse=True)
    dialog = page.locator("dialog")
    assert not dialog.is_visible()
    page.locator("section", has=page.get_by_role("heading", name="Images")).locator(
        "button.enlarge"
    ).first.click()
    assert dialog.is_visible()
    assert dialog.locator("img").get_attribute("alt") == "Real training images."
    dialog.click()
    assert not dialog.is_visible()


def test_the_cards_carry_licences_limits_and_figures(finished: Path) -> None:
    document = json.loads((finished / verdict.RESULTS).read_text())
    model, data = ((finished / name).read_text() for name in (cards.MODEL_CARD, cards.DATA_CARD))
    assert "Not for diagnosis" in model
    assert f"{document['arms'][0]['mean']['balanced_accuracy']:.1%}" in model
    assert document["data"]["train_split_sha256"] in data
    for licence in document["data"]["licences"]:
        assert licence in data
    assert "private" not in (model + data).lower()


def test_what_fires_is_on_the_first_screen() -> None:
    accuracy = {"value": 0.7, "low": 0.6, "high": 0.8}
    probe = {"name": "hospital", "accuracy": accuracy, "guessing": 0.25, "fires": True}
    quiet = probe | {"name": "border", "fires": False}
    (line,) = study_report.warnings({"probes": [probe, quiet]})
    assert line.startswith("Beware: hospital alone predicts the class")
    assert "70% (guessing: 25%)" in line


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, phantom_set: Path) -> None:
    (tmp_path / "thesis.docx").write_text("mine")
    with pytest.raises(DermaganError, match=r"holds thesis\.docx, which is no study's"):
        _run(phantom_set, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


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
