"""The arms of a study, its filters, what its cells are called, and what it refuses first."""

from __future__ import annotations

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import study as study_config
from dermagan_jax.errors import DermaganError
from dermagan_jax.study import arms, cells, filters, verdict
from dermagan_jax.study.arms import Chosen
from dermagan_jax.study.runner import Runner


def _config(**changes: object) -> ConfigDict:
    config = study_config.get_config("smoke")
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


def _names(chosen: Chosen) -> list[str]:
    return [arm.name for arm in arms.known_arms(_config(), chosen)]


def test_arms_follow_as_validation_chooses() -> None:
    first = ["A0", "A1", "A3 mixup", "A3 cutmix", "A4 x0.5", "A4 x1", "A10 50%"]
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
    assert (by_name["A6"].images, by_name["A6"].filter) == (arms.DISCARDED, "agreed")
    assert {name for name, arm in by_name.items() if not arm.needs_gan} == {
        *("A0", "A1", "A2", "A3 mixup", "A3 cutmix", "A10 50%")
    }


def test_another_network_is_compared_with_itself() -> None:
    config = _config(arms=("A1", "A4", "A11"), networks=("vgg16",))
    arms.check(config)
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
    from_scratch = [each.name for each in arms.known_arms(config, Chosen())]
    assert from_scratch == ["A1", "A4 x0.5", "A4 x1", "A11 vgg16"]
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
    arms.check(config)
    by_name = {each.name: each for each in arms.known_arms(config, Chosen())}
    networks = [f"P3 {name}{suffix}" for name in config.networks for suffix in ("", " real")]
    rates = [f"PD {rate:g}" for rate in (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
    assert list(by_name) == ["A1", "P2", *networks, *rates]
    assert by_name["P3 vgg16"].changes["model.network"] == "vgg16"
    assert by_name["P3 vgg16"].needs_gan
    assert not by_name["P3 vgg16 real"].needs_gan
    assert by_name["PD 0.3"].changes == {"model.dropout_rate": 0.3}
    counts = arms.pool_counts(config, {"melanoma": 7})
    assert counts == {"melanoma": arms.PAPERS_PER_CLASS}
    assert arms.pool_counts(_config(), {"melanoma": 7}) == {"melanoma": 7}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": ("alexnet",)}, "networks names 'alexnet'; known: 'vgg16'"),
        ({"arms": ("A1", "P3")}, "networks is empty, and config.arms has 'P3'"),
        ({"arms": ("A1", "A11")}, "networks is empty, and config.arms has 'A11'"),
        ({"dropout_rates": (1.0,)}, "dropout_rates: give rates from 0, below 1"),
        ({"arms": ("A1", "B7")}, "names 'B7'; known: 'A0'"),
        ({"arms": ("A0",)}, "lacks 'A1', with which all are compared"),
        ({"arms": ("A1", "A7")}, "has 'A7' and lacks 'A4', whose size it has"),
        ({"arms": ("A1", "A9")}, "more_real_dir is empty"),
        ({"ratios": (0.0,)}, "ratios: give numbers above 0"),
        ({"real_shares": (1.0,)}, "real_shares: give shares between 0 and 1"),
        ({"gan_seeds": (0, 0)}, r"gan_seeds is \(0, 0\); give numbers from 0, none twice"),
        (
            {"arms": ("A1", "A11"), "networks": ("vgg16",), "network_side": 60},
            r"A11 vgg16 frozen: config\.model\.side is 60; give a multiple of 32",
        ),
        (
            {"arms": ("A1", "A11"), "networks": ("efficientnet_lite0",), "network_weights": "none"},
            r"A11 efficientnet_lite0: config\.model\.weights is 'none'",
        ),
        ({"seeds_per_gan": 0}, "seeds_per_gan is 0; give 1 or more"),
        ({"margin": 0.0}, "margin is 0.0; give a share such as 0.02"),
    ],
)
def test_what_cannot_be_run_is_named_first(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DermaganError, match=message):
        verdict.run(_config(**changes), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_cells_name_is_what_it_depends_on() -> None:
    classifier = study_config.get_config().classifier
    name = cells.key(classifier, splits={"train": "a"})
    for field, value in (("data_dir", "elsewhere"), ("seed", 3), ("synthetic.dir", "there")):
        moved = classifier.copy_and_resolve_references()
        moved.update_from_flattened_dict({field: value})
        assert cells.key(moved, splits={"train": "a"}) == name
    slower = classifier.copy_and_resolve_references()
    slower.optimizer.learning_rate = 1e-5
    others = {
        cells.key(slower, splits={"train": "a"}),
        cells.key(classifier, splits={"train": "b"}),
    }
    assert len(others | {name}) == 3


def test_another_judge_makes_a_filters_images_others(phantom_set: Path, tmp_path: Path) -> None:
    judges: dict[str, set[str | None]] = {"agreed": set(), "realistic=0.5": set()}
    for rate in (1e-3, 2e-3):
        config = _config(data_dir=str(phantom_set))
        config.classifier.optimizer.learning_rate = rate
        runner = Runner(config, tmp_path)
        for name, found in judges.items():
            found.add(runner.judge_of(name))
    assert [len(found) for found in judges.values()] == [2, 1]
