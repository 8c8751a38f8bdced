"""A study: whose its cells are, and what it says of them."""

from __future__ import annotations

import base64
import csv
import dataclasses
import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from playwright.sync_api import Page, sync_playwright

from dermagan_jax import cli, commands, parallel, workdir
from dermagan_jax.classifier_trainer import PREDICTIONS
from dermagan_jax.data.pipeline import LabelledImages
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES
from dermagan_jax.study import arms, cards, study_report, verdict
from dermagan_jax.study.arms import Arm
from dermagan_jax.study.runner import Cell, Runner

_FIELDS: Mapping[str, object] = {
    "arms": tuple(arms.FAMILIES),
    "gan_seeds": (0,),
    "ratios": (0.5, 1.0),
    "seeds_per_gan": 1,
    "filters": ("realistic=0.5", "agreed", "agreed=efficientnet_lite0"),
    "networks": ("efficientnet_lite0",),
    "network_side": 32,
    "real_shares": (0.5,),
    "dropout_rates": (0.1,),
    "classifier.mesh": "data:1,seed:1",  # Else each seed's step is compiled for its own device.
    "gan.num_steps": 2,
    "gan.batch_size": 8,
    "gan.checkpoint_every_steps": 2,
    "classifier.num_steps": 4,
    "classifier.batch_size": 4,
    "classifier.eval_every_steps": 2,
}


def _fields(**changes: object) -> list[str]:
    return [f"--config.{name}={value}" for name, value in {**_FIELDS, **changes}.items()]


def _words(data: Path, out: Path, **changes: object) -> list[str]:
    words = ["study", "--config=configs/study.py:smoke", f"--data={data}", f"--out={out}"]
    return [*words, *_fields(**changes)]


def _config(data: Path, larger: Path, **changes: object) -> ConfigDict:
    fields = _fields(more_real_dir=larger, **changes)
    config = commands.study_config("configs/study.py:smoke", fields)
    config.data_dir = str(data)
    return config


@pytest.fixture(scope="module")
def finished(phantom_set: Path, many_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with an arm of every family, run from the command line."""
    out = tmp_path_factory.mktemp("study") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "one_device_a_core", lambda _: None)  # JAX has them by now.
        cli.main(_words(phantom_set, out, more_real_dir=many_set))
    return out


@pytest.fixture(scope="module")
def runner(finished: Path, phantom_set: Path, many_set: Path) -> Runner:
    return Runner(_config(phantom_set, many_set), finished)


@pytest.mark.slow
def test_two_processes_share_a_study(phantom_set: Path, tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    changes = {"arms": ("A0", "A1", "A4"), "filters": (), "networks": ()}

    def start(out: Path) -> subprocess.Popen[str]:
        code = "import sys; from dermagan_jax import cli; cli.main(sys.argv[1:])"
        command = [sys.executable, "-c", code, *_words(phantom_set, out, **changes)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    for folders in ([alone], [shared, shared]):
        processes = [start(folder) for folder in folders]
        said = [process.communicate(timeout=1200)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * len(processes), said
    assert (shared / verdict.RESULTS).read_bytes() == (alone / verdict.RESULTS).read_bytes()
    assert len(list((shared / "gans").iterdir())) == 1
    assert not [path for path in shared.iterdir() if path.name.endswith(".tmp")]


def test_fields_of_the_recipe_are_set_from_the_command_line() -> None:
    config = commands.study_config("configs/study.py:smoke", _fields())
    assert config.arms == tuple(arms.FAMILIES)
    assert (config.gan.num_steps, config.classifier.num_steps) == (2, 4)
    assert config.classifier_seeds == (0, 1)


def test_a_study_ends_in_a_verdict(finished: Path) -> None:
    document = json.loads((finished / verdict.RESULTS).read_text())
    by_name = {arm["name"]: arm for arm in document["arms"]}
    networks = ["A11 efficientnet_lite0 frozen", "A11 efficientnet_lite0"]
    assert set(by_name) == {
        *("A0", "A1", "A2", "A3 mixup", "A3 cutmix", "A4 x0.5", "A4 x1", "A5 realistic=0.5"),
        *("A5 agreed", "A5 agreed=efficientnet_lite0", "A6", "A7", "A8"),
        *("A9", "A9 evened", "A10 50%"),
        *("A10 50% + generated", "A12", "A13", "A14"),
        *(*networks, *(f"{name} + generated" for name in networks)),
        *("P2", "P3 efficientnet_lite0 real", "P3 efficientnet_lite0", "PD 0.1"),
    }
    ratio, filter_name = document["chosen"]["ratio"], document["chosen"]["filter"]
    assert {name for name, arm in by_name.items() if "verdict" in arm} == {
        *(f"A4 x{ratio:g}", f"A5 {filter_name}", "A6", "A7", "A8", "A10 50% + generated"),
        *("A12", "A14"),
        *(f"{name} + generated" for name in networks),
        *("P2", "P3 efficientnet_lite0"),
    }
    assert {name for name, arm in by_name.items() if "unadjusted_verdict" in arm} == {
        *("A0", "A2", "A3 mixup", "A3 cutmix", "A9", "A9 evened", "A10 50%", "A13", *networks),
        *("P3 efficientnet_lite0 real", "PD 0.1"),
    }
    for arm in by_name.values():
        assert len(arm["seeds"]) == (1 if arm["num_generated"][0] else 2)
        values = [seed["balanced_accuracy"] for seed in arm["seeds"]]
        assert arm["mean"]["balanced_accuracy"] == pytest.approx(np.mean(values))


def test_the_table_has_a_row_for_each_classifier(finished: Path) -> None:
    document = json.loads((finished / verdict.RESULTS).read_text())
    with (finished / verdict.TABLE).open() as file:
        rows = list(csv.DictReader(file))
    seeds = [seed for arm in document["arms"] for seed in arm["seeds"]]
    assert len(rows) == len(seeds)
    for row, seed in zip(rows, seeds, strict=True):
        assert row["balanced_accuracy"] == str(seed["balanced_accuracy"])
        melanoma = seed["per_class"]["melanoma"]
        for measure in ("sensitivity", "specificity", "auc"):
            assert row[f"melanoma_{measure}"] == str(melanoma[measure])


def test_scores_are_those_of_the_runs_own_summaries(finished: Path) -> None:
    document = json.loads((finished / verdict.RESULTS).read_text())
    ours = {seed["loss"] for arm in document["arms"] for seed in arm["seeds"]}
    theirs = {
        json.loads(path.read_text())["test"]["loss"]
        for path in finished.glob(f"cells/*/seed_*/{workdir.SUMMARY}")
    }
    assert ours == theirs


def test_arms_have_the_images_that_they_say(finished: Path) -> None:
    document = json.loads((finished / verdict.RESULTS).read_text())
    numbers = {arm["name"]: arm["num_generated"] for arm in document["arms"]}
    ratio, filter_name = document["chosen"]["ratio"], document["chosen"]["filter"]
    assert numbers["A6"] == numbers[f"A5 {filter_name}"]
    assert sum(numbers["A6"][0].values()) > 0
    assert numbers["A8"] == numbers["A7"] == numbers[f"A4 x{ratio:g}"]
    assert numbers["A12"] == numbers["A4 x1"]
    assert numbers["A1"] == [None]
    real = document["data"]["counts"]
    assert numbers["A4 x0.5"] == [{name: round(0.5 * count) for name, count in real.items()}]
    lacking = {name: max(real.values()) - count for name, count in real.items()}
    assert numbers["A14"] == [lacking]
    assert numbers["P2"] == numbers["PD 0.1"] == [dict.fromkeys(real, 100)]


def test_a_damaged_prediction_is_named_with_the_remedy(runner: Runner) -> None:
    arm = Arm("A1", "A1", "")
    path = runner._first_folder(arm) / PREDICTIONS
    whole = path.read_bytes()
    path.write_bytes(b"")
    try:
        with pytest.raises(
            DermaganError, match=rf"{PREDICTIONS}: is damaged .*; delete .*seed_000 "
        ):
            runner.logits(arm, "test")
    finally:
        path.write_bytes(whole)


def test_a_cell_that_lacks_its_summary_of_seeds_is_made_to_the_end(runner: Runner) -> None:
    """As a kill between a cell's last classifier and that file leaves it."""
    cell = Cell(Arm("A1", "A1", ""), None)
    path = runner._made_folder(cell) / workdir.SEEDS
    whole = path.read_bytes()
    path.unlink()
    assert runner._make_cell(cell)
    assert path.read_bytes() == whole


def test_a_random_choice_is_of_all_images_and_not_of_those_that_pass(runner: Runner) -> None:
    passed = Arm("", "A5", "", ratio=1.0, images=arms.PASSED, filter="realistic=0.5")
    (chosen,) = runner.generated(passed)
    (discarded,) = runner.generated(dataclasses.replace(passed, images=arms.DISCARDED))
    (everything,) = runner.generated(dataclasses.replace(passed, images=arms.ALL))
    counts = LabelledImages(chosen.image, chosen.label).counts()
    assert 0 < len(chosen.label) < len(everything.label)
    np.testing.assert_array_equal(discarded.image, everything.first(counts).image)
    assert not np.array_equal(discarded.image, chosen.image)
    for label in range(4):
        members = everything.image[everything.label == label]
        assert {each.tobytes() for each in chosen.image[chosen.label == label]} <= {
            each.tobytes() for each in members
        }


def test_an_arms_images_are_its_own_and_the_first_of_those_of_a_larger_one(
    runner: Runner,
) -> None:
    (half,), (whole,) = (runner.generated(Arm("", "A4", "", ratio=each)) for each in (0.5, 1.0))
    real = runner.opened.train.counts()
    counts = LabelledImages(half.image, half.label).counts()
    assert counts == {name: round(0.5 * count) for name, count in real.items()}
    np.testing.assert_array_equal(whole.first(counts).image, half.image)


def test_a_ratio_more_or_less_leaves_the_other_cells(
    runner: Runner, phantom_set: Path, many_set: Path
) -> None:
    alone = Runner(_config(phantom_set, many_set, ratios=(0.5,)), runner.out)
    assert alone.config.ratios == (0.5,)
    arm = Arm("A4 x0.5", "A4", "", ratio=0.5)
    np.testing.assert_array_equal(alone.logits(arm, "test"), runner.logits(arm, "test"))


def test_a_finished_study_is_read_and_not_run(
    finished: Path, phantom_set: Path, many_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished / verdict.RESULTS).read_bytes()
    (finished / verdict.RESULTS).unlink()
    (finished / f".{study_report.REPORT}.tmp").write_text("left by a kill")
    for module in ("classifier_trainer.train_seeds", "gan_trainer.train"):
        monkeypatch.setattr(f"dermagan_jax.{module}", None)
    verdict.run(_config(phantom_set, many_set), finished)
    assert (finished / verdict.RESULTS).read_bytes() == before


def test_the_report_says_it_in_words(finished: Path) -> None:
    document = json.loads((finished / verdict.RESULTS).read_text())
    page = (finished / study_report.REPORT).read_text()
    for paragraph in study_report.verdict(document):
        assert paragraph in html.unescape(page)
    assert "Phantom data: says nothing about skin." in page
    assert page.count("<table") >= 5
    drawn = {path.name for path in (finished / "figures").iterdir()}
    assert {"forest.png", "images_real.png", "curve_loss.png", "learning_curve.png"} <= drawn
    chosen = f"A4_x{document['chosen']['ratio']:g}"
    assert {"reliability_A1.png", f"reliability_{chosen}.png"} <= drawn
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
            # The forest plot begins on the first screen.
            assert (page.locator("figure").first.bounding_box() or {"y": 800})["y"] < 800
            _sort_and_enlarge(page)
            assert told == []
        browser.close()


def _sort_and_enlarge(page: Page) -> None:
    arms_table = page.locator("table", has_text="Arms, means over seeds")
    heading = arms_table.get_by_role("button", name="balanced accuracy")
    heading.click()
    column = arms_table.locator("tbody tr td:nth-of-type(2)")
    values = [float(text) for text in column.all_inner_texts()]
    assert values == sorted(values)
    assert len(set(values)) > 1
    heading.click()
    assert [float(text) for text in column.all_inner_texts()] == sorted(values, reverse=True)
    names = arms_table.locator("tbody tr th")
    for _ in range(2):
        arms_table.get_by_role("button", name="difference").click()
        assert names.all_inner_texts()[-1] == "A1"  # It has none.
    arms_table.locator("th button").first.click()
    in_order = names.all_inner_texts()
    assert in_order.index("A2") < in_order.index("A9") < in_order.index("A10 50%")
    dialog = page.locator("dialog")
    assert not dialog.is_visible()
    page.locator("section", has=page.get_by_role("heading", name="Images", exact=True)).locator(
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


def test_the_report_says_how_it_was_done(finished: Path) -> None:
    document = json.loads((finished / verdict.RESULTS).read_text())
    page = html.unescape((finished / study_report.REPORT).read_text())
    assert "Classifiers: 4 steps of 4 images, Adam at 0.0002" in page
    assert "GANs: resgan, conditional, 2 steps in batches of 8" in page
    assert "Filters: realistic=0.5, agreed" in page
    assert document["config"]["classifier"]["num_steps"] == 4
    assert "classifier.optimizer.b1" in page
    # Where things lie is no part of a result.
    assert str(finished.parent) not in (finished / verdict.RESULTS).read_text()
    assert "Its GAN saw all of the real images" in page.replace("its GAN", "Its GAN")
    assert "There is one GAN and one classifier of each GAN: the intervals do not hold" in page
    assert "asks the first GAN's classifiers together, and as many of the other arm's" in page
    assert "<th></th>" not in page
    for name in CLASSES:
        assert page.count(f"{name.replace('_', ' ')}") > 5


def test_generated_images_are_probed_as_real_ones_are(finished: Path) -> None:
    document = json.loads((finished / verdict.RESULTS).read_text())
    shown = [arm for arm in document["arms"] if "shortcuts" in arm]
    assert {arm["family"] for arm in shown} == {"A1", "A4", "P2"}
    for arm in shown:
        for found in arm["shortcuts"]["generated"]:
            assert list(found["looks"]) == list(document["shortcuts"]["looks"]) == list(CLASSES)
            by_name = {each["name"]: each for each in document["shortcuts"]["probes"]}
            assert [each["name"] for each in found["probes"]] == list(by_name)[1:]
    page = (finished / study_report.REPORT).read_text()
    assert len(re.findall("<th [^>]*>P2, GAN 0</th>", page)) == 3 + len(CLASSES)


def _first_section(document: dict[str, Any], out: Path) -> str:
    """Returns the text of a report down to the end of its first section, without tags."""
    (out / study_report.FIGURES).mkdir()
    study_report.write(out, document, pictures=[], commands=[])
    page = (out / study_report.REPORT).read_text()
    body = page[page.index("<body") :]
    return html.unescape(re.sub("<[^>]*>", " ", body[: body.index("<figure")]))


def test_what_fires_is_on_the_first_screen(finished: Path, tmp_path: Path) -> None:
    document = json.loads((finished / verdict.RESULTS).read_text())
    probes = document["shortcuts"]["probes"]
    for each in probes:
        each["fires"] = False
    probes[0] |= {"fires": True, "guessing": 0.25}
    probes[0]["accuracy"] = {"value": 0.7, "low": 0.6, "high": 0.8}
    first = _first_section(document, tmp_path)
    assert f"is told from {probes[0]['name']} alone with a balanced accuracy of 70% (gu" in first
    assert probes[1]["name"] not in first
    probes[2] |= {"fires": True, "accuracy": {"value": 0.4, "low": 0.35, "high": 0.45}}
    said = study_report.warnings(document["shortcuts"])
    assert len(said) == 1
    assert f"of 70%, from {probes[2]['name']} alone with a balanced accuracy of 40% (" in said[0]


@pytest.mark.parametrize(
    ("leaky", "association", "said"),
    [(True, 0.1, ["leaks"]), (False, 0.9, ["confounded", "0.90"]), (False, 0.1, [])],
)
def test_what_is_wrong_with_a_set_is_on_the_first_screen(
    leaky: bool, association: float, said: list[str], finished: Path, tmp_path: Path
) -> None:
    document = json.loads((finished / verdict.RESULTS).read_text())
    document["data"]["leaky"] = leaky
    document["shortcuts"]["sources"]["cramers_v"] = association
    first = _first_section(document, tmp_path)
    for word in ("leaks", "confounded", "0.90"):
        assert (word in first) == (word in said)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, phantom_set: Path) -> None:
    (tmp_path / "thesis.docx").write_text("mine")
    with pytest.raises(DermaganError, match=r"holds thesis\.docx, which is no study's"):
        verdict.run(_config(phantom_set, phantom_set, arms=("A1",), filters=()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]
