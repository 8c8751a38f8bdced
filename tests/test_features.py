"""Extractors by name: what they compute, and what they say of missing or wrong weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import lesion_cnn
from dermagan_jax import classifier_trainer, features, images
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.data import prepared
from dermagan_jax.errors import DermaganError
from dermagan_jax.nets import pretrained
from dermagan_jax.nets.efficientnet_lite import EfficientNetLite0
from dermagan_jax.nets.lesion_cnn import LesionCNN
from dermagan_jax.state import create_classifier_state


@pytest.fixture(scope="module")
def pictures(phantom_set: Path) -> np.ndarray:
    return prepared.load_split(phantom_set, "validation").image[:3]


@pytest.fixture(scope="module")
def classifier_run(phantom_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = lesion_cnn.get_config("smoke")
    config.data_dir = str(phantom_set)
    config.batch_size, config.num_steps, config.eval_every_steps = 4, 2, 1
    folder = tmp_path_factory.mktemp("classifier") / "run"
    classifier_trainer.train(config, folder)
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], features.Extractor]:
    """Finds extractors, and makes them take small batches of small images: tests compile slowly."""
    monkeypatch.setattr(features, "BATCH_SIZE", 4)
    return lambda text: dataclasses.replace(features.find_extractor(text), side=32)


def test_lite0_sees_images_as_its_weights_were_trained_to(pictures, small):
    assert features.find_extractor("efficientnet_lite0").side == 160
    found = small("efficientnet_lite0").extract(pictures, label="phantoms")
    resized = np.stack([images.resize_crop(image, 32) for image in pictures])
    scaled = (resized.astype(np.float32) - 127) / 128
    variables = pretrained.efficientnet_lite0_variables()
    expected, _ = jax.jit(EfficientNetLite0().apply)(variables, scaled)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_rest_of_a_batch_changes_nothing_and_all_batches_are_one_program():
    shapes = []

    def apply(image: np.ndarray) -> jax.Array:
        shapes.append(image.shape)
        return jnp.asarray(image, jnp.float32).mean(axis=(1, 2))

    extractor = features.Extractor("mean", "", 8, apply)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (features.BATCH_SIZE + 3, 8, 8, 3), np.uint8)
    found = extractor.extract(pictures, label="noise")
    assert shapes == [(features.BATCH_SIZE, 8, 8, 3)] * 2
    np.testing.assert_allclose(found, pictures.mean(axis=(1, 2)), rtol=1e-5)


def test_random_features_say_what_they_are_and_tell_images_apart(pictures, small):
    extractor = small("random")
    assert "no substitute" in extractor.note
    found = extractor.extract(pictures, label="phantoms")
    assert found.shape == (3, 1280)
    assert found.std(axis=0).mean() > 0.01 * found.std()
    again = small("random").extract(pictures, label="phantoms")
    np.testing.assert_array_equal(found, again)


def test_in_domain_is_the_layer_below_the_best_classifiers_logits(
    classifier_run, phantom_set, pictures
):
    extractor = features.find_extractor(f"in_domain={classifier_run}")
    report = prepared.load_report(phantom_set)
    assert extractor.train_split_sha256 == report["split_hashes"]["train"]
    found = extractor.extract(pictures, label="phantoms")
    assert found.shape == (3, 128)
    assert found.min() == 0
    model = LesionCNN()
    fresh = create_classifier_state(
        jax.random.key(1), model=model, tx=optax.adam(1e-3), image_size=64
    )
    with Checkpoints(classifier_run, best_metric="loss", read_only=True) as checkpoints:
        variables = checkpoints.restore_state(fresh, checkpoints.best_step()).net.variables
    last = jax.tree.map(np.asarray, variables["params"]["Dense_2"])
    logits = model.apply(variables, images.to_float(pictures), train=False)
    np.testing.assert_allclose(found @ last["kernel"] + last["bias"], logits, atol=1e-4)


@pytest.mark.parametrize(
    "text", ["vgg16", "", "efficientnet_lite0=x", "in_domain", "random=1", "inception_v3"]
)
def test_a_name_that_is_none_is_answered_with_those_there_are(text):
    with pytest.raises(DermaganError, match="give one of efficientnet_lite0, inception_v3=KERAS_"):
        features.find_extractor(text)


def test_a_gans_workdir_is_no_classifier(tiny_gan, tmp_path):
    with pytest.raises(DermaganError, match="holds no classifier's; name the workdir of one"):
        features.find_extractor(f"in_domain={tiny_gan}")
    with pytest.raises(DermaganError, match="holds no checkpoints"):
        features.find_extractor(f"in_domain={tmp_path}")
