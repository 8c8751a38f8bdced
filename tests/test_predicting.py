"""Asking a trained classifier about image files, and where it looks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.formula import formula
from scipy import special

from configs import backbone, lesion_cnn
from dermagan_jax import (
    classifier_config,
    classifier_trainer,
    cli,
    explaining,
    images,
    predicting,
    workdir,
)
from dermagan_jax.data import prepared
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES
from dermagan_jax.nets import backbones
from dermagan_jax.trained_classifier import TrainedClassifier, load_classifier


@pytest.fixture(scope="module")
def run(phantom_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = lesion_cnn.get_config("smoke")
    config.data_dir, config.batch_size = str(phantom_set), 4
    config.num_steps, config.log_every_steps, config.eval_every_steps = 2, 1, 2
    folder = tmp_path_factory.mktemp("predicting") / "run"
    classifier_trainer.train(config, folder)
    return folder


@pytest.fixture(scope="module")
def files(phantom_set: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    test = prepared.load_split(phantom_set, "test")
    paths = [folder / f"lesion_{index}.png" for index in range(3)]
    for path, image in zip(paths, test.image, strict=False):
        images.write_png(path, image)
    return paths


def test_probabilities_are_the_runs_own_calibrated(run: Path, files: list[Path]) -> None:
    trained = load_classifier(run)
    with np.load(run / classifier_trainer.PREDICTIONS) as arrays:
        logits = arrays["test"][: len(files)].astype(np.float64)
    summary = json.loads((run / workdir.SUMMARY).read_text())
    expected = special.softmax(logits / summary["temperature"], axis=1)
    found = predicting.predict(trained, files)
    np.testing.assert_allclose([each.probabilities for each in found], expected, atol=1e-5)
    assert [each.label for each in found] == expected.argmax(axis=1).tolist()


def test_the_command_prints_a_table_or_json(
    run: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(path) for path in files]
    cli.main(["predict", "--model", str(run), "--explain", str(tmp_path / "why"), *names])
    table = capsys.readouterr().out
    assert "actinic keratosis" in table
    assert "Research use only" in table
    assert all(name in table for name in names)
    written = sorted(path.name for path in (tmp_path / "why").iterdir())
    assert written == [f"{n:04d}_lesion_{n - 1}.png" for n in (1, 2, 3)]
    cli.main(["predict", "--json", "--model", str(run), *names])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == names
    for line in lines:
        assert sum(line["probabilities"].values()) == pytest.approx(1)
        assert line["class"] == max(line["probabilities"], key=line["probabilities"].get)


def test_what_cannot_be_read_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(SystemExit):
        cli.main(["predict", "--model", str(run), str(tmp_path / "notes.txt")])
    assert "notes.txt" in capsys.readouterr().err


def test_a_file_is_no_folder_for_explanations(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "why").write_text("mine")
    # Said before the model is looked for.
    with pytest.raises(SystemExit):
        cli.main(["predict", "--model", "x", "--explain", str(tmp_path / "why"), str(files[0])])
    assert (
        "why: cannot be a folder (File exists); name another --explain" in capsys.readouterr().err
    )
    assert (tmp_path / "why").read_text() == "mine"


def test_a_run_that_did_not_end_gives_no_probabilities(run: Path, files: list[Path]) -> None:
    trained = load_classifier(run)
    cut_short = TrainedClassifier(**{**vars(trained), "temperature": None})
    with pytest.raises(DermaganError, match="did not end, so its probabilities are not calibrated"):
        predicting.predict(cut_short, files)


def test_a_temperature_of_another_step_calibrates_nothing(run: Path, tmp_path: Path) -> None:
    """A run that is made longer has its old summary until it ends."""
    copy = shutil.copytree(run, tmp_path / "run")
    summary = json.loads((copy / workdir.SUMMARY).read_text())
    assert load_classifier(copy).temperature == summary["temperature"]
    (copy / workdir.SUMMARY).write_text(json.dumps(summary | {"best_step": 1}))
    assert load_classifier(copy).temperature is None


def test_a_damaged_summary_is_named(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / workdir.SUMMARY).write_text('{"temperature": ')
    with pytest.raises(DermaganError, match=r"summary\.json: is damaged"):
        load_classifier(copy)


def test_the_papers_network_looks_somewhere(
    run: Path, phantom_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = load_classifier(run)
    image = prepared.load_split(phantom_set, "test").image[:4]
    heat = {
        label: explaining.grad_cam(trained, image, np.full(4, label))
        for label in range(len(CLASSES))
    }
    for each in heat.values():
        assert each.shape == (4, 64, 64)
        assert each.min() >= 0
        assert set(each.max(axis=(1, 2)).round(5)) <= {0.0, 1.0}
    assert not np.allclose(heat[0], heat[1])
    # Of many images a few at once.
    monkeypatch.setattr(explaining, "_AT_ONCE", 3)
    label = np.array([0, 1, 0, 1])
    expected = np.where(label[:, None, None] == 0, heat[0], heat[1])
    np.testing.assert_allclose(explaining.grad_cam(trained, image, label), expected, atol=1e-5)


def test_after_a_mean_and_one_layer_heat_is_the_layers_sum_of_maps() -> None:
    config = backbone.get_config("efficientnet_lite0")
    weights = classifier_config.initial_weights(config)
    net = classifier_config.create_state(jax.random.key(0), weights, config=config).net
    model = classifier_config.make_model(config)
    trained = TrainedClassifier(model, "efficientnet_lite0", 64, net.variables, 0, 1.0, "")
    image = np.asarray(images.to_uint8(jnp.tanh(formula((2, 64, 64, 3), seed=3))))
    label = np.array([0, 3])
    network = backbones.BACKBONES["efficientnet_lite0"]
    variables = {name: tree["backbone"] for name, tree in net.variables.items()}
    maps = network.make(False, "network").apply(
        variables, network.prepare(images.to_float(image)), train=False, method="maps"
    )
    kernel = net.params["logits"]["kernel"]
    small = jax.nn.relu(jnp.einsum("bhwc,cb->bhw", maps, kernel[:, label]))
    expected = jax.image.resize(small, (2, 64, 64), "bilinear")
    expected /= jnp.maximum(expected.max(axis=(1, 2), keepdims=True), 1e-12)
    assert float(expected.std()) > 0.05
    found = explaining.grad_cam(trained, image, label)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_an_overlay_leaves_what_is_cold() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    heat = np.zeros((4, 4))
    heat[1, 2] = 1
    painted = explaining.overlay(image, heat)
    changed = (painted != image).any(axis=-1)
    assert np.argwhere(changed).tolist() == [[1, 2]]
