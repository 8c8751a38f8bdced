"""The arms of a study, its filters, and what it refuses first."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import lesion_cnn
from configs import study as study_config
from dermagan_jax.errors import DermaganError, TrainingError
from dermagan_jax.generated_images import Generated
from dermagan_jax.study import arms, checks, filters, verdict
from dermagan_jax.study.arms import Chosen
from dermagan_jax.study.runner import Cell, Runner


def _config(**changes: object) -> ConfigDict:
    config = study_config.get_config("smoke")
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


def _names(chosen: Chosen) -> list[str]:
    return [arm.name for arm in arms.known_arms(_config(), chosen)]


def test_arms_follow_as_validation_chooses() -> None:
    first = ["A0", "A1", "A3 mixup", "A3 cutmix", "A4 x0.5", "A4 x1", "A10 50%"]
    first += ["A12", "A13", "A14"]
    assert _names(Chosen()) == first
    second = set(_names(Chosen(ratio=1.0))) - set(first)
    followers = {"A2", "A5 realistic=0.5", "A5 agreed", "A7", "A8", "A10 50% + generated"}
    assert second == followers
    third = set(_names(Chosen(1.0, "agreed"))) - set(first) - followers
    assert third == {"A6"}


def test_arms_differ_from_the_reference_by_what_they_say() -> None:
    by_name = {each.name: each for each in arms.known_arms(_config(), Chosen(0.5, "agreed"))}
    assert dict(by_name["A1"].changes) == {}
    assert by_name["A2"].changes == {"real.repeated": 0.5}
    assert by_name["A7"].changes == {"synthetic.only": True}
    assert by_name["A12"].changes == {"synthetic.until": 0.5}
    assert (by_name["A12"].ratio, by_name["A7"].ratio) == (1.0, 0.5)
    assert (by_name["A6"].images, by_name["A6"].filter) == (arms.DISCARDED, "agreed")
    assert {name for name, arm in by_name.items() if not arm.needs_gan} == {
        *("A0", "A1", "A2", "A3 mixup", "A3 cutmix", "A10 50%", "A13")
    }


def test_rarer_classes_are_filled_up() -> None:
    found = arms.known_arms(_config(), Chosen())
    by_name = {each.name: each for each in found}
    filled = by_name["A14"]
    # Balance alone is worth something, whatever the images.
    assert (by_name["A13"].changes, filled.reference) == ({"class_balanced": True}, "A13")
    assert dict(filled.changes) == {}
    real = {"melanoma": 9, "benign_keratosis": 4, "basal_cell_carcinoma": 0}
    lacking = {"melanoma": 0, "benign_keratosis": 5, "basal_cell_carcinoma": 0}
    assert filled.num_images(real) == lacking
    assert arms.fitting(found, real) == found
    names = [arm.name for arm in arms.fitting(found, {**real, "melanoma": 4})]
    assert names == [name for name in by_name if name not in ("A13", "A14")]


def test_more_real_images_are_also_evened_and_compared_with_their_like() -> None:
    config = _config(arms=("A1", "A9", "A13"), more_real_dir="larger")
    found = arms.known_arms(config, Chosen())
    evened = next(arm for arm in found if arm.name == "A9 evened")
    assert evened.changes == {"real.extra_dir": "larger", "class_balanced": True}
    assert evened.reference == "A13"
    (left,) = [arm for arm in arms.fitting(found, {"melanoma": 4}) if arm.name == "A9 evened"]
    assert left.reference == "A1"
    assert arms.known_arms(_config(arms=("A1", "A9")), Chosen())[-1].reference == "A1"


def test_another_network_is_compared_with_itself() -> None:
    config = _config(arms=("A1", "A4", "A11"), networks=("vgg16",))
    by_name = {each.name: each for each in arms.known_arms(config, Chosen(0.5))}
    names = ["A11 vgg16 frozen", "A11 vgg16"]
    assert [name for name in by_name if name.startswith("A11")] == [
        *names,
        *(f"{name} + generated" for name in names),
    ]
    for name in names:
        real, both = by_name[name], by_name[f"{name} + generated"]
        assert (real.reference, both.reference) == ("A1", name)
        assert (real.needs_gan, both.ratio) == (False, 0.5)
        assert real.changes == both.changes
    assert arms.judge("vgg16", config) == by_name["A11 vgg16"]
    assert dict(arms.judge("", config).changes) == {}
    assert by_name["A11 vgg16"].changes["num_steps"] == config.classifier.num_steps
    with config.unlocked():
        config.network_weights, config.network_steps = "none", 9
    assert arms.judge("vgg16", config).changes["num_steps"] == 9
    from_scratch = {each.name: each for each in arms.known_arms(config, Chosen())}
    assert list(from_scratch) == ["A1", "A4 x0.5", "A4 x1", "A11 vgg16"]
    assert from_scratch["A11 vgg16"].title == "as A1, vgg16 trained from scratch"
    config.arms = ("A1", "P2", "P3")
    papers = {each.name: each for each in arms.known_arms(config, Chosen())}
    # The rate of the paper's CNN is too high for a VGG's first layers.
    assert papers["P3 vgg16 real"].changes == papers["P3 vgg16"].changes
    assert papers["P3 vgg16"].changes["optimizer.learning_rate"] == 1e-4
    assert papers["P3 vgg16"].changes["num_steps"] == 9
    config.network_weights = "imagenet"
    frozen = next(arm for arm in arms.known_arms(config, Chosen()) if arm.name == "P3 vgg16")
    assert frozen.changes["model.frozen"]
    assert "optimizer.learning_rate" not in frozen.changes
    config.arms = ("A1", "A4", "A11")
    with pytest.raises(DermaganError, match=r"agreed=resnet50 needs 'A11' in config\.arms"):
        arms.judge("resnet50", config)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("realistic=0.5", filters.Wanted("realistic", share=0.5)),
        ("agreed", filters.Wanted("agreed")),
        ("agreed=vgg16", filters.Wanted("agreed", network="vgg16")),
        ("no_copies", filters.Wanted("no_copies")),
    ],
)
def test_filters_are_read(text: str, expected: filters.Wanted) -> None:
    assert filters.read(text) == expected


@pytest.mark.parametrize("text", ["", "realistic", "realistic=2", "agreed=", "no_copies=1", "x"])
def test_other_filters_are_refused(text: str) -> None:
    with pytest.raises(DermaganError, match="give some of realistic=SHARE, agreed, agreed=NETWORK"):
        filters.read(text)


def test_the_papers_arms_are_its_tables() -> None:
    config = study_config.get_config("paper")
    by_name = {each.name: each for each in arms.known_arms(config, Chosen())}
    networks = [f"P3 {name}{suffix}" for name in config.networks for suffix in (" real", "")]
    rates = [f"PD {rate:g}" for rate in (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
    assert list(by_name) == ["A1", "P2", *networks, *rates]
    assert by_name["P3 vgg16"].changes["model.network"] == "vgg16"
    assert by_name["P3 vgg16"].needs_gan
    assert not by_name["P3 vgg16 real"].needs_gan
    assert by_name["PD 0.3"].changes == {"model.dropout_rate": 0.3}
    assert by_name["P2"].num_images({"melanoma": 7}) == {"melanoma": 100}
    assert by_name["A1"].num_images({"melanoma": 7}) == {"melanoma": 0}
    # With generated images and without, or with another rate: one thing differs.
    assert by_name["P3 vgg16"].reference == "P3 vgg16 real"
    assert by_name["P3 vgg16 real"].reference == "A1"
    assert by_name["PD 0.3"].reference == "P2"


def test_few_real_images_are_compared_with_as_few() -> None:
    by_name = {each.name: each for each in arms.known_arms(_config(), Chosen(0.5))}
    assert by_name["A10 50%"].reference == "A1"
    assert by_name["A10 50% + generated"].reference == "A10 50%"
    assert "a GAN that saw all of them" in by_name["A10 50% + generated"].title


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": ("alexnet",)}, "networks names 'alexnet'; known: 'vgg16'"),
        ({"arms": ("A1", "PD")}, "has 'PD' and lacks 'P2', whose size it has or with which it is"),
        (
            {"ratios": (1, 1.0)},
            r"ratios is \(1, 1\.0\), of which two are 1 where an arm names them",
        ),
        ({"ratios": ("x",)}, r"ratios is \('x',\); give numbers"),
        ({"real_shares": (0.1, 0.104)}, r"of which two are 10% where an arm names them"),
        ({"filters": ("agreed", "agreed")}, "of which two are agreed where an arm names them"),
        ({"filters": ("agreed=vgg16",)}, "agreed=vgg16 needs 'A11' in config.arms"),
        ({"classifier_seeds": ("a",)}, r"classifier_seeds is \('a',\); give numbers from 0"),
        ({"gan_seeds": (0, -1)}, r"gan_seeds is \(0, -1\); give numbers from 0"),
        ({"classifier.augmentation": "much"}, "arm A1: augmentation: 'much'; choose one of"),
        ({"classifier.mixing": "mixmax"}, r"arm A0: config\.classifier\.mixing is 'mixmax'; known"),
        (
            {"classifier.model.network": "vgg16"},
            r"arm A0: config\.classifier\.model\.network is 'vgg16', and \S+\.side is not there; "
            r"start from configs/backbone\.py:vgg16",
        ),
        (
            {"classifier.synthetic.dir": "there"},
            r"classifier\.synthetic\.dir is 'there', which would reach A1 too; leave it",
        ),
        (
            {"classifier.synthetic.ratio": 0.5},
            r"synthetic\.ratio is 0\.5, which would reach A1 too",
        ),
        (
            {"classifier.synthetic.until": 0.5},
            r"synthetic\.until is 0\.5, which would reach A1 too",
        ),
        ({"arms": ("A1", "P3")}, "networks is empty, and config.arms has 'P3'"),
        ({"arms": ("A1", "A11")}, "networks is empty, and config.arms has 'A11'"),
        ({"dropout_rates": (1.0,)}, "dropout_rates: give rates from 0, below 1"),
        ({"arms": ("A1", "B7")}, "names 'B7'; known: 'A0'"),
        ({"arms": ("A0",)}, "lacks 'A1', with which all are compared"),
        ({"arms": ("A1", "A7")}, "has 'A7' and lacks 'A4', whose size it has"),
        ({"arms": ("A1", "A14")}, "has 'A14' and lacks 'A13', whose size it has or with which"),
        ({"arms": ("A1", "A9")}, "more_real_dir is empty"),
        ({"ratios": (0.0,)}, "ratios: give numbers above 0"),
        ({"real_shares": (1.0,)}, "real_shares: give shares between 0 and 1"),
        ({"gan_seeds": (0, 0)}, r"gan_seeds is \(0, 0\); give numbers from 0, none twice"),
        (
            {"arms": ("A1", "A11"), "networks": ("vgg16",), "network_side": 60},
            r"A11 vgg16 frozen: config\.network_side is 60; give a multiple of 32",
        ),
        (
            {"arms": ("A1", "A11"), "networks": ("efficientnet_lite0",), "network_weights": "none"},
            r"A11 efficientnet_lite0: config\.network_weights is 'none'",
        ),
        ({"seeds_per_gan": 0}, "seeds_per_gan is 0; give 1 or more"),
        ({"margin": 0.0}, "margin is 0.0; give a share such as 0.02"),
    ],
)
def test_what_cannot_be_run_is_named_first(
    changes: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(DermaganError, match=message):
        verdict.run(_config(**changes), tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gan.model.image_size": 32}, r"gan\.model\.image_size is 32, and the images of .* 64"),
        ({"ratios": (0.001, 1.0)}, r"ratios: 0\.001 of \d+ images gives none of any class; give"),
        ({"real_shares": (0.001,)}, r"real_shares: 0\.001 of \d+ images leaves a class without"),
        ({"arms": ("A1", "A9"), "more_real_dir": "nowhere"}, "nowhere: is no prepared set"),
        ({"arms": ("A1", "A9"), "more_real_dir": "{same}"}, "has no training lesions beyond"),
        (
            {"arms": ("A1", "A9"), "more_real_dir": "{small}"},
            "holds images of 32 pixels, and .* 64",
        ),
        ({"gan.init_from": "nowhere"}, "nowhere: holds no"),
    ],
)
def test_what_does_not_fit_the_set_is_named_first(
    changes: dict[str, object], message: str, tmp_path: Path, phantom_set: Path, small_set: Path
) -> None:
    sets = {"same": str(phantom_set), "small": str(small_set)}
    filled = {
        name: value.format(**sets) if isinstance(value, str) else value
        for name, value in changes.items()
    }
    with pytest.raises(DermaganError, match=message):
        verdict.run(_config(data_dir=str(phantom_set), **filled), tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("family", ["A11", "P3"])
def test_weights_that_are_not_there_are_named_first(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    config = _config(arms=("A1", family), networks=("efficientnet_lite0", "vgg16"))
    with pytest.raises(DermaganError, match=rf"arm {family} vgg16.*notop\.h5: is missing"):
        checks.check(config)
    with config.unlocked():
        config.network_weights = "none"
        config.networks = ("vgg16",)
    checks.check(config)


def test_another_recipe_is_no_study() -> None:
    with pytest.raises(DermaganError, match="no field 'arms', so it is no study's"):
        checks.require_study(lesion_cnn.get_config())


def _logits(right: int, label: np.ndarray) -> np.ndarray:
    """Of one GAN and classifier, right about the first images of each class, so many of each."""
    said = label.copy()
    for each in range(4):
        members = np.flatnonzero(label == each)
        said[members[right:]] = (each + 1) % 4
    return np.eye(4, dtype=np.float32)[said][None, None]


def test_validation_chooses_and_not_the_test_split(
    phantom_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(data_dir=str(phantom_set))
    runner = Runner(config, tmp_path)
    right = {
        "validation": {"A4 x0.5": 2, "A4 x1": 1, "A5 realistic=0.5": 0, "A5 agreed": 1},
        "test": {"A4 x0.5": 0, "A4 x1": 5, "A5 realistic=0.5": 5, "A5 agreed": 0},
    }

    def logits(arm: arms.Arm, split: str) -> np.ndarray:
        return _logits(right[split].get(arm.name, 0), runner.opened.split(split).label)

    monkeypatch.setattr(runner, "logits", logits)
    monkeypatch.setattr(runner, "_finish", lambda pending: None)
    _, chosen = runner.run()
    assert chosen == Chosen(0.5, "agreed")


def test_what_even_classes_leave_out_is_told(
    phantom_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    runner = Runner(_config(data_dir=str(phantom_set), arms=("A1", "A13", "A14")), tmp_path)
    monkeypatch.setattr(runner, "_finish", lambda pending: None)
    for counts, left_out in (({"melanoma": 3, "benign_keratosis": 2}, 0), ({"melanoma": 3}, 2)):
        caplog.clear()
        monkeypatch.setattr(type(runner.opened.train), "counts", lambda _, found=counts: found)
        with caplog.at_level("INFO", logger="dermagan"):
            found, _ = runner.run()
        assert (len(found), caplog.text.count("is left out")) == (3 - left_out, left_out)


@pytest.mark.parametrize(
    ("arm", "gan_seed", "module", "said"),
    [
        (
            arms.Arm("A1", "A1", ""),
            None,
            "classifier_trainer.train_seeds",
            "A1: .*config.classifier_seeds",
        ),
        (arms.Arm("A4", "A4", "", ratio=1.0), 7, "gan_trainer.train", "GAN 7: .*config.gan_seeds"),
    ],
)
def test_who_diverged_is_named_with_the_remedy(
    arm: arms.Arm,
    gan_seed: int | None,
    module: str,
    said: str,
    phantom_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def diverges(*_: object) -> None:
        raise TrainingError("seed 3: the loss is not finite")

    runner = Runner(_config(data_dir=str(phantom_set)), tmp_path)
    monkeypatch.setattr(f"dermagan_jax.{module}", diverges)
    with pytest.raises(TrainingError, match=f"{said}.*run the study again"):
        runner._make_cell(Cell(arm, gan_seed))


def test_a_filter_that_lets_nothing_pass_is_named() -> None:
    images = Generated(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4), np.zeros(4, int), {})

    class Nothing:
        settings: ClassVar[dict[str, str]] = {}

        def accepts(self, image: np.ndarray, label: int) -> np.ndarray:
            return np.zeros(len(image), bool)

    with pytest.raises(DermaganError, match=r"filters: 'agreed' lets none of 4 .* loosen it"):
        filters.passed(images, Nothing(), text="agreed")
