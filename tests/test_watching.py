"""A GAN's checkpoints measured while it trains: the best is kept, and patience ends the run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import dcgan
from dermagan_jax import features, gan_trainer, images, synthesis, watching, workdir
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.data import prepared
from dermagan_jax.errors import DermaganError, LeakError
from dermagan_jax.lesions import CLASSES
from dermagan_jax.watching import KID, Watch
from dermagan_jax.writers import METRICS_FILE, read_metrics

PER_CLASS = 6


@pytest.fixture(autouse=True)
def small_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the pixels of small images for features, which compiles nothing."""
    pixels = features.Extractor(
        "pixels", "", 8, lambda batch: np.asarray(batch, np.float32).reshape(len(batch), -1) / 255
    )
    monkeypatch.setattr(watching, "find_extractor", lambda _: pixels)


def _watch(many_set: Path, patience: int = 0) -> Watch:
    return Watch(many_set, features="pixels", per_class=PER_CLASS, patience=patience)


def _config(many_set: Path, **changes: int) -> ConfigDict:
    config = dcgan.get_config("smoke")
    config.data_dir = str(many_set)
    config.model.width, config.model.latent_size, config.batch_size = 4, 8, 4
    config.num_steps, config.log_every_steps, config.checkpoint_every_steps = 5, 1, 1
    config.keep_checkpoints = 1
    config.watch.features, config.watch.per_class = "pixels", PER_CLASS
    config.watch.patience = 2
    config.update(changes)
    return config


def test_a_classifier_of_another_set_does_not_watch(
    many_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = dataclasses.replace(watching.find_extractor("pixels"), train_split_sha256="another")
    monkeypatch.setattr(watching, "find_extractor", lambda _: pixels)
    with pytest.raises(LeakError, match=r"config\.watch\.features=pixels: was trained on another"):
        _watch(many_set)


def test_real_images_do_better_than_white_ones(many_set: Path) -> None:
    watch = _watch(many_set)
    training = prepared.load_split(many_set, "train")
    real = watch.measure(training.image, training.label)
    white = watch.measure(np.full_like(training.image, 255), training.label)
    for row in (real, white, watch.floor):
        assert set(watching.PANELS) < set(row)
        assert row[KID] == pytest.approx(np.mean([row[f"{KID}/{name}"] for name in CLASSES]))
    assert real[KID] < white[KID] / 10
    assert real[watching.COVERAGE] > white[watching.COVERAGE] == 0
    # The floor's images are some of these.
    assert abs(watch.floor[KID]) < white[KID] / 10


def test_patience_counts_from_the_best(many_set: Path) -> None:
    watch = _watch(many_set, patience=2)
    over = []
    for step, kid in enumerate((0.5, 0.3, 0.4, 0.2, 0.3, 0.2)):
        watch.note(step, {"train/d_loss": 1.0})
        watch.note(step, {KID: kid})
        over.append(watch.is_over)
    assert over == [False] * 5 + [True]
    assert (watch.best_step, watch.best_kid) == (3, 0.2)
    endless = _watch(many_set)
    for step in range(10):
        endless.note(step, {KID: 0.1})
    assert not endless.is_over


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """KIDs that the checkpoints of a run are said to have, the first first."""
    kids = [0.5, 0.2, 0.3, 0.4, 0.1]

    def measure(watch: Watch, *_: object) -> dict[str, float]:
        return dict.fromkeys(watching.PANELS, kids.pop(0))

    monkeypatch.setattr(Watch, "measure", measure)
    return kids


def test_a_run_keeps_its_best_and_ends_when_patience_does(
    many_set: Path, tmp_path: Path, scripted: list[float]
) -> None:
    run = tmp_path / "run"
    summary = gan_trainer.train(_config(many_set), run)
    assert scripted == [0.1]
    assert summary["num_steps"] == 4
    assert summary["watch"]["best_step"] == 2
    assert summary["watch"]["best_kid"] == 0.2
    assert summary["watch"]["stopped_early"]
    with Checkpoints(run, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 4]
    assert synthesis.load_gan(run).step == 2
    assert synthesis.load_gan(run, step=4).step == 4
    for name in ("kid", "coverage", "classification_accuracy"):
        assert images.read(run / "figures" / f"{name}.png").std() > 0
    # Called again, it knows that it is over.
    assert gan_trainer.train(_config(many_set), run) == summary
    assert summary == json.loads((run / workdir.SUMMARY).read_text())


def test_a_watched_run_stopped_and_resumed_ends_the_same(many_set: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = gan_trainer.train(_config(many_set), whole)
    gan_trainer.train(_config(many_set, num_steps=2), parts)
    assert gan_trainer.train(_config(many_set), parts) == expected
    assert (parts / METRICS_FILE).read_bytes() == (whole / METRICS_FILE).read_bytes()
    rows = [row for row in read_metrics(whole / METRICS_FILE) if KID in row]
    assert [row["step"] for row in rows] == list(range(1, expected["num_steps"] + 1))


def test_too_few_lesions_are_refused(many_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = prepared.load_split

    def one_lesion(folder: Path, name: str) -> prepared.Split:
        split = load(folder, name)
        split.lesion_id[:] = "the_same"
        return split

    monkeypatch.setattr(watching.prepared, "load_split", one_lesion)
    with pytest.raises(DermaganError, match="two lesions of each class"):
        _watch(many_set)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("per_class", 5, r"watch\.per_class is 5; give a number above 5"),
        ("patience", -1, r"watch\.patience is -1; give a number from 0"),
    ],
)
def test_bad_choices_are_refused(
    many_set: Path, tmp_path: Path, field: str, value: int, named: str
) -> None:
    config = _config(many_set)
    config.watch[field] = value
    with pytest.raises(DermaganError, match=named):
        gan_trainer.train(config, tmp_path / "run")
