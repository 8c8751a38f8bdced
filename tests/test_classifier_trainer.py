"""Training the paper's CNN on phantoms, real and generated, for a few steps."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import lesion_cnn
from dermagan_jax import (
    classifier_config,
    classifier_runs,
    classifier_trainer,
    generated_images,
    losses,
    synthesis,
    workdir,
)
from dermagan_jax.data import training
from dermagan_jax.data.prepare import prepare
from dermagan_jax.errors import DermaganError, LeakError, TrainingError
from dermagan_jax.lesions import CLASSES
from dermagan_jax.writers import METRICS_FILE, read_metrics


def _config(phantom_set: Path, num_steps: int = 4) -> ConfigDict:
    config = lesion_cnn.get_config("smoke")
    config.data_dir = str(phantom_set)
    config.batch_size = 4
    config.num_steps, config.log_every_steps, config.eval_every_steps = num_steps, 1, 2
    return config


@pytest.fixture(scope="module")
def whole_run(phantom_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    classifier_trainer.train(_config(phantom_set), folder)
    return folder


def test_the_summary_has_every_promised_field(whole_run: Path) -> None:
    summary = json.loads((whole_run / workdir.SUMMARY).read_text())
    test = summary["test"]
    assert set(test) == {
        "accuracy",
        "loss",
        "balanced_accuracy",
        "confusion_matrix",
        "per_class",
        "n",
    }
    assert test["n"] == 20
    assert np.trace(test["confusion_matrix"]) / test["n"] == pytest.approx(test["accuracy"])
    assert list(test["per_class"]) == list(CLASSES)
    assert set(test["per_class"]["melanoma"]) == {"sensitivity", "specificity", "precision", "auc"}
    assert summary["num_params"] == 521_758
    assert (summary["num_steps"], summary["num_train_generated"]) == (4, 0)
    assert summary["num_train_real"] == sum(summary["data"]["counts"].values())


def test_the_best_step_is_that_of_the_lowest_validation_loss(whole_run: Path) -> None:
    summary = json.loads((whole_run / workdir.SUMMARY).read_text())
    rows = [r for r in read_metrics(whole_run / METRICS_FILE) if "validation/loss" in r]
    best = min(rows, key=lambda row: row["validation/loss"])
    assert summary["best_step"] == best["step"]
    assert summary["validation"]["loss"] == pytest.approx(best["validation/loss"], rel=1e-6)


def test_figures_are_there(whole_run: Path) -> None:
    names = {path.name for path in (whole_run / "figures").iterdir()}
    assert names == {
        "confusion_matrix_test.png",
        "confusion_matrix_validation.png",
        "loss.png",
        "accuracy.png",
    }


def test_stopped_and_resumed_ends_the_same(
    whole_run: Path, phantom_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    classifier_trainer.train(_config(phantom_set, num_steps=2), folder)
    with caplog.at_level(logging.INFO, logger="dermagan"):
        classifier_trainer.train(_config(phantom_set), folder)
    assert "going on from step 2" in caplog.text
    assert (folder / METRICS_FILE).read_bytes() == (whole_run / METRICS_FILE).read_bytes()
    ours, theirs = ((run / workdir.SUMMARY).read_bytes() for run in (folder, whole_run))
    assert ours == theirs


def test_a_run_goes_on_from_its_weights_wherever_they_lie_by_now(
    phantom_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the network it is the file alone that is asked for here.
    config = _config(phantom_set, num_steps=2)
    monkeypatch.setattr(classifier_config, "weights_file", lambda run: Path(run.model.weights))
    monkeypatch.setattr(classifier_config, "initial_weights", lambda _: None)

    def train(place: str, contents: bytes) -> None:
        path = tmp_path / place
        path.write_bytes(contents)
        with config.unlocked():
            config.model.weights = str(path)
        classifier_trainer.train(config, tmp_path / "run")

    train("here.h5", b"1")
    train("there.h5", b"1")
    with pytest.raises(DermaganError, match=r"differs in data\.weights_sha256"):
        train("other.h5", b"2")


def test_a_gradient_that_is_not_finite_stops_the_run(
    phantom_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the loss is: at 0 a root has no slope."""
    loss = losses.cross_entropy
    monkeypatch.setattr(
        losses,
        "cross_entropy",
        lambda logits, target: loss(logits, target) + jnp.sqrt(0 * logits.sum()),
    )
    with pytest.raises(TrainingError, match=r"grad_norm is no longer finite by step 1; there is"):
        classifier_trainer.train(_config(phantom_set), tmp_path / "run")
    (row,) = read_metrics(tmp_path / "run" / METRICS_FILE)
    assert row["non_finite"] == ["train/grad_norm"]


def test_several_steps_a_call_change_nothing(
    whole_run: Path, phantom_set: Path, tmp_path: Path
) -> None:
    config = _config(phantom_set)
    config.steps_per_call = 3
    classifier_trainer.train(config, tmp_path / "run")
    for name in (METRICS_FILE, workdir.SUMMARY):
        assert (tmp_path / "run" / name).read_bytes() == (whole_run / name).read_bytes()


def test_the_test_split_is_read_after_training(
    phantom_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    read = training.TrainingData.split
    loop = classifier_trainer.train_side_by_side
    monkeypatch.setattr(
        training.TrainingData, "split", lambda self, name: (order.append(name), read(self, name))[1]
    )
    monkeypatch.setattr(
        classifier_trainer,
        "train_side_by_side",
        lambda *args: (loop(*args), order.append("trained"))[0],
    )
    classifier_trainer.train(_config(phantom_set, num_steps=2), tmp_path / "run")
    assert order.count("test") == 1
    assert order.index("test") > order.index("trained")


def test_generated_images_are_bit_equal_from_checkpoint_and_folder(
    phantom_set: Path, tiny_gan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = synthesis.generate(synthesis.load_gan(tiny_gan), per_class=5, seed=0)
    generated_images.write_folder(generated, tmp_path / "generated")
    trained_on = []
    batches = classifier_runs.train_batches
    monkeypatch.setattr(
        classifier_runs,
        "train_batches",
        lambda images, **kwargs: (trained_on.append(images), batches(images, **kwargs))[1],
    )
    summaries = []
    for name, fields in {
        "memory": {"gan_workdir": str(tiny_gan), "per_class": 3},
        "folder": {"dir": str(tmp_path / "generated"), "per_class": 3},
    }.items():
        config = _config(phantom_set, num_steps=2)
        config.synthetic.update(fields)
        summaries.append(classifier_trainer.train(config, tmp_path / name))
    assert summaries[0] == summaries[1]
    assert summaries[0]["num_train_generated"] == 12
    np.testing.assert_array_equal(trained_on[0].image, trained_on[1].image)
    np.testing.assert_array_equal(
        trained_on[0].image[-12:], generated.first(dict.fromkeys(CLASSES, 3)).image
    )


def test_a_ratio_counts_on_the_real_images_of_each_class(
    phantom_set: Path, tiny_gan: Path, tmp_path: Path
) -> None:
    config = _config(phantom_set, num_steps=2)
    config.synthetic.gan_workdir, config.synthetic.ratio = str(tiny_gan), 0.5
    summary = classifier_trainer.train(config, tmp_path / "run")
    real = summary["data"]["counts"]
    assert summary["data"]["generated"]["counts"] == {
        name: round(number / 2) for name, number in real.items()
    }


def test_generated_images_come_first_and_then_no_more(
    phantom_set: Path, tiny_gan: Path, tmp_path: Path
) -> None:
    losses = {}
    for name, fields in {
        "real": {},
        "both": {"gan_workdir": str(tiny_gan), "ratio": 1.0},
        "first": {"gan_workdir": str(tiny_gan), "ratio": 1.0, "until": 0.5},
    }.items():
        config = _config(phantom_set, num_steps=4)
        config.synthetic.update(fields)
        config.log_every_steps = 1
        # With neither learning nor chance, the loss of a step says which images it saw.
        config.optimizer.learning_rate, config.augmentation = 1e-12, "none"
        config.model.dropout_rate = 0.0
        summary = classifier_trainer.train(config, tmp_path / name)
        rows = read_metrics(tmp_path / name / METRICS_FILE)
        losses[name] = [row["train/loss"] for row in rows if "train/loss" in row]
    assert summary["num_train_generated"] == summary["num_train_real"] > 0
    assert losses["first"][:2] == losses["both"][:2]
    assert losses["first"][2:] == pytest.approx(losses["real"][:2], rel=1e-6)
    assert losses["both"] != pytest.approx(losses["real"], rel=1e-6)


def test_a_gan_of_another_split_is_refused(tiny_gan: Path, tmp_path: Path) -> None:
    other = tmp_path / "set"
    prepare(
        other,
        source_texts=["phantom=20"],
        plan_changes={"test_per_class": 5},
        seed=1,
        num_workers=1,
        progress=False,
    )
    config = _config(other)
    config.synthetic.gan_workdir, config.synthetic.per_class = str(tiny_gan), 2
    with pytest.raises(LeakError, match="another training split"):
        classifier_trainer.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"per_class": 3}, "give gan_workdir or dir"),
        ({"gan_workdir": "x"}, "give per_class or ratio"),
        ({"gan_workdir": "x", "dir": "y", "per_class": 1}, "not both"),
        ({"dir": "y", "per_class": 1, "ratio": 1.0}, "not both"),
        ({"dir": "nowhere"}, "no complete folder of generated images"),
        ({"gan_workdir": "nowhere", "per_class": 1}, "holds no checkpoints"),
    ],
)
def test_bad_choices_of_generated_images_are_refused(
    phantom_set: Path, tmp_path: Path, fields: dict, named: str
) -> None:
    config = _config(phantom_set)
    config.synthetic.update(fields)
    with pytest.raises(DermaganError, match=named):
        classifier_trainer.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_numbers_are_refused(phantom_set: Path, tmp_path: Path) -> None:
    config = _config(phantom_set)
    config.model.dropout_rate = 1.0
    with pytest.raises(DermaganError, match=r"config\.model\.dropout_rate is 1"):
        classifier_trainer.train(config, tmp_path / "run")
    config = _config(phantom_set)
    config.augmentation = "magic"
    with pytest.raises(DermaganError, match="magic"):
        classifier_trainer.train(config, tmp_path / "run")
