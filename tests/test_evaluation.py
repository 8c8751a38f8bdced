"""The evaluation of a tiny GAN: what is written, what is refused, what counts as a sign."""

from __future__ import annotations

import dataclasses
import html
import json
from pathlib import Path

import numpy as np
import pytest
from pixel_features import PIXELS, evaluate

from dermagan_jax import diffaugment, synthesis
from dermagan_jax.data import prepared
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES
from dermagan_jax.study import evaluation, evaluation_report


@pytest.fixture(autouse=True)
def pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "find_extractor", lambda text: PIXELS)


def says_it_saw(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Makes every GAN claim that it was trained on this set."""
    sha256 = prepared.load_report(folder)["split_hashes"]["train"]
    load_gan = synthesis.load_gan

    def load(workdir: Path, *, step: int | None = None) -> synthesis.TrainedGan:
        gan = load_gan(workdir, step=step)
        data = {**gan.provenance["data"], "train_split_sha256": sha256}
        return dataclasses.replace(gan, provenance={**gan.provenance, "data": data})

    patch.setattr(synthesis, "load_gan", load)


@pytest.fixture(scope="module")
def evaluated(
    tiny_gan: Path, many_set: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("evaluation") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "find_extractor", lambda text: PIXELS)
        says_it_saw(many_set, patch)
        return out, evaluate(tiny_gan, many_set, out, commands=["dermagan evaluate …"])


def test_every_kept_checkpoint_stands_beside_the_floor(evaluated, many_set):
    out, document = evaluated
    assert json.loads((out / evaluation.RESULT).read_text()) == json.loads(json.dumps(document))
    assert [each["step"] for each in document["checkpoints"]] == [1, 2]
    kids = {e["step"]: e["generative"]["mean_class_kid"] for e in document["checkpoints"]}
    assert document["best_step"] == min(kids, key=kids.__getitem__)
    assert document["floor"]["mean_class_kid"] < min(kids.values())
    counts = prepared.load_report(many_set)["counts"]
    for result in (document["floor"], *(e["generative"] for e in document["checkpoints"])):
        for name in CLASSES:
            measured = result["per_class"][name]
            assert measured["images"] == counts["train"][name]
            assert measured["reference_images"] == counts["validation"][name]
    # Grey noise is copied from nobody.
    assert document["checkpoints"][0]["exact_copies"] == {
        "images": sum(counts["train"].values()),
        "training": 0,
        "heldout": 0,
    }
    assert len(document["checkpoints"][0]["closest_pairs"]) == evaluation.NUM_PAIRS


def test_the_report_holds_verdict_figures_and_gallery(evaluated):
    out, document = evaluated
    page = (out / evaluation_report.REPORT).read_text()
    assert "Phantom data: says nothing about skin. Research use only" in page
    assert html.escape(evaluation_report.verdict(document)[0]) in page
    assert page.count("<figure>") == 7
    assert len(list((out / "figures").iterdir())) == 7
    assert "dermagan evaluate …" in page
    # Checked and none found is not the same as not checked.
    number = document["checkpoints"][0]["exact_copies"]["images"]
    rows = evaluation_report._signs_table(document["checkpoints"]).rows
    assert [row[:4] for row in rows] == [["1", number, 0, 0], ["2", number, 0, 0]]
    assert "no GAN can be" not in page
    assert "All eight were looked at" not in page
    for word in ("private", "clinical"):
        assert word not in page.lower()


def test_the_same_call_gives_the_same_bytes(evaluated, tiny_gan, many_set, tmp_path, monkeypatch):
    out, document = evaluated
    again = tmp_path / "again"
    says_it_saw(many_set, monkeypatch)
    evaluate(tiny_gan, many_set, again, commands=["dermagan evaluate …"])
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert (again / path.relative_to(out)).read_bytes() == path.read_bytes(), path
    other = evaluate(tiny_gan, many_set, again, seed=1, step=1)
    assert [each["step"] for each in other["checkpoints"]] == [1]
    assert other["checkpoints"][0]["generative"] != document["checkpoints"][0]["generative"]


def makes(image: np.ndarray, patch: pytest.MonkeyPatch) -> None:
    """Makes every GAN generate these images, class by class."""
    generate = synthesis.generate

    def copy(trained, *, per_class, seed):
        return dataclasses.replace(generate(trained, per_class=per_class, seed=seed), image=image)

    patch.setattr(synthesis, "generate", copy)


def is_configured(patch: pytest.MonkeyPatch, **changes) -> None:
    """Makes every GAN claim that it was trained with other choices."""
    load_gan = synthesis.load_gan

    def load(workdir: Path, *, step: int | None = None) -> synthesis.TrainedGan:
        gan = load_gan(workdir, step=step)
        config = {**gan.config, **changes}
        return dataclasses.replace(gan, provenance={**gan.provenance, "config": config})

    patch.setattr(synthesis, "load_gan", load)


def test_a_gan_that_repeats_its_training_images_is_found_out(
    tiny_gan, phantom_set, tmp_path, monkeypatch
):
    training = prepared.load_split(phantom_set, "train")
    makes(training.image[np.argsort(training.label, kind="stable")], monkeypatch)
    document = evaluate(tiny_gan, phantom_set, tmp_path / "out", step=2)
    (result,) = document["checkpoints"]
    assert result["exact_copies"]["training"] == len(training.label)
    assert result["closest_pairs"][0]["training_distance"] == pytest.approx(0, abs=1e-6)
    overall = result["memorization"]["overall"]
    assert overall["authenticity"]["value"] == 0
    assert overall["membership_auc"]["value"] == 1
    assert "equal a training image in every pixel" in result["signs_of_copying"][0]
    verdict = evaluation_report.verdict(document)
    assert verdict[0].startswith("Step 2 shows signs of copying: look at them")
    assert verdict[1].startswith("Signs that step 2 copies its training images: ")
    # The floor is the training images themselves.
    fids = [each["overall"]["fid"] for each in (result["generative"], document["floor"])]
    assert fids[0] == pytest.approx(fids[1])


@pytest.mark.parametrize("turn_reals", [False, True])
def test_a_turned_copy_is_found_where_real_images_were_turned(
    tiny_gan, phantom_set, tmp_path, monkeypatch, turn_reals
):
    """Each image comes out in another of the eight symmetries than the one that was memorised."""
    training = prepared.load_split(phantom_set, "train")
    order = np.argsort(training.label, kind="stable")
    turns = diffaugment.turns(training.image[order])
    number = np.arange(len(order))
    makes(turns[1 + number % 7, number], monkeypatch)
    is_configured(monkeypatch, turn_reals=turn_reals)
    document = evaluate(tiny_gan, phantom_set, tmp_path / "out", step=2)
    (result,) = document["checkpoints"]
    overall = result["memorization"]["overall"]
    found = {
        "symmetries": document["symmetries"],
        "copies": result["exact_copies"]["training"],
        "authenticity": overall["authenticity"]["value"],
        "auc": overall["membership_auc"]["value"],
    }
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert ("All eight were looked at" in page) == turn_reals
    if turn_reals:
        assert found == {"symmetries": 8, "copies": len(order), "authenticity": 0, "auc": 1}
        names = sorted(str(name) for name in training.image_id)
        assert all(each["training_image"] in names for each in result["closest_pairs"])
        assert result["closest_pairs"][-1]["training_distance"] == pytest.approx(0, abs=1e-6)
    else:
        assert (found["symmetries"], found["copies"]) == (1, 0)
        assert found["authenticity"] > 0
        assert result["closest_pairs"][-1]["training_distance"] > 1e-3


def test_images_of_one_lesion_are_known_as_such(tiny_gan, phantom_set, tmp_path, monkeypatch):
    seen = []
    measure = evaluation.generative.measure

    def spy(candidate, reference, **options):
        seen.append((candidate, reference))
        return measure(candidate, reference, **options)

    monkeypatch.setattr(evaluation.generative, "measure", spy)
    evaluate(tiny_gan, phantom_set, tmp_path / "out", step=1)
    (floor, reference), (ours, _) = seen
    training = prepared.load_split(phantom_set, "train")
    assert sorted(floor.lesion) == sorted(training.lesion_id)
    assert len(set(floor.lesion)) < len(floor)
    heldout = prepared.load_split(phantom_set, "validation")
    np.testing.assert_array_equal(reference.lesion, heldout.lesion_id)
    assert len(set(ours.lesion)) == len(ours)


def measured(**changes) -> dict:
    honest = {
        "membership_auc": {"value": 0.52, "low": 0.47, "high": 0.57},
        "neighbour_ratio": {"p_value": 0.3},
        "c_t": 4.0,
        "c_t_limit": -5.0,
    }
    memorization = {"per_class": {"melanoma": {**honest, **changes}}, "overall": honest}
    return {"memorization": memorization, "exact_copies": {"training": 0, "heldout": 1}}


@pytest.mark.parametrize(
    ("changes", "signs"),
    [
        ({}, 0),
        ({"membership_auc": {"value": 0.6, "low": 0.51, "high": 0.7}}, 1),
        ({"membership_auc": {"value": 0.9, "low": None, "high": None}}, 0),
        ({"membership_auc": {"value": 0.3, "low": 0.2, "high": 0.4}}, 0),
        ({"neighbour_ratio": {"p_value": 0.005}, "c_t": -5.5}, 2),
        # What siblings alone may do.
        ({"c_t": -4.5}, 0),
        ({"c_t": -4.5, "c_t_limit": -3.0}, 1),
    ],
)
def test_signs_of_copying(changes, signs):
    found = evaluation.signs_of_copying(measured(**changes))
    assert len(found) == signs
    assert all("(melanoma: " in each for each in found)


def test_the_verdict_says_what_one_checkpoint_or_too_few_images_leave(evaluated):
    _, document = evaluated
    first = {**document["checkpoints"][0], "signs_of_copying": []}
    one = {**document, "checkpoints": [first], "best_step": 1, "split": "test"}
    take, _, test = evaluation_report.verdict(one)
    assert take.startswith("Take step 1. Its mean KID is ")
    assert "to be read once" in test
    unknown = {"mean_class_kid": None, "mean_class_kid_interval": None}
    few = {**first, "generative": {**first["generative"], **unknown}}
    take, _ = evaluation_report.verdict({**one, "checkpoints": [few], "split": "validation"})
    assert take == "Take step 1. There are too few images for its KID."


def checkpoint(document: dict, step: int, kid: tuple[float, float, float], *signs: str) -> dict:
    value, low, high = kid
    result = document["checkpoints"][0]
    known = {
        "mean_class_kid": value,
        "mean_class_kid_interval": {"value": value, "low": low, "high": high},
    }
    generative = {**result["generative"], **known}
    return {**result, "step": step, "generative": generative, "signs_of_copying": list(signs)}


def advice(document: dict, *checkpoints: dict) -> str:
    best = min(checkpoints, key=lambda each: each["generative"]["mean_class_kid"])
    changes = {"checkpoints": list(checkpoints), "best_step": best["step"]}
    return evaluation_report.verdict({**document, **changes})[0]


def test_the_advice_says_which_checkpoints_chance_cannot_tell_apart(evaluated):
    _, document = evaluated
    lowest = checkpoint(document, 1000, (0.10, 0.05, 0.15))
    near, off = (
        checkpoint(document, 2000, (0.12, 0.14, 0.19)),
        checkpoint(document, 3000, (0.30, 0.25, 0.35)),
    )
    found = advice(document, off, lowest, near)
    assert found.startswith("Take step 1,000, whose KID")
    assert "0.100 [0.050, 0.150]" in found
    assert "overlaps that of step 2,000: that it is the lowest may be chance." in found
    assert advice(document, off, lowest).endswith(
        "No other checkpoint's interval overlaps its own."
    )


def test_the_advice_is_against_a_checkpoint_that_shows_signs_of_copying(evaluated):
    _, document = evaluated
    copier = checkpoint(document, 1000, (0.10, 0.05, 0.15), "it copies")
    clean, worse = (
        checkpoint(document, step, (kid, kid - 0.1, kid + 0.1))
        for step, kid in ((2000, 0.3), (3000, 0.4))
    )
    found = advice(document, worse, copier, clean)
    assert found.startswith("Step 1,000, whose KID")
    assert "shows signs of copying. Take step 2,000, the best of those without, whose mean" in found
    # Which checkpoint a number is of must be plain.
    assert "mean KID is 0.300. The lowest mean KID is 0.100 [0.050, 0.150]; that of" in found
    also = {**clean, "signs_of_copying": ["it copies"]}
    assert "shows signs of copying. None of the others is without: look" in advice(
        document, copier, also
    )
    alone = advice(document, copier)
    assert alone.startswith("Step 1,000 shows signs of copying: look at them before you take it.")


def test_signs_of_every_checkpoint_are_on_the_page(evaluated, tmp_path):
    _, document = evaluated
    changed = [
        {**each, "signs_of_copying": [f"sign of {each['step']}"]}
        for each in document["checkpoints"]
    ]
    (tmp_path / "figures").mkdir()
    page = evaluation_report.write(
        tmp_path,
        {**document, "checkpoints": changed},
        np.zeros((3, 64, 64, 3), np.uint8),
        commands=[],
    ).read_text()
    assert "sign of 1" in page
    assert "sign of 2" in page


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({}, "pixels", []),
        (
            {"model": {"architecture": "resgan", "discriminator": "projected"}},
            "efficientnet_lite0",
            ["--features inception_v3=KERAS_H5_FILE or in_domain=CLASSIFIER_WORKDIR too"],
        ),
        ({"model": {"architecture": "resgan", "discriminator": "projected"}}, "pixels", []),
        ({}, "efficientnet_lite0", []),
        ({"watch": {"features": "pixels"}}, "pixels", ["kept the checkpoint with the lowest KID"]),
    ],
)
def test_what_favours_a_gan_is_said(tiny_gan, changes, name, said):
    config = {**synthesis.load_gan(tiny_gan).config, **changes}
    extractor = dataclasses.replace(PIXELS, name=name)
    warnings = evaluation._bearings(config, extractor, "validation")["warnings"]
    assert len(warnings) == len(said)
    assert all(phrase in each for phrase, each in zip(said, warnings, strict=True))


def test_warnings_are_in_the_document_and_on_the_page(tiny_gan, phantom_set, tmp_path, monkeypatch):
    is_configured(monkeypatch, watch={"features": "pixels"})
    document = evaluate(tiny_gan, phantom_set, tmp_path / "out", step=1)
    (warning,) = document["warnings"]
    assert warning in (tmp_path / "out" / "evaluation.html").read_text()
    # The test split chose nothing.
    document = evaluate(tiny_gan, phantom_set, tmp_path / "test", step=1, split="test", per_class=4)
    assert document["warnings"] == []


def test_the_test_split_is_read_for_one_checkpoint_only(tiny_gan, phantom_set, tmp_path):
    with pytest.raises(DermaganError, match="--split test needs --step"):
        evaluate(tiny_gan, phantom_set, tmp_path / "out", split="test")
    document = evaluate(tiny_gan, phantom_set, tmp_path / "out", split="test", step=2, per_class=4)
    assert document["floor"]["overall"]["reference_images"] == 20
    assert document["floor"]["overall"]["images"] == 16
    assert "which is to be read once" in (tmp_path / "out" / "evaluation.html").read_text()
